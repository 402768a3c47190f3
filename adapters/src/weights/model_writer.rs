//! Saving a whole model, one tensor in memory at a time.

use std::collections::BTreeMap;
use std::path::Path;

use super::shard_plan::{TensorSpec, split};
use super::write::{header_bytes, write_atomically};
use super::{HostTensor, WeightsError};

/// How a model is laid out on disk.
#[derive(Debug, Clone)]
pub struct SaveModel {
    /// First part of the file names: `model` (default), or `diffusion_pytorch_model`.
    pub stem: String,
    /// Largest size of one file in bytes (default 5 GB). A larger tensor gets its own file.
    pub max_shard_bytes: u64,
    /// Free-form header texts (default `format` = `pt`).
    pub metadata: BTreeMap<String, String>,
}

impl Default for SaveModel {
    fn default() -> Self {
        Self {
            stem: "model".to_owned(),
            max_shard_bytes: 5_000_000_000,
            metadata: BTreeMap::from([("format".to_owned(), "pt".to_owned())]),
        }
    }
}

/// Writes a model to `directory`: `<stem>.safetensors` when it fits in one file, otherwise
/// `<stem>-00001-of-0000N.safetensors`… and `<stem>.safetensors.index.json`.
///
/// `specs` announces every tensor in model order; `produce` is then asked for each once, so that
/// only one is in memory at a time. Each file is written whole or not at all, the index last; the
/// other layout's leftovers (an index beside a new single file, or the reverse) are removed.
///
/// # Errors
/// [`WeightsError::Io`], [`WeightsError::DuplicateTensor`], [`WeightsError::Announced`] when a
/// tensor comes with another type or shape, and whatever `produce` returns (wrap foreign errors in
/// [`WeightsError::Producer`]).
///
/// ```
/// use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, SaveModel, TensorSpec, save_model};
///
/// let directory = tempfile::tempdir()?;
/// let spec = |name: &str| TensorSpec { name: name.into(), dtype: Dtype::F32, shape: vec![2] };
/// let options = SaveModel { max_shard_bytes: 8, ..SaveModel::default() };
/// save_model(directory.path(), &[spec("a"), spec("b")], &options, |spec| {
///     HostTensor::from_f32(spec.dtype, spec.shape.clone(), &[0.5, 1.5])
/// })?;
/// assert!(directory.path().join("model-00002-of-00002.safetensors").exists());
/// assert_eq!(Checkpoint::open(directory.path())?.read_f32("b")?, [0.5, 1.5]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save_model(
    directory: &Path,
    specs: &[TensorSpec],
    options: &SaveModel,
    mut produce: impl FnMut(&TensorSpec) -> Result<HostTensor, WeightsError>,
) -> Result<(), WeightsError> {
    std::fs::create_dir_all(directory).map_err(WeightsError::io("create", directory))?;
    let single = directory.join(format!("{}.safetensors", options.stem));
    let index = directory.join(format!("{}.safetensors.index.json", options.stem));
    // The whole header once, to find repeated names and impossible sizes before writing anything.
    header_bytes(directory, &mut specs.to_vec(), &options.metadata)?;
    let mut shards = split(specs, options.max_shard_bytes);
    if shards.len() <= 1 {
        let specs = shards.pop().unwrap_or_default();
        write_shard(&single, specs, &options.metadata, &mut produce)?;
        return remove(&index);
    }
    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0;
    for (number, shard) in (1..).zip(shards) {
        let name = format!("{}-{number:05}-of-{count:05}.safetensors", options.stem);
        total_size += shard.iter().filter_map(TensorSpec::bytes).sum::<usize>();
        weight_map.extend(shard.iter().map(|spec| (spec.name.clone(), name.clone())));
        write_shard(
            &directory.join(&name),
            shard,
            &options.metadata,
            &mut produce,
        )?;
    }
    let content = serde_json::json!({
        "metadata": { "total_size": total_size },
        "weight_map": weight_map,
    });
    write_atomically(&index, |out| {
        writeln!(out, "{content:#}").map_err(WeightsError::io("write", &index))
    })?;
    remove(&single)
}

fn write_shard(
    path: &Path,
    mut specs: Vec<TensorSpec>,
    metadata: &BTreeMap<String, String>,
    produce: &mut impl FnMut(&TensorSpec) -> Result<HostTensor, WeightsError>,
) -> Result<(), WeightsError> {
    let header = header_bytes(path, &mut specs, metadata)?;
    write_atomically(path, |out| {
        out.write_all(&header)
            .map_err(WeightsError::io("write", path))?;
        for spec in &specs {
            let tensor = produce(spec)?;
            if (tensor.dtype(), tensor.shape()) != (spec.dtype, spec.shape.as_slice()) {
                return Err(WeightsError::Announced {
                    tensor: spec.name.clone(),
                    expected: TensorSpec::describe(spec.dtype, &spec.shape),
                    actual: TensorSpec::describe(tensor.dtype(), tensor.shape()),
                });
            }
            out.write_all(tensor.data())
                .map_err(WeightsError::io("write", path))?;
        }
        Ok(())
    })
}

/// Removes a file that the new layout makes wrong, if it is there.
fn remove(path: &Path) -> Result<(), WeightsError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(WeightsError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
