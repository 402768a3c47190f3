//! Named tensors in and out.

use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, WeightsError};

use crate::Failure;

/// What is wrong with the input tensors.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("unknown input {}, expected {}", quoted(names), quoted(expected))]
    Unknown {
        names: Vec<String>,
        expected: &'static [&'static str],
    },
    #[error("no input {}: give {}", quoted(missing), what)]
    Missing {
        missing: &'static [&'static str],
        what: &'static str,
    },
    #[error("`{name}` has dtype {dtype}, expected {expected}")]
    Dtype {
        name: &'static str,
        dtype: Dtype,
        expected: &'static str,
    },
    #[error("`{name}` has shape {found:?}, expected {expected}")]
    Shape {
        name: &'static str,
        found: Vec<usize>,
        expected: String,
    },
    #[error("`{name}` is {value} at row {row}, column {column}, expected {expected}")]
    Value {
        name: &'static str,
        value: i64,
        row: usize,
        column: usize,
        expected: String,
    },
    #[error("`{name}` has values that are not finite")]
    NotFinite { name: &'static str },
    #[error(
        "`attention_mask` hides row {row}, column {column} between tokens that it shows; padding may only stand at the beginning \
         and the end of a row"
    )]
    Hole { row: usize, column: usize },
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        Self::run(error)
    }
}

fn quoted<S: AsRef<str>>(names: &[S]) -> String {
    let quoted = names.iter().map(|name| format!("`{}`", name.as_ref()));
    quoted.collect::<Vec<_>>().join(", ")
}

/// Opens a file of tensors all of whose names are among `expected`.
pub(super) fn open(path: &Path, expected: &'static [&'static str]) -> Result<Checkpoint, Failure> {
    let file = Checkpoint::open(path)?;
    let unknown: Vec<String> = file
        .names()
        .filter(|name| !expected.contains(name))
        .map(str::to_owned)
        .collect();
    if unknown.is_empty() {
        return Ok(file);
    }
    Err(InputError::Unknown {
        names: unknown,
        expected,
    }
    .into())
}

/// The float tensor `name` with D dimensions. `expected` says in words what they are; `fits` checks them.
pub(super) fn floats<const D: usize>(
    file: &Checkpoint,
    name: &'static str,
    expected: &str,
    fits: impl Fn(&[usize; D]) -> bool,
    device: &Device,
) -> Result<Tensor<D>, Failure> {
    let tensor = file.read(name)?;
    let shape: Result<[usize; D], _> = tensor.shape().try_into();
    let shape = shape
        .ok()
        .filter(|shape| !shape.contains(&0) && fits(shape));
    let Some(shape) = shape else {
        return Err(InputError::Shape {
            name,
            found: tensor.shape().to_vec(),
            expected: expected.to_owned(),
        }
        .into());
    };
    let values = numbers(name, &tensor)?;
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}

/// Finite numbers: floats of any width, or integers.
pub(super) fn numbers(name: &'static str, tensor: &HostTensor) -> Result<Vec<f32>, Failure> {
    let values = match tensor.dtype() {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64 => tensor.to_f32()?,
        Dtype::I64 | Dtype::I32 => integers(name, tensor)?
            .into_iter()
            .map(|value| value as f32)
            .collect(),
        dtype => {
            return Err(InputError::Dtype {
                name,
                dtype,
                expected: "F32, F16, BF16 or F64",
            }
            .into());
        }
    };
    if values.iter().all(|value| value.is_finite()) {
        return Ok(values);
    }
    Err(InputError::NotFinite { name }.into())
}

/// Integers of 64 or 32 bits; for a mask also bytes.
pub(super) fn integers(name: &'static str, tensor: &HostTensor) -> Result<Vec<i64>, Failure> {
    let data = tensor.data();
    Ok(match tensor.dtype() {
        Dtype::I64 => data
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| i64::from_le_bytes(*word))
            .collect(),
        Dtype::I32 => data
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| i32::from_le_bytes(*word).into())
            .collect(),
        Dtype::U8 | Dtype::BOOL if name == "attention_mask" => {
            data.iter().map(|&byte| byte.into()).collect()
        }
        dtype => {
            return Err(InputError::Dtype {
                name,
                dtype,
                expected: "I64 or I32",
            }
            .into());
        }
    })
}

/// Token ids `[rows, tokens]`.
pub(super) fn token_ids(file: &Checkpoint) -> Result<(Vec<u32>, [usize; 2]), Failure> {
    let ids = file.read("input_ids")?;
    let &[rows, tokens] = ids.shape() else {
        return Err(shape("input_ids", &ids, "[rows, tokens]".to_owned()));
    };
    if rows * tokens == 0 {
        return Err(shape("input_ids", &ids, "at least one token".to_owned()));
    }
    let range = Range {
        name: "input_ids",
        tokens,
        least: 0,
        most: i64::from(i32::MAX),
    };
    let ids = range.check(integers("input_ids", &ids)?)?;
    Ok((ids.iter().map(|&id| id as u32).collect(), [rows, tokens]))
}

pub(super) fn shape(name: &'static str, tensor: &HostTensor, expected: String) -> Failure {
    Failure::run(InputError::Shape {
        name,
        found: tensor.shape().to_vec(),
        expected,
    })
}

/// What the values of an input may be.
pub(super) struct Range {
    pub(super) name: &'static str,
    pub(super) tokens: usize,
    pub(super) least: i64,
    pub(super) most: i64,
}

impl Range {
    pub(super) fn check(&self, values: Vec<i64>) -> Result<Vec<i64>, Failure> {
        let Some(at) = values
            .iter()
            .position(|value| !(self.least..=self.most).contains(value))
        else {
            return Ok(values);
        };
        Err(Failure::run(InputError::Value {
            name: self.name,
            value: values[at],
            row: at / self.tokens,
            column: at % self.tokens,
            expected: format!("{} to {}", self.least, self.most),
        }))
    }
}

/// A tensor on a device under its output name, in f32 on the host.
pub(super) fn output<const D: usize>(
    name: impl Into<String>,
    tensor: Tensor<D>,
) -> Result<(String, HostTensor), WeightsError> {
    let shape = tensor.dims();
    let flat = tensor.reshape([shape.iter().product::<usize>()]);
    shaped_output(name, flat, shape.to_vec())
}

/// The same of flat values.
pub(super) fn shaped_output(
    name: impl Into<String>,
    values: Tensor<1>,
    shape: Vec<usize>,
) -> Result<(String, HostTensor), WeightsError> {
    let Ok(values) = values.cast(FloatDType::F32).into_data().try_to_vec::<f32>() else {
        unreachable!("cast to f32")
    };
    Ok((
        name.into(),
        HostTensor::from_f32(Dtype::F32, shape, &values)?,
    ))
}
