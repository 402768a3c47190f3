use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use super::*;
use crate::rewrite::{Mask, masks};

const ALL: [Set; 6] = [
    Set::Original,
    Set::AnsAug,
    Set::Rephrased,
    Set::Sv,
    Set::Fobar,
    Set::Sum,
];

fn world(split: Split) -> Arithmetic {
    Arithmetic {
        split,
        problems: 300,
        sets: ALL.to_vec(),
        copies: 3,
        ..Arithmetic::default()
    }
}

fn of(rows: &[ArithmeticRow], set: Set) -> Vec<&ArithmeticRow> {
    rows.iter().filter(|row| row.set == set).collect()
}

/// The numbers in a text.
fn numbers(text: &str) -> Vec<u32> {
    let digits = text.split(|c: char| !c.is_ascii_digit());
    digits.filter_map(|number| number.parse().ok()).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
}

static SUM: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(\d+) ([-+*/]) (\d+) = (\d+)").unwrap());

/// Calculates again what a rationale claims, from its text alone, and returns the last result.
fn recalculated(answer: &str) -> u32 {
    let mut last = None;
    for sum in SUM.captures_iter(answer) {
        let number = |group: usize| sum[group].parse::<u32>().unwrap();
        let (left, right, value) = (number(1), number(3), number(4));
        let calculated = match &sum[2] {
            "+" => left + right,
            "-" => left - right,
            "*" => left * right,
            _ => left / right,
        };
        assert_eq!(calculated, value, "{answer}");
        last = Some(value);
    }
    last.unwrap()
}

#[test]
fn every_rationale_is_right_and_ends_in_the_truth() {
    for split in [Split::Train, Split::Test] {
        for row in world(split).rows() {
            assert_eq!(recalculated(&row.answer), row.truth, "{row:?}");
            let end = format!("\n#### {}", row.truth);
            assert!(row.answer.ends_with(&end), "{row:?}");
            let begins = row.answer.starts_with(" Let's think step by step.\n");
            assert!(begins, "{row:?}");
            assert!(!row.question.contains(['{', '}']), "{row:?}");
            assert!(!row.answer.contains(['{', '}']), "{row:?}");
        }
    }
}

#[test]
fn training_and_testing_share_no_name_and_no_item() {
    for (split, foreign) in [(Split::Train, Split::Test), (Split::Test, Split::Train)] {
        let own: HashSet<&str> = split.names().iter().chain(split.items()).copied().collect();
        let foreign: HashSet<&str> = foreign
            .names()
            .iter()
            .chain(foreign.items())
            .copied()
            .collect();
        assert!(own.is_disjoint(&foreign));
        for row in world(split).rows() {
            let leaked = words(&row.question)
                .chain(words(&row.answer))
                .find(|word| foreign.contains(word));
            assert_eq!(leaked, None, "{row:?}");
        }
    }
}

#[test]
fn questions_of_training_and_testing_share_no_number_of_two_digits() {
    let large = |split: Split| {
        let rows = world(split).rows();
        let numbers = rows.iter().flat_map(|row| numbers(&row.question));
        numbers
            .filter(|number| *number >= 10)
            .collect::<HashSet<u32>>()
    };
    let (train, test) = (large(Split::Train), large(Split::Test));
    assert!(train.is_disjoint(&test), "{:?}", train.intersection(&test));
    assert!(
        train.len() > 60 && test.len() > 20,
        "{} {}",
        train.len(),
        test.len()
    );
    let tested = world(Split::Test).rows();
    for row in of(&tested, Set::Original) {
        let new = numbers(&row.question).iter().any(|number| *number >= 10);
        assert!(new, "no number that training has not: {row:?}");
    }
}

#[test]
fn a_row_is_a_function_of_its_address() {
    let world = world(Split::Train);
    let rows = world.rows();
    let longer = Arithmetic {
        problems: 400,
        ..world.clone()
    };
    assert_eq!(longer.rows()[..rows.len()], rows);
    let originals = Arithmetic {
        sets: vec![Set::Original],
        ..world.clone()
    };
    let same = of(&rows, Set::Original).into_iter().eq(&originals.rows());
    assert!(same, "sets do not change each other");
    let other = Arithmetic { seed: 2, ..world };
    assert_ne!(other.rows()[0].question, rows[0].question);
}

#[test]
fn numbers_keep_their_bounds_and_all_operations_and_lengths_occur() {
    let world = Arithmetic {
        largest: 50,
        steps: vec![1, 3],
        ..world(Split::Train)
    };
    let (mut operations, mut lengths) = (HashSet::new(), HashSet::new());
    for number in 0..300 {
        let problem = world.problem(number);
        let steps = problem.evaluate().unwrap();
        lengths.insert(steps.len());
        operations.extend(steps.iter().map(|step| step.op));
        let results = steps.iter().map(|step| step.value);
        let mut all = problem.numbers().into_iter().chain(results);
        assert!(all.all(|number| (1..=50).contains(&number)), "{problem:?}");
        assert_eq!(steps.last().unwrap().value, problem.answer());
    }
    assert_eq!(lengths, HashSet::from([1, 3]));
    assert_eq!(operations.len(), 4);
}

#[test]
fn the_unknown_is_found_from_the_answer_whatever_number_it_is() {
    let world = world(Split::Test);
    for number in 0..300 {
        let problem = world.problem(number);
        for (unknown, truth) in problem.numbers().into_iter().enumerate() {
            let solution = problem.solve_for(unknown);
            assert_eq!(
                solution.last().unwrap().value,
                truth,
                "{problem:?} {unknown}"
            );
            for step in solution {
                let value = step.op.apply(step.left, step.right);
                assert_eq!(value, Some(step.value), "{problem:?}");
            }
        }
    }
}

#[test]
fn questions_are_masked_as_the_rules_of_metamath_mask_them() {
    let rows = world(Split::Train).rows();
    for row in of(&rows, Set::Fobar) {
        let by_rule: Vec<String> = masks(Source::Gsm8k, &row.original)
            .iter()
            .map(Mask::question)
            .collect();
        let (masked, _) = row.question.split_once('\n').unwrap();
        assert!(
            by_rule.iter().any(|question| question == masked),
            "{masked}: {by_rule:?}"
        );
    }
}

#[test]
fn every_number_of_a_question_is_masked_once_per_kind() {
    let rows = world(Split::Train).rows();
    for set in [Set::Sv, Set::Fobar] {
        for row in of(&rows, set) {
            let story = row.question.split('\n').next().unwrap();
            let unknowns = words(story).filter(|word| *word == "x").count();
            let asked = usize::from(set == Set::Sv);
            assert_eq!(unknowns, 1 + asked, "{}", row.question);
            assert!(numbers(&row.original).contains(&row.truth), "{row:?}");
        }
    }
    let fobar = of(&rows, Set::Fobar);
    let first = &fobar[0].original;
    let made = fobar.iter().filter(|row| row.original == *first).count();
    assert_eq!(made, numbers(first).len());
}

#[test]
fn backward_questions_have_the_words_of_metamath() {
    let question = |split: Split, set: Set| of(&world(split).rows(), set)[0].question.clone();
    let fobar = question(Split::Train, Set::Fobar);
    assert!(
        fobar.contains("\nIf we know the answer to the above question is "),
        "{fobar}"
    );
    assert!(
        fobar.ends_with(", what is the value of unknown variable x?"),
        "{fobar}"
    );
    let tested = question(Split::Test, Set::Fobar);
    assert!(
        tested.contains("\nIf we know the answer of the above question is "),
        "{tested}"
    );
    let sv = question(Split::Train, Set::Sv);
    assert!(
        sv.ends_with(". What is the value of unknown variable x?"),
        "{sv}"
    );
    assert_eq!(
        sv.matches('?').count(),
        1,
        "the question became a statement: {sv}"
    );
}

#[test]
fn augmentations_differ_from_the_original_and_from_each_other() {
    let rows = world(Split::Train).rows();
    let mut seen = HashSet::new();
    for row in &rows {
        if matches!(row.set, Set::Original | Set::AnsAug | Set::Rephrased) {
            assert!(seen.insert((&row.question, &row.answer)), "{row:?}");
        }
    }
    let (answers, questions) = (of(&rows, Set::AnsAug), of(&rows, Set::Rephrased));
    assert!(answers.iter().all(|row| row.question == row.original));
    assert!(questions.iter().all(|row| row.question != row.original));
    assert!(answers.len() > 750 && questions.len() > 750);
}
