//! What frozen networks made of images and prompts, kept in memory and on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde_json::Value;
use sha2::{Digest, Sha256};
use temper_adapters::Parameters;
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};

use crate::Failure;
use crate::run::{hex, note};

/// Entries kept in memory; the others are read again from disk.
const IN_MEMORY: usize = 512;

/// Values on the host by name, with shapes.
pub(super) type Entry = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Results of one frozen network, by a key that says what it was given.
#[derive(Debug)]
pub(super) struct TensorCache {
    /// `None` keeps them in memory alone.
    directory: Option<PathBuf>,
    memory: BTreeMap<String, Arc<Entry>>,
}

impl TensorCache {
    /// Results lie in `directory`, under the fingerprint of the network that made them.
    pub(super) fn new(directory: Option<&Path>, network: &str) -> Self {
        Self {
            directory: directory.map(|directory| directory.join(network)),
            memory: BTreeMap::new(),
        }
    }

    /// The entry under `key`, made and kept when there is none. What cannot be read is made again.
    pub(super) fn get(
        &mut self,
        key: &str,
        make: impl FnOnce() -> Result<Entry, Failure>,
    ) -> Result<Arc<Entry>, Failure> {
        if let Some(entry) = self.memory.get(key) {
            return Ok(entry.clone());
        }
        let file = self
            .directory
            .as_ref()
            .map(|directory| directory.join(format!("{key}.safetensors")));
        let entry = match file.as_deref().map(read) {
            Some(Stored::Whole(entry)) => entry,
            stored => {
                if let (Some(Stored::Damaged), Some(file)) = (stored, &file) {
                    note(&format!(
                        "`{}` is damaged and is made again",
                        file.display()
                    ));
                }
                let entry = make()?;
                if let Some(file) = &file {
                    write(file, &entry)?;
                }
                entry
            }
        };
        let entry = Arc::new(entry);
        if self.directory.is_none() || self.memory.len() < IN_MEMORY {
            self.memory.insert(key.to_owned(), entry.clone());
        }
        Ok(entry)
    }
}

/// What lies at the place of an entry.
#[derive(Debug, PartialEq)]
enum Stored {
    Nothing,
    Damaged,
    Whole(Entry),
}

/// The key of a file's metadata with the hash of its values: training on flipped bits would not be noticed otherwise.
const HASH: &str = "sha256";

fn read(file: &Path) -> Stored {
    if !file.exists() {
        return Stored::Nothing;
    }
    let read = || {
        let checkpoint = Checkpoint::open(file).ok()?;
        let mut entry = Entry::new();
        for name in checkpoint.names() {
            let tensor = checkpoint.read(name).ok()?;
            let values = tensor.to_f32().ok()?;
            entry.insert(name.to_owned(), (tensor.shape().to_vec(), values));
        }
        (checkpoint.metadata().get(HASH)? == &hash(&entry)).then_some(entry)
    };
    read().map_or(Stored::Damaged, Stored::Whole)
}

fn hash(entry: &Entry) -> String {
    let mut hasher = Sha256::new();
    for (name, (shape, values)) in entry {
        hasher.update(format!("{name}{shape:?}"));
        for value in values {
            hasher.update(value.to_le_bytes());
        }
    }
    hex(&hasher.finalize())
}

fn write(file: &Path, entry: &Entry) -> Result<(), Failure> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let tensors = entry
        .iter()
        .map(|(name, (shape, values))| {
            let tensor = HostTensor::from_f32(Dtype::F32, shape.clone(), values)?;
            Ok((name.clone(), tensor))
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let metadata = BTreeMap::from([(HASH.to_owned(), hash(entry))]);
    Ok(save_safetensors(file, &tensors, &metadata)?)
}

/// A tensor on the host.
pub(super) fn host<const D: usize>(tensor: Tensor<D>) -> (Vec<usize>, Vec<f32>) {
    let shape = tensor.dims().to_vec();
    let values = tensor
        .cast(FloatDType::F32)
        .into_data()
        .iter::<f32>()
        .collect();
    (shape, values)
}

/// A tensor of an entry on a device.
pub(super) fn device<const D: usize>(
    entry: &Entry,
    name: &str,
    on: &Device,
) -> Result<Tensor<D>, Failure> {
    let missing = || {
        Failure::run(format!("the cache has no `{name}`"))
            .with_hint("remove `cache/` from the run directory")
    };
    let (shape, values) = entry.get(name).ok_or_else(missing)?;
    let shape: [usize; D] = shape.as_slice().try_into().map_err(|_| missing())?;
    Ok(Tensor::from_data(
        TensorData::new(values.clone(), shape),
        on,
    ))
}

/// A name for a text or for pixels.
pub(super) fn key(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize()[..16])
}

/// A name for a network: the hash of its configuration and all its values.
pub(super) fn fingerprint(network: &dyn Parameters, config: &Value) -> String {
    let mut hasher = Sha256::new();
    hasher.update(config.to_string());
    network.visit(&mut |param| {
        hasher.update(param.name().as_bytes());
        hasher.update(param.plain().into_data().as_bytes());
    });
    hex(&hasher.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: f32) -> Entry {
        [("x".to_owned(), (vec![1, 2], vec![value, 2.0]))].into()
    }

    #[test]
    fn results_are_made_once_and_survive_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let mut made = 0;
        for _ in 0..2 {
            let mut cache = TensorCache::new(Some(directory.path()), "net");
            for _ in 0..2 {
                let found = cache
                    .get("a", || {
                        made += 1;
                        Ok(entry(1.5))
                    })
                    .unwrap();
                let x: Tensor<2> = device(&found, "x", &Device::flex()).unwrap();
                assert_eq!(host(x).1, [1.5, 2.0]);
            }
        }
        assert_eq!(made, 1);
        let mut other = TensorCache::new(Some(directory.path()), "other");
        assert_eq!(other.get("a", || Ok(entry(7.0))).unwrap()["x"].1[0], 7.0);
    }

    #[test]
    fn a_damaged_file_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("net")).unwrap();
        let file = directory.path().join("net/a.safetensors");
        std::fs::write(&file, b"nonsense").unwrap();
        let mut cache = TensorCache::new(Some(directory.path()), "net");
        assert_eq!(*cache.get("a", || Ok(entry(3.0))).unwrap(), entry(3.0));
        assert_eq!(read(&file), Stored::Whole(entry(3.0)));
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_the_entry_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("net/a.safetensors");
        let get = |value: f32| {
            let mut cache = TensorCache::new(Some(directory.path()), "net");
            cache.get("a", || Ok(entry(value))).unwrap()["x"].1[0]
        };
        assert_eq!((get(3.0), get(4.0)), (3.0, 3.0));
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!((get(5.0), get(6.0)), (5.0, 5.0));
    }
}
