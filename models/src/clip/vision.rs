//! The image encoder. Shapes: B images, N patches, C model width, P projection width.

use std::path::Path;

use burn::tensor::{DType, Device, FloatDType, Tensor};
use temper_adapters::weights::Checkpoint;
use temper_adapters::{AdaptedConv2d, AdaptedLinear, Param, RandomSource};

use super::ClipVisionConfig;
use crate::ModelError;
use crate::encoder::EncoderLayer;
use crate::gradients::wide;
use crate::layers::Norm;
use crate::weights::ParamSource;

/// A CLIP image encoder with its projection, for evaluation.
#[derive(Clone, Debug)]
pub struct ClipVision {
    config: ClipVisionConfig,
    class_embedding: Param,
    patch_embedding: AdaptedConv2d,
    position_embedding: Param,
    pre_layrnorm: Norm,
    layers: Vec<EncoderLayer>,
    post_layernorm: Norm,
    visual_projection: AdaptedLinear,
    compute: DType,
}

/// What the image encoder says about a batch of images, in f32.
#[derive(Clone, Debug)]
pub struct ClipVisionOutput {
    /// The output of the last layer, `[B, N + 1, C]`; the class token stands first. It is not normalised.
    pub last_hidden_state: Tensor<3>,
    /// The class token after the last norm, `[B, C]`.
    pub pooler_output: Tensor<2>,
    /// The pooled state projected, `[B, P]`; not of unit length.
    pub image_embeds: Tensor<2>,
}

impl ClipVision {
    /// Loads `directory`: a whole CLIP model, or a `CLIPVisionModelWithProjection`.
    ///
    /// # Errors
    /// Whatever is wrong with the directory, naming file and tensor.
    pub fn load(
        directory: &Path,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let config = ClipVisionConfig::load(directory)?;
        let checkpoint = Checkpoint::open(directory)?;
        Self::from_checkpoint(config, &checkpoint, compute, device)
    }

    /// The same from an opened checkpoint.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_checkpoint(
        config: ClipVisionConfig,
        checkpoint: &Checkpoint,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let checkpoint = checkpoint.renamed(|name| {
            let ours = name.starts_with("vision_model.") || name.starts_with("visual_projection.");
            (ours && !name.ends_with("position_ids")).then(|| name.to_owned())
        })?;
        let source = ParamSource::checkpoint(config.tensors(), &checkpoint, compute, device)?;
        Self::build(config, compute, &source)
    }

    /// Fresh weights, as PyTorch initialises its layers.
    ///
    /// # Errors
    /// None that a valid configuration causes.
    pub fn random(
        config: ClipVisionConfig,
        compute: FloatDType,
        device: &Device,
        random: &RandomSource,
    ) -> Result<Self, ModelError> {
        let source = ParamSource::random(config.tensors(), compute, device, random);
        Self::build(config, compute, &source)
    }

    fn build(
        config: ClipVisionConfig,
        compute: FloatDType,
        source: &ParamSource<'_>,
    ) -> Result<Self, ModelError> {
        let at = |part: &str| format!("vision_model.{part}");
        let norm =
            |part: &str| Norm::build(source, &at(part), config.vision.encoder.layer_norm_eps);
        Ok(Self {
            class_embedding: source.param(&at("embeddings.class_embedding"))?,
            patch_embedding: source.conv(
                &at("embeddings.patch_embedding"),
                config.vision.patch_size,
                0,
            )?,
            position_embedding: source.param(&at("embeddings.position_embedding.weight"))?,
            pre_layrnorm: norm("pre_layrnorm")?,
            layers: config.plan().build(source)?,
            post_layernorm: norm("post_layernorm")?,
            visual_projection: source.linear("visual_projection")?,
            config,
            compute: compute.into(),
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// Encodes `pixel_values: [B, 3, S, S]`, S = `image_size`, prepared by a [`Preprocessor`](super::Preprocessor).
    ///
    /// # Errors
    /// [`ModelError::ImageSize`] for images of another size.
    pub fn forward(&self, pixel_values: Tensor<4>) -> Result<ClipVisionOutput, ModelError> {
        let sizes = &self.config.vision;
        let side = sizes.image_size;
        let [batch, channels, height, width] = pixel_values.dims();
        if [channels, height, width] != [sizes.num_channels, side, side] {
            return Err(ModelError::ImageSize {
                found: [channels, height, width],
                expected: [sizes.num_channels, side, side],
            });
        }
        let (patches, c) = (sizes.grid().pow(2), sizes.encoder.hidden_size);
        let x = self
            .patch_embedding
            .forward(pixel_values.cast(self.compute))
            .reshape([batch, c, patches])
            .swap_dims(1, 2);
        let class = self.class_embedding.get_as::<1>(self.compute);
        let class = class.reshape([1, 1, c]).expand([batch, 1, c]);
        let positions = self.position_embedding.get_as::<2>(self.compute);
        let x = Tensor::cat(vec![class, x], 1) + positions.reshape([1, patches + 1, c]);
        let x = self.pre_layrnorm.layer(x);
        let x = self
            .layers
            .iter()
            .fold(x, |x, layer| layer.forward(x, false));
        let class = self.post_layernorm.layer(x.clone().narrow(1, 0, 1));
        let pooled = class.reshape([batch, c]);
        Ok(ClipVisionOutput {
            last_hidden_state: wide(x),
            image_embeds: wide(self.visual_projection.forward(pooled.clone())),
            pooler_output: wide(pooled),
        })
    }
}
