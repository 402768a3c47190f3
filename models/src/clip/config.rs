//! Sizes of a text encoder, from `config.json` or a preset.

use std::path::Path;

use serde_json::{Map, Value, json};
use temper_adapters::peft::Module;

use crate::ModelError;
use crate::encoder::{Activation, CLIP, EncoderPlan, EncoderSizes};
use crate::keys::{Keys, load_json, merged};
use crate::names::{Names, count, modules};

/// The architecture of a CLIP text encoder, under the names of its `config.json`.
///
/// # Examples
/// ```
/// let config = temper_models::ClipTextConfig::preset("sd15").unwrap();
/// assert_eq!(config.parameter_count(), 123_060_480);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Its transformer.
    pub encoder: EncoderSizes,
    /// Positions: longest text in tokens.
    pub max_position_embeddings: usize,
    /// Token that ends a text. 2 is the number that old files wrongly give: the pooled state is then taken at the largest id.
    pub eos_token_id: u32,
    /// Width of [`ClipTextOutput::text_embeds`](super::ClipTextOutput), if the model projects (`CLIPTextModelWithProjection`).
    pub projection: Option<usize>,
    /// Whether the file said if there is a projection; otherwise the weights decide.
    pub(super) declared: bool,
    /// The file as it was read: keys that mean nothing here are written back.
    pub(crate) source: Map<String, Value>,
}

/// How parameters are called on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipLayout {
    /// `text_model.encoder.layers…`: all published checkpoints, and models with a projection.
    Prefixed,
    /// `encoder.layers…`: models without a projection as the newest library writes them.
    Bare,
}

impl ClipTextConfig {
    /// Reads `config.json` of a directory that holds a text encoder, or a whole CLIP model.
    ///
    /// # Errors
    /// When the file cannot be read, a key is wrong, or the architecture is not supported.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        load_json(&directory.join("config.json"), Self::from_json)
    }

    /// Reads the content of a `config.json`. Missing keys mean what they mean in transformers.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_json(value: &Value) -> Result<Self, ModelError> {
        let nested = Keys(value).get("text_config");
        let keys = Keys(nested.unwrap_or(value));
        let architectures = Keys(value).texts("architectures")?.unwrap_or_default();
        let projects = nested.is_some() || architectures.contains(&"CLIPTextModelWithProjection");
        let projection = match nested {
            Some(_) => Keys(value).optional_size("projection_dim")?,
            None => None,
        };
        let projection = match projection {
            Some(width) => width,
            None => keys.size_or("projection_dim", 512)?,
        };
        let missing = EncoderSizes {
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            layer_norm_eps: 1e-5,
            hidden_act: Activation::QuickGelu,
        };
        let config = Self {
            vocab_size: keys.size_or("vocab_size", 49408)?,
            encoder: EncoderSizes::read(keys, &missing)?,
            max_position_embeddings: keys.size_or("max_position_embeddings", 77)?,
            eos_token_id: eos_token_id(keys)?,
            projection: projects.then_some(projection),
            declared: projects || !architectures.is_empty(),
            source: keys.0.as_object().cloned().unwrap_or_default(),
        };
        if config.eos_token_id as usize >= config.vocab_size {
            return Err(keys.wrong("eos_token_id", "an id below `vocab_size`"));
        }
        Ok(config)
    }

    /// The same as a `config.json`; keys that were read and mean nothing here are kept.
    pub fn to_json(&self) -> Value {
        let class = if self.projection.is_some() {
            "CLIPTextModelWithProjection"
        } else {
            "CLIPTextModel"
        };
        let encoder = &self.encoder;
        let mut ours = json!({
            "architectures": [class], "model_type": "clip_text_model",
            "vocab_size": self.vocab_size, "hidden_size": encoder.hidden_size,
            "intermediate_size": encoder.intermediate_size, "num_hidden_layers": encoder.num_hidden_layers,
            "num_attention_heads": encoder.num_attention_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "layer_norm_eps": encoder.layer_norm_eps, "hidden_act": encoder.hidden_act.name(),
            "eos_token_id": self.eos_token_id,
        });
        if let (Some(width), Some(map)) = (self.projection, ours.as_object_mut()) {
            map.insert("projection_dim".to_owned(), width.into());
        }
        merged(&self.source, ours, &[])
    }

    pub(super) fn plan(&self) -> EncoderPlan<'_> {
        EncoderPlan {
            at: "text_model.encoder.layers",
            names: CLIP,
            sizes: &self.encoder,
        }
    }

    /// Every parameter: name (with the prefix `text_model.`) and shape, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let c = self.encoder.hidden_size;
        let mut names = Names::default();
        let embedding = |part: &str| format!("text_model.embeddings.{part}.weight");
        names.tensor(embedding("token_embedding"), &[self.vocab_size, c]);
        names.tensor(
            embedding("position_embedding"),
            &[self.max_position_embeddings, c],
        );
        self.plan().tensors(&mut names);
        names.norm("text_model.final_layer_norm", c);
        if let Some(width) = self.projection {
            names.tensor("text_projection.weight", &[width, c]);
        }
        names.into_tensors()
    }

    /// Every module with parameters, known from the sizes alone.
    pub fn modules(&self) -> Vec<Module> {
        modules(&self.tensors(), |name| name.ends_with("_embedding"))
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        count(&self.tensors())
    }
}

fn eos_token_id(keys: Keys<'_>) -> Result<u32, ModelError> {
    match keys.get("eos_token_id") {
        None => Ok(49407),
        Some(value) => value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| keys.wrong("eos_token_id", "a token id")),
    }
}
