//! A world of grade-school word problems, in which the whole way from training to a score can be walked on a laptop.
//!
//! A problem is a structure first (an opening amount and what happens to it), drawn at an address (seed, split,
//! index), and words second: each story says everything in several ways. So the truth of every row is known by
//! calculation, and the augmentations of `MetaMath` (arXiv 2309.12284) come by rule instead of from a language model:
//! other words for the solution (answer augmentation), other words for the question (rephrasing), and questions in
//! which a number is x and the answer is given (self-verification and FOBAR).
//!
//! What is examined is never trained: names, items and the numbers of questions (from 10 on) are on one side of
//! [`Split`].
//!
//! ```
//! use temper_datasets::arithmetic::{Arithmetic, Set, Split};
//!
//! let world = Arithmetic { problems: 2, sets: vec![Set::Original, Set::Fobar], ..Arithmetic::default() };
//! let rows = world.rows();
//! assert_eq!(rows[0].set, Set::Original);
//! assert!(rows[0].answer.ends_with(&format!("#### {}", rows[0].truth)));
//! assert_eq!(rows, world.rows());
//! # assert_eq!(world.split, Split::Train);
//! ```

mod entities;
mod problem;
mod scenes;
mod words;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use entities::Split;
pub use problem::{Op, Problem, Step};

use crate::error::{DataError, Result};
use crate::random::{below, rng};
use crate::reader::RowLocation;
use crate::record::{Row, gsm8k_pair};
use crate::rewrite::{Source, fobar_question, sv_question};
use problem::Size;
use words::{Telling, Wording};

/// Changes whenever the same settings would give other rows.
pub(crate) const VERSION: u32 = 1;

/// Every rationale begins with the words that evaluation puts into the model's mouth, so that what a model is asked
/// to go on with is what it was trained on; see [`eval_prompt`](crate::problems::eval_prompt).
const OPENING: &str = " Let's think step by step.\n";

/// How often other words are looked for before they count as used up.
const ATTEMPTS: u64 = 8;

/// Which rows to make.
///
/// | Setting | Default | Meaning |
/// |---|---|---|
/// | `split` | `train` | whose names, items and numbers |
/// | `seed` | 1 | another seed, other problems |
/// | `problems` | 1000 | how many different structures |
/// | `steps` | `[1, 2, 3]` | how many calculations; each problem draws one of these |
/// | `largest` | 99 | the largest number, results included |
/// | `sets` | `[original]` | which rows are made of each problem |
/// | `copies` | 1 | other answers, and other questions, per problem |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arithmetic {
    /// Whose names, items and numbers.
    pub split: Split,
    /// Another seed gives other problems.
    pub seed: u64,
    /// How many problems.
    pub problems: usize,
    /// How many calculations a problem takes: each draws one of these.
    pub steps: Vec<usize>,
    /// The largest number, results included.
    pub largest: u32,
    /// Which rows are made of each problem, in this order.
    pub sets: Vec<Set>,
    /// How many rows of `AnsAug`, of `Rephrased` and of `Sum` are made of each problem; fewer if there are no more
    /// different ones. Backward questions are as many as the problem has numbers.
    pub copies: usize,
}

impl Default for Arithmetic {
    fn default() -> Self {
        Self {
            split: Split::Train,
            seed: 1,
            problems: 1000,
            steps: vec![1, 2, 3],
            largest: 99,
            sets: vec![Set::Original],
            copies: 1,
        }
    }
}

/// How rows are written to a file, one JSON object a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// `question` and `answer`, whose last line is `#### N`, as in GSM8K; and the number of `steps`.
    #[default]
    Gsm8k,
    /// `query`, `answer` (`N` alone), `type` and `original_question`, as in GSM8K-Backward.
    Gsm8kBackward,
    /// `type`, `query`, `original_question` and `response`, as in `MetaMathQA`.
    Metamathqa,
}

impl ArithmeticRow {
    /// The row as a JSON object.
    pub fn to_json(&self, shape: Shape) -> Value {
        let (query, original) = (&self.question, &self.original);
        let (kind, truth) = (self.set.type_name(), self.truth);
        match shape {
            Shape::Gsm8k => json!({
                "question": query, "answer": self.answer, "steps": self.steps,
            }),
            Shape::Gsm8kBackward => json!({
                "query": query, "answer": truth.to_string(), "type": kind, "original_question": original,
            }),
            Shape::Metamathqa => json!({
                "type": kind,
                "query": query,
                "original_question": original,
                "response": format!("{}\nThe answer is: {truth}", self.answer),
            }),
        }
    }
}

/// What is made of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// The problem itself.
    Original,
    /// The question of the original with another rationale (eq. 1).
    AnsAug,
    /// The question in other words (eq. 2).
    Rephrased,
    /// Self-verification: a number is x, and the answer stands in the story as a statement (eq. 3).
    Sv,
    /// A number is x, and the answer is told behind the question (eq. 4).
    Fobar,
    /// A calculation without a story, of numbers of its own: what a model may know before it meets word problems.
    Sum,
}

impl Set {
    /// The `type` of such rows in `MetaMathQA`; originals have none there.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Original => "GSM_Original",
            Self::AnsAug => "GSM_AnsAug",
            Self::Rephrased => "GSM_Rephrased",
            Self::Sv => "GSM_SV",
            Self::Fobar => "GSM_FOBAR",
            Self::Sum => "GSM_Sum",
        }
    }
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArithmeticRow {
    /// What it is.
    pub set: Set,
    /// The question.
    pub question: String,
    /// The rationale and, in its last line, `#### N`.
    pub answer: String,
    /// `N`.
    pub truth: u32,
    /// The question of the original.
    pub original: String,
    /// How many calculations the original takes.
    pub steps: usize,
}

impl Arithmetic {
    /// All rows, problem by problem.
    pub fn rows(&self) -> Vec<ArithmeticRow> {
        let numbers = 0..self.problems as u64;
        let rows: Vec<Vec<ArithmeticRow>> = numbers
            .into_par_iter()
            .map(|number| self.rows_of(number))
            .collect();
        rows.into_iter().flatten().collect()
    }

    /// The rows as they are trained, see [`DataKind::Gsm8k`](crate::DataKind::Gsm8k).
    pub(crate) fn training_rows(&self, limit: Option<usize>) -> Result<Vec<(RowLocation, Row)>> {
        let file = Path::new("arithmetic").into();
        let made = self.rows().into_iter().enumerate();
        made.take(limit.unwrap_or(usize::MAX))
            .map(|(index, row)| {
                let location = RowLocation {
                    file: Arc::clone(&file),
                    unit: "row",
                    number: index + 1,
                };
                let row = gsm8k_pair(row.question, &row.answer, &location)?;
                Ok((location, row))
            })
            .collect()
    }

    /// Says what is wrong with the settings.
    ///
    /// # Errors
    /// [`DataError::BadSetting`] if no problem could be made.
    pub fn check(&self) -> Result<()> {
        let wrong = if self.problems == 0 {
            ("problems", "must be at least 1".to_owned())
        } else if self.steps.is_empty() || self.steps.iter().any(|steps| !STEPS.contains(steps)) {
            ("steps", "must be a list of numbers from 1 to 4".to_owned())
        } else if !LARGEST.contains(&self.largest) {
            let (low, high) = (LARGEST.start(), LARGEST.end());
            ("largest", format!("must be from {low} to {high}"))
        } else if self.sets.is_empty() {
            ("sets", "must not be empty".to_owned())
        } else {
            return Ok(());
        };
        let (field, reason) = wrong;
        Err(DataError::BadSetting { field, reason })
    }

    /// The structure of problem `number`.
    pub fn problem(&self, number: u64) -> Problem {
        self.draw("problem", 0, number)
    }

    fn draw(&self, what: &str, copy: u64, number: u64) -> Problem {
        let mut rng = rng(self.seed, &self.purpose(what), copy, number);
        let choice = below(&mut rng, self.steps.len() as u64) as usize;
        let size = Size {
            steps: self.steps.get(choice).copied().unwrap_or(1).max(1),
            largest: self.largest.max(*LARGEST.start()),
        };
        Problem::draw(self.split, size, &mut rng)
    }

    fn purpose(&self, what: &str) -> String {
        match self.split {
            Split::Train => format!("arithmetic train {what}"),
            Split::Test => format!("arithmetic test {what}"),
        }
    }

    fn rows_of(&self, number: u64) -> Vec<ArithmeticRow> {
        let problem = self.problem(number);
        let maker = Maker {
            world: self,
            number,
            wording: self.wording(&problem, number, 0),
            telling: self.telling(number, 0),
            problem,
        };
        self.sets.iter().flat_map(|set| maker.rows(*set)).collect()
    }

    /// The words of a question: 0 is the original, others are rephrasings.
    fn wording(&self, problem: &Problem, number: u64, copy: u64) -> Wording {
        Wording::draw(
            problem,
            &mut rng(self.seed, &self.purpose("wording"), copy, number),
        )
    }

    /// The words of a rationale: 0 is the original's.
    fn telling(&self, number: u64, copy: u64) -> Telling {
        Telling::draw(&mut rng(self.seed, &self.purpose("telling"), copy, number))
    }
}

/// Below 20 there are too few numbers to make a problem of.
const LARGEST: RangeInclusive<u32> = 20..=9999;
const STEPS: RangeInclusive<usize> = 1..=4;

/// Addresses of words: rephrasings and backward rows draw theirs apart from answer augmentation.
const REPHRASED: u64 = 1 << 16;
const BACKWARD: u64 = 2 << 16;
const SUM: u64 = 3 << 16;

/// Makes the rows of one problem.
struct Maker<'a> {
    world: &'a Arithmetic,
    number: u64,
    problem: Problem,
    wording: Wording,
    telling: Telling,
}

impl Maker<'_> {
    fn rows(&self, set: Set) -> Vec<ArithmeticRow> {
        match set {
            Set::Original => vec![self.forward(set, &self.wording, &self.telling)],
            Set::AnsAug => self.other_answers(),
            Set::Rephrased => self.other_questions(),
            Set::Sv | Set::Fobar => self.backward(set),
            Set::Sum => self.sums(),
        }
    }

    fn telling(&self, copy: u64) -> Telling {
        self.world.telling(self.number, copy)
    }

    /// Up to `copies` rows that differ from the original and from each other in `text`.
    fn different(
        &self,
        text: impl Fn(&ArithmeticRow) -> &str,
        make: impl Fn(u64) -> ArithmeticRow,
    ) -> Vec<ArithmeticRow> {
        let original = self.forward(Set::Original, &self.wording, &self.telling);
        let mut rows: Vec<ArithmeticRow> = Vec::new();
        for attempt in 1..=ATTEMPTS * self.world.copies as u64 {
            if rows.len() == self.world.copies {
                break;
            }
            let row = make(attempt);
            let seen = |other: &ArithmeticRow| text(other) == text(&row);
            if !seen(&original) && !rows.iter().any(seen) {
                rows.push(row);
            }
        }
        rows
    }

    fn other_answers(&self) -> Vec<ArithmeticRow> {
        self.different(
            |row| &row.answer,
            |copy| self.forward(Set::AnsAug, &self.wording, &self.telling(copy)),
        )
    }

    fn other_questions(&self) -> Vec<ArithmeticRow> {
        self.different(
            |row| &row.question,
            |copy| {
                let wording = self.world.wording(&self.problem, self.number, copy);
                self.forward(Set::Rephrased, &wording, &self.telling(REPHRASED + copy))
            },
        )
    }

    fn forward(&self, set: Set, wording: &Wording, telling: &Telling) -> ArithmeticRow {
        self.row(
            set,
            self.problem.question(wording),
            &self.problem.rationale(telling),
            self.problem.answer(),
        )
    }

    /// A question per number. They tell the answer, so there are none if that is a number of the other side.
    fn backward(&self, set: Set) -> Vec<ArithmeticRow> {
        let numbers = self.problem.numbers();
        if !self.world.split.has_number(self.problem.answer()) {
            return Vec::new();
        }
        let row = |(unknown, truth): (usize, &u32)| {
            let address = BACKWARD + 2 * unknown as u64 + u64::from(set == Set::Sv);
            let rationale = self
                .problem
                .backward_rationale(unknown, &self.telling(address));
            self.row(
                set,
                self.backward_question(set, unknown),
                &rationale,
                *truth,
            )
        };
        numbers.iter().enumerate().map(row).collect()
    }

    fn backward_question(&self, set: Set, unknown: usize) -> String {
        let (problem, wording) = (&self.problem, &self.wording);
        if set == Set::Sv {
            let tale = problem.tale(wording, Some(unknown));
            return sv_question(Source::Gsm8k, &tale, &problem.statement(wording));
        }
        let masked = problem.masked_question(wording, Some(unknown));
        let question = fobar_question(Source::Gsm8k, &masked, &problem.answer().to_string());
        match self.world.split {
            Split::Train => question,
            // The backward test set of the paper has another word here than its training data.
            Split::Test => question.replace("answer to the above", "answer of the above"),
        }
    }

    fn sums(&self) -> Vec<ArithmeticRow> {
        let copies = 0..self.world.copies as u64;
        let row = |copy| {
            let problem = self.world.draw("sum", copy, self.number);
            let (question, rationale) = problem.sum(&self.telling(SUM + copy));
            ArithmeticRow {
                set: Set::Sum,
                original: question.clone(),
                question,
                answer: answer(&rationale, problem.answer()),
                truth: problem.answer(),
                steps: problem.steps().len(),
            }
        };
        copies.map(row).collect()
    }

    fn row(&self, set: Set, question: String, rationale: &str, truth: u32) -> ArithmeticRow {
        ArithmeticRow {
            set,
            question,
            answer: answer(rationale, truth),
            truth,
            original: self.problem.question(&self.wording),
            steps: self.problem.steps().len(),
        }
    }
}

fn answer(rationale: &str, truth: u32) -> String {
    format!("{OPENING}{rationale}\n#### {truth}")
}

#[cfg(test)]
mod tests;
