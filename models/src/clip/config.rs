//! Sizes of a text encoder, from `config.json` or a preset.

use std::path::Path;

use serde_json::{Map, Value, json};
use temper_adapters::peft::Module;

use crate::ModelError;
use crate::encoder::{Activation, CLIP, EncoderPlan};
use crate::keys::{Keys, merged, read_json};
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
    /// Model width C.
    pub hidden_size: usize,
    /// Feed-forward width F.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Positions: longest text in tokens.
    pub max_position_embeddings: usize,
    /// Added to the variance in norms.
    pub layer_norm_eps: f64,
    /// Non-linearity of the feed-forward networks.
    pub hidden_act: Activation,
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
        Self::from_json(&read_json(&directory.join("config.json"))?)
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
            None => keys.optional_size("projection_dim")?.unwrap_or(512),
        };
        let size = |key: &str, default: usize| {
            Ok::<usize, ModelError>(keys.optional_size(key)?.unwrap_or(default))
        };
        let config = Self {
            vocab_size: size("vocab_size", 49408)?,
            hidden_size: size("hidden_size", 512)?,
            intermediate_size: size("intermediate_size", 2048)?,
            num_hidden_layers: size("num_hidden_layers", 12)?,
            num_attention_heads: size("num_attention_heads", 8)?,
            max_position_embeddings: size("max_position_embeddings", 77)?,
            layer_norm_eps: keys.number("layer_norm_eps")?.unwrap_or(1e-5),
            hidden_act: Activation::from_name(keys.text("hidden_act")?.unwrap_or("quick_gelu"))?,
            eos_token_id: eos_token_id(keys)?,
            projection: projects.then_some(projection),
            declared: projects || !architectures.is_empty(),
            source: keys.0.as_object().cloned().unwrap_or_default(),
        };
        check_stack(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
        )?;
        Ok(config)
    }

    /// The same as a `config.json`; keys that were read and mean nothing here are kept.
    pub fn to_json(&self) -> Value {
        let class = if self.projection.is_some() {
            "CLIPTextModelWithProjection"
        } else {
            "CLIPTextModel"
        };
        let mut ours = json!({
            "architectures": [class], "model_type": "clip_text_model",
            "vocab_size": self.vocab_size, "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size, "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "layer_norm_eps": self.layer_norm_eps, "hidden_act": self.hidden_act.name(),
            "eos_token_id": self.eos_token_id,
        });
        if let (Some(width), Some(map)) = (self.projection, ours.as_object_mut()) {
            map.insert("projection_dim".to_owned(), width.into());
        }
        merged(&self.source, ours, &[])
    }

    pub(super) fn plan(&self) -> EncoderPlan {
        EncoderPlan {
            at: "text_model.encoder.layers".to_owned(),
            names: CLIP,
            layers: self.num_hidden_layers,
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            eps: self.layer_norm_eps,
            act: self.hidden_act,
        }
    }

    /// Every parameter: name (with the prefix `text_model.`) and shape, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let c = self.hidden_size;
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

/// Refuses what no checkpoint has and the forward pass could not take.
pub(crate) fn check_stack(layers: usize, width: usize, heads: usize) -> Result<(), ModelError> {
    let wrong = |key: &str, found: usize, expected| {
        Err(ModelError::Key {
            key: key.to_owned(),
            found: found.to_string(),
            expected,
        })
    };
    if layers > 10_000 {
        return wrong("num_hidden_layers", layers, "at most 10000");
    }
    if !width.is_multiple_of(heads) {
        return wrong("num_attention_heads", heads, "a divisor of `hidden_size`");
    }
    Ok(())
}
