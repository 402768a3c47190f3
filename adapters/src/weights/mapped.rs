//! One safetensors file, mapped into memory.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::WeightsError;
use super::header::{self, Header};

/// A mapped file with a checked header. Pages are read when touched.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) path: Arc<Path>,
    pub(crate) header: Header,
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps `path` and checks its header; no tensor data is read.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        // Asked before opening: opening a pipe would wait for its writer.
        let status = std::fs::metadata(path).map_err(WeightsError::io("open", path))?;
        if !status.is_file() {
            return Err(WeightsError::NotAFile {
                file: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(WeightsError::io("open", path))?;
        let map = if status.len() == 0 {
            None
        } else {
            Some(map(path, &file)?)
        };
        let header = header::parse(path, map.as_deref().unwrap_or_default())?;
        Ok(Self {
            path: path.into(),
            header,
            map,
        })
    }

    /// The bytes of `span`, which comes from this file's header.
    pub(crate) fn bytes(&self, span: Range<usize>) -> &[u8] {
        self.map
            .as_deref()
            .and_then(|map| map.get(span))
            .unwrap_or_default()
    }

    /// Tells the system that the pages of `span` are not needed now; they can be read again.
    pub(crate) fn release(&self, span: &Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = self.map.as_ref().filter(|_| !span.is_empty()) {
            drop_pages(map, span);
        }
        #[cfg(not(unix))]
        let _ = span;
    }
}

#[expect(
    unsafe_code,
    reason = "mapping a file is unsafe because another process may change it"
)]
fn map(path: &Path, file: &File) -> Result<Mmap, WeightsError> {
    // SAFETY: the map is read-only and private to this value. Were another process to shorten the
    // file, reading would raise a signal, not corrupt memory; every writer in this crate replaces
    // files by renaming, which leaves the mapped file whole.
    unsafe { Mmap::map(file) }.map_err(WeightsError::io("map", path))
}

#[cfg(unix)]
#[expect(
    unsafe_code,
    reason = "dropping pages is unsafe for writable maps, which this is not"
)]
fn drop_pages(map: &Mmap, span: &Range<usize>) {
    // SAFETY: the map is read-only and backed by a file: dropped pages come back with the same
    // content on the next access. Failure only means that the pages stay.
    let _ = unsafe {
        map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, span.start, span.len())
    };
}
