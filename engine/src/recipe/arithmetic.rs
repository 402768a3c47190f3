//! `[data.arithmetic]`: word problems that are made instead of read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use temper_datasets::arithmetic;

/// The `[data.arithmetic]` section, for `kind = "arithmetic"`. Names, items and numbers of two digits are those of
/// training; those of the shipped test problems never occur.
///
/// ```
/// # use temper_engine::recipe::Arithmetic;
/// assert_eq!(Arithmetic::default().world().problems, 1000);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Arithmetic {
    /// Seed of the problems; the recipe's own `seed` does not change them.
    pub seed: u64,
    /// How many problems to make. Their rows are more if `sets` has augmentations.
    #[schemars(range(min = 1))]
    pub problems: usize,
    /// How many calculations a problem takes: each draws one of these. A number written twice is
    /// drawn twice as often.
    #[schemars(length(min = 1), inner(range(min = 1, max = 4)))]
    pub steps: Vec<usize>,
    /// The largest number in questions and solutions.
    #[schemars(range(min = 20, max = 9999))]
    pub largest: u32,
    /// Which rows are made of each problem.
    #[schemars(length(min = 1))]
    pub sets: Vec<Set>,
    /// How many rows of `ans_aug`, of `rephrased` and of `sum` are made of each problem, as far as
    /// there are different ones.
    pub copies: usize,
}

/// Rows made of a problem, as in MetaMath (arXiv 2309.12284), but by rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// The problem itself, with one solution.
    Original,
    /// The same question with the solution told in other words or another order.
    AnsAug,
    /// The question in other words.
    Rephrased,
    /// A number is x and the answer stands in the story; one question per number.
    Sv,
    /// A number is x and the answer is told behind the question; one question per number.
    Fobar,
    /// A calculation without a story.
    Sum,
}

impl Default for Arithmetic {
    fn default() -> Self {
        let world = arithmetic::Arithmetic::default();
        Self {
            seed: world.seed,
            problems: world.problems,
            steps: world.steps,
            largest: world.largest,
            sets: vec![Set::Original],
            copies: world.copies,
        }
    }
}

impl Arithmetic {
    /// The settings as the generator takes them.
    pub fn world(&self) -> arithmetic::Arithmetic {
        arithmetic::Arithmetic {
            split: arithmetic::Split::Train,
            seed: self.seed,
            problems: self.problems,
            steps: self.steps.clone(),
            largest: self.largest,
            sets: self.sets.iter().map(|set| (*set).into()).collect(),
            copies: self.copies,
        }
    }
}

impl From<Set> for arithmetic::Set {
    fn from(set: Set) -> Self {
        match set {
            Set::Original => Self::Original,
            Set::AnsAug => Self::AnsAug,
            Set::Rephrased => Self::Rephrased,
            Set::Sv => Self::Sv,
            Set::Fobar => Self::Fobar,
            Set::Sum => Self::Sum,
        }
    }
}
