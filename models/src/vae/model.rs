//! The model: loading and saving, the two directions, loss and gradients.

use std::path::Path;

use burn::tensor::{DType, Device, FloatDType, Tensor};
use temper_adapters::weights::{Checkpoint, Dtype, View};
use temper_adapters::{Parameters, RandomSource};

use super::coder::{Decoder, Encoder};
use super::{Posterior, VaeConfig};
use crate::gradients::{collect, wide};
use crate::layers::{adapted_by_parts, walked_by_parts};
use crate::ops::plain;
use crate::weights::{ParamSource, SaveDirectory};
use crate::{Gradients, ModelError};

/// An autoencoder between images and latents 1/f as large.
///
/// # Examples
/// ```no_run
/// use burn::tensor::{Device, FloatDType, Tensor};
/// use temper_models::Vae;
///
/// let device = Device::flex();
/// let vae = Vae::load(std::path::Path::new("sd15/vae"), FloatDType::F32, &device)?;
/// let posterior = vae.encode(Tensor::zeros([1, 3, 64, 64], &device));
/// assert_eq!(posterior.mean.dims(), [1, 4, 8, 8]);
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    compute: DType,
}

/// Loss of one batch, each a tensor of one value outside any graph.
#[derive(Clone, Debug)]
pub struct VaeStep {
    /// `reconstruction + kl_weight · kl`.
    pub loss: Tensor<1>,
    /// Mean square error over all values of all images.
    pub reconstruction: Tensor<1>,
    /// Mean over all latent values of `½ (mean² + var − 1 − logvar)`.
    pub kl: Tensor<1>,
}

impl Vae {
    /// Loads `directory` (config.json and safetensors), in diffusers' current naming of the attention layers or the older one.
    ///
    /// Matrices and kernels are kept in [`VaeConfig::compute`] of `compute`, norms and biases in f32.
    ///
    /// # Errors
    /// Whatever is wrong with the directory, naming file and tensor.
    pub fn load(
        directory: &Path,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let config = VaeConfig::load(directory)?;
        let checkpoint = Checkpoint::open(directory)?;
        Self::from_checkpoint(config, &checkpoint, compute, device)
    }

    /// The same from an opened checkpoint.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_checkpoint(
        config: VaeConfig,
        checkpoint: &Checkpoint,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let checkpoint = with_current_names(checkpoint)?;
        let compute = config.compute(compute);
        let source = ParamSource::checkpoint(config.tensors(), &checkpoint, compute, device)?;
        Self::build(config, compute, &source)
    }

    /// Fresh weights, as PyTorch initialises its layers.
    ///
    /// # Errors
    /// None that a valid configuration causes.
    pub fn random(
        config: VaeConfig,
        compute: FloatDType,
        device: &Device,
        random: &RandomSource,
    ) -> Result<Self, ModelError> {
        let compute = config.compute(compute);
        let source = ParamSource::random(config.tensors(), compute, device, random);
        Self::build(config, compute, &source)
    }

    fn build(
        config: VaeConfig,
        compute: FloatDType,
        source: &ParamSource<'_>,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            encoder: Encoder::build(source, &config)?,
            decoder: Decoder::build(source, &config)?,
            config,
            compute: compute.into(),
        })
    }

    /// Writes config.json and `diffusion_pytorch_model.safetensors` (sharded above `max_shard_bytes`) in `dtype`, under the
    /// current names.
    ///
    /// Adapters must be merged first: the directory holds plain weights alone.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(
        &self,
        directory: &Path,
        dtype: Dtype,
        max_shard_bytes: u64,
    ) -> Result<(), ModelError> {
        SaveDirectory {
            directory,
            stem: "diffusion_pytorch_model",
            config: &self.config.to_json(),
            dtype,
            max_shard_bytes,
        }
        .write(self, self.config.tensors())
    }

    /// Its sizes.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The latents of images `[B, 3, H, W]` with values in [−1, 1]: `[B, Z, ⌊H/f⌋, ⌊W/f⌋]`, f = [`VaeConfig::downscale`].
    ///
    /// They are not scaled: diffusion models see `(z − shift_factor) · scaling_factor`.
    ///
    /// # Panics
    /// When the number of channels is not `in_channels`.
    pub fn encode(&self, images: Tensor<4>) -> Posterior {
        let moments = self.encoder.forward(self.narrow(images));
        Posterior::from_moments(wide(moments))
    }

    /// Images `[B, 3, h·f, w·f]` of latents `[B, Z, h, w]` that are not scaled; about in [−1, 1], not clamped, in f32.
    ///
    /// # Panics
    /// When the number of channels is not `latent_channels`.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        wide(self.decoder.forward(self.narrow(latents)))
    }

    /// Loss of images `x` in [−1, 1] with the latents drawn by `eps` (normal, `[B, Z, H/f, W/f]`), and the gradient of every
    /// trained parameter, added to `sums`.
    ///
    /// `loss = mean((decode(mean + std · eps) − x)²) + kl_weight · mean(½ (mean² + var − 1 − logvar))`: both means run over all
    /// values of the batch, of the images in the first and of the latents in the second, so neither term grows with batch or
    /// resolution. (The variational bound of arXiv 1312.6114, eq. 10, with a normal likelihood, divided by the number of
    /// image values, has `kl_weight` = latent values / image values times a factor for the variance of the likelihood.)
    ///
    /// # Panics
    /// When the sides of `x` are not multiples of [`VaeConfig::downscale`], or channels do not fit.
    pub fn accumulate(
        &self,
        x: Tensor<4>,
        eps: Tensor<4>,
        kl_weight: f64,
        sums: &mut Gradients,
    ) -> VaeStep {
        let posterior = self.encode(x.clone());
        let values = posterior.mean.shape().num_elements();
        let reconstruction = (self.decode(posterior.sample(eps)) - wide(x))
            .square()
            .mean();
        let kl = posterior.kl().sum().div_scalar(values as f64);
        let loss = reconstruction.clone() + kl.clone().mul_scalar(kl_weight);
        let step = VaeStep {
            loss: plain(&loss),
            reconstruction: plain(&reconstruction),
            kl: plain(&kl),
        };
        if loss.is_autodiff() {
            let mut gradients = loss.backward();
            self.visit(&mut |param| collect(param, &mut gradients, sums));
        }
        step
    }

    fn narrow(&self, x: Tensor<4>) -> Tensor<4> {
        if x.dtype() == self.compute {
            x
        } else {
            x.cast(self.compute)
        }
    }
}

/// Attention layers were once called `query`, `key`, `value` and `proj_attn`, and once more were 1×1 convolutions.
fn with_current_names(checkpoint: &Checkpoint) -> Result<Checkpoint, ModelError> {
    let view = |name: &str| {
        let Some((at, rest)) = name.split_once(".attentions.0.") else {
            return View::new(name, name);
        };
        let (layer, part) = rest.rsplit_once('.').unwrap_or((rest, ""));
        let current = match layer {
            "query" => "to_q",
            "key" => "to_k",
            "value" => "to_v",
            "proj_attn" => "to_out.0",
            other => other,
        };
        let view = View::new(name, format!("{at}.attentions.0.{current}.{part}"));
        match checkpoint.info(name).map(|info| info.shape.as_slice()) {
            Some(&[outputs, inputs, 1, 1]) => view.shaped(&[outputs, inputs]),
            _ => view,
        }
    };
    Ok(checkpoint.views(checkpoint.names().map(view).collect::<Vec<_>>())?)
}

walked_by_parts!(Vae { encoder, decoder });
adapted_by_parts!(Vae);
