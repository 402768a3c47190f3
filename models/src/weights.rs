//! From the tensors of a directory to the parameters of a model, and back.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::{Bytes, DType, Device, FloatDType, Tensor, TensorData};
use serde_json::Value;
use temper_adapters::weights::{
    Checkpoint, Dtype, HostTensor, SaveModel, TensorSpec, WeightsError, save_model,
    write_atomically,
};
use temper_adapters::{AdaptedConv2d, AdaptedLinear, Param, Parameters, RandomSource};

use crate::ModelError;

/// Names and shapes of the tensors of a model, in model order.
pub(crate) type Tensors = Vec<(String, Vec<usize>)>;

/// Hands out the parameters of a model by name: matrices and kernels in the compute dtype, vectors (norms, biases) in f32.
#[derive(Debug)]
pub(crate) struct ParamSource<'a> {
    shapes: HashMap<String, Vec<usize>>,
    compute: FloatDType,
    device: &'a Device,
    values: Values<'a>,
}

#[derive(Debug)]
enum Values<'a> {
    Checkpoint(&'a Checkpoint),
    Random(&'a RandomSource),
}

impl<'a> ParamSource<'a> {
    /// The tensors of a checkpoint, which must be exactly `tensors`; names and shapes are checked before anything is read.
    ///
    /// # Errors
    /// A missing tensor, one of another shape, or one that the configuration does not call for.
    pub(crate) fn checkpoint(
        tensors: Tensors,
        checkpoint: &'a Checkpoint,
        compute: FloatDType,
        device: &'a Device,
    ) -> Result<Self, ModelError> {
        for (name, shape) in &tensors {
            checkpoint.expect(name, shape)?;
        }
        let shapes: HashMap<_, _> = tensors.into_iter().collect();
        let mut surplus = checkpoint
            .names()
            .filter(|name| !shapes.contains_key(*name));
        if let Some(tensor) = surplus.next() {
            return Err(ModelError::Unexpected {
                tensor: tensor.to_owned(),
                more: surplus.count(),
            });
        }
        Ok(Self {
            shapes,
            compute,
            device,
            values: Values::Checkpoint(checkpoint),
        })
    }

    /// Fresh values as PyTorch gives its layers: kernels, matrices and their biases uniform within 1/√inputs (Kaiming
    /// with a = √5), norms 1 and 0.
    pub(crate) fn random(
        tensors: Tensors,
        compute: FloatDType,
        device: &'a Device,
        random: &'a RandomSource,
    ) -> Self {
        Self {
            shapes: tensors.into_iter().collect(),
            compute,
            device,
            values: Values::Random(random),
        }
    }

    /// The parameter `name`, frozen.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn param(&self, name: &str) -> Result<Param, ModelError> {
        let Some(shape) = self.shapes.get(name) else {
            unreachable!("`{name}` is asked for and is not among the tensors of the model")
        };
        match self.values {
            Values::Checkpoint(checkpoint) => {
                read_param(checkpoint, name, shape, self.compute, self.device)
            }
            Values::Random(random) => {
                let values = self.initial(name, shape, random);
                let n = values.len();
                let value = Tensor::<1>::from_data(TensorData::new(values, [n]), self.device);
                let value = value.cast(kept_in(self.compute, shape));
                Ok(Param::new(name, shape, value))
            }
        }
    }

    fn initial(&self, name: &str, shape: &[usize], random: &RandomSource) -> Vec<f32> {
        let n: usize = shape.iter().product();
        let (module, part) = name.rsplit_once('.').unwrap_or(("", name));
        let weight = self.shapes.get(&format!("{module}.weight"));
        match weight {
            Some(weight) if weight.len() > 1 => {
                let inputs: usize = weight[1..].iter().product();
                random.uniform(name, n, (inputs.max(1) as f32).sqrt().recip())
            }
            _ => vec![if part == "bias" { 0.0 } else { 1.0 }; n],
        }
    }

    /// `module.bias`, if the model has it.
    fn bias(&self, module: &str) -> Result<Option<Param>, ModelError> {
        let name = format!("{module}.bias");
        let there = self.shapes.contains_key(&name);
        there.then(|| self.param(&name)).transpose()
    }

    /// The linear layer `module`, with a bias if the model has one.
    ///
    /// # Errors
    /// As [`Self::param`].
    pub(crate) fn linear(&self, module: &str) -> Result<AdaptedLinear, ModelError> {
        let weight = self.param(&format!("{module}.weight"))?;
        Ok(AdaptedLinear::new(module, weight, self.bias(module)?))
    }

    /// The convolution `module` with one stride and padding for both axes, with a bias if the model has one.
    ///
    /// # Errors
    /// As [`Self::param`].
    pub(crate) fn conv(
        &self,
        module: &str,
        stride: usize,
        padding: usize,
    ) -> Result<AdaptedConv2d, ModelError> {
        let weight = self.param(&format!("{module}.weight"))?;
        let bias = self.bias(module)?;
        Ok(AdaptedConv2d::new(
            module,
            weight,
            bias,
            [stride; 2],
            [padding; 2],
        ))
    }
}

/// The tensor `name` of a checkpoint as a frozen parameter: a vector in f32, anything else in `compute`.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read_param(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &[usize],
    compute: FloatDType,
    device: &Device,
) -> Result<Param, ModelError> {
    let target = kept_in(compute, shape).into();
    let tensor = checkpoint.read(name)?.cast(file_dtype(target))?;
    let value = device_tensor(tensor, device);
    checkpoint.release(name);
    Ok(Param::new(name, shape, value))
}

/// Vectors (norms, biases) are kept in f32.
fn kept_in(compute: FloatDType, shape: &[usize]) -> FloatDType {
    if shape.len() == 1 {
        FloatDType::F32
    } else {
        compute
    }
}

/// How a model directory is written.
#[derive(Debug)]
pub(crate) struct SaveDirectory<'a> {
    /// The directory.
    pub(crate) directory: &'a Path,
    /// First part of the file names of the weights: `model`, or `diffusion_pytorch_model`.
    pub(crate) stem: &'a str,
    /// The content of `config.json`.
    pub(crate) config: &'a Value,
    /// Type of every tensor on disk.
    pub(crate) dtype: Dtype,
    /// Largest size of one file in bytes.
    pub(crate) max_shard_bytes: u64,
}

impl SaveDirectory<'_> {
    /// Writes `tensors`, whose values `model` has, and then `config.json`. Shards of an earlier save are removed.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write(&self, model: &dyn Parameters, tensors: Tensors) -> Result<(), ModelError> {
        let file = self.directory.join("config.json");
        let write = |source| ModelError::Write {
            file: file.clone(),
            source,
        };
        std::fs::create_dir_all(self.directory).map_err(write)?;
        let mut params = BTreeMap::new();
        model.visit(&mut |param| {
            params.insert(param.name().to_owned(), param.clone());
        });
        let specs: Vec<TensorSpec> = tensors
            .into_iter()
            .map(|(name, shape)| TensorSpec {
                name,
                dtype: self.dtype,
                shape,
            })
            .collect();
        let options = SaveModel {
            stem: self.stem.to_owned(),
            max_shard_bytes: self.max_shard_bytes,
            ..SaveModel::default()
        };
        save_model(self.directory, &specs, &options, |spec| {
            host_tensor(&params[&spec.name], self.dtype)
        })?;
        self.remove_stale_shards().map_err(write)?;
        let text = format!("{:#}\n", self.config);
        let failed = |source| WeightsError::Io {
            action: "write",
            file: file.clone(),
            source,
        };
        write_atomically(&file, |out| out.write_all(text.as_bytes()).map_err(failed))?;
        Ok(())
    }

    /// Removes shards that the new index does not name: readers skip them, uploads would not.
    fn remove_stale_shards(&self) -> std::io::Result<()> {
        let index = format!("{}.safetensors.index.json", self.stem);
        let index = std::fs::read_to_string(self.directory.join(index)).unwrap_or_default();
        let start = format!("{}-", self.stem);
        for entry in std::fs::read_dir(self.directory)? {
            let name = entry?.file_name();
            let shard = name
                .to_str()
                .filter(|name| name.starts_with(&start) && name.ends_with(".safetensors"));
            if let Some(name) = shard.filter(|name| !index.contains(*name)) {
                std::fs::remove_file(self.directory.join(name))?;
            }
        }
        Ok(())
    }
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

/// The type on disk of values that are `dtype` in memory.
pub(crate) fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}
