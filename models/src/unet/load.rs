//! Weights from a diffusers directory, one tensor at a time, and back.

use std::path::Path;

use burn::tensor::{Device, FloatDType};
use temper_adapters::RandomSource;
use temper_adapters::weights::{Checkpoint, Dtype};

use super::{Unet, UnetConfig};
use crate::ModelError;
use crate::weights::{ParamSource, SaveDirectory};

impl Unet {
    /// Loads `directory` (config.json, `diffusion_pytorch_model.safetensors`, its fp16 variant or shards; f32, f16 or bf16).
    ///
    /// Matrices and kernels are kept in `compute`, norms and biases in f32.
    ///
    /// # Errors
    /// Whatever is wrong with the directory, naming file and tensor.
    pub fn load(
        directory: &Path,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let config = UnetConfig::load(directory)?;
        let checkpoint = Checkpoint::open(directory)?;
        Self::from_checkpoint(config, &checkpoint, compute, device)
    }

    /// The same from an opened checkpoint, which must hold exactly the tensors of `config`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_checkpoint(
        config: UnetConfig,
        checkpoint: &Checkpoint,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let source = ParamSource::checkpoint(config.tensors(), checkpoint, compute, device)?;
        Self::build(config, compute, &source)
    }

    /// Random weights as diffusers initialises them: Kaiming-uniform layers, norms 1 and 0.
    pub fn random(
        config: UnetConfig,
        compute: FloatDType,
        device: &Device,
        random: &RandomSource,
    ) -> Self {
        let source = ParamSource::random(config.tensors(), compute, device, random);
        match Self::build(config, compute, &source) {
            Ok(model) => model,
            Err(error) => unreachable!("nothing is read: {error}"),
        }
    }

    /// Writes a diffusers directory: config.json and safetensors of at most `max_shard_bytes` each, in `dtype`.
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
}
