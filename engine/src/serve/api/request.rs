//! Bodies of `/v1/chat/completions` and `/v1/completions`.

use std::hash::{BuildHasher, Hasher, RandomState};

use serde_json::Value;
use temper_datasets::Message;

use super::fields::Fields;
use super::{ApiError, Endpoint};
use crate::generate::{GenerateError, Sampling};

/// Answers that one request may ask for, as in the OpenAI API.
const MOST_ANSWERS: usize = 128;
/// Stop strings a request may have; each is looked for after every token.
const MOST_STOPS: usize = 16;
/// Longest stop string, in bytes.
const LONGEST_STOP: usize = 1024;

/// What a client asks for, checked as far as that goes without a model.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The `model` field.
    pub(crate) model: String,
    pub(crate) input: Input,
    /// Its `max_new_tokens` means nothing yet.
    pub(crate) sampling: Sampling,
    /// Longest answer, and what the client calls that.
    pub(crate) max_tokens: Option<(usize, &'static str)>,
    /// Answers to each prompt.
    pub(crate) n: usize,
    pub(crate) delivery: Delivery,
}

/// How the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Whole,
    /// As server-sent events; with `usage` a last one counts tokens.
    Stream {
        usage: bool,
    },
}

/// What to go on from.
#[derive(Debug, PartialEq)]
pub(crate) enum Input {
    Messages(Vec<Message>),
    Prompts(Vec<PromptInput>),
}

/// One prompt of `/v1/completions`.
#[derive(Debug, PartialEq)]
pub(crate) enum PromptInput {
    Text(String),
    Ids(Vec<u32>),
}

impl Asked {
    /// Reads a body.
    ///
    /// # Errors
    /// A body that is no JSON object; a parameter that is missing, wrong, unknown, or that we do not honour.
    pub(crate) fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let Value::String(model) = fields.required("model")? else {
            return Err(fields.wrong_type("model", "a string"));
        };
        let input = match endpoint {
            Endpoint::Chat => Input::Messages(messages(fields.required("messages")?)?),
            Endpoint::Completions => Input::Prompts(prompts(fields.required("prompt")?)?),
        };
        let n = fields.count("n")?.unwrap_or(1);
        if n > MOST_ANSWERS {
            return Err(fields.invalid("n", format!("is {n}, expected at most {MOST_ANSWERS}")));
        }
        let max_tokens = max_tokens(endpoint, &mut fields)?;
        let delivery = delivery(&mut fields)?;
        let sampling = sampling(&mut fields)?;
        fields.finish()?;
        Ok(Self {
            model,
            input,
            sampling,
            max_tokens,
            n,
            delivery,
        })
    }

    /// Sequences that it takes to answer.
    pub(crate) fn sequences(&self) -> usize {
        match &self.input {
            Input::Messages(_) => self.n,
            Input::Prompts(prompts) => prompts.len().saturating_mul(self.n),
        }
    }
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::Setting { name, .. } => {
                Self::invalid(name, "invalid_value", error.to_string())
            }
            _ => Self::internal(error.to_string()),
        }
    }
}

/// A number that nobody can foresee: the standard library keys its hash maps with the randomness of the system.
pub(crate) fn unforeseen() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn max_tokens(
    endpoint: Endpoint,
    fields: &mut Fields,
) -> Result<Option<(usize, &'static str)>, ApiError> {
    let old = fields.count("max_tokens")?;
    let new = match endpoint {
        Endpoint::Chat => fields.count("max_completion_tokens")?,
        Endpoint::Completions => None,
    };
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let problem = format!("is {new}, and `max_tokens` is {old}; give one of them");
            Err(fields.invalid("max_completion_tokens", problem))
        }
        (_, Some(new)) => Ok(Some((new, "max_completion_tokens"))),
        (old, None) => Ok(old.map(|old| (old, "max_tokens"))),
    }
}

fn delivery(fields: &mut Fields) -> Result<Delivery, ApiError> {
    let stream = fields.flag("stream")?;
    let options = match fields.take("stream_options") {
        None => None,
        Some(_) if !stream => {
            return Err(fields.invalid("stream_options", "needs `stream` to be `true`"));
        }
        Some(Value::Object(map)) => Some(Fields::new(map, "stream_options.")),
        Some(_) => return Err(fields.wrong_type("stream_options", "an object")),
    };
    let mut usage = false;
    if let Some(mut options) = options {
        usage = options.flag("include_usage")?;
        // Padding against eavesdroppers who measure packets; we send none, and loopback has none.
        options.flag("include_obfuscation")?;
        options.finish()?;
    }
    Ok(if stream {
        Delivery::Stream { usage }
    } else {
        Delivery::Whole
    })
}

fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let top_k = match fields.integer("top_k")? {
        // What other servers take for "all".
        None | Some(-1 | 0) => None,
        Some(k) => match usize::try_from(k) {
            Ok(k) => Some(k),
            Err(_) => {
                return Err(fields.invalid("top_k", format!("is {k}, expected at least 1")));
            }
        },
    };
    let sampling = Sampling {
        temperature: fields.number("temperature")?.unwrap_or(1.0),
        top_k,
        top_p: fields.number("top_p")?,
        seed: seed(fields)?,
        stop: stop(fields)?,
        ..Sampling::default()
    };
    sampling.check()?;
    Ok(sampling)
}

/// Any integer of 64 bits. Without one every request draws anew.
fn seed(fields: &mut Fields) -> Result<u64, ApiError> {
    match fields.take("seed") {
        None => Ok(unforeseen()),
        Some(value) => value
            .as_u64()
            .or_else(|| value.as_i64().map(i64::cast_unsigned))
            .ok_or_else(|| fields.wrong_type("seed", "an integer of 64 bits")),
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let texts = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(texts)) => texts,
        Some(text) => vec![text],
    };
    if texts.len() > MOST_STOPS {
        let problem = format!("has {} texts, expected at most {MOST_STOPS}", texts.len());
        return Err(fields.invalid("stop", problem));
    }
    let text = |value| match value {
        Value::String(text) if text.len() > LONGEST_STOP => Err(fields.invalid(
            "stop",
            format!("has a text of more than {LONGEST_STOP} bytes"),
        )),
        Value::String(text) => Ok(text),
        _ => Err(fields.wrong_type("stop", "a string or a list of strings")),
    };
    texts.into_iter().map(text).collect()
}

fn prompts(value: Value) -> Result<Vec<PromptInput>, ApiError> {
    let wrong = || {
        let message = "`prompt` is not a string, a list of strings, a list of token ids, or a list of such lists";
        ApiError::invalid("prompt", "invalid_type", message)
    };
    let prompts = match value {
        Value::String(text) => vec![PromptInput::Text(text)],
        Value::Array(items) if items.first().is_some_and(Value::is_number) => {
            vec![PromptInput::Ids(ids(&items).ok_or_else(wrong)?)]
        }
        Value::Array(items) => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Some(PromptInput::Text(text)),
                Value::Array(items) => ids(&items).map(PromptInput::Ids),
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    if prompts.is_empty() {
        let message = "`prompt` is an empty list";
        return Err(ApiError::invalid("prompt", "invalid_value", message));
    }
    Ok(prompts)
}

fn ids(items: &[Value]) -> Option<Vec<u32>> {
    let id = |item: &Value| item.as_u64().and_then(|id| u32::try_from(id).ok());
    items.iter().map(id).collect()
}

fn messages(value: Value) -> Result<Vec<Message>, ApiError> {
    let Value::Array(items) = value else {
        let message = "`messages` is not a list";
        return Err(ApiError::invalid("messages", "invalid_type", message));
    };
    if items.is_empty() {
        let message = "`messages` is an empty list";
        return Err(ApiError::invalid("messages", "invalid_value", message));
    }
    items.into_iter().enumerate().map(message).collect()
}

fn message((at, item): (usize, Value)) -> Result<Message, ApiError> {
    let prefix = format!("messages[{at}]");
    let Value::Object(map) = item else {
        let message = format!("`{prefix}` is not an object");
        return Err(ApiError::invalid(prefix, "invalid_type", message));
    };
    let mut fields = Fields::new(map, &format!("{prefix}."));
    let role = match fields.required("role")?.as_str() {
        Some(role @ ("system" | "user" | "assistant")) => role.to_owned(),
        // The newer name of the same thing; chat templates know the older one.
        Some("developer") => "system".to_owned(),
        Some(role) => {
            let problem =
                format!("is `{role}`, expected `system`, `developer`, `user` or `assistant`");
            return Err(fields.invalid("role", problem));
        }
        None => return Err(fields.wrong_type("role", "a string")),
    };
    let content = content(fields.required("content")?, &fields)?;
    let mut message = Message::new(role, content);
    if let Some(name) = fields.text("name")? {
        message.extra.insert("name".to_owned(), name.into());
    }
    fields.finish()?;
    Ok(message)
}

/// A text, or parts of type `text`, which become lines.
fn content(value: Value, fields: &Fields) -> Result<String, ApiError> {
    let wrong = || fields.wrong_type("content", "a string or a list of parts of type `text`");
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        _ => return Err(wrong()),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for mut part in parts {
        if part["type"] != "text" {
            let problem = format!("has a part of type {}, expected \"text\"", part["type"]);
            return Err(fields.invalid("content", problem));
        }
        match part["text"].take() {
            Value::String(text) => texts.push(text),
            _ => return Err(wrong()),
        }
    }
    Ok(texts.join("\n"))
}
