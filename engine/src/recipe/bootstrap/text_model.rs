//! `[text_model]`: who writes text, how it is asked, and how patiently.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::QuestionTask;
use crate::recipe::Compute;

/// The `[text_model]` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["kind"]))]
pub struct TextModel {
    /// Who writes.
    pub kind: TextModelKind,
    /// Whether the model is asked in a conversation or completes a text. Default: `chat` for an
    /// endpoint, `completion` for our own engine.
    pub mode: Option<Mode>,
    /// 0.7 is the paper's; 0 takes the likeliest token each time.
    #[schemars(range(min = 0, max = 2))]
    pub temperature: f64,
    /// Sample among the likeliest tokens that together have this probability. Left out: among all.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub top_p: Option<f64>,
    /// Longest reply in tokens. Default: left to an endpoint; 512 (`gsm8k`) or 2048 (`math`) for
    /// our own engine.
    #[schemars(range(min = 1))]
    pub max_new_tokens: Option<u32>,
    /// Texts before which a reply ends. Default: none in a conversation, the beginning of the next
    /// example, `Question:`, in completions.
    pub stop: Option<Vec<String>>,
    /// Replies under way at a time: parallel requests, or sequences in our engine's batch.
    #[schemars(range(min = 1, max = 4096))]
    pub concurrency: usize,
    /// Stop the run after so many generations in a row were given up.
    #[schemars(range(min = 1))]
    pub max_consecutive_failures: u32,

    /// Endpoint: address of the API up to its version, such as `http://127.0.0.1:8000/v1`.
    pub base_url: Option<String>,
    /// Endpoint: name of the model there.
    pub model: Option<String>,
    /// Endpoint: the environment variable that holds the key, which is never written or logged. Left
    /// out or empty: no key is sent.
    pub api_key_env: Option<String>,
    /// Endpoint: send each generation's seed with it. Turn it off for an endpoint that refuses the
    /// field.
    pub send_seed: Option<bool>,
    /// Endpoint: seconds to connect. Default 10.
    #[schemars(range(min = 1, max = 3600))]
    pub connect_timeout: Option<u64>,
    /// Endpoint: seconds for a whole request. Default 180.
    #[schemars(range(min = 1, max = 86400))]
    pub timeout: Option<u64>,
    /// Endpoint: attempts at a generation before it is given up, with growing pauses. Default 6.
    #[schemars(range(min = 1, max = 100))]
    pub attempts: Option<u32>,
    /// Endpoint: seconds before the second attempt. The pause doubles with each further one, up to a
    /// minute, varies at random, and is longer where the endpoint asks for it (`Retry-After`).
    /// Default 1.
    #[schemars(range(max = 60), extend("exclusiveMinimum" = 0))]
    pub first_pause: Option<f64>,
    /// Endpoint: most requests a minute. Left out: no limit.
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<u32>,
    /// Endpoint: most tokens a minute, prompts and replies together. Left out: no limit.
    #[schemars(range(min = 1))]
    pub tokens_per_minute: Option<u32>,
    /// Endpoint: a longer reply, in bytes, is refused. Default 1048576.
    #[schemars(range(min = 1024))]
    pub max_reply_bytes: Option<u64>,

    /// Engine: model directory, or a hub name `org/name[@revision]`.
    pub path: Option<String>,
    /// Engine: adapter directory (PEFT layout).
    pub adapter: Option<PathBuf>,
    /// Engine: device, as in training recipes. Default `auto`.
    pub device: Option<String>,
    /// Engine: number format of weights and matrix products. Default `auto`.
    pub compute: Option<Compute>,
    /// Engine: longest prompt and reply together, in tokens; memory for so many is reserved for each
    /// of `concurrency` sequences. The prompts have about 1500 tokens. Default: the model's context.
    #[schemars(range(min = 64))]
    pub max_length: Option<usize>,
}

impl Default for TextModel {
    fn default() -> Self {
        Self {
            kind: TextModelKind::default(),
            mode: None,
            temperature: 0.7,
            top_p: None,
            max_new_tokens: None,
            stop: None,
            concurrency: 16,
            max_consecutive_failures: 20,
            base_url: None,
            model: None,
            api_key_env: None,
            send_seed: None,
            connect_timeout: None,
            timeout: None,
            attempts: None,
            first_pause: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            max_reply_bytes: None,
            path: None,
            adapter: None,
            device: None,
            compute: None,
            max_length: None,
        }
    }
}

impl TextModel {
    /// How the model is asked, with the default of its kind.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(match self.kind {
            TextModelKind::Engine => Mode::Completion,
            TextModelKind::Endpoint | TextModelKind::None => Mode::Chat,
        })
    }

    /// Who writes, by name: of the model at the endpoint, or of the directory.
    pub fn name(&self) -> &str {
        match self.kind {
            TextModelKind::Endpoint => self.model.as_deref().unwrap_or_default(),
            TextModelKind::Engine => self.path.as_deref().unwrap_or_default(),
            TextModelKind::None => "none",
        }
    }

    /// The text before which a reply ends.
    pub fn stop(&self) -> Vec<String> {
        self.stop.clone().unwrap_or_else(|| match self.mode() {
            Mode::Chat => Vec::new(),
            Mode::Completion => vec!["Question:".to_owned()],
        })
    }

    pub(super) fn fill_defaults(&mut self, task: QuestionTask) {
        self.mode = Some(self.mode());
        self.stop = Some(self.stop());
        match self.kind {
            TextModelKind::Endpoint => {
                self.send_seed.get_or_insert(true);
                self.connect_timeout.get_or_insert(10);
                self.timeout.get_or_insert(180);
                self.attempts.get_or_insert(6);
                self.first_pause.get_or_insert(1.0);
                self.max_reply_bytes.get_or_insert(1 << 20);
            }
            TextModelKind::Engine => {
                self.device.get_or_insert_with(|| "auto".to_owned());
                self.compute.get_or_insert(Compute::Auto);
                self.max_new_tokens.get_or_insert(match task {
                    QuestionTask::Gsm8k => 512,
                    QuestionTask::Math => 2048,
                });
            }
            TextModelKind::None => {}
        }
    }
}

/// Who writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextModelKind {
    /// A server with an OpenAI-compatible API.
    #[default]
    Endpoint,
    /// A model in this process.
    Engine,
    /// Nobody: only the masked questions are written, with the values of their unknowns.
    None,
}

impl TextModelKind {
    /// The value as it is written in a recipe.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Engine => "engine",
            Self::None => "none",
        }
    }
}

/// How a model is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A system message and a user message (`/chat/completions`, or the model's chat template).
    #[default]
    Chat,
    /// The text is continued (`/completions`): for base models.
    Completion,
}
