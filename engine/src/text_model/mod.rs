//! Sources of text: an OpenAI-compatible endpoint, or our own engine.
//!
//! [`TextModel::write`] is one attempt at one reply. [`ask`] makes as many as patience allows, and a [`Gate`] says whether more
//! may be made: it counts what was spent, closes when the budget is used up, and lets everything that waits go when it does.

mod endpoint;
mod engine;
mod error;
mod gate;
mod patience;

use std::fmt::Debug;

use futures_util::future::LocalBoxFuture;

pub use endpoint::{Endpoint, EndpointOptions};
pub use engine::{OwnEngine, OwnEngineOptions};
pub use error::TextError;
pub use gate::{Closed, Gate, Limits, Spent};
pub use patience::{Asked, Patience, ask};

/// How a model is asked, the same for all requests of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Manner {
    /// What stands before a prompt in a conversation; `None` completes the prompt instead.
    pub system: Option<String>,
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// In (0, 1].
    pub top_p: Option<f64>,
    /// Longest reply in tokens; an endpoint may have a default of its own.
    pub max_new_tokens: Option<u32>,
    /// Texts before which a reply ends.
    pub stop: Vec<String>,
}

/// One question to a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextRequest {
    /// What it is to answer or to continue.
    pub prompt: String,
    /// Of the random numbers of the reply.
    pub seed: u64,
}

/// What a model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// As it came.
    pub text: String,
    /// Whether it ended because it became too long.
    pub cut_off: bool,
    /// What it took.
    pub usage: Usage,
}

/// Tokens of a request and its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the reply.
    pub reply_tokens: u64,
    /// The source did not say: a token is taken for four characters.
    pub estimated: bool,
}

impl Usage {
    /// The guess for a source that does not count.
    pub fn estimate(prompt: &str, reply: &str) -> Self {
        Self {
            prompt_tokens: estimated_tokens(prompt),
            reply_tokens: estimated_tokens(reply),
            estimated: true,
        }
    }

    /// Prompt and reply together.
    pub fn total(self) -> u64 {
        self.prompt_tokens.saturating_add(self.reply_tokens)
    }
}

/// About how many tokens a text has: one for four bytes, as usual for English.
pub fn estimated_tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(4)
}

/// A source of text.
pub trait TextModel: Debug {
    /// Its name, for the record.
    fn name(&self) -> &str;

    /// Makes one attempt at one reply. Waits that the source itself asks for, or a rate limit, end early when `gate` closes.
    fn write<'a>(
        &'a self,
        request: &'a TextRequest,
        gate: &'a Gate,
    ) -> LocalBoxFuture<'a, Result<Reply, TextError>>;
}
