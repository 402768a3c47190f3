//! What is known of one generation: a line of `provenance.jsonl`.

use serde::{Deserialize, Serialize};
use temper_datasets::rewrite::Rewriting;

/// Which generation of a run. Sorted by it, provenance and data set have the order of the questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Row of the question, counted from 0 over all question files.
    pub row: u64,
    /// What is made of it.
    pub kind: Rewriting,
    /// Which number of the question is hidden, counted from 0; none for forward kinds.
    pub number: Option<u32>,
    /// Which of the K rows of this kind, counted from 0.
    pub sample: u32,
    /// Which generation of that row.
    pub stage: Stage,
}

/// What a generation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// A question in other words, or its last clause as a statement.
    Rewrite,
    /// An answer.
    Solve,
}

/// What became of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// An answer that is the known one: a row of the data set.
    Accepted,
    /// A question that goes on to be answered.
    Rewritten,
    /// A reply that cannot be used, for [`Record::reason`].
    Rejected,
    /// No reply, for [`Record::reason`]; `--resume` tries again.
    Failed,
}

/// One generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which one.
    #[serde(flatten)]
    pub key: Key,
    /// Seed of its random numbers.
    pub seed: u64,
    /// Who was asked.
    pub model: String,
    /// SHA-256 of the prompt.
    pub prompt_sha256: String,
    /// The question that was to be answered; none while it is being written.
    pub query: Option<String>,
    /// The reply as it came.
    pub reply: Option<String>,
    /// The answer in it, in the form in which it is compared.
    pub answer: Option<String>,
    /// The known answer, in the same form.
    pub truth: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was rejected or failed.
    pub reason: Option<String>,
    /// Requests it took.
    pub attempts: u32,
    /// What went wrong in the attempts that failed, in order.
    pub failures: Vec<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the reply.
    pub reply_tokens: u64,
    /// The tokens are a guess: the source did not count them.
    pub tokens_estimated: bool,
}
