//! Weights from a Hugging Face directory, one tensor at a time, and back.

use std::path::Path;

use burn::tensor::{Device, FloatDType};
use temper_adapters::weights::{Checkpoint, Dtype};

use super::{Llama, LlamaConfig};
use crate::ModelError;
use crate::weights::{SaveDirectory, read_param};

impl Llama {
    /// Loads `directory` (config.json, single or sharded safetensors in f32, f16 or bf16).
    ///
    /// Matrices and embeddings are kept in `compute`, norms in f32. Names, shapes and dtypes are checked against the
    /// headers before any tensor is read; then one tensor at a time is read, converted and placed on `device`.
    ///
    /// # Errors
    /// Whatever is wrong with the directory, naming file and tensor.
    pub fn load(
        directory: &Path,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let config = LlamaConfig::load(directory)?;
        let checkpoint = Checkpoint::open(directory)?;
        Self::from_checkpoint(config, &checkpoint, compute, device)
    }

    /// The same from an opened checkpoint.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_checkpoint(
        config: LlamaConfig,
        checkpoint: &Checkpoint,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        for (name, shape) in config.tensors() {
            checkpoint.expect(&name, &shape)?;
        }
        let layers = config.num_hidden_layers;
        let number = |name: &str| {
            name.strip_prefix("model.layers.")?
                .split('.')
                .next()?
                .parse()
                .ok()
        };
        if let Some(name) = checkpoint
            .names()
            .find(|name| number(name).is_some_and(|n: usize| n >= layers))
        {
            return Err(ModelError::Surplus {
                tensor: name.to_owned(),
                layers,
            });
        }
        Self::build(config, compute, |name, shape| {
            read_param(checkpoint, name, shape, compute, device)
        })
    }

    /// Writes a Hugging Face directory: config.json and safetensors of at most `max_shard_bytes` each, in `dtype`.
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
        let mut config = self.config.to_json();
        config["torch_dtype"] = match dtype {
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
            _ => "float32",
        }
        .into();
        SaveDirectory {
            directory,
            stem: "model",
            config: &config,
            dtype,
            max_shard_bytes,
        }
        .write(self, self.config.tensors())
    }
}
