//! Who and what the problems are about, and which numbers they use: one half for training, one for testing.

use serde::{Deserialize, Serialize};

/// Which side of the fence a problem is on. Names, items and the numbers of questions never cross it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Problems to learn from.
    #[default]
    Train,
    /// Problems to be examined with.
    Test,
}

/// Numbers below this are on both sides.
pub(super) const COMMON: u32 = 10;

const TRAIN_NAMES: [&str; 32] = [
    "Ada", "Amir", "Anna", "Bea", "Ben", "Carl", "Dan", "Ella", "Emil", "Finn", "Gina", "Hana",
    "Hugo", "Ines", "Iris", "Jon", "Kara", "Leo", "Lou", "Mia", "Mila", "Ned", "Olga", "Omar",
    "Paul", "Rosa", "Sam", "Tina", "Tom", "Vera", "Yara", "Zoe",
];

const TEST_NAMES: [&str; 12] = [
    "Alan", "Cora", "Dora", "Elsa", "Ida", "Lena", "Mark", "Nora", "Otis", "Rita", "Ruth", "Theo",
];

const TRAIN_ITEMS: [&str; 32] = [
    "beads", "books", "bowls", "cards", "clocks", "coins", "combs", "cups", "dolls", "drums",
    "eggs", "flags", "hats", "keys", "kites", "lamps", "maps", "mugs", "nuts", "pears", "pens",
    "papers", "pots", "rings", "rocks", "shells", "shirts", "socks", "stones", "tents", "toys",
    "vases",
];

const TEST_ITEMS: [&str; 12] = [
    "balls", "bells", "boats", "cakes", "masks", "plums", "ropes", "roses", "spoons", "stamps",
    "stars", "tiles",
];

impl Split {
    /// The people of this side.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Train => &TRAIN_NAMES,
            Self::Test => &TEST_NAMES,
        }
    }

    /// The things of this side, in the plural.
    pub fn items(self) -> &'static [&'static str] {
        match self {
            Self::Train => &TRAIN_ITEMS,
            Self::Test => &TEST_ITEMS,
        }
    }

    /// Whether a question of this side may contain the number. Those below 10 are common to both sides, as nobody
    /// can know the multiplication table of 7 who never met 7. Of the others, those that leave 0 or 4 when divided
    /// by 7 are kept for testing.
    ///
    /// ```
    /// use temper_datasets::arithmetic::Split;
    ///
    /// assert!(Split::Test.has_number(18) && !Split::Train.has_number(18));
    /// assert!(Split::Train.has_number(20) && !Split::Test.has_number(20));
    /// ```
    pub fn has_number(self, number: u32) -> bool {
        number < COMMON || (self == Self::Test) == matches!(number % 7, 0 | 4)
    }

    /// Whether a question with these numbers belongs to this side: all of them are of this side, and not all are
    /// common to both.
    pub(super) fn owns(self, numbers: &[u32]) -> bool {
        numbers.iter().all(|number| self.has_number(*number))
            && (self == Self::Train || numbers.iter().any(|number| *number >= COMMON))
    }

    /// The numbers of this side from `low` to `high`.
    pub(super) fn numbers(self, low: u32, high: u32) -> Vec<u32> {
        (low..=high)
            .filter(|number| self.has_number(*number))
            .collect()
    }
}
