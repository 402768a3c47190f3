//! What goes over the wire, as far as it is needed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text_model::Manner;

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<[Message<'a>; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    temperature: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

/// The body of a request.
pub(super) fn request(model: &str, manner: &Manner, prompt: &str, seed: Option<u64>) -> Vec<u8> {
    let message = |role, content| Message { role, content };
    let system = manner.system.as_deref();
    let request = Request {
        model,
        messages: system.map(|system| [message("system", system), message("user", prompt)]),
        prompt: system.is_none().then_some(prompt),
        temperature: manner.temperature,
        top_p: manner.top_p,
        max_tokens: manner.max_new_tokens,
        stop: &manner.stop,
        seed,
    };
    // Texts and finite numbers can always be written as JSON.
    serde_json::to_vec(&request).unwrap_or_default()
}

/// A completion, of either operation.
#[derive(Debug, Deserialize)]
pub(super) struct Reply {
    #[serde(default)]
    pub(super) choices: Vec<Choice>,
    pub(super) usage: Option<Tokens>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice {
    pub(super) message: Option<Content>,
    pub(super) text: Option<String>,
    pub(super) finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Content {
    pub(super) content: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Tokens {
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: u64,
}

/// What an endpoint says about an error: its message, if it is laid out as usual, else the whole.
pub(super) fn complaint(body: &[u8]) -> String {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let message = parsed.as_ref().and_then(|value| {
        let error = value.get("error").unwrap_or(value);
        error.get("message").unwrap_or(error).as_str()
    });
    match message {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned(),
    }
}
