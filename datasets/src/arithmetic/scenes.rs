//! The stories: each says in several ways how an amount comes about, what happens to it, and what is asked.
//!
//! `{A}` and `{B}` are people, `{items}` things, `{n}` a number; groups are `{g}` times `{e}`. The words of an answer
//! `{v}` repeat those of its question, as self-verification needs a statement of it.

/// A question at the end of a story, and the same as a statement.
pub(super) struct Ask {
    pub(super) question: &'static str,
    pub(super) statement: &'static str,
}

/// Ways to say one thing.
pub(super) type Ways = &'static [&'static str];

/// A kind of story.
pub(super) struct Scene {
    /// What is counted.
    pub(super) unit: &'static str,
    pub(super) amount: Ways,
    pub(super) groups: Ways,
    pub(super) add: Ways,
    pub(super) sub: Ways,
    pub(super) mul: Ways,
    /// Always the end of a story.
    pub(super) div: Ways,
    pub(super) ask: &'static [Ask],
    /// What is asked after `div`.
    pub(super) ask_share: &'static [Ask],
}

const fn ask(question: &'static str, statement: &'static str) -> Ask {
    Ask {
        question,
        statement,
    }
}

pub(super) const SCENES: [Scene; 7] = [COLLECTION, MARKET, WORKSHOP, MONEY, READING, TRIP, TIME];

const COLLECTION: Scene = Scene {
    unit: "{items}",
    amount: &[
        "{A} has {n} {items}.",
        "{A} starts with {n} {items}.",
        "There are {n} {items} in the drawer of {A}.",
    ],
    groups: &[
        "{A} has {g} boxes with {e} {items} in each.",
        "{A} puts {e} {items} into each of {g} boxes.",
        "Each of the {g} boxes of {A} holds {e} {items}.",
    ],
    add: &[
        "{B} gives {A} {n} more {items}.",
        "Then {A} finds {n} {items}.",
        "{A} gets {n} more from {B}.",
    ],
    sub: &[
        "{A} gives {n} {items} to {B}.",
        "{A} loses {n} of the {items}.",
        "Then {B} takes {n} of them away.",
    ],
    mul: &[
        "By summer {A} has {n} times as many {items}.",
        "Then the number of {items} grows to {n} times as many.",
        "One year later there are {n} times as many.",
    ],
    div: &[
        "{A} shares all {items} equally among {n} friends.",
        "Then {n} friends of {A} divide the {items} equally.",
        "{A} gives them away to {n} friends, the same number to each.",
    ],
    ask: &[
        ask(
            "How many {items} does {A} have now?",
            "{A} has {v} {items} now.",
        ),
        ask(
            "How many {items} does {A} have in the end?",
            "{A} has {v} {items} in the end.",
        ),
        ask(
            "What is the number of {items} that {A} has now?",
            "The number of {items} that {A} has now is {v}.",
        ),
    ],
    ask_share: &[
        ask(
            "How many {items} does each friend get?",
            "Each friend gets {v} {items}.",
        ),
        ask(
            "What is the number of {items} for one friend?",
            "The number of {items} for one friend is {v}.",
        ),
    ],
};

const MARKET: Scene = Scene {
    unit: "{items}",
    amount: &[
        "{A} brings {n} {items} to the market.",
        "{A} comes to the market with {n} {items}.",
        "On the market {A} lays out {n} {items}.",
    ],
    groups: &[
        "{A} brings {g} baskets of {e} {items} to the market.",
        "{A} comes to the market with {e} {items} in each of {g} baskets.",
        "On the market {A} lays out {g} rows of {e} {items}.",
    ],
    add: &[
        "{B} brings {n} more {items}.",
        "Then {n} {items} are added by {B}.",
        "{A} buys {n} {items} from {B} and puts them there too.",
    ],
    sub: &[
        "{A} sells {n} {items} to {B}.",
        "In the morning {n} of the {items} are sold.",
        "{B} buys {n} of them.",
    ],
    mul: &[
        "On the next day there are {n} times as many.",
        "For the next market {A} needs {n} times as many {items}.",
        "A cart brings the stock to {n} times as many {items}.",
    ],
    div: &[
        "{A} packs the {items} equally into {n} bags.",
        "Then the {items} are put into {n} bags, all alike.",
        "{B} fills {n} bags with them, the same number in each.",
    ],
    ask: &[
        ask(
            "How many {items} are on the market then?",
            "There are {v} {items} on the market then.",
        ),
        ask(
            "How many {items} is that in the end?",
            "That is {v} {items} in the end.",
        ),
        ask(
            "What is the number of {items} on the market at last?",
            "The number of {items} on the market at last is {v}.",
        ),
    ],
    ask_share: &[
        ask(
            "How many {items} are in each bag?",
            "There are {v} {items} in each bag.",
        ),
        ask(
            "How many {items} does one bag hold?",
            "One bag holds {v} {items}.",
        ),
    ],
};

const WORKSHOP: Scene = Scene {
    unit: "{items}",
    amount: &[
        "{A} makes {n} {items} in a week.",
        "In the workshop {A} makes {n} {items}.",
        "A workshop has made {n} {items} for {A}.",
    ],
    groups: &[
        "{A} makes {e} {items} a day for {g} days.",
        "For {g} days {A} makes {e} {items} a day.",
        "In the workshop {g} people make {e} {items} each for {A}.",
    ],
    add: &[
        "{B} makes {n} {items} as well.",
        "{B} helps and makes {n} more.",
        "Then {n} {items} more are made.",
    ],
    sub: &[
        "Then {n} of the {items} break.",
        "{B} drops {n} {items} and they break.",
        "{A} must throw {n} of them away.",
    ],
    mul: &[
        "In the next month they make {n} times as many.",
        "A machine makes it {n} times as many {items}.",
        "{B} asks for {n} times as many {items} and gets them.",
    ],
    div: &[
        "The {items} go to {n} shops in equal parts.",
        "{A} sends them to {n} shops, the same number to each.",
        "Then {n} shops get equal parts of the {items}.",
    ],
    ask: &[
        ask(
            "How many {items} are ready?",
            "There are {v} {items} ready.",
        ),
        ask(
            "How many good {items} are there now?",
            "There are {v} good {items} now.",
        ),
        ask(
            "What is the number of {items} from the workshop?",
            "The number of {items} from the workshop is {v}.",
        ),
    ],
    ask_share: &[
        ask(
            "How many {items} does each shop get?",
            "Each shop gets {v} {items}.",
        ),
        ask(
            "What is the number of {items} for one shop?",
            "The number of {items} for one shop is {v}.",
        ),
    ],
};

const MONEY: Scene = Scene {
    unit: "dollars",
    amount: &[
        "{A} has saved {n} dollars.",
        "{A} begins the week with {n} dollars.",
        "The purse of {A} holds {n} dollars.",
    ],
    groups: &[
        "{A} sells {g} {items} for {e} dollars each.",
        "{A} gets {e} dollars for each of {g} {items}.",
        "For {g} {items} {A} is paid {e} dollars each.",
    ],
    add: &[
        "Then {A} earns {n} dollars more.",
        "{B} pays {A} {n} dollars.",
        "A gift from {B} adds {n} dollars.",
    ],
    sub: &[
        "{A} spends {n} dollars on {items}.",
        "{A} pays {n} dollars to {B}.",
        "Then {n} dollars go to {B}.",
    ],
    mul: &[
        "A month later it is {n} times as much.",
        "{A} works until there is {n} times as much money.",
        "In a year the money grows to {n} times as much.",
    ],
    div: &[
        "{A} splits the money equally among {n} people.",
        "{A} puts equal parts of it into {n} envelopes.",
        "Then {n} people get equal parts of the money.",
    ],
    ask: &[
        ask(
            "How many dollars does {A} have now?",
            "{A} has {v} dollars now.",
        ),
        ask(
            "How much money does {A} have in the end?",
            "{A} has {v} dollars in the end.",
        ),
        ask(
            "What is the money of {A} now, in dollars?",
            "The money of {A} now is {v} dollars.",
        ),
    ],
    ask_share: &[
        ask(
            "How many dollars is each part?",
            "Each part is {v} dollars.",
        ),
        ask("How much money is one part?", "One part is {v} dollars."),
    ],
};

const READING: Scene = Scene {
    unit: "pages",
    amount: &[
        "{A} reads {n} pages about {items}.",
        "{A} has a book about {items} of {n} pages.",
        "A story about {items} by {A} has {n} pages.",
    ],
    groups: &[
        "{A} reads {e} pages about {items} a day for {g} days.",
        "For {g} days {A} reads {e} pages a day.",
        "{A} writes {g} chapters of {e} pages each.",
    ],
    add: &[
        "Then {A} adds {n} pages more.",
        "{B} adds {n} more pages.",
        "Another {n} pages follow.",
    ],
    sub: &[
        "{B} says that {n} of the pages do not count.",
        "Then {n} pages are taken out.",
        "{A} leaves {n} of the pages out.",
    ],
    mul: &[
        "In the end it is {n} times as many pages.",
        "{B} has {n} times as many pages and counts only those.",
        "The next book takes {n} times as many.",
    ],
    div: &[
        "The pages fall into {n} equal chapters.",
        "{A} sorts the pages into {n} folders of the same size.",
        "{A} and others divide the pages equally over {n} days.",
    ],
    ask: &[
        ask(
            "How many pages is that in all?",
            "That is {v} pages in all.",
        ),
        ask(
            "How many pages are there at last?",
            "There are {v} pages at last.",
        ),
        ask(
            "What is the number of pages now?",
            "The number of pages now is {v}.",
        ),
    ],
    ask_share: &[
        ask("How many pages is one part?", "One part is {v} pages."),
        ask(
            "How many pages are in each part?",
            "There are {v} pages in each part.",
        ),
    ],
};

const TRIP: Scene = Scene {
    unit: "miles",
    amount: &[
        "{A} drives {n} miles to buy {items}.",
        "The way of {A} to the sea is {n} miles long.",
        "{A} plans a trip of {n} miles.",
    ],
    groups: &[
        "{A} drives {e} miles on each of {g} days.",
        "For {g} days {A} walks {e} miles a day.",
        "{A} plans a trip of {g} parts with {e} miles each.",
    ],
    add: &[
        "Then {A} goes {n} miles more to see {B}.",
        "A closed road makes the way {n} miles longer.",
        "The way home adds {n} miles.",
    ],
    sub: &[
        "{B} knows a road that saves {n} miles.",
        "{B} drives {n} of these miles for {A}.",
        "A bridge makes the way {n} miles shorter.",
    ],
    mul: &[
        "In a month {A} goes {n} times as far.",
        "By train the way is {n} times as long.",
        "{B} has to go {n} times as far and {A} comes along.",
    ],
    div: &[
        "{A} goes the way in {n} equal parts.",
        "The way takes {n} days with the same number of miles a day.",
        "{A} and others divide the way into {n} equal parts.",
    ],
    ask: &[
        ask("How many miles does {A} go?", "{A} goes {v} miles."),
        ask(
            "How many miles is it in the end?",
            "It is {v} miles in the end.",
        ),
        ask(
            "How long is the way of {A}, in miles?",
            "The way of {A} is {v} miles.",
        ),
    ],
    ask_share: &[
        ask("How many miles is one part?", "One part is {v} miles."),
        ask(
            "How long is each part, in miles?",
            "Each part is {v} miles.",
        ),
    ],
};

const TIME: Scene = Scene {
    unit: "minutes",
    amount: &[
        "{A} works {n} minutes on {items}.",
        "To paint the {items} {A} needs {n} minutes.",
        "{A} spends {n} minutes with {items}.",
    ],
    groups: &[
        "{A} needs {e} minutes for each of {g} {items}.",
        "There are {g} {items} and each takes {A} {e} minutes.",
        "{A} works {e} minutes a day for {g} days.",
    ],
    add: &[
        "Cleaning up takes {n} minutes more.",
        "Then {A} helps {B} for {n} minutes.",
        "{B} is slow and that adds {n} minutes.",
    ],
    sub: &[
        "{B} helps and saves {n} minutes.",
        "A new tool makes it {n} minutes shorter.",
        "{B} does {n} minutes of the work.",
    ],
    mul: &[
        "On the next day the work takes {n} times as long.",
        "Alone {B} would take {n} times as long, and does.",
        "In the dark it takes {n} times as long.",
    ],
    div: &[
        "They are {n} people and divide the work equally.",
        "The time is divided into {n} equal parts.",
        "{A} does it on {n} days, for the same time on each.",
    ],
    ask: &[
        ask("How many minutes does it take?", "It takes {v} minutes."),
        ask(
            "How long is that in the end, in minutes?",
            "That is {v} minutes in the end.",
        ),
        ask(
            "What is the time now, in minutes of work?",
            "The time now is {v} minutes of work.",
        ),
    ],
    ask_share: &[
        ask("How many minutes is one part?", "One part is {v} minutes."),
        ask(
            "How long is each part, in minutes?",
            "Each part is {v} minutes.",
        ),
    ],
};
