//! The header of a safetensors file, checked before any tensor is touched.
//!
//! Layout: 8 bytes little-endian header length `n`, `n` bytes of JSON, then the data.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::WeightsError;
use super::host::byte_count;

/// The format's own limit for the JSON part.
const MAX_HEADER: u64 = 100_000_000;
const LENGTH_BYTES: usize = 8;

/// A checked header.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: BTreeMap<String, Entry>,
}

/// One tensor: what it is and where its bytes lie in the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) span: Range<usize>,
}

/// Reads and checks the header of the file whose bytes are `bytes`.
pub(crate) fn parse(file: &Path, bytes: &[u8]) -> Result<Header, WeightsError> {
    let (text, data_start) = header_text(file, bytes)?;
    let raw: RawHeader = serde_json::from_str(text).map_err(|source| WeightsError::HeaderJson {
        file: file.to_owned(),
        source,
    })?;
    let mut tensors = BTreeMap::new();
    let mut placed = Vec::with_capacity(raw.tensors.len());
    for (name, entry) in raw.tensors {
        let (dtype, shape) = entry.layout(file, &name)?;
        placed.push((entry.data_offsets, name.clone()));
        let span = entry.data_offsets;
        if tensors.insert(name.clone(), (dtype, shape, span)).is_some() {
            return Err(WeightsError::DuplicateTensor {
                file: file.to_owned(),
                tensor: name,
            });
        }
    }
    check_coverage(file, placed, data_start, bytes.len())?;
    // The library is the second opinion: what it refuses, we refuse.
    SafeTensors::read_metadata(bytes).map_err(|source| WeightsError::Rejected {
        file: file.to_owned(),
        source,
    })?;
    let at = |offset: u64| data_start + offset as usize;
    let tensors = tensors
        .into_iter()
        .map(|(name, (dtype, shape, (start, end)))| {
            (
                name,
                Entry {
                    dtype,
                    shape,
                    span: at(start)..at(end),
                },
            )
        })
        .collect();
    Ok(Header {
        metadata: raw.metadata,
        tensors,
    })
}

fn header_text<'a>(file: &Path, bytes: &'a [u8]) -> Result<(&'a str, usize), WeightsError> {
    let actual = bytes.len() as u64;
    let truncated = |expected| WeightsError::Truncated {
        file: file.to_owned(),
        expected,
        actual,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(truncated(LENGTH_BYTES as u64));
    };
    let length = u64::from_le_bytes(*length);
    if !(2..=MAX_HEADER).contains(&length) {
        return Err(WeightsError::HeaderLength {
            file: file.to_owned(),
            length,
        });
    }
    let Some(text) = rest.get(..length as usize) else {
        return Err(truncated(LENGTH_BYTES as u64 + length));
    };
    let text = std::str::from_utf8(text).map_err(|source| WeightsError::HeaderUtf8 {
        file: file.to_owned(),
        source,
    })?;
    Ok((text, LENGTH_BYTES + length as usize))
}

/// Tensors must follow each other from the end of the header to the end of the file.
fn check_coverage(
    file: &Path,
    mut placed: Vec<((u64, u64), String)>,
    data_start: usize,
    actual: usize,
) -> Result<(), WeightsError> {
    placed.sort_unstable();
    let mut expected = 0;
    for ((start, end), tensor) in placed {
        if start != expected {
            return Err(WeightsError::Misplaced {
                file: file.to_owned(),
                tensor,
                start,
                expected,
            });
        }
        expected = end;
    }
    let (expected, actual) = (expected.saturating_add(data_start as u64), actual as u64);
    match expected.cmp(&actual) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(WeightsError::Truncated {
            file: file.to_owned(),
            expected,
            actual,
        }),
        std::cmp::Ordering::Less => Err(WeightsError::TrailingBytes {
            file: file.to_owned(),
            expected,
            actual,
        }),
    }
}

/// The header as written, duplicates and all.
struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawEntry)>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl RawEntry {
    fn layout(&self, file: &Path, tensor: &str) -> Result<(Dtype, Vec<usize>), WeightsError> {
        let dtype: Dtype = serde_json::from_value(self.dtype.as_str().into()).map_err(|_| {
            WeightsError::UnknownDtype {
                file: file.to_owned(),
                tensor: tensor.to_owned(),
                dtype: self.dtype.clone(),
            }
        })?;
        let shape: Option<Vec<usize>> = self
            .shape
            .iter()
            .map(|size| usize::try_from(*size).ok())
            .collect();
        let bytes = shape.as_deref().and_then(|shape| byte_count(dtype, shape));
        let (Some(shape), Some(bytes)) = (shape, bytes) else {
            return Err(WeightsError::ImpossibleSize {
                file: file.to_owned(),
                tensor: tensor.to_owned(),
                dtype,
                shape: self.shape.clone(),
            });
        };
        let (start, end) = self.data_offsets;
        if end.checked_sub(start) == Some(bytes as u64) {
            return Ok((dtype, shape));
        }
        Err(WeightsError::SizeMismatch {
            file: file.to_owned(),
            tensor: tensor.to_owned(),
            dtype,
            shape: self.shape.clone(),
            expected: bytes as u64,
            start,
            end,
        })
    }
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader {
            metadata: BTreeMap::new(),
            tensors: Vec::new(),
        };
        while let Some(name) = map.next_key::<String>()? {
            let named = |error: A::Error| A::Error::custom(format!("`{name}`: {error}"));
            if name == "__metadata__" {
                let metadata: Option<BTreeMap<String, String>> = map.next_value().map_err(named)?;
                header.metadata = metadata.unwrap_or_default();
            } else {
                let entry = map.next_value().map_err(named)?;
                header.tensors.push((name, entry));
            }
        }
        Ok(header)
    }
}
