//! Sizes of an image encoder, from `config.json`.

use std::path::Path;

use serde_json::Value;

use crate::ModelError;
use crate::encoder::{Activation, CLIP, EncoderPlan, VisionSizes};
use crate::keys::{Keys, load_json};
use crate::names::{Names, count};

/// The architecture of a CLIP image encoder, under the names of its `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipVisionConfig {
    /// Images, patches and the transformer.
    pub vision: VisionSizes,
    /// Width P of the image embedding.
    pub projection_dim: usize,
}

impl ClipVisionConfig {
    /// Reads `config.json` of a directory that holds a whole CLIP model or a `CLIPVisionModelWithProjection`.
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
        let nested = Keys(value).get("vision_config");
        let keys = Keys(nested.unwrap_or(value));
        let outer = match nested {
            Some(_) => Keys(value).optional_size("projection_dim")?,
            None => None,
        };
        Ok(Self {
            vision: VisionSizes::read(keys, 32, 1e-5, Activation::QuickGelu)?,
            projection_dim: match outer {
                Some(width) => width,
                None => keys.size_or("projection_dim", 512)?,
            },
        })
    }

    pub(super) fn plan(&self) -> EncoderPlan<'_> {
        EncoderPlan {
            at: "vision_model.encoder.layers",
            names: CLIP,
            sizes: &self.vision.encoder,
        }
    }

    /// Every parameter: name and shape, in the order of the forward pass. (`pre_layrnorm` is spelt so.)
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (c, p) = (self.vision.encoder.hidden_size, self.vision.patch_size);
        let mut names = Names::default();
        let at = |part: &str| format!("vision_model.{part}");
        names.tensor(at("embeddings.class_embedding"), &[c]);
        names.tensor(
            at("embeddings.patch_embedding.weight"),
            &[c, self.vision.num_channels, p, p],
        );
        names.tensor(
            at("embeddings.position_embedding.weight"),
            &[self.vision.grid().pow(2) + 1, c],
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
