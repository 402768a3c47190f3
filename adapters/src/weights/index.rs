//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{IndexProblem, WeightsError};

/// Far above any real index (a million tensors), far below what would hurt.
const MAX_INDEX: u64 = 256 * 1024 * 1024;

/// A parsed index: shard names, and the tensors expected in each.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) shards: BTreeMap<String, Vec<String>>,
    pub(crate) problems: Vec<IndexProblem>,
}

/// Reads the index and finds every contradiction that is visible in it alone.
pub(crate) fn read(file: &Path) -> Result<Index, WeightsError> {
    let text = read_limited(file, MAX_INDEX)?;
    let raw: RawIndex =
        serde_json::from_slice(&text).map_err(|source| WeightsError::IndexJson {
            file: file.to_owned(),
            source,
        })?;
    let mut home: BTreeMap<String, String> = BTreeMap::new();
    let mut problems = Vec::new();
    for (tensor, shard) in raw.weight_map.0 {
        if let Some(first) = home.insert(tensor.clone(), shard.clone()) {
            problems.push(IndexProblem::InTwoShards {
                tensor,
                first,
                second: shard,
            });
        }
    }
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in home {
        shards.entry(shard).or_default().push(tensor);
    }
    Ok(Index { shards, problems })
}

/// Reads a small text file whole, refusing one larger than `limit` bytes.
pub(crate) fn read_limited(file: &Path, limit: u64) -> Result<Vec<u8>, WeightsError> {
    let status = std::fs::metadata(file).map_err(WeightsError::io("open", file))?;
    if !status.is_file() {
        return Err(WeightsError::NotAFile {
            file: file.to_owned(),
        });
    }
    if status.len() > limit {
        let length = status.len();
        return Err(WeightsError::TooLarge {
            file: file.to_owned(),
            length,
            limit,
        });
    }
    std::fs::read(file).map_err(WeightsError::io("read", file))
}

/// The path of `shard` below `directory`, if it stays there.
///
/// Links are followed: a download cache keeps `snapshots/<revision>/<name>` as links into the
/// `blobs` folder of the same repository, so that folder counts as inside.
pub(crate) fn locate(directory: &Path, shard: &str) -> Result<PathBuf, IndexProblem> {
    let outside = || IndexProblem::OutsideDirectory {
        shard: shard.to_owned(),
    };
    let relative = Path::new(shard);
    let plain = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    // A backslash is a separator elsewhere; no real shard has one.
    if shard.is_empty() || !plain || shard.contains(['\\', '\0']) {
        return Err(outside());
    }
    let path = directory.join(relative);
    let missing = |_| IndexProblem::MissingShard {
        shard: shard.to_owned(),
    };
    let target = path.canonicalize().map_err(missing)?;
    let root = directory.canonicalize().map_err(missing)?;
    if target.starts_with(&root) || blobs_of(&root).is_some_and(|blobs| target.starts_with(blobs)) {
        return Ok(path);
    }
    Err(outside())
}

/// `…/blobs` when `root` is `…/snapshots/<revision>`.
fn blobs_of(root: &Path) -> Option<PathBuf> {
    let snapshots = root.parent()?;
    (snapshots.file_name()? == "snapshots").then(|| snapshots.with_file_name("blobs"))
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: Pairs,
}

/// A JSON object as a list, so that repeated keys are seen.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table from tensor name to shard file")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}
