//! Why there is no text.

use std::time::Duration;

use crate::generate::GenerateError;

/// Why an attempt brought no reply. [`TextError::name`] is what failures are counted under.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Nobody answers there, or no secure connection could be made.
    #[error("cannot connect to `{endpoint}`: {reason}")]
    Connect {
        /// The endpoint.
        endpoint: String,
        /// What the client reports.
        reason: String,
    },
    /// A connection or a reply took too long.
    #[error("no {what} from `{endpoint}` within {seconds} s")]
    Timeout {
        /// The endpoint.
        endpoint: String,
        /// `connection` or `whole reply`.
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// The connection broke before the reply was whole.
    #[error("the connection to `{endpoint}` broke off: {reason}")]
    Interrupted {
        /// The endpoint.
        endpoint: String,
        /// What the client reports.
        reason: String,
    },
    /// A status other than success.
    #[error("`{endpoint}` answers with status {status}: {message}")]
    Status {
        /// The endpoint.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// The beginning of what it says.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// A web page instead of an API's reply.
    #[error("`{endpoint}` answers with a web page: is `base_url` the address of an API?")]
    Html {
        /// The endpoint.
        endpoint: String,
    },
    /// A reply that is no JSON of the expected shape.
    #[error("`{endpoint}` answers with what is no completion: {reason}")]
    Malformed {
        /// The endpoint.
        endpoint: String,
        /// The parser's reason.
        reason: String,
    },
    /// A reply without choices.
    #[error("`{endpoint}` answers without choices: {message}")]
    NoChoices {
        /// The endpoint.
        endpoint: String,
        /// The beginning of the reply.
        message: String,
    },
    /// A choice without text, as of a filter or a tool call.
    #[error("`{endpoint}` answers without text, finish reason `{finish}`")]
    NoText {
        /// The endpoint.
        endpoint: String,
        /// Its `finish_reason`.
        finish: String,
    },
    /// A reply longer than allowed.
    #[error("the reply of `{endpoint}` is longer than {limit} bytes")]
    TooLong {
        /// The endpoint.
        endpoint: String,
        /// The limit.
        limit: u64,
    },
    /// Our engine refused the prompt or could not go on.
    #[error(transparent)]
    Engine(#[from] GenerateError),
    /// The prompt holds a special token of our engine's model.
    #[error("the prompt contains the special token `{token}`")]
    SpecialToken {
        /// The token.
        token: String,
    },
    /// The worker of our engine has ended.
    #[error("the engine has stopped: {reason}")]
    EngineStopped {
        /// Why.
        reason: String,
    },
    /// The gate is closed: no attempt was made.
    #[error("stopped before the attempt")]
    Stopped,
}

impl TextError {
    /// A short name, the same for all failures of a kind: `timeout`, `status 500`, `web page`.
    pub fn name(&self) -> String {
        match self {
            Self::Connect { .. } => "no connection",
            Self::Timeout { .. } => "timeout",
            Self::Interrupted { .. } => "broken off",
            Self::Status { status, .. } => return format!("status {status}"),
            Self::Html { .. } => "web page",
            Self::Malformed { .. } => "malformed reply",
            Self::NoChoices { .. } => "no choices",
            Self::NoText { .. } => "no text",
            Self::TooLong { .. } => "reply too long",
            Self::Engine(GenerateError::TooLong { .. }) => "prompt too long",
            Self::Engine(_) => "engine",
            Self::SpecialToken { .. } => "special token",
            Self::EngineStopped { .. } => "engine stopped",
            Self::Stopped => "stopped",
        }
        .to_owned()
    }

    /// Whether another attempt may bring what this one did not.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Interrupted { .. }
            | Self::Html { .. }
            | Self::Malformed { .. }
            | Self::NoChoices { .. }
            | Self::NoText { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 409 | 425 | 429 | 500..=599),
            Self::TooLong { .. }
            | Self::Engine(_)
            | Self::SpecialToken { .. }
            | Self::EngineStopped { .. }
            | Self::Stopped => false,
        }
    }

    /// What to do, if no request at all can succeed.
    pub fn hopeless(&self) -> Option<&'static str> {
        match self {
            Self::Status {
                status: 401 | 403, ..
            } => Some(
                "the endpoint refuses the key: name the environment variable that holds it, `text_model.api_key_env`",
            ),
            Self::Status { status: 402, .. } => Some("the account has no credit"),
            Self::Status {
                status: 404 | 405, ..
            } => Some(
                "check `text_model.base_url` (it ends with the version, as `/v1`), `text_model.model` and `text_model.mode`",
            ),
            Self::Status {
                status: 300..=399, ..
            } => Some("the address has moved: give the new one as `text_model.base_url`"),
            Self::EngineStopped { .. } => Some(
                "less at a time needs less memory: lower `text_model.concurrency` or `text_model.max_length`",
            ),
            _ => None,
        }
    }

    /// How long the source asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
