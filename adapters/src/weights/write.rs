//! Writing safetensors files: whole or not at all, and byte for byte as the reference library.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::host::byte_count;
use super::shard_plan::TensorSpec;
use super::{HostTensor, WeightsError};

/// Writes `tensors` to the file `path`.
///
/// The bytes are those of the reference library: tensors ordered by falling dtype width, then by
/// name, a header padded with blanks to 8 bytes. `metadata` is free-form text; `format` = `pt` is
/// what other tools look for. The file appears whole or not at all (see [`write_atomically`]).
///
/// # Errors
/// [`WeightsError::Io`]; [`WeightsError::DuplicateTensor`] when a name is given twice.
///
/// ```
/// use std::collections::BTreeMap;
/// use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};
///
/// let directory = tempfile::tempdir()?;
/// let file = directory.path().join("model.safetensors");
/// let tensor = HostTensor::from_f32(Dtype::F32, vec![3], &[1.0, 2.0, 3.0])?;
/// let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
/// save_safetensors(&file, &[("norm.weight".to_owned(), tensor)], &metadata)?;
/// assert_eq!(Checkpoint::open(&file)?.read_f32("norm.weight")?, [1.0, 2.0, 3.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save_safetensors(
    path: &Path,
    tensors: &[(String, HostTensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let by_name: BTreeMap<&str, &HostTensor> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, tensor)| TensorSpec::of(name, tensor))
        .collect();
    let header = header_bytes(path, &mut specs, metadata)?;
    write_atomically(path, |out| {
        out.write_all(&header)
            .map_err(WeightsError::io("write", path))?;
        for tensor in specs
            .iter()
            .filter_map(|spec| by_name.get(spec.name.as_str()))
        {
            out.write_all(tensor.data())
                .map_err(WeightsError::io("write", path))?;
        }
        Ok(())
    })
}

/// Length prefix and header for `specs`, which come out in file order.
pub(crate) fn header_bytes(
    path: &Path,
    specs: &mut [TensorSpec],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, WeightsError> {
    specs.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let mut seen = BTreeSet::new();
    let mut parts = Vec::with_capacity(specs.len() + 1);
    if !metadata.is_empty() {
        parts.push(format!("\"__metadata__\":{}", serde_json::json!(metadata)));
    }
    let mut start = 0_usize;
    for spec in specs.iter() {
        if !seen.insert(spec.name.as_str()) {
            let (file, tensor) = (path.to_owned(), spec.name.clone());
            return Err(WeightsError::DuplicateTensor { file, tensor });
        }
        let end = byte_count(spec.dtype, &spec.shape).and_then(|bytes| start.checked_add(bytes));
        let end = end.ok_or_else(|| WeightsError::ImpossibleSize {
            file: path.to_owned(),
            tensor: spec.name.clone(),
            dtype: spec.dtype,
            shape: spec.shape.iter().map(|size| *size as u64).collect(),
        })?;
        let (name, shape) = (serde_json::json!(spec.name), serde_json::json!(spec.shape));
        let dtype = spec.dtype;
        parts.push(format!(
            "{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{start},{end}]}}"
        ));
        start = end;
    }
    let mut text = format!("{{{}}}", parts.join(",")).into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok(header)
}

/// Writes a file so that `path` holds either its old content or all of the new, whatever happens:
/// written beside, synced, renamed, and the directory synced.
///
/// # Errors
/// [`WeightsError::Io`], or what `content` returns; nothing of the attempt stays on disk.
pub fn write_atomically(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> Result<(), WeightsError>,
) -> Result<(), WeightsError> {
    let temporary = beside(path);
    let outcome = write_synced(&temporary, content).and_then(|()| {
        std::fs::rename(&temporary, path).map_err(WeightsError::io("rename into place", path))
    });
    if outcome.is_err() {
        // The first error is the one to report; a file left behind is only untidy.
        let _ = std::fs::remove_file(&temporary);
        return outcome;
    }
    sync_directory(path)
}

fn write_synced(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> Result<(), WeightsError>,
) -> Result<(), WeightsError> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut out =
        BufWriter::with_capacity(1 << 20, file.map_err(WeightsError::io("create", path))?);
    content(&mut out)?;
    out.flush().map_err(WeightsError::io("write", path))?;
    out.get_ref()
        .sync_all()
        .map_err(WeightsError::io("sync", path))
}

/// A name in the same directory that nobody else uses.
fn beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{number}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Makes the rename itself durable, where directories can be synced.
fn sync_directory(path: &Path) -> Result<(), WeightsError> {
    if !cfg!(unix) {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let directory = File::open(parent).map_err(WeightsError::io("open", parent))?;
    directory
        .sync_all()
        .map_err(WeightsError::io("sync", parent))
}
