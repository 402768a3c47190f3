//! The structure of a problem: an opening amount, what happens to it, and the answer that follows.

use rand_chacha::ChaCha8Rng;

use super::entities::Split;
use super::scenes::SCENES;
use crate::random::below;

/// An operation on two whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `left + right`.
    Add,
    /// `left - right`.
    Sub,
    /// `left * right`.
    Mul,
    /// `left / right`, without remainder.
    Div,
}

impl Op {
    /// The sign in rationales.
    pub fn sign(self) -> char {
        match self {
            Self::Add => '+',
            Self::Sub => '-',
            Self::Mul => '*',
            Self::Div => '/',
        }
    }

    /// The value, if it is a whole number of at least 1.
    ///
    /// ```
    /// use temper_datasets::arithmetic::Op;
    ///
    /// assert_eq!(Op::Div.apply(12, 4), Some(3));
    /// assert_eq!(Op::Div.apply(12, 5), None);
    /// assert_eq!(Op::Sub.apply(3, 3), None);
    /// ```
    pub fn apply(self, left: u32, right: u32) -> Option<u32> {
        let value = match self {
            Self::Add => left.checked_add(right),
            Self::Sub => left.checked_sub(right),
            Self::Mul => left.checked_mul(right),
            Self::Div if right == 0 || !left.is_multiple_of(right) => None,
            Self::Div => Some(left / right),
        };
        value.filter(|value| *value > 0)
    }

    /// The operation that undoes this one.
    #[must_use]
    pub fn inverse(self) -> Self {
        match self {
            Self::Add => Self::Sub,
            Self::Sub => Self::Add,
            Self::Mul => Self::Div,
            Self::Div => Self::Mul,
        }
    }

    pub(super) fn commutes(self) -> bool {
        matches!(self, Self::Add | Self::Mul)
    }
}

/// One calculation: `left op right = value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// First operand.
    pub left: u32,
    /// The operation.
    pub op: Op,
    /// Second operand.
    pub right: u32,
    /// The result.
    pub value: u32,
}

/// A problem before it is put into words. The numbers of its question are, in this order: the opening amount
/// (or the size of a group and the number of groups), then one per event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whose names, items and numbers it uses.
    pub split: Split,
    /// The amount at the beginning; with `groups`, the amount in each group.
    pub opening: u32,
    /// How many groups of that amount there are, if the problem begins with groups.
    pub groups: Option<u32>,
    /// What happens then: the operation and its number.
    pub events: Vec<(Op, u32)>,
    pub(super) scene: usize,
    pub(super) name: &'static str,
    pub(super) other: &'static str,
    pub(super) items: &'static str,
}

/// The range of a problem: how many calculations it takes, and the largest number in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) steps: usize,
    pub(super) largest: u32,
}

/// Factors and divisors stay in the multiplication table.
const LARGEST_FACTOR: u32 = 9;
const LARGEST_GROUP: u32 = 25;

impl Problem {
    /// Draws a problem; what does not come out as whole positive numbers up to the largest is drawn again.
    pub(super) fn draw(split: Split, size: Size, rng: &mut ChaCha8Rng) -> Self {
        let name = pick(rng, split.names());
        let mut other = pick(rng, split.names());
        while other == name {
            other = pick(rng, split.names());
        }
        let mut problem = Self {
            split,
            opening: 0,
            groups: None,
            events: Vec::new(),
            scene: below(rng, SCENES.len() as u64) as usize,
            name,
            other,
            items: pick(rng, split.items()),
        };
        loop {
            problem.draw_numbers(size, rng);
            if problem.fits(size.largest) {
                return problem;
            }
        }
    }

    fn draw_numbers(&mut self, size: Size, rng: &mut ChaCha8Rng) {
        let factors = self.split.numbers(2, LARGEST_FACTOR.min(size.largest));
        let amounts = self.split.numbers(2, size.largest);
        let sizes = self.split.numbers(2, LARGEST_GROUP.min(size.largest));
        // A quarter of the problems begin with groups, which is a calculation of its own.
        self.groups = (below(rng, 4) == 0).then(|| pick(rng, &factors));
        self.opening = pick(
            rng,
            if self.groups.is_some() {
                &sizes
            } else {
                &amounts
            },
        );
        let events = size.steps - usize::from(self.groups.is_some());
        self.events = (1..=events)
            .map(|number| {
                // Sharing ends a story: what is asked for then is one share.
                let op = match below(rng, if number == events { 6 } else { 5 }) {
                    0 | 1 => Op::Add,
                    2 | 3 => Op::Sub,
                    4 => Op::Mul,
                    _ => Op::Div,
                };
                let from = if op == Op::Add || op == Op::Sub {
                    &amounts
                } else {
                    &factors
                };
                (op, pick(rng, from))
            })
            .collect();
    }

    fn fits(&self, largest: u32) -> bool {
        self.split.owns(&self.numbers())
            && self
                .evaluate()
                .is_some_and(|steps| steps.iter().all(|step| step.value <= largest))
    }

    fn calculations(&self) -> impl Iterator<Item = (Op, u32)> {
        let groups = self.groups.map(|groups| (Op::Mul, groups));
        groups.into_iter().chain(self.events.iter().copied())
    }

    /// The calculations that lead to the answer, or nothing if one of them has no whole positive result.
    pub fn evaluate(&self) -> Option<Vec<Step>> {
        let mut left = self.opening;
        self.calculations()
            .map(|(op, right)| {
                let value = op.apply(left, right)?;
                let step = Step {
                    left,
                    op,
                    right,
                    value,
                };
                left = value;
                Some(step)
            })
            .collect()
    }

    /// The calculations of a problem that was drawn, which always exist.
    pub(super) fn steps(&self) -> Vec<Step> {
        self.evaluate().unwrap_or_default()
    }

    /// What the question asks for.
    pub fn answer(&self) -> u32 {
        self.steps().last().map_or(self.opening, |step| step.value)
    }

    /// The numbers of the question.
    pub fn numbers(&self) -> Vec<u32> {
        let rest = self.calculations().map(|(_, number)| number);
        std::iter::once(self.opening).chain(rest).collect()
    }

    /// The calculations that find number `unknown` from the others and the answer: forwards up to where it comes
    /// in, backwards from the answer to there, and its own last.
    ///
    /// Eq. 3 and 4 of `MetaMath` (arXiv 2309.12284) call this backward reasoning.
    pub fn solve_for(&self, unknown: usize) -> Vec<Step> {
        let steps = self.steps();
        // Number 0 opens the story and number i comes in with calculation i - 1.
        let (before, after) = steps.split_at(unknown.max(1) - 1);
        let mut solution = before.to_vec();
        let mut value = self.answer();
        let undone = after.iter().skip(usize::from(unknown > 0)).rev();
        for step in undone {
            solution.push(step_of(value, step.op.inverse(), step.right));
            value = solution.last().map_or(value, |step| step.value);
        }
        if unknown > 0
            && let Some(step) = after.first()
        {
            solution.push(match step.op {
                Op::Add => step_of(value, Op::Sub, step.left),
                Op::Mul => step_of(value, Op::Div, step.left),
                Op::Sub | Op::Div => step_of(step.left, step.op, value),
            });
        }
        solution
    }
}

fn step_of(left: u32, op: Op, right: u32) -> Step {
    Step {
        left,
        op,
        right,
        value: op.apply(left, right).unwrap_or_default(),
    }
}

/// One of `list`, which is never empty here.
pub(super) fn pick<T: Copy>(rng: &mut ChaCha8Rng, list: &[T]) -> T {
    list[below(rng, list.len() as u64) as usize]
}
