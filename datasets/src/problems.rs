//! Problems with known answers, and the prompts that put them to a model.
//!
//! [`read_problems`] reads the test files of GSM8K, GSM8K-Backward and MATH; a broken row costs that row
//! and is named. [`eval_prompt`] is `MetaMath`'s prompt and [`lm_eval_prompt`] the harness's, both with any
//! number of worked examples in front.

mod prompt;
mod read;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use prompt::{eval_prompt, lm_eval_prompt, shots};
pub use read::{Skipped, read_problems};

/// A collection of problems, and with it the rules by which answers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Grade-school word problems (arXiv 2110.14168); answers are integers.
    Gsm8k,
    /// The same with one number unknown and the answer given (arXiv 2309.12284, section 4.6).
    Gsm8kBackward,
    /// Competition problems (arXiv 2103.03874); answers are LaTeX.
    Math,
}

/// Texts at which `MetaMath`'s evaluation ends a completion. They are plain substrings: the word
/// "Question" anywhere ends it.
pub const STOP_STRINGS: [&str; 10] = [
    "Question:",
    "Question",
    "USER:",
    "USER",
    "ASSISTANT:",
    "ASSISTANT",
    "Instruction:",
    "Instruction",
    "Response:",
    "Response",
];

impl Task {
    /// All tasks.
    pub const ALL: [Self; 3] = [Self::Gsm8k, Self::Gsm8kBackward, Self::Math];

    /// The name used on the command line and in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gsm8k => "gsm8k",
            Self::Gsm8kBackward => "gsm8k-backward",
            Self::Math => "math",
        }
    }

    /// The longest completion of `MetaMath`'s evaluation, in tokens.
    pub fn max_new_tokens(self) -> usize {
        match self {
            Self::Gsm8k | Self::Gsm8kBackward => 512,
            Self::Math => 2048,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = UnknownTask;

    fn from_str(name: &str) -> Result<Self, UnknownTask> {
        let found = Self::ALL.into_iter().find(|task| task.name() == name);
        found.ok_or_else(|| UnknownTask(name.to_owned()))
    }
}

/// A name that no task has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown task `{0}`; there are `gsm8k`, `gsm8k-backward` and `math`")]
pub struct UnknownTask(pub String);

/// A problem and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which row of the file it is, counted from 0; skipped rows count.
    pub index: u64,
    /// What is asked.
    pub question: String,
    /// The answer as graded: a number, or LaTeX.
    pub answer: String,
    /// How the answer is found, where the file tells.
    pub solution: Option<String>,
    /// How hard it is, such as `Level 3`.
    pub level: Option<String>,
    /// The field it belongs to, such as `Algebra`; for backward problems the kind of question.
    pub subject: Option<String>,
}

/// A worked example to put before a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shot {
    /// What is asked.
    pub question: String,
    /// The steps to the answer. For GSM8K the last line is `#### N`, as in its files.
    pub rationale: String,
    /// The answer, as [`crate::grade::gold`] would give it.
    pub answer: String,
}
