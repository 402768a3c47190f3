//! Two evaluations of the same problems: what changed, and whether chance explains it.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::directory::Finished;
use super::summary::{ByGrader, verdicts};
use super::traces::{Trace, read_traces};
use super::{EvalError, PERPLEXITY, Paired, standard_error};

/// A paired comparison of two evaluations.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// The task.
    pub task: String,
    /// Problems in both.
    pub problems: u64,
    /// Problems in the first alone, which are not compared.
    pub only_in_first: u64,
    /// Problems in the second alone.
    pub only_in_second: u64,
    /// Settings in which they differ, beside the weights.
    pub settings: Vec<String>,
    /// The comparison under each convention.
    pub graders: ByGrader<Comparison>,
    /// The problems whose verdict changed under any convention.
    pub changed: Vec<Changed>,
}

/// Both accuracies under one convention.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Accuracy and standard error of the first.
    pub first: (f64, Option<f64>),
    /// Accuracy and standard error of the second.
    pub second: (f64, Option<f64>),
    /// Second minus first.
    pub difference: f64,
    /// Standard error of the difference, of the pairs.
    pub standard_error: Option<f64>,
    /// McNemar's exact test, two-sided.
    pub p_value: f64,
    /// The counts.
    pub pairs: Paired,
}

impl Comparison {
    fn of(pairs: &Paired) -> Self {
        let side = |alone: u64| {
            let correct = pairs.both + alone;
            let accuracy = correct as f64 / (pairs.problems as f64).max(1.0);
            (accuracy, standard_error(correct, pairs.problems))
        };
        Self {
            first: side(pairs.first_only),
            second: side(pairs.second_only),
            difference: pairs.difference(),
            standard_error: pairs.standard_error(),
            p_value: pairs.p_value(),
            pairs: *pairs,
        }
    }
}

/// A problem with another verdict than before.
#[derive(Clone, Debug, Serialize)]
pub struct Changed {
    /// Number of the problem in its data file.
    pub index: u64,
    /// Its question.
    pub question: String,
    /// Its true answer.
    pub answer: String,
    /// Verdict of the first and of the second, by convention.
    pub correct: ByGrader<(bool, bool)>,
}

/// Compares the evaluations in two directories, problem by problem.
///
/// # Errors
/// [`EvalError::Unpaired`] if they are of different tasks or problems; or whatever keeps a file from being read.
pub fn diff(first: &Path, second: &Path) -> Result<Diff, EvalError> {
    let (a, b) = (Finished::open(first)?, Finished::open(second)?);
    let unpaired = |reason: String| EvalError::Unpaired {
        first: first.to_path_buf(),
        second: second.to_path_buf(),
        reason,
    };
    let (task, other) = (a.config.task.clone(), b.config.task.clone());
    if task != other {
        return Err(unpaired(format!(
            "one is of `{task}`, the other of `{other}`"
        )));
    }
    if task == PERPLEXITY {
        return Err(unpaired(
            "perplexities have no verdicts; compare the losses in their `summary.json`".to_owned(),
        ));
    }
    let (rows, mut others) = (
        read_traces::<Trace>(&a.traces())?,
        read_traces::<Trace>(&b.traces())?,
    );
    let settings = settings(&a, &b);
    let mut result = Pairing::default();
    for (index, row) in rows {
        match others.remove(&index) {
            None => result.only_in_first += 1,
            Some(other) if other.question != row.question || other.answer != row.answer => {
                return Err(unpaired(format!("problem {index} is not the same in both")));
            }
            Some(other) => result.add(row, &other),
        }
    }
    let problems = result.pairs.metamath.problems;
    if problems == 0 {
        return Err(unpaired("they have no problem in common".to_owned()));
    }
    Ok(Diff {
        task,
        problems,
        only_in_first: result.only_in_first,
        only_in_second: others.len() as u64,
        settings,
        graders: result.pairs.map(Comparison::of),
        changed: result.changed,
    })
}

/// Everything but the weights, the part of the problems and the place that differs.
fn settings(a: &Finished, b: &Finished) -> Vec<String> {
    let mut old = a.config.clone();
    old.model = b.config.model.clone();
    old.shard = b.config.shard;
    b.config.changes_since(&old)
}

#[derive(Default)]
struct Pairing {
    pairs: ByGrader<Paired>,
    only_in_first: u64,
    changed: Vec<Changed>,
}

impl Pairing {
    fn add(&mut self, first: Trace, second: &Trace) {
        let (a, b) = (verdicts(&first.graders), verdicts(&second.graders));
        let correct = ByGrader {
            metamath: (a.metamath.correct, b.metamath.correct),
            lm_eval_strict: (a.lm_eval_strict.correct, b.lm_eval_strict.correct),
            lm_eval_flexible: (a.lm_eval_flexible.correct, b.lm_eval_flexible.correct),
        };
        let pairs = &mut self.pairs;
        for (pair, (a, b)) in [
            (&mut pairs.metamath, correct.metamath),
            (&mut pairs.lm_eval_strict, correct.lm_eval_strict),
            (&mut pairs.lm_eval_flexible, correct.lm_eval_flexible),
        ] {
            pair.add(a, b);
        }
        if correct.named().iter().any(|(_, (a, b))| a != b) {
            self.changed.push(Changed {
                index: first.index,
                question: first.question,
                answer: first.answer,
                correct,
            });
        }
    }
}

/// The comparison as text for a terminal, with the problems that changed under the convention `metamath` first.
pub(crate) fn diff_table(diff: &Diff) -> String {
    let mut text = format!("{}: {} problems in both", diff.task, diff.problems);
    for (count, which) in [
        (diff.only_in_first, "first"),
        (diff.only_in_second, "second"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {count} in the {which} alone (not compared)");
        }
    }
    let _ = write!(
        text,
        "\n\n{:<18}{:>18}{:>18}{:>20}{:>9}{:>9}{:>10}\n",
        "grading", "first", "second", "difference", "lost", "won", "p"
    );
    for (name, found) in diff.graders.named() {
        let with_error = |(share, error): (f64, Option<f64>)| {
            let error = error.map_or(String::new(), |error| format!(" ±{:.2}", error * 100.0));
            format!("{:.2}{error} %", share * 100.0)
        };
        let _ = writeln!(
            text,
            "{name:<18}{:>18}{:>18}{:>20}{:>9}{:>9}{:>10}",
            with_error(found.first),
            with_error(found.second),
            with_error((found.difference, found.standard_error)),
            found.pairs.first_only,
            found.pairs.second_only,
            format!("{:.4}", found.p_value),
        );
    }
    for setting in &diff.settings {
        let _ = writeln!(text, "note: {setting}");
    }
    for (title, wanted) in [("won", (false, true)), ("lost", (true, false))] {
        let of = |change: &&Changed| change.correct.metamath == wanted;
        let list: Vec<&Changed> = diff.changed.iter().filter(of).collect();
        if !list.is_empty() {
            let _ = writeln!(text, "\n{title} under metamath:");
        }
        for change in list {
            let _ = writeln!(
                text,
                "  #{:<6} {}",
                change.index,
                one_line(&change.question)
            );
        }
    }
    text.trim_end().to_owned()
}

fn one_line(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(90) {
        Some((at, _)) => format!("{}…", &flat[..at]),
        None => flat,
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::trace;
    use super::*;

    #[test]
    fn pairs_are_counted_under_each_convention() {
        let (right, wrong) = (Some(true), Some(false));
        let mut pairing = Pairing::default();
        pairing.add(trace(0, "same", [right; 3]), &trace(0, "same", [right; 3]));
        pairing.add(
            trace(1, "won", [wrong, right, wrong]),
            &trace(1, "won", [right; 3]),
        );
        pairing.add(
            trace(2, "won too", [wrong; 3]),
            &trace(2, "won too", [right, wrong, wrong]),
        );
        let pairs = pairing.pairs;
        assert_eq!((pairs.metamath.both, pairs.metamath.second_only), (1, 2));
        assert_eq!(
            (pairs.lm_eval_strict.both, pairs.lm_eval_strict.second_only),
            (2, 0)
        );
        assert_eq!(pairing.changed.len(), 2);
        let found = Comparison::of(&pairs.metamath);
        assert!((found.first.0 - 1.0 / 3.0).abs() < 1e-12 && found.second.0 == 1.0);
        assert_eq!(found.p_value, 0.5);
    }

    #[test]
    fn long_questions_are_cut_at_a_character() {
        let cut = one_line(&"é\n".repeat(200));
        assert_eq!(cut.chars().count(), 91);
        assert_eq!(one_line("a\n b"), "a b");
    }
}
