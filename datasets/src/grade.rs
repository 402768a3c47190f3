//! Is the answer right? Several conventions at once, because a score means nothing without its convention.
//!
//! | Column | GSM8K and GSM8K-Backward | MATH |
//! |---|---|---|
//! | `metamath` | [`gsm8k_answer`], equal as a number | [`math_answer`], equal by [`is_equiv`] |
//! | `lm_eval_strict` | the first number after `#### ` | what Minerva's final sentence says |
//! | `lm_eval_flexible` | the last number | the last `\boxed{}`, else what follows `The answer is` |
//!
//! The `metamath` column gives the verdicts of the authors' programs (arXiv 2309.12284) on any text. The
//! other two follow lm-evaluation-harness; for MATH, where that decides by computer algebra, they are a
//! reconstruction that compares normalised text: `x+1` and `1+x` differ here.
//!
//! Every rule takes time in proportion to the length of the text, and none panics on any text.

mod gsm8k;
mod lm_eval;
mod math;
pub(crate) mod python;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bytes::excerpt;
use crate::problems::Task;

pub(crate) use gsm8k::ANSWER_IS;
pub use gsm8k::gsm8k_answer;
pub(crate) use math::{Program, normalise_as};
pub use math::{boxed_answer, is_equiv, last_boxed, math_answer, normalise};
pub(crate) use python::digit;

/// The verdict of one convention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grade {
    /// The answer it found: a number where `metamath` reads one for GSM8K, else text as it stands in the
    /// completion. `None` where it found none, which the harness writes as `[invalid]`.
    pub extracted: Option<Value>,
    /// Whether that equals the gold answer. Without an answer it is wrong.
    pub correct: bool,
}

/// The verdicts of all conventions on one completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grades {
    /// The program that scored `MetaMath`.
    pub metamath: Grade,
    /// The strict filter of lm-evaluation-harness.
    pub lm_eval_strict: Grade,
    /// The flexible filter of lm-evaluation-harness.
    pub lm_eval_flexible: Grade,
}

/// An answer to compare with that holds no answer. The row it belongs to cannot be graded: it is neither
/// right nor wrong, and belongs on the list of what was skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no gold answer in `{found}`: expected {expected}")]
pub struct NoGold {
    /// The beginning of what was given.
    pub found: String,
    /// What a gold answer of the task looks like.
    pub expected: &'static str,
}

/// The answer against which completions are graded, out of what a data file gives as the answer.
///
/// - GSM8K: the number after `#### `, else after `The answer is: `, else the whole text, without commas and
///   dollar signs. `1,200` becomes `1200`.
/// - MATH: the content of the last `\boxed{…}`; else what follows `The answer is: `; else the whole text,
///   untouched, because its spaces can decide.
///
/// # Errors
/// If there is none: no finite number, a box that is not closed, or no text at all.
///
/// ```
/// use temper_datasets::grade::gold;
/// use temper_datasets::problems::Task;
///
/// assert_eq!(gold(Task::Gsm8k, "2 * 600 = 1200\n#### 1,200").unwrap(), "1200");
/// assert_eq!(gold(Task::Math, r"\boxed{\frac12}").unwrap(), r"\frac12");
/// assert!(gold(Task::Gsm8k, "twelve").is_err());
/// ```
pub fn gold(task: Task, answer: &str) -> Result<String, NoGold> {
    let (found, expected) = match task {
        Task::Gsm8k | Task::Gsm8kBackward => {
            (gsm8k_gold(answer), "a number, or `#### ` and a number")
        }
        Task::Math => (
            math_gold(answer),
            r"LaTeX, or a solution with a closed `\boxed{}`",
        ),
    };
    found
        .filter(|found| !found.is_empty())
        .ok_or_else(|| NoGold {
            found: excerpt(answer),
            expected,
        })
}

fn gsm8k_gold(answer: &str) -> Option<String> {
    let (_, after) = answer
        .split_once("#### ")
        .or_else(|| answer.rsplit_once(gsm8k::ANSWER_IS))
        .unwrap_or(("", answer));
    let line = python::strip(after).lines().next()?;
    let text = python::strip(line).replace([',', '$'], "");
    python::float(&text).filter(|value| value.is_finite())?;
    Some(text)
}

fn math_gold(answer: &str) -> Option<String> {
    let found = if answer.contains(r"\boxed") {
        boxed_answer(answer)
    } else {
        math_answer(answer).or(Some(answer))
    };
    found.map(str::to_owned)
}

/// Grades a completion against an answer, by all conventions. [`gold`] says what an answer may look like.
///
/// # Errors
/// If the answer holds no gold answer.
///
/// ```
/// use temper_datasets::grade::grade;
/// use temper_datasets::problems::Task;
///
/// let grades = grade(Task::Gsm8k, "6 * 3 = 18\nThe answer is: 18", "#### 18").unwrap();
/// assert!(grades.metamath.correct && grades.lm_eval_flexible.correct);
/// assert!(!grades.lm_eval_strict.correct);
/// ```
pub fn grade(task: Task, completion: &str, answer: &str) -> Result<Grades, NoGold> {
    let gold = gold(task, answer)?;
    Ok(match task {
        Task::Gsm8k | Task::Gsm8kBackward => {
            let found = gsm8k_answer(completion);
            Grades {
                metamath: Grade {
                    extracted: found.map(integer),
                    correct: found.is_some() && found == python::float(&gold),
                },
                lm_eval_strict: lm_eval::gsm8k_strict(completion, &gold),
                lm_eval_flexible: lm_eval::gsm8k_flexible(completion, &gold),
            }
        }
        Task::Math => {
            let found = math_answer(completion);
            Grades {
                metamath: Grade {
                    extracted: found.map(Value::from),
                    correct: found.is_some() && is_equiv(found, Some(&gold)),
                },
                lm_eval_strict: lm_eval::math_strict(completion, &gold),
                lm_eval_flexible: lm_eval::math_flexible(completion, &gold),
            }
        }
    })
}

/// A whole number, without a point as long as it is certain to fit an integer.
fn integer(value: f64) -> Value {
    if value.abs() < 9.2e18 {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}
