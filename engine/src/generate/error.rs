//! What can go wrong while text is generated.

use temper_datasets::DataError;
use temper_models::ModelError;

use crate::Failure;

/// Why nothing could be generated. Rows are counted from 0, as [`Prompt::row`](super::Prompt::row).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A sampling setting makes no sense.
    #[error("`{name}` is {found}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Stop strings are found in text, and there is no tokenizer to make text.
    #[error("stop strings need a tokenizer; the model directory has none")]
    StopWithoutTokenizer,
    /// A prompt without a single token.
    #[error("the prompt of row {row} is empty; give it at least one token")]
    EmptyPrompt {
        /// The row.
        row: u64,
    },
    /// A prompt that fills the context.
    #[error(
        "the prompt of row {row} has {tokens} tokens, and the context of {limit} must also \
         hold the answer; shorten the prompt"
    )]
    TooLong {
        /// The row.
        row: u64,
        /// Tokens of the prompt.
        tokens: usize,
        /// The model's context.
        limit: usize,
    },
    /// A token id outside the vocabulary.
    #[error(
        "the prompt of row {row} holds token id {id}, which is outside the vocabulary of \
         {vocabulary}; is this the model's own tokenizer?"
    )]
    TokenId {
        /// The row.
        row: u64,
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// Logits that are no numbers: the weights are broken, or the precision overflows.
    #[error(
        "the logits of row {row} at token {step} are not finite; the weights have diverged, or f16 \
         overflows (try bf16 or f32)"
    )]
    NotFinite {
        /// The row.
        row: u64,
        /// The new token, counted from 0.
        step: usize,
    },
    /// Memory for keys and values that holds not even one sequence.
    #[error(
        "a key/value cache of {bytes} bytes holds not one sequence of {tokens} tokens, which needs {needed}; give it more, or \
         limit the length of sequences"
    )]
    CacheTooSmall {
        /// The memory given.
        bytes: u64,
        /// The memory of one sequence.
        needed: u64,
        /// Its length.
        tokens: usize,
    },
    /// The model refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer refused.
    #[error(transparent)]
    Data(#[from] DataError),
}

impl From<GenerateError> for Failure {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::Setting { .. } => Self::usage(error),
            _ => Self::run(error),
        }
    }
}
