//! What goes over the wire: requests, answers, streams and errors of the OpenAI API.

mod answer;
mod error;
mod fields;
mod request;

pub(crate) use answer::{Answer, Usage, seconds_since_1970};
pub(crate) use error::{ApiError, json_response};
pub(crate) use request::{Asked, Delivery, Input, PromptInput, unforeseen};

/// Which of the two forms of the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}
