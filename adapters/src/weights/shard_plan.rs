//! How tensors are spread over the shards of a large model.

use safetensors::Dtype;

use super::HostTensor;
use super::host::byte_count;

/// Announces a tensor that will be saved: name, type and shape.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Full name in the checkpoint.
    pub name: String,
    /// Element type on disk.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// The announcement of `tensor` under `name`.
    pub fn of(name: &str, tensor: &HostTensor) -> Self {
        Self {
            name: name.to_owned(),
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
        }
    }

    /// Size on disk; `None` when it cannot be counted.
    pub fn bytes(&self) -> Option<usize> {
        byte_count(self.dtype, &self.shape)
    }

    pub(crate) fn describe(dtype: Dtype, shape: &[usize]) -> String {
        format!("{dtype} {shape:?}")
    }
}

/// Cuts `specs` into shards of at most `limit` bytes, in the given order; a tensor above the limit
/// gets a shard of its own.
pub(crate) fn split(specs: &[TensorSpec], limit: u64) -> Vec<Vec<TensorSpec>> {
    let mut shards: Vec<Vec<TensorSpec>> = Vec::new();
    let mut filled = 0;
    for spec in specs {
        let bytes = spec.bytes().unwrap_or_default() as u64;
        match shards.last_mut() {
            Some(shard) if filled + bytes <= limit => {
                shard.push(spec.clone());
                filled += bytes;
            }
            _ => {
                shards.push(vec![spec.clone()]);
                filled = bytes;
            }
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, length: usize) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            dtype: Dtype::U8,
            shape: vec![length],
        }
    }

    #[test]
    fn shards_keep_the_order_and_respect_the_limit() {
        let specs = [spec("a", 4), spec("b", 6), spec("c", 30), spec("d", 1)];
        let names: Vec<Vec<String>> = split(&specs, 10)
            .into_iter()
            .map(|shard| shard.into_iter().map(|spec| spec.name).collect())
            .collect();
        assert_eq!(names, [vec!["a", "b"], vec!["c"], vec!["d"]]);
    }
}
