//! Weights from a Hugging Face directory, one tensor at a time, and back.

use std::path::Path;

use burn::tensor::{Bytes, DType, Device, FloatDType, Tensor, TensorData};
use temper_adapters::weights::{
    Checkpoint, Dtype, HostTensor, SaveModel, TensorSpec, WeightsError, save_model,
    write_atomically,
};
use temper_adapters::{Param, Parameters};

use super::{Llama, LlamaConfig};
use crate::ModelError;

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
            let target = if shape.len() == 1 {
                FloatDType::F32
            } else {
                compute
            };
            let tensor = checkpoint.read(name)?.cast(file_dtype(target.into()))?;
            let value = device_tensor(tensor, device);
            checkpoint.release(name);
            Ok(Param::new(name, shape, value))
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
        let write = |source| ModelError::Write {
            file: directory.join("config.json"),
            source,
        };
        std::fs::create_dir_all(directory).map_err(write)?;
        let mut params = std::collections::BTreeMap::new();
        self.visit(&mut |param| {
            params.insert(param.name().to_owned(), param.clone());
        });
        let specs: Vec<TensorSpec> = self
            .config
            .tensors()
            .into_iter()
            .map(|(name, shape)| TensorSpec { name, dtype, shape })
            .collect();
        let options = SaveModel {
            max_shard_bytes,
            ..SaveModel::default()
        };
        save_model(directory, &specs, &options, |spec| {
            host_tensor(&params[&spec.name], dtype)
        })?;
        remove_stale_shards(directory).map_err(write)?;
        let mut config = self.config.to_json();
        config["torch_dtype"] = match dtype {
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
            _ => "float32",
        }
        .into();
        let text = format!("{config:#}\n");
        let file = directory.join("config.json");
        let failed = |source| WeightsError::Io {
            action: "write",
            file: file.clone(),
            source,
        };
        write_atomically(&file, |out| out.write_all(text.as_bytes()).map_err(failed))?;
        Ok(())
    }
}

/// Removes shards of an earlier save that the new index does not name: readers skip them, uploads would not.
fn remove_stale_shards(directory: &Path) -> std::io::Result<()> {
    let index =
        std::fs::read_to_string(directory.join("model.safetensors.index.json")).unwrap_or_default();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let shard = name
            .to_str()
            .filter(|name| name.starts_with("model-") && name.ends_with(".safetensors"));
        if let Some(name) = shard.filter(|name| !index.contains(*name)) {
            std::fs::remove_file(directory.join(name))?;
        }
    }
    Ok(())
}

/// The values of a parameter as they go to disk.
///
/// # Errors
/// A dtype that cannot hold floats.
pub fn host_tensor(param: &Param, dtype: Dtype) -> Result<HostTensor, WeightsError> {
    let value = param.plain();
    let stored = file_dtype(value.dtype());
    let bytes = value.into_data().into_bytes().to_vec();
    HostTensor::new(stored, param.shape().to_vec(), bytes)?.cast(dtype)
}

/// A tensor from disk, flat, on `device`.
pub fn device_tensor(tensor: HostTensor, device: &Device) -> Tensor<1> {
    let n: usize = tensor.shape().iter().product();
    let dtype = match tensor.dtype() {
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        _ => DType::F32,
    };
    let data = TensorData::from_bytes(Bytes::from_bytes_vec(tensor.into_data()), [n], dtype);
    Tensor::from_data(data, (device, dtype))
}

fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}
