//! Sizes of a vision transformer, from `config.json`.

use std::path::Path;

use serde_json::{Value, json};

use crate::ModelError;
use crate::encoder::{Activation, EncoderPlan, VIT, VisionSizes};
use crate::keys::{Keys, load_json};
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
    /// Images, patches and the transformer.
    pub vision: VisionSizes,
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
        load_json(&directory.join("config.json"), Self::from_json)
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
        Ok(Self {
            vision: VisionSizes::read(keys, 16, 1e-12, Activation::Gelu)?,
        })
    }

    pub(super) fn plan(&self) -> EncoderPlan<'_> {
        EncoderPlan {
            at: "encoder.layer",
            names: VIT,
            sizes: &self.vision.encoder,
        }
    }

    /// Every parameter: name and shape, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let c = self.vision.encoder.hidden_size;
        let mut names = Names::default();
        names.tensor("embeddings.cls_token", &[1, 1, c]);
        names.tensor(
            "embeddings.position_embeddings",
            &[1, self.vision.grid().pow(2) + 1, c],
        );
        names.conv(
            "embeddings.patch_embeddings.projection",
            [c, self.vision.num_channels],
            self.vision.patch_size,
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
