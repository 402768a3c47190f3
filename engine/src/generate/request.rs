//! What goes into an engine, and what comes out.

use super::{Completion, GenerateError, Prompt, Sampling};

/// What runs at once, and in how much memory.
///
/// | field | meaning | default |
/// |---|---|---|
/// | `max_sequences` | sequences that run at once | 32 |
/// | `cache_bytes` | memory for keys and values; fewer sequences run when it is short | what they need |
/// | `max_length` | longest sequence, prompt and completion together | the model's context |
/// | `order` | which waiting sequence starts next | in order of arrival |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that run at once, at least 1.
    pub max_sequences: usize,
    /// Memory for keys and values.
    pub cache_bytes: Option<u64>,
    /// Longest sequence in tokens.
    pub max_length: Option<usize>,
    /// Which waiting sequence starts next.
    pub order: Order,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sequences: 32,
            cache_bytes: None,
            max_length: None,
            order: Order::Arrival,
        }
    }
}

/// Which waiting sequence starts next. It changes when a completion is ready, never what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The oldest.
    Arrival,
    /// The one with the longest prompt: the last to finish are short, so that a finite job ends sooner.
    Longest,
}

/// A prompt and how it is to be completed.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The beginning.
    pub prompt: Prompt,
    /// How tokens are chosen, and when to end.
    pub sampling: Sampling,
}

/// Names a request of one engine.
pub type RequestId = u64;

/// What a step brought.
#[derive(Debug)]
pub enum Event {
    /// A token completed some text.
    Token {
        /// The request.
        id: RequestId,
        /// The text; the pieces of a request join to the text of its completion.
        text: String,
    },
    /// A request is complete.
    Done {
        /// The request.
        id: RequestId,
        /// All of it.
        completion: Completion,
    },
    /// A request cannot go on; the others can.
    Failed {
        /// The request.
        id: RequestId,
        /// Why.
        error: GenerateError,
    },
}

/// What an engine did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Passes through the model.
    pub steps: u64,
    /// Prompt tokens read.
    pub prompt_tokens: u64,
    /// Prompt tokens taken over from another sequence with the same beginning.
    pub shared_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
}
