//! The fields of a request body: each is taken once, and what is left over at the end is refused by name.

use serde_json::{Map, Value};

use super::ApiError;

/// Accepted and ignored: they change no answer of ours.
const HARMLESS: [&str; 8] = [
    "metadata",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// Known to the API or to other servers, not to us; accepted with the value that changes nothing.
const NEUTRAL: [(&str, Neutral); 25] = [
    ("add_generation_prompt", Neutral::Flag(true)),
    ("audio", Neutral::Absent),
    ("best_of", Neutral::Number(1.0)),
    ("echo", Neutral::Flag(false)),
    ("frequency_penalty", Neutral::Number(0.0)),
    ("function_call", Neutral::OneOf(&["auto", "none"])),
    ("functions", Neutral::Empty),
    ("ignore_eos", Neutral::Flag(false)),
    ("include_stop_str_in_output", Neutral::Flag(false)),
    ("logit_bias", Neutral::Empty),
    ("logprobs", Neutral::Flag(false)),
    ("min_p", Neutral::Number(0.0)),
    ("min_tokens", Neutral::Number(0.0)),
    ("modalities", Neutral::Text),
    ("presence_penalty", Neutral::Number(0.0)),
    ("reasoning_effort", Neutral::OneOf(&["none"])),
    ("repetition_penalty", Neutral::Number(1.0)),
    ("response_format", Neutral::Text),
    ("skip_special_tokens", Neutral::Flag(true)),
    ("suffix", Neutral::OneOf(&[""])),
    ("tool_choice", Neutral::OneOf(&["auto", "none"])),
    ("tools", Neutral::Empty),
    ("top_logprobs", Neutral::Absent),
    ("verbosity", Neutral::OneOf(&["medium"])),
    ("web_search_options", Neutral::Absent),
];

/// The value of a parameter that is as good as none.
#[derive(Clone, Copy, Debug)]
enum Neutral {
    /// Only `null`.
    Absent,
    Flag(bool),
    Number(f64),
    OneOf(&'static [&'static str]),
    /// An empty list or object.
    Empty,
    /// Asks for text: `{"type": "text"}`, `["text"]`.
    Text,
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match self {
            Self::Absent => false,
            Self::Flag(neutral) => value.as_bool() == Some(neutral),
            Self::Number(neutral) => value.as_f64() == Some(neutral),
            Self::OneOf(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
            Self::Empty => {
                value.as_array().is_some_and(Vec::is_empty)
                    || value.as_object().is_some_and(Map::is_empty)
            }
            Self::Text => {
                *value == serde_json::json!({"type": "text"})
                    || *value == serde_json::json!(["text"])
            }
        }
    }
}

/// A JSON object whose fields have not all been looked at.
#[derive(Debug)]
pub(super) struct Fields {
    map: Map<String, Value>,
    /// What the object is called in messages: empty for the body itself, else `name.`.
    prefix: String,
}

impl Fields {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self::new(map, "")),
            Ok(_) => Err(ApiError::malformed("the body is no JSON object")),
            Err(error) => Err(ApiError::malformed(format!("the body is no JSON: {error}"))),
        }
    }

    pub(super) fn new(map: Map<String, Value>, prefix: &str) -> Self {
        Self {
            map,
            prefix: prefix.to_owned(),
        }
    }

    /// Takes a field; `null` is as good as none.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn required(&mut self, name: &str) -> Result<Value, ApiError> {
        self.take(name).ok_or_else(|| {
            let param = self.param(name);
            let message = format!("`{param}` is missing");
            ApiError::invalid(param, "missing_required_parameter", message)
        })
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong_type(name, "a string")),
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.wrong_type(name, "`true` or `false`")),
        }
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong_type(name, "a number")),
            },
        }
    }

    pub(super) fn integer(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(integer) => Ok(Some(integer)),
                None => Err(self.wrong_type(name, "an integer")),
            },
        }
    }

    /// An integer of at least 1.
    pub(super) fn count(&mut self, name: &str) -> Result<Option<usize>, ApiError> {
        let Some(number) = self.integer(name)? else {
            return Ok(None);
        };
        match usize::try_from(number) {
            Ok(count @ 1..) => Ok(Some(count)),
            _ => Err(self.invalid(name, format!("is {number}, expected at least 1"))),
        }
    }

    /// The complaint about a field: `problem` follows its name.
    pub(super) fn invalid(&self, name: &str, problem: impl std::fmt::Display) -> ApiError {
        let param = self.param(name);
        let message = format!("`{param}` {problem}");
        ApiError::invalid(param, "invalid_value", message)
    }

    pub(super) fn wrong_type(&self, name: &str, expected: &str) -> ApiError {
        let param = self.param(name);
        let message = format!("`{param}` is not {expected}");
        ApiError::invalid(param, "invalid_type", message)
    }

    /// Refuses what nobody took, unless it changes nothing.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        for (name, value) in &self.map {
            let inner = !self.prefix.is_empty();
            if value.is_null() || (!inner && HARMLESS.contains(&name.as_str())) {
                continue;
            }
            let known = NEUTRAL.iter().find(|(known, _)| !inner && known == name);
            let param = self.param(name);
            match known {
                Some((_, neutral)) if neutral.is(value) => {}
                Some(_) => {
                    let message =
                        format!("`{param}` is not supported by this server; leave it out");
                    return Err(ApiError::invalid(param, "unsupported_parameter", message));
                }
                None => {
                    let message = format!("unknown parameter `{param}`");
                    return Err(ApiError::invalid(param, "unknown_parameter", message));
                }
            }
        }
        Ok(())
    }

    fn param(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
