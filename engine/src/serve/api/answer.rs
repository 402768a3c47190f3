//! Answers: whole, or in chunks.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Endpoint, unforeseen};
use crate::generate::{Completion, Finish};

/// Tokens read and written for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Tokens of the prompts, each counted once.
    pub(crate) prompt: usize,
    /// Tokens of all answers, those that end them included.
    pub(crate) completion: usize,
}

impl Usage {
    fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        })
    }
}

/// What all parts of the answer to one request have in common.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    endpoint: Endpoint,
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    /// Whether chunks have a `usage`, which is null in all but the last.
    usage: bool,
}

impl Answer {
    pub(crate) fn new(endpoint: Endpoint, model: &str, fingerprint: &str, usage: bool) -> Self {
        let prefix = match endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completions => "cmpl",
        };
        Self {
            endpoint,
            id: format!("{prefix}-{:016x}", unforeseen()),
            created: seconds_since_1970(),
            model: model.to_owned(),
            fingerprint: fingerprint.to_owned(),
            usage,
        }
    }

    /// The whole answer, completions in the order of their indices.
    pub(crate) fn whole(&self, completions: &[Completion], usage: Usage) -> Value {
        let choice = |(index, completion): (usize, &Completion)| {
            let finish = finish_reason(completion.finish);
            match self.endpoint {
                Endpoint::Chat => json!({
                    "index": index,
                    "message": {"role": "assistant", "content": completion.text, "refusal": null},
                    "logprobs": null,
                    "finish_reason": finish,
                }),
                Endpoint::Completions => json!({
                    "index": index,
                    "text": completion.text,
                    "logprobs": null,
                    "finish_reason": finish,
                }),
            }
        };
        let choices = completions.iter().enumerate().map(choice).collect();
        let mut whole = self.frame(choices, false);
        whole["usage"] = usage.to_json();
        whole
    }

    /// The chunk that opens a choice, if this kind of answer has one.
    pub(crate) fn opening(&self, index: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": "", "refusal": null});
        (self.endpoint == Endpoint::Chat).then(|| self.chunk(index, delta, None))
    }

    /// A chunk of text.
    pub(crate) fn piece(&self, index: usize, text: &str) -> Value {
        match self.endpoint {
            Endpoint::Chat => self.chunk(index, json!({"content": text}), None),
            Endpoint::Completions => self.chunk(index, text.into(), None),
        }
    }

    /// The chunk that closes a choice.
    pub(crate) fn closing(&self, index: usize, finish: Finish) -> Value {
        let nothing = match self.endpoint {
            Endpoint::Chat => json!({}),
            Endpoint::Completions => "".into(),
        };
        self.chunk(index, nothing, Some(finish_reason(finish)))
    }

    /// The chunk that counts tokens, if it was asked for.
    pub(crate) fn counting(&self, usage: Usage) -> Option<Value> {
        self.usage.then(|| {
            let mut chunk = self.frame(Vec::new(), true);
            chunk["usage"] = usage.to_json();
            chunk
        })
    }

    fn chunk(&self, index: usize, content: Value, finish: Option<&str>) -> Value {
        let name = match self.endpoint {
            Endpoint::Chat => "delta",
            Endpoint::Completions => "text",
        };
        let choice =
            json!({"index": index, name: content, "logprobs": null, "finish_reason": finish});
        self.frame(vec![choice], true)
    }

    fn frame(&self, choices: Vec<Value>, chunk: bool) -> Value {
        let object = match (self.endpoint, chunk) {
            (Endpoint::Chat, true) => "chat.completion.chunk",
            (Endpoint::Chat, false) => "chat.completion",
            (Endpoint::Completions, _) => "text_completion",
        };
        let mut frame = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        });
        if chunk && self.usage {
            frame["usage"] = Value::Null;
        }
        frame
    }
}

/// The API does not tell the model's own end from a stop string.
fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::Eos => "stop",
        Finish::Length => "length",
    }
}

pub(crate) fn seconds_since_1970() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
