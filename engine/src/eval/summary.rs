//! What a set of graded completions adds up to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use temper_datasets::grade::{Grade, Grades};

use super::standard_error;
use super::traces::{Ended, Trace};

/// One value for each grading convention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByGrader<T> {
    /// The program of the `MetaMath` authors.
    pub metamath: T,
    /// lm-evaluation-harness, strict extraction.
    pub lm_eval_strict: T,
    /// lm-evaluation-harness, flexible extraction.
    pub lm_eval_flexible: T,
}

/// Names of the conventions, as in `traces.jsonl`.
pub const GRADERS: [&str; 3] = ["metamath", "lm_eval_strict", "lm_eval_flexible"];

impl<T> ByGrader<T> {
    /// The values with the names of their conventions.
    pub fn named(&self) -> [(&'static str, &T); 3] {
        let [metamath, strict, flexible] = GRADERS;
        [
            (metamath, &self.metamath),
            (strict, &self.lm_eval_strict),
            (flexible, &self.lm_eval_flexible),
        ]
    }

    /// A value of each value.
    pub fn map<U>(&self, change: impl Fn(&T) -> U) -> ByGrader<U> {
        ByGrader {
            metamath: change(&self.metamath),
            lm_eval_strict: change(&self.lm_eval_strict),
            lm_eval_flexible: change(&self.lm_eval_flexible),
        }
    }
}

/// The verdicts by convention.
pub(crate) fn verdicts(grades: &Grades) -> ByGrader<&Grade> {
    ByGrader {
        metamath: &grades.metamath,
        lm_eval_strict: &grades.lm_eval_strict,
        lm_eval_flexible: &grades.lm_eval_flexible,
    }
}

/// Counts of one convention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    problems: u64,
    correct: u64,
    no_answer: u64,
}

impl Tally {
    fn add(&mut self, grade: &Grade) {
        self.problems += 1;
        self.correct += u64::from(grade.correct);
        self.no_answer += u64::from(grade.extracted.is_none());
    }
}

/// Counts of all conventions on the same completions.
pub(crate) type Tallies = ByGrader<Tally>;

impl Tallies {
    /// Counts one completion.
    pub(crate) fn add(&mut self, grades: &Grades) {
        self.metamath.add(&grades.metamath);
        self.lm_eval_strict.add(&grades.lm_eval_strict);
        self.lm_eval_flexible.add(&grades.lm_eval_flexible);
    }

    /// Accuracy of each convention.
    pub(crate) fn scores(&self) -> ByGrader<Score> {
        self.map(Score::of)
    }
}

/// How well a set of problems was solved under one convention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Problems answered correctly.
    pub correct: u64,
    /// Their share of all problems; 0 when there are none.
    pub accuracy: f64,
    /// [`standard_error`] of the accuracy.
    pub standard_error: Option<f64>,
    /// Completions in which the convention finds no answer. They count as wrong.
    pub no_answer: u64,
    /// Their share.
    pub no_answer_rate: f64,
}

impl Score {
    fn of(tally: &Tally) -> Self {
        let share = |count: u64| count as f64 / tally.problems.max(1) as f64;
        Self {
            correct: tally.correct,
            accuracy: share(tally.correct),
            standard_error: standard_error(tally.correct, tally.problems),
            no_answer: tally.no_answer,
            no_answer_rate: share(tally.no_answer),
        }
    }
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    /// Of all prompts.
    pub prompt: u64,
    /// Of all completions.
    pub completion: u64,
    /// Of one completion, on average.
    pub mean_completion: f64,
}

/// The problems of one level, subject or length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What they have in common.
    pub name: String,
    /// How many they are.
    pub problems: u64,
    /// How well they were solved.
    pub graders: ByGrader<Score>,
}

/// The content of `summary.json`: a function of the rows of `traces.jsonl` alone, so that an evaluation that was killed and resumed,
/// or made in shards and merged, ends with the same bytes as one made in one go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The task.
    pub task: String,
    /// Problems asked.
    pub problems: u64,
    /// Rows of the data file without a true answer, which were not asked.
    pub skipped: u64,
    /// Accuracy under each convention.
    pub graders: ByGrader<Score>,
    /// Completions that one convention finds correct and another does not.
    pub disagreements: u64,
    /// Tokens.
    pub tokens: Tokens,
    /// How completions ended: `eos`, `stop`, `length`, `error`.
    pub finish: BTreeMap<String, u64>,
    /// MATH by level.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_level: Vec<Group>,
    /// MATH by subject.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_subject: Vec<Group>,
    /// GSM8K in three equal parts by characters of the question (`MetaMath`, arXiv 2309.12284 §4.9), shortest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_question_length: Vec<Group>,
}

impl Summary {
    /// Adds up the rows of one evaluation.
    pub fn of(task: &str, skipped: u64, traces: &[Trace]) -> Self {
        let mut tallies = Tallies::default();
        let mut tokens = Tokens::default();
        let mut finish = BTreeMap::new();
        for trace in traces {
            tallies.add(&trace.graders);
            tokens.prompt += trace.prompt_tokens;
            tokens.completion += trace.tokens;
            *finish.entry(trace.finish.name().to_owned()).or_default() += 1;
        }
        tokens.mean_completion = tokens.completion as f64 / (traces.len() as f64).max(1.0);
        Self {
            task: task.to_owned(),
            problems: traces.len() as u64,
            skipped,
            graders: tallies.scores(),
            disagreements: traces.iter().filter(|trace| disagree(trace)).count() as u64,
            tokens,
            finish,
            by_level: groups(traces, |trace| trace.level.as_deref()),
            by_subject: groups(traces, |trace| trace.subject.as_deref()),
            by_question_length: if task.starts_with("gsm8k") {
                thirds(traces)
            } else {
                Vec::new()
            },
        }
    }

    /// Completions that never began.
    pub fn failed(&self) -> u64 {
        self.finish.get(Ended::Error.name()).copied().unwrap_or(0)
    }
}

/// Whether the conventions differ on a completion.
pub(crate) fn disagree(trace: &Trace) -> bool {
    let grades = &trace.graders;
    let strict = grades.lm_eval_strict.correct;
    grades.metamath.correct != strict || strict != grades.lm_eval_flexible.correct
}

fn groups<'a>(traces: &'a [Trace], name: impl Fn(&'a Trace) -> Option<&'a str>) -> Vec<Group> {
    let mut found: BTreeMap<&str, Vec<&Trace>> = BTreeMap::new();
    for trace in traces {
        if let Some(name) = name(trace) {
            found.entry(name).or_default().push(trace);
        }
    }
    found
        .into_iter()
        .map(|(name, traces)| group(name.to_owned(), &traces))
        .collect()
}

fn group(name: String, traces: &[&Trace]) -> Group {
    let mut tallies = Tallies::default();
    for trace in traces {
        tallies.add(&trace.graders);
    }
    Group {
        name,
        problems: traces.len() as u64,
        graders: tallies.scores(),
    }
}

/// Three parts of equal size, as far as the number of problems allows; equal lengths go by their place in the file.
fn thirds(traces: &[Trace]) -> Vec<Group> {
    let mut sorted: Vec<(usize, &Trace)> = traces
        .iter()
        .map(|trace| (trace.question.chars().count(), trace))
        .collect();
    sorted.sort_by_key(|(length, trace)| (*length, trace.index));
    let part = |third: usize| {
        let (first, last) = (traces.len() * third / 3, traces.len() * (third + 1) / 3);
        let part = &sorted[first..last];
        let (shortest, longest) = (part.first()?.0, part.last()?.0);
        let traces: Vec<&Trace> = part.iter().map(|(_, trace)| *trace).collect();
        Some(group(
            format!("{shortest} to {longest} characters"),
            &traces,
        ))
    };
    (0..3).filter_map(part).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A trace with the verdicts of the three conventions; `None` finds no answer.
    pub(crate) fn trace(index: u64, question: &str, verdicts: [Option<bool>; 3]) -> Trace {
        let grade = |verdict: Option<bool>| Grade {
            extracted: verdict.map(|_| "18".into()),
            correct: verdict == Some(true),
        };
        let [metamath, lm_eval_strict, lm_eval_flexible] = verdicts.map(grade);
        Trace {
            index,
            question: question.to_owned(),
            level: None,
            subject: None,
            prompt: format!("Question: {question}"),
            completion: "The answer is: 18".to_owned(),
            finish: Ended::Eos,
            answer: "18".to_owned(),
            prompt_tokens: 10,
            tokens: 5,
            graders: Grades {
                metamath,
                lm_eval_strict,
                lm_eval_flexible,
            },
            error: None,
        }
    }

    const RIGHT: Option<bool> = Some(true);
    const WRONG: Option<bool> = Some(false);

    #[test]
    fn conventions_are_counted_apart_on_the_same_completions() {
        let mut cut = trace(3, "d", [None, None, WRONG]);
        cut.finish = Ended::Length;
        let traces = [
            trace(0, "a", [RIGHT, RIGHT, RIGHT]),
            trace(1, "b", [RIGHT, None, RIGHT]),
            trace(2, "c", [WRONG, WRONG, WRONG]),
            cut,
        ];
        let summary = Summary::of("gsm8k", 2, &traces);
        let graders = &summary.graders;
        assert_eq!((summary.problems, summary.skipped), (4, 2));
        assert_eq!(graders.metamath.accuracy, 0.5);
        assert_eq!(graders.metamath.no_answer, 1);
        assert_eq!(
            (
                graders.lm_eval_strict.correct,
                graders.lm_eval_strict.no_answer_rate
            ),
            (1, 0.5)
        );
        assert_eq!(graders.lm_eval_flexible.no_answer, 0);
        assert_eq!(summary.disagreements, 1);
        assert_eq!(
            (summary.tokens.prompt, summary.tokens.mean_completion),
            (40, 5.0)
        );
        assert_eq!(summary.finish["length"], 1);
        assert_eq!(summary.finish["eos"], 3);
    }

    #[test]
    fn thirds_have_equal_size_and_rise_in_length() {
        let question = |index: u64| "x".repeat(100 - index as usize * 10);
        let traces: Vec<Trace> = (0..7)
            .map(|index| {
                let verdict = Some(index >= 5);
                trace(index, &question(index), [verdict; 3])
            })
            .collect();
        let groups = Summary::of("gsm8k-backward", 0, &traces).by_question_length;
        let sizes: Vec<u64> = groups.iter().map(|group| group.problems).collect();
        assert_eq!(sizes, [2, 2, 3]);
        assert_eq!(groups[0].name, "40 to 50 characters");
        assert_eq!(groups[0].graders.metamath.accuracy, 1.0);
        assert_eq!(groups[2].graders.metamath.correct, 0);
        assert!(
            Summary::of("math", 0, &traces)
                .by_question_length
                .is_empty()
        );
    }

    #[test]
    fn levels_and_subjects_are_broken_down() {
        let mut traces = vec![
            trace(0, "a", [RIGHT; 3]),
            trace(1, "b", [WRONG; 3]),
            trace(2, "c", [RIGHT; 3]),
        ];
        for (trace, (level, subject)) in traces.iter_mut().zip([
            ("Level 2", "Algebra"),
            ("Level 1", "Algebra"),
            ("Level 2", "Geometry"),
        ]) {
            trace.level = Some(level.to_owned());
            trace.subject = Some(subject.to_owned());
        }
        let summary = Summary::of("math", 0, &traces);
        let named = |groups: &[Group]| -> Vec<(String, u64, u64)> {
            let row = |group: &Group| {
                (
                    group.name.clone(),
                    group.problems,
                    group.graders.metamath.correct,
                )
            };
            groups.iter().map(row).collect()
        };
        assert_eq!(
            named(&summary.by_level),
            [("Level 1".to_owned(), 1, 0), ("Level 2".to_owned(), 2, 2)]
        );
        assert_eq!(
            named(&summary.by_subject),
            [("Algebra".to_owned(), 2, 1), ("Geometry".to_owned(), 1, 1)]
        );
    }

    #[test]
    fn nothing_asked_is_nothing_solved() {
        let summary = Summary::of("gsm8k", 0, &[]);
        assert_eq!(summary.graders.metamath.accuracy, 0.0);
        assert!(summary.by_question_length.is_empty());
        assert!(!serde_json::to_string(&summary).unwrap().contains("NaN"));
    }
}
