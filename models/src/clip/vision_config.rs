//! Sizes of an image encoder, from `config.json`.

use std::path::Path;

use serde_json::Value;

use super::config::check_stack;
use crate::ModelError;
use crate::encoder::{Activation, CLIP, EncoderPlan};
use crate::keys::{Keys, read_json};
use crate::names::{Names, count};

/// The architecture of a CLIP image encoder, under the names of its `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipVisionConfig {
    /// Side length of images, in pixels.
    pub image_size: usize,
    /// Side length of a patch, in pixels.
    pub patch_size: usize,
    /// Channels of images.
    pub num_channels: usize,
    /// Model width C.
    pub hidden_size: usize,
    /// Feed-forward width F.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Added to the variance in norms.
    pub layer_norm_eps: f64,
    /// Non-linearity of the feed-forward networks.
    pub hidden_act: Activation,
    /// Width P of the image embedding.
    pub projection_dim: usize,
}

impl ClipVisionConfig {
    /// Reads `config.json` of a directory that holds a whole CLIP model or a `CLIPVisionModelWithProjection`.
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
        let nested = Keys(value).get("vision_config");
        let keys = Keys(nested.unwrap_or(value));
        let size = |key: &str, default: usize| {
            Ok::<usize, ModelError>(keys.optional_size(key)?.unwrap_or(default))
        };
        let outer = match nested {
            Some(_) => Keys(value).optional_size("projection_dim")?,
            None => None,
        };
        let config = Self {
            image_size: size("image_size", 224)?,
            patch_size: size("patch_size", 32)?,
            num_channels: size("num_channels", 3)?,
            hidden_size: size("hidden_size", 768)?,
            intermediate_size: size("intermediate_size", 3072)?,
            num_hidden_layers: size("num_hidden_layers", 12)?,
            num_attention_heads: size("num_attention_heads", 12)?,
            layer_norm_eps: keys.number("layer_norm_eps")?.unwrap_or(1e-5),
            hidden_act: Activation::from_name(keys.text("hidden_act")?.unwrap_or("quick_gelu"))?,
            projection_dim: match outer {
                Some(width) => width,
                None => size("projection_dim", 512)?,
            },
        };
        check_stack(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
        )?;
        if config.patch_size > config.image_size {
            return Err(keys.wrong("patch_size", "at most `image_size`"));
        }
        Ok(config)
    }

    /// Patches of an image along each side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    pub(super) fn plan(&self) -> EncoderPlan {
        EncoderPlan {
            at: "vision_model.encoder.layers".to_owned(),
            names: CLIP,
            layers: self.num_hidden_layers,
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            eps: self.layer_norm_eps,
            act: self.hidden_act,
        }
    }

    /// Every parameter: name and shape, in the order of the forward pass. (`pre_layrnorm` is spelt so.)
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (c, p) = (self.hidden_size, self.patch_size);
        let mut names = Names::default();
        let at = |part: &str| format!("vision_model.{part}");
        names.tensor(at("embeddings.class_embedding"), &[c]);
        names.tensor(
            at("embeddings.patch_embedding.weight"),
            &[c, self.num_channels, p, p],
        );
        names.tensor(
            at("embeddings.position_embedding.weight"),
            &[self.grid().pow(2) + 1, c],
        );
        names.norm(&at("pre_layrnorm"), c);
        self.plan().tensors(&mut names);
        names.norm(&at("post_layernorm"), c);
        names.tensor("visual_projection.weight", &[self.projection_dim, c]);
        names.into_tensors()
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        count(&self.tensors())
    }
}
