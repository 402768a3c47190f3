//! What there is to do: the questions, their numbers, and one unit for each row that may come of them.

use std::path::Path;

use temper_datasets::problems::{Problem, Task, read_problems};
use temper_datasets::rewrite::{AnswerFilter, Behaviour, Mask, Rewriting, Source, masks};

use super::BootstrapError;
use super::record::{Key, Stage};
use crate::recipe::{self, BootstrapRecipe, QuestionTask, Samples};
use crate::run::note;

/// The rules of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) source: Source,
    pub(super) behaviour: Behaviour,
}

impl Rules {
    pub(super) fn of(recipe: &BootstrapRecipe) -> Self {
        Self {
            source: match recipe.questions.task {
                QuestionTask::Gsm8k => Source::Gsm8k,
                QuestionTask::Math => Source::Math,
            },
            behaviour: match recipe.behaviour {
                recipe::Behaviour::Fixed => Behaviour::Fixed,
                recipe::Behaviour::Released => Behaviour::Released,
            },
        }
    }

    pub(super) fn filter(self, kind: Rewriting) -> AnswerFilter {
        AnswerFilter::new(self.source, kind, self.behaviour)
    }
}

/// A question to start from.
#[derive(Debug)]
pub(super) struct Seed {
    /// Its row, counted over all files.
    pub(super) row: u64,
    pub(super) question: String,
    /// As the file gives it.
    answer: String,
    /// The answer as it is told in backward questions.
    pub(super) told: String,
}

impl Seed {
    /// The numbers that can be hidden.
    pub(super) fn numbers(&self, rules: Rules) -> Vec<Mask<'_>> {
        masks(rules.source, &self.question)
    }

    /// What a reply must say to be kept; `None` where nothing can be compared.
    pub(super) fn truth(
        &self,
        rules: Rules,
        kind: Rewriting,
        number: Option<&Mask<'_>>,
    ) -> Option<String> {
        let hidden = number.map_or(self.answer.as_str(), Mask::hidden);
        rules.filter(kind).truth(hidden)
    }
}

/// The questions of a recipe.
#[derive(Debug)]
pub(super) struct Seeds {
    pub(super) all: Vec<Seed>,
    /// Rows that cannot be used, as `file, line: reason`.
    pub(super) skipped: Vec<String>,
}

impl Seeds {
    /// Reads the files of a recipe.
    pub(super) fn read(recipe: &BootstrapRecipe) -> Result<Self, BootstrapError> {
        let rules = Rules::of(recipe);
        let task = match rules.source {
            Source::Gsm8k => Task::Gsm8k,
            Source::Math => Task::Math,
        };
        let mut seeds = Self {
            all: Vec::new(),
            skipped: Vec::new(),
        };
        let mut first = 0;
        for path in recipe.questions.path.as_slice() {
            let (problems, skipped) = read_problems(task, Path::new(path))?;
            let rows = (problems.len() + skipped.len()) as u64;
            for row in skipped {
                seeds.skip(path, format!("line {}", row.line), &row.reason);
            }
            for problem in problems {
                seeds.add(path, first, problem, rules);
            }
            first += rows;
        }
        if recipe.questions.limit > 0 {
            seeds.all.truncate(recipe.questions.limit);
        }
        if seeds.all.is_empty() {
            return Err(BootstrapError::NoQuestions {
                files: recipe.questions.path.as_slice().join("`, `"),
                reason: seeds
                    .skipped
                    .first()
                    .map_or("no rows", String::as_str)
                    .to_owned(),
            });
        }
        Ok(seeds)
    }

    /// Names the rows that cannot be used, the first few one by one.
    pub(super) fn note_skipped(&self) {
        const SHOWN: usize = 5;
        for row in self.skipped.iter().take(SHOWN) {
            note(&format!("skipped {row}"));
        }
        if self.skipped.len() > SHOWN {
            note(&format!("skipped {} rows in all", self.skipped.len()));
        }
    }

    fn add(&mut self, path: &str, first: u64, problem: Problem, rules: Rules) {
        match rules.filter(Rewriting::AnsAug).truth(&problem.answer) {
            Some(told) => self.all.push(Seed {
                row: first + problem.index,
                question: problem.question,
                answer: problem.answer,
                told,
            }),
            None => self.skip(
                path,
                format!("row {}", problem.index + 1),
                "nothing can be compared with its answer",
            ),
        }
    }

    fn skip(&mut self, path: &str, place: String, reason: &str) {
        self.skipped.push(format!("`{path}`, {place}: {reason}"));
    }
}

/// One row that may come of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// Index of the question.
    pub(super) seed: usize,
    pub(super) kind: Rewriting,
    pub(super) number: Option<u32>,
    pub(super) sample: u32,
}

impl Unit {
    pub(super) fn key(self, seed: &Seed, stage: Stage) -> Key {
        Key {
            row: seed.row,
            kind: self.kind,
            number: self.number,
            sample: self.sample,
            stage,
        }
    }
}

/// The K of a kind.
pub(super) fn samples_of(samples: &Samples, kind: Rewriting) -> u32 {
    match kind {
        Rewriting::AnsAug => samples.answer_augmentation,
        Rewriting::Rephrased => samples.rephrasing,
        Rewriting::Sv => samples.self_verification,
        Rewriting::Fobar => samples.fobar,
    }
}

/// Whether a row of this kind takes a generation to write its question.
pub(super) fn has_rewrite(kind: Rewriting) -> bool {
    matches!(kind, Rewriting::Rephrased | Rewriting::Sv)
}

/// All units: the first sample of everything before the second of anything, so that a run that is cut short has asked about
/// all questions; and kind by kind, because prompts of a kind begin alike.
pub(super) fn units(seeds: &[Seed], samples: &Samples, rules: Rules) -> Vec<Unit> {
    let of_kind = |kind| {
        let seeds = seeds.iter().enumerate();
        let units: Vec<Unit> = seeds
            .flat_map(|(index, seed)| first_units(index, seed, kind, rules))
            .collect();
        (samples_of(samples, kind), units)
    };
    let kinds = Rewriting::ALL.into_iter();
    let kinds: Vec<(u32, Vec<Unit>)> = kinds
        .filter(|&kind| samples_of(samples, kind) > 0)
        .map(of_kind)
        .collect();
    let most = kinds.iter().map(|(count, _)| *count).max().unwrap_or(0);
    let mut all = Vec::new();
    for sample in 0..most {
        for (_, units) in kinds.iter().filter(|(count, _)| sample < *count) {
            all.extend(units.iter().map(|unit| Unit { sample, ..*unit }));
        }
    }
    all
}

/// The units of a question and a kind that are sample 0: one, or one for each number whose value can be compared.
fn first_units(index: usize, seed: &Seed, kind: Rewriting, rules: Rules) -> Vec<Unit> {
    let unit = |number| Unit {
        seed: index,
        kind,
        number,
        sample: 0,
    };
    if !kind.is_backward() {
        return vec![unit(None)];
    }
    (0_u32..)
        .zip(seed.numbers(rules))
        .filter(|(_, mask)| seed.truth(rules, kind, Some(mask)).is_some())
        .map(|(number, _)| unit(Some(number)))
        .collect()
}
