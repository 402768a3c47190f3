//! `[model]`: which network is trained and where its weights and tokenizer come from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Architectures that `model.preset` may name.
pub const PRESETS: &[&str] = &[
    "llama2-7b",
    "llama2-13b",
    "llama2-70b",
    "llama3-8b",
    "llama3-70b",
    "llama3.1-8b",
    "llama3.2-1b",
    "llama3.2-3b",
    "mistral-7b",
    "tinyllama-1.1b",
    "llemma-7b",
];

/// The `[model]` section.
///
/// ```
/// # use temper_engine::recipe::Model;
/// let model = Model { path: Some("meta-llama/Llama-2-7b-hf".into()), ..Model::default() };
/// assert_eq!(model.tokenizer_source(), Some("meta-llama/Llama-2-7b-hf"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Directory in Hugging Face layout, or a hub name `org/name[@revision]`. May be left out only
    /// with `init = "random"`.
    pub path: Option<String>,
    /// Named architecture. With `init = "random"` it is what gets built; with pretrained weights it
    /// is a promise that is checked against the `config.json` of the weights.
    #[schemars(extend("enum" = PRESETS))]
    pub preset: Option<String>,
    /// Whether the weights are read from `path` or drawn at random.
    pub init: Init,
    /// A `config.json` that describes the architecture, for `init = "random"` without a preset.
    pub config: Option<PathBuf>,
    /// Directory, `tokenizer.json`, `tokenizer.model` or hub name of the tokenizer. Default: the
    /// model path.
    pub tokenizer: Option<String>,
}

impl Model {
    /// What it is called: by `path`, else by `preset`.
    pub fn source(&self) -> Option<&str> {
        self.path.as_deref().or(self.preset.as_deref())
    }

    /// Where the tokenizer is read from: `tokenizer`, else `path`.
    pub fn tokenizer_source(&self) -> Option<&str> {
        self.tokenizer.as_deref().or(self.path.as_deref())
    }
}

/// Where the initial weights come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Read the weights from `model.path`.
    #[default]
    Pretrained,
    /// Draw the weights from the recipe's seed.
    Random,
}
