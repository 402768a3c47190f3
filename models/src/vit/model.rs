//! The model. Shapes: B images, N patches, C model width.

use std::path::Path;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use temper_adapters::weights::Checkpoint;
use temper_adapters::{AdaptedConv2d, Param, RandomSource};

use super::DinoVitConfig;
use super::positions::resample;
use crate::ModelError;
use crate::encoder::EncoderLayer;
use crate::layers::Norm;
use crate::weights::ParamSource;

/// A vision transformer, for evaluation.
///
/// # Examples
/// ```no_run
/// use burn::tensor::{Device, FloatDType, Tensor};
/// use temper_models::DinoVit;
///
/// let device = Device::flex();
/// let dino = DinoVit::load(std::path::Path::new("dino-vits16"), FloatDType::F32, &device)?;
/// let embeddings = dino.embed(Tensor::zeros([1, 3, 224, 224], &device))?;
/// assert_eq!(embeddings.dims(), [1, 384]);
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct DinoVit {
    config: DinoVitConfig,
    cls_token: Param,
    position_embeddings: Param,
    projection: AdaptedConv2d,
    layers: Vec<EncoderLayer>,
    layernorm: Norm,
    compute: DType,
}

impl DinoVit {
    /// Loads a `ViTModel` directory.
    ///
    /// # Errors
    /// Whatever is wrong with the directory, naming file and tensor.
    pub fn load(
        directory: &Path,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let config = DinoVitConfig::load(directory)?;
        let checkpoint = Checkpoint::open(directory)?;
        Self::from_checkpoint(config, &checkpoint, compute, device)
    }

    /// The same from an opened checkpoint; names may carry the prefix `vit.` of a classifier's backbone.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_checkpoint(
        config: DinoVitConfig,
        checkpoint: &Checkpoint,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let checkpoint = checkpoint.renamed(|name| {
            let name = name.strip_prefix("vit.").unwrap_or(name);
            let head = name.starts_with("pooler.") || name.starts_with("classifier.");
            (!head).then(|| name.to_owned())
        })?;
        let source = ParamSource::checkpoint(config.tensors(), &checkpoint, compute, device)?;
        Self::build(config, compute, &source)
    }

    /// Fresh weights, as PyTorch initialises its layers.
    ///
    /// # Errors
    /// None that a valid configuration causes.
    pub fn random(
        config: DinoVitConfig,
        compute: FloatDType,
        device: &Device,
        random: &RandomSource,
    ) -> Result<Self, ModelError> {
        let source = ParamSource::random(config.tensors(), compute, device, random);
        Self::build(config, compute, &source)
    }

    fn build(
        config: DinoVitConfig,
        compute: FloatDType,
        source: &ParamSource<'_>,
    ) -> Result<Self, ModelError> {
        let projection = "embeddings.patch_embeddings.projection";
        Ok(Self {
            cls_token: source.param("embeddings.cls_token")?,
            position_embeddings: source.param("embeddings.position_embeddings")?,
            projection: source.conv(projection, config.vision.patch_size, 0)?,
            layers: config.plan().build(source)?,
            layernorm: Norm::build(source, "layernorm", config.vision.encoder.layer_norm_eps)?,
            config,
            compute: compute.into(),
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &DinoVitConfig {
        &self.config
    }

    /// The embedding of each image, `[B, C]` in f32: the class token of [`Self::forward`]. Not of unit length.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn embed(&self, pixel_values: Tensor<4>) -> Result<Tensor<2>, ModelError> {
        let batch = pixel_values.dims()[0];
        let states = self.forward(pixel_values)?;
        Ok(states
            .narrow(1, 0, 1)
            .reshape([batch, self.config.vision.encoder.hidden_size]))
    }

    /// States after the last norm, `[B, N + 1, C]` in f32, the class token first, of `pixel_values: [B, 3, H, W]`.
    ///
    /// # Errors
    /// [`ModelError::ImageSize`] for images smaller than a patch or of other channels.
    pub fn forward(&self, pixel_values: Tensor<4>) -> Result<Tensor<3>, ModelError> {
        let sizes = &self.config.vision;
        let (patch, c) = (sizes.patch_size, sizes.encoder.hidden_size);
        let [batch, channels, height, width] = pixel_values.dims();
        if channels != sizes.num_channels || height < patch || width < patch {
            let side = sizes.image_size;
            return Err(ModelError::ImageSize {
                found: [channels, height, width],
                expected: [sizes.num_channels, side, side],
            });
        }
        let grid = [height / patch, width / patch];
        let x = self
            .projection
            .forward(pixel_values.cast(self.compute))
            .reshape([batch, c, grid[0] * grid[1]])
            .swap_dims(1, 2);
        let class = self
            .cls_token
            .get_as::<3>(self.compute)
            .expand([batch, 1, c]);
        let x = Tensor::cat(vec![class, x], 1) + self.positions(grid);
        let x = self
            .layers
            .iter()
            .fold(x, |x, layer| layer.forward(x, false));
        Ok(self.layernorm.layer(x).cast(FloatDType::F32))
    }

    /// `[1, N + 1, C]`: the class token's position, then the grid's.
    fn positions(&self, grid: [usize; 2]) -> Tensor<3> {
        let sizes = &self.config.vision;
        let (side, c) = (sizes.grid(), sizes.encoder.hidden_size);
        let table = self.position_embeddings.get_as::<3>(self.compute);
        if grid == [side, side] {
            return table;
        }
        let class = table.clone().narrow(1, 0, 1);
        let patches = table
            .clone()
            .narrow(1, 1, side * side)
            .cast(FloatDType::F32);
        let values: Vec<f32> = patches.into_data().iter::<f32>().collect();
        let values = resample(&values, side, c, grid);
        let data = TensorData::new(values, [1, grid[0] * grid[1], c]);
        let patches = Tensor::<3>::from_data(data, &table.device());
        Tensor::cat(vec![class, patches.cast(self.compute)], 1)
    }
}
