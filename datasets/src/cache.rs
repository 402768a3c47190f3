//! The token cache: one safetensors file per prepared data set.
//!
//! The file is named after the fingerprint of everything that decides about its contents, so it is never
//! stale. It carries a checksum, so a damaged one is noticed and made again. It is written beside its place
//! and renamed, so a half-written one is never found.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bytes::{hash_part, hex};
use crate::dataset::Dataset;
use crate::report::DataReport;

/// Changes whenever the same files and settings would give other ids or another file.
pub(crate) const VERSION: u32 = 1;

const DIRECTORY: &str = ".temper-cache";

/// Name of the only metadata entry; with several, their order in the file would be random.
const LABEL: &str = "temper_token_cache";

/// What the metadata of a cache file say.
#[derive(Serialize, Deserialize)]
struct Label {
    fingerprint: String,
    /// Over the tensors and the report.
    checksum: String,
    /// A [`DataReport`] as JSON.
    report: String,
}

/// Where the cache of one data set is.
#[derive(Debug)]
pub(crate) struct CacheSlot {
    path: PathBuf,
    fingerprint: String,
}

impl CacheSlot {
    pub(crate) fn new(directory: Option<&Path>, files: &[PathBuf], fingerprint: &str) -> Self {
        let directory = directory.map_or_else(
            || {
                files
                    .first()
                    .and_then(|file| file.parent())
                    .unwrap_or(Path::new(""))
                    .join(DIRECTORY)
            },
            Path::to_path_buf,
        );
        let name = format!(
            "{}.safetensors",
            fingerprint.get(..32).unwrap_or(fingerprint)
        );
        Self {
            path: directory.join(name),
            fingerprint: fingerprint.to_owned(),
        }
    }

    /// The cached data set; nothing if there is none, a reason if it is damaged.
    pub(crate) fn load(&self) -> Result<Option<Dataset>, String> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.says(&error)),
        };
        self.parse(&bytes)
            .map(Some)
            .map_err(|reason| self.says(&reason))
    }

    fn parse(&self, bytes: &[u8]) -> Result<Dataset, String> {
        let text = |error: safetensors::SafeTensorError| error.to_string();
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(text)?;
        let label = header
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(LABEL));
        let label = label.ok_or("it is no token cache")?;
        let label: Label = serde_json::from_str(label).map_err(|error| error.to_string())?;
        if label.fingerprint != self.fingerprint {
            return Err("it belongs to other data".into());
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(text)?;
        let data = |name: &str, dtype: Dtype| {
            let tensor = tensors.tensor(name).map_err(text)?;
            if tensor.dtype() == dtype {
                Ok(tensor.data())
            } else {
                Err(format!("`{name}` is no {dtype:?}"))
            }
        };
        let parts = [data("input_ids", Dtype::U32)?, data("labels", Dtype::I32)?];
        let offsets = data("offsets", Dtype::U64)?;
        if label.checksum != checksum(&[parts[0], parts[1], offsets, label.report.as_bytes()]) {
            return Err("its checksum is wrong".into());
        }
        let report: DataReport =
            serde_json::from_str(&label.report).map_err(|error| error.to_string())?;
        let dataset = Dataset {
            input_ids: numbers(parts[0], u32::from_le_bytes),
            labels: numbers(parts[1], i32::from_le_bytes),
            offsets: numbers(offsets, u64::from_le_bytes),
            report,
        };
        if is_consistent(&dataset) {
            Ok(dataset)
        } else {
            Err("its parts do not fit together".into())
        }
    }

    /// Writes the data set beside its place, makes sure that it is on disk, and moves it there.
    pub(crate) fn save(&self, dataset: &Dataset) -> Result<(), String> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(|error| self.says(&error))?;
        let temporary = self
            .path
            .with_extension(format!("{}.tmp", std::process::id()));
        let outcome = self.write(dataset, &temporary, directory);
        if outcome.is_err() {
            // The reason of the first failure is the one that matters.
            let _ = fs::remove_file(&temporary);
        }
        outcome
    }

    fn write(&self, dataset: &Dataset, temporary: &Path, directory: &Path) -> Result<(), String> {
        let report = serde_json::to_string(&dataset.report).map_err(|error| self.says(&error))?;
        let ids: &[u8] = bytemuck::cast_slice(&dataset.input_ids);
        let labels: &[u8] = bytemuck::cast_slice(&dataset.labels);
        let offsets: &[u8] = bytemuck::cast_slice(&dataset.offsets);
        let label = Label {
            fingerprint: self.fingerprint.clone(),
            checksum: checksum(&[ids, labels, offsets, report.as_bytes()]),
            report,
        };
        let label = serde_json::to_string(&label).map_err(|error| self.says(&error))?;
        let metadata = HashMap::from([(LABEL.to_owned(), label)]);
        let view = |dtype, length, bytes| TensorView::new(dtype, vec![length], bytes);
        let tensors = [
            ("input_ids", view(Dtype::U32, dataset.input_ids.len(), ids)),
            ("labels", view(Dtype::I32, dataset.labels.len(), labels)),
            ("offsets", view(Dtype::U64, dataset.offsets.len(), offsets)),
        ];
        let mut views = Vec::with_capacity(tensors.len());
        for (name, tensor) in tensors {
            views.push((name, tensor.map_err(|error| self.says(&error))?));
        }
        serialize_to_file(views, Some(metadata), temporary).map_err(|error| self.says(&error))?;
        let synced = File::open(temporary)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(temporary, &self.path))
            .and_then(|()| sync_directory(directory));
        synced.map_err(|error| self.says(&error))
    }

    fn says(&self, reason: &dyn std::fmt::Display) -> String {
        format!("`{}`: {reason}", self.path.display())
    }
}

/// Makes sure that a renamed file keeps its name.
#[cfg(unix)]
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> std::io::Result<()> {
    Ok(())
}

/// The numbers in the bytes of a tensor, which safetensors stores with the lowest byte first.
fn numbers<T, const WIDTH: usize>(bytes: &[u8], number: fn([u8; WIDTH]) -> T) -> Vec<T> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| number(*bytes))
        .collect()
}

fn checksum(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hash_part(&mut hasher, part);
    }
    hex(&hasher.finalize())
}

fn is_consistent(dataset: &Dataset) -> bool {
    let offsets = &dataset.offsets;
    dataset.input_ids.len() == dataset.labels.len()
        && offsets.len() > 1
        && offsets.first() == Some(&0)
        && offsets.last() == Some(&(dataset.input_ids.len() as u64))
        && offsets.windows(2).all(|pair| pair[0] < pair[1])
}
