//! Shards into one evaluation, as if it had been made in one go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::config::{EvalConfig, Shard};
use super::directory::{Finished, OutputDir};
use super::perplexity::{self, PerplexitySummary, RowLoss};
use super::solve;
use super::summary::Summary;
use super::traces::{Indexed, Trace, read_traces, write_traces};
use super::{EvalError, PERPLEXITY};

/// What an evaluation ends with.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// Graded completions.
    Graded(Box<Summary>),
    /// A loss.
    Perplexity(PerplexitySummary),
}

/// Joins the shards in `paths` into a new evaluation in `output`.
///
/// # Errors
/// [`EvalError::Shards`] if they are not all shards of one evaluation, each there once and finished, or if their rows overlap;
/// or whatever keeps a file from being read or written.
pub fn merge(paths: &[PathBuf], output: &Path) -> Result<Outcome, EvalError> {
    let shards: Vec<Finished> = paths
        .iter()
        .map(|path| Finished::open(path))
        .collect::<Result<_, _>>()?;
    let config = one_config(&shards)?;
    if config.task == PERPLEXITY {
        let rows = joined::<RowLoss>(&shards)?;
        let directory = fresh(output, &config, &rows)?;
        let summary = perplexity::complete(rows, &config, &directory)?;
        return Ok(Outcome::Perplexity(summary));
    }
    let rows = joined::<Trace>(&shards)?;
    let directory = fresh(output, &config, &rows)?;
    let summary = solve::complete(&rows, &config, &directory)?;
    Ok(Outcome::Graded(Box::new(summary)))
}

fn fresh<T: Indexed>(
    output: &Path,
    config: &EvalConfig,
    rows: &[T],
) -> Result<OutputDir, EvalError> {
    let directory = OutputDir::open(output, config)?;
    write_traces(&directory.traces(), rows)?;
    Ok(directory)
}

/// The configuration of the whole, after checking that every part is there once.
fn one_config(shards: &[Finished]) -> Result<EvalConfig, EvalError> {
    let wrong = |reason: String| Err(EvalError::Shards { reason });
    let Some(first) = shards.first() else {
        return wrong("none is given".to_owned());
    };
    let whole = |config: &EvalConfig| EvalConfig {
        shard: Shard::default(),
        ..config.clone()
    };
    let config = whole(&first.config);
    let count = first.config.shard.count;
    let mut seen = BTreeMap::new();
    for shard in shards {
        let (path, place) = (&shard.path, shard.config.shard);
        let changes = whole(&shard.config).changes_since(&config);
        if !changes.is_empty() {
            return wrong(format!(
                "`{}` has other settings than `{}`: {}",
                path.display(),
                first.path.display(),
                changes.join("; ")
            ));
        }
        if place.count != count {
            return wrong(format!(
                "`{}` is one of {}, `{}` one of {count}",
                path.display(),
                place.count,
                first.path.display()
            ));
        }
        if let Some(other) = seen.insert(place.index, path) {
            return wrong(format!(
                "`{}` and `{}` are both shard {}/{count}",
                other.display(),
                path.display(),
                place.index
            ));
        }
    }
    let missing: Vec<String> = (0..count)
        .filter(|index| !seen.contains_key(index))
        .map(|index| format!("{index}/{count}"))
        .collect();
    if missing.is_empty() {
        Ok(config)
    } else {
        wrong(format!("{} is missing", missing.join(", ")))
    }
}

/// All rows in the order of the problems, after checking that each shard has its own.
fn joined<T: Indexed>(shards: &[Finished]) -> Result<Vec<T>, EvalError> {
    let mut rows: BTreeMap<u64, T> = BTreeMap::new();
    for shard in shards {
        let wrong = |reason: String| EvalError::Shards {
            reason: format!("`{}` {reason}", shard.path.display()),
        };
        let found = read_traces::<T>(&shard.traces())?;
        let expected = shard.config.shard.size(shard.config.data.problems);
        if found.len() as u64 != expected {
            return Err(wrong(format!("has {} of its {expected} rows", found.len())));
        }
        let known: BTreeSet<u64> = rows.keys().copied().collect();
        if let Some(index) = found.keys().find(|index| known.contains(index)) {
            return Err(wrong(format!(
                "has problem {index}, and so has another shard"
            )));
        }
        rows.extend(found);
    }
    Ok(rows.into_values().collect())
}
