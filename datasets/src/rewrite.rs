//! `MetaMath`'s four ways to make more questions out of one (arXiv 2309.12284, section 3): everything about
//! them that needs no model.
//!
//! | Rewriting | Question | Kept if the answer equals |
//! |---|---|---|
//! | [`Rewriting::AnsAug`] | the original | the original answer |
//! | [`Rewriting::Rephrased`] | in other words | the original answer |
//! | [`Rewriting::Fobar`] | one number hidden, the answer given in a question | the hidden number |
//! | [`Rewriting::Sv`] | one number hidden, the answer given in a statement | the hidden number |
//!
//! The stages, in the order in which they are called:
//!
//! 1. [`masks`] hides one number after the other.
//! 2. [`fobar_question`] appends the answer as a condition. For self-verification, [`split_question`] cuts
//!    off what is asked, [`sv_rewrite_prompt`] has it rewritten, and [`sv_question`] puts it together.
//!    [`rephrase_prompt`] asks for other words.
//! 3. [`solve_prompt`] has any of these questions solved.
//! 4. [`AnswerFilter`] reads the answer out of a reply and compares.
//! 5. [`MetaMathRow::new`] makes a row of `MetaMathQA`.
//!
//! The authors' released program has faults that their own data do not show. By default they are avoided;
//! [`Behaviour::Released`] brings them back where that is said.

mod clean;
mod filter;
mod mask;
mod prompts;
mod question;
mod row;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use clean::clean_answer;
pub use filter::AnswerFilter;
pub use mask::{Mask, masks};
pub use prompts::{
    Few, SYSTEM_MESSAGE, prompt_prefix, rephrase_prompt, solve_prompt, sv_rewrite_prompt,
    worked_examples,
};
pub use question::{Split, fobar_question, split_question, sv_question};
pub use row::MetaMathRow;

/// Which of the two collections a question comes from. It decides words, unknown and rules of comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Grade-school word problems with numbers as answers.
    Gsm8k,
    /// Competition problems with LaTeX as answers.
    Math,
}

impl Source {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Gsm8k, Self::Math];

    /// The letter that stands for a hidden number.
    pub fn unknown(self) -> char {
        match self {
            Self::Gsm8k => 'x',
            Self::Math => 'X',
        }
    }

    /// The unknown as questions name it: `x`, or `$X$`.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Gsm8k => "x",
            Self::Math => "$X$",
        }
    }
}

/// A way to rewrite a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rewriting {
    /// Answer augmentation: the same question, further answers.
    AnsAug,
    /// The question in other words.
    Rephrased,
    /// Self-verification (arXiv 2212.09561).
    Sv,
    /// Forward–backward reasoning (arXiv 2308.07758).
    Fobar,
}

impl Rewriting {
    /// All four, in the order of the paper's table 1.
    pub const ALL: [Self; 4] = [Self::AnsAug, Self::Rephrased, Self::Sv, Self::Fobar];

    /// Whether it asks for a hidden number.
    pub fn is_backward(self) -> bool {
        matches!(self, Self::Sv | Self::Fobar)
    }

    /// The second half of `MetaMathQA`'s `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AnsAug => "AnsAug",
            Self::Rephrased => "Rephrased",
            Self::Sv => "SV",
            Self::Fobar => "FOBAR",
        }
    }
}

impl fmt::Display for Rewriting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that no rewriting has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown rewriting `{0}`; there are `AnsAug`, `Rephrased`, `SV` and `FOBAR`")]
pub struct UnknownRewriting(pub String);

impl FromStr for Rewriting {
    type Err = UnknownRewriting;

    fn from_str(name: &str) -> Result<Self, UnknownRewriting> {
        let found = Self::ALL
            .into_iter()
            .find(|rewriting| rewriting.name() == name);
        found.ok_or_else(|| UnknownRewriting(name.to_owned()))
    }
}

/// Whether faults of the authors' released program are avoided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// They are.
    #[default]
    Fixed,
    /// They are there: in [`prompt_prefix`] and in [`AnswerFilter`].
    Released,
}

/// `MetaMathQA`'s `type`, such as `GSM_FOBAR`.
pub fn type_name(source: Source, rewriting: Rewriting) -> String {
    let prefix = match source {
        Source::Gsm8k => "GSM",
        Source::Math => "MATH",
    };
    format!("{prefix}_{rewriting}")
}
