//! Sizes of a vision transformer, from `config.json`.

use std::path::Path;

use serde_json::{Value, json};

use crate::ModelError;
use crate::clip::check_stack;
use crate::encoder::{Activation, EncoderPlan, VIT};
use crate::keys::{Keys, read_json};
use crate::names::{Names, count};

/// The architecture of a `ViTModel`, under the names of its `config.json`.
///
/// # Examples
/// ```
/// let config = temper_models::DinoVitConfig::dino_vits16().unwrap();
/// assert_eq!(config.parameter_count(), 21_665_664);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DinoVitConfig {
    /// Side length of the images it was trained on, in pixels.
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
}

impl DinoVitConfig {
    /// The sizes of `facebook/dino-vits16` (21,665,664 parameters without the pooler).
    ///
    /// # Errors
    /// None.
    pub fn dino_vits16() -> Result<Self, ModelError> {
        Self::from_json(&json!({
            "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6,
            "intermediate_size": 1536, "patch_size": 16, "image_size": 224,
        }))
    }

    /// Reads `config.json` of a directory.
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
        let keys = Keys(value);
        if let Some(other) = keys.text("model_type")?.filter(|kind| *kind != "vit") {
            return Err(ModelError::Unsupported {
                what: format!("model_type `{other}`"),
                hint: "supported is vit, the type of facebook/dino-vits16",
            });
        }
        if !keys.flag_or("qkv_bias", true)? {
            return Err(ModelError::Unsupported {
                what: "`qkv_bias` false".to_owned(),
                hint: "DINO's queries, keys and values have biases",
            });
        }
        let size = |key: &str, default: usize| {
            Ok::<usize, ModelError>(keys.optional_size(key)?.unwrap_or(default))
        };
        let config = Self {
            image_size: size("image_size", 224)?,
            patch_size: size("patch_size", 16)?,
            num_channels: size("num_channels", 3)?,
            hidden_size: size("hidden_size", 768)?,
            intermediate_size: size("intermediate_size", 3072)?,
            num_hidden_layers: size("num_hidden_layers", 12)?,
            num_attention_heads: size("num_attention_heads", 12)?,
            layer_norm_eps: keys.number("layer_norm_eps")?.unwrap_or(1e-12),
            hidden_act: Activation::from_name(keys.text("hidden_act")?.unwrap_or("gelu"))?,
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

    /// Patches of a trained image along each side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    pub(super) fn plan(&self) -> EncoderPlan {
        EncoderPlan {
            at: "encoder.layer".to_owned(),
            names: VIT,
            layers: self.num_hidden_layers,
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            eps: self.layer_norm_eps,
            act: self.hidden_act,
        }
    }

    /// Every parameter: name and shape, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let c = self.hidden_size;
        let mut names = Names::default();
        names.tensor("embeddings.cls_token", &[1, 1, c]);
        names.tensor(
            "embeddings.position_embeddings",
            &[1, self.grid().pow(2) + 1, c],
        );
        names.conv(
            "embeddings.patch_embeddings.projection",
            [c, self.num_channels],
            self.patch_size,
        );
        self.plan().tensors(&mut names);
        names.norm("layernorm", c);
        names.into_tensors()
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        count(&self.tensors())
    }
}
