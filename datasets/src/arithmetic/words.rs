//! Problems in words: questions, statements, rationales.

use rand_chacha::ChaCha8Rng;

use super::problem::{Op, Problem, Step};
use super::scenes::{Ask, SCENES, Scene, Ways};
use crate::random::below;

/// How the lines of a rationale are put: the first of them, and those that follow.
const STYLES: [(&str, &str); 4] = [
    ("{sum} {unit}.", "{sum} {unit}."),
    ("First, {sum} {unit}.", "Then, {sum} {unit}."),
    ("We begin with {sum}.", "We go on with {sum}."),
    ("That makes {sum} {unit}.", "Now it is {sum} {unit}."),
];

/// The unknown of backward questions.
const UNKNOWN: &str = "x";

/// The words of a question, chosen among the ways of its story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wording {
    opening: usize,
    events: Vec<usize>,
    ask: usize,
}

/// The words of a rationale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Telling {
    style: usize,
    /// Sums and products are written with the second operand first.
    swapped: bool,
}

impl Telling {
    pub(super) fn draw(rng: &mut ChaCha8Rng) -> Self {
        Self {
            style: index(rng, STYLES.len()),
            swapped: below(rng, 2) == 0,
        }
    }
}

impl Wording {
    pub(super) fn draw(problem: &Problem, rng: &mut ChaCha8Rng) -> Self {
        let scene = problem.story();
        Self {
            opening: index(rng, problem.openings(scene).len()),
            events: problem
                .events
                .iter()
                .map(|(op, _)| index(rng, ways(scene, *op).len()))
                .collect(),
            ask: index(rng, problem.asks(scene).len()),
        }
    }
}

fn index(rng: &mut ChaCha8Rng, length: usize) -> usize {
    below(rng, length as u64) as usize
}

fn ways(scene: &Scene, op: Op) -> Ways {
    match op {
        Op::Add => scene.add,
        Op::Sub => scene.sub,
        Op::Mul => scene.mul,
        Op::Div => scene.div,
    }
}

impl Problem {
    fn story(&self) -> &'static Scene {
        &SCENES[self.scene]
    }

    fn openings(&self, scene: &Scene) -> Ways {
        if self.groups.is_some() {
            scene.groups
        } else {
            scene.amount
        }
    }

    fn asks(&self, scene: &Scene) -> &'static [Ask] {
        match self.events.last() {
            Some((Op::Div, _)) => scene.ask_share,
            _ => scene.ask,
        }
    }

    /// Puts people and things into a text.
    fn fill(&self, text: &str) -> String {
        text.replace("{A}", self.name)
            .replace("{B}", self.other)
            .replace("{items}", self.items)
    }

    fn ask(&self, wording: &Wording) -> &'static Ask {
        &self.asks(self.story())[wording.ask]
    }

    /// The story without its question; number `unknown`, if any, is written as x.
    pub(super) fn tale(&self, wording: &Wording, unknown: Option<usize>) -> String {
        let scene = self.story();
        let numbers: Vec<String> = self
            .numbers()
            .into_iter()
            .enumerate()
            .map(|(slot, number)| match unknown {
                Some(hidden) if hidden == slot => UNKNOWN.to_owned(),
                _ => number.to_string(),
            })
            .collect();
        let opening = self.openings(scene)[wording.opening];
        let (opening, used) = if self.groups.is_some() {
            let filled = opening.replace("{e}", &numbers[0]);
            (filled.replace("{g}", &numbers[1]), 2)
        } else {
            (opening.replace("{n}", &numbers[0]), 1)
        };
        let mut sentences = vec![self.fill(&opening)];
        let chosen = self.events.iter().zip(&wording.events);
        for (((op, _), way), number) in chosen.zip(&numbers[used..]) {
            sentences.push(self.fill(&ways(scene, *op)[*way].replace("{n}", number)));
        }
        sentences.join(" ")
    }

    /// The question.
    pub(super) fn question(&self, wording: &Wording) -> String {
        self.masked_question(wording, None)
    }

    /// The question with number `unknown` written as x.
    pub(super) fn masked_question(&self, wording: &Wording, unknown: Option<usize>) -> String {
        let asked = self.fill(self.ask(wording).question);
        format!("{} {asked}", self.tale(wording, unknown))
    }

    /// What was asked as a statement with its answer.
    pub(super) fn statement(&self, wording: &Wording) -> String {
        let statement = self.fill(self.ask(wording).statement);
        statement.replace("{v}", &self.answer().to_string())
    }

    /// The bare calculation, from left to right, and its rationale.
    pub(super) fn sum(&self, telling: &Telling) -> (String, String) {
        let steps = self.steps();
        let parts = steps
            .iter()
            .map(|step| format!("{} {}", step.op.sign(), step.right));
        let parts: Vec<String> = parts.collect();
        let question = format!("Calculate {} {}.", self.opening, parts.join(", "));
        (question, told(&steps, telling, "").join("\n"))
    }

    /// The calculations of the problem, a line each.
    pub(super) fn rationale(&self, telling: &Telling) -> String {
        self.lines(&self.steps(), telling).join("\n")
    }

    /// The calculations that find number `unknown`, a line each; the last says what x is.
    pub(super) fn backward_rationale(&self, unknown: usize, telling: &Telling) -> String {
        let steps = self.solve_for(unknown);
        let mut lines = self.lines(&steps, telling);
        if let (Some(last), Some(step)) = (lines.last_mut(), steps.last()) {
            *last = format!("{UNKNOWN} = {}.", sum(step, telling));
        }
        lines.join("\n")
    }

    fn lines(&self, steps: &[Step], telling: &Telling) -> Vec<String> {
        told(
            steps,
            telling,
            &format!(" {}", self.fill(self.story().unit)),
        )
    }
}

/// The lines of a rationale; `unit` stands behind results, with a space before it.
fn told(steps: &[Step], telling: &Telling, unit: &str) -> Vec<String> {
    let (first, next) = STYLES[telling.style];
    let line = |(number, step): (usize, &Step)| {
        let text = if number == 0 { first } else { next };
        text.replace("{sum}", &sum(step, telling))
            .replace(" {unit}", unit)
    };
    steps.iter().enumerate().map(line).collect()
}

/// `left op right = value`.
fn sum(step: &Step, telling: &Telling) -> String {
    let (left, right) = if telling.swapped && step.op.commutes() {
        (step.right, step.left)
    } else {
        (step.left, step.right)
    };
    format!("{left} {} {right} = {}", step.op.sign(), step.value)
}
