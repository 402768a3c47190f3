//! The directory of one evaluation.
//!
//! | file | content |
//! |---|---|
//! | `config.json` | everything that determines the numbers ([`EvalConfig`]) |
//! | `traces.jsonl` | one row a problem ([`Trace`](super::Trace)), in the order of the problems once all are done |
//! | `summary.json` | what they add up to; there when all are done |
//! | `report.html` | the same for people, confusing cases first |

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::{CONFIG, read_config};
use super::{EvalConfig, EvalError};
use crate::run::{LOCK, RunError, RunLock, note, write_atomic};

const TRACES: &str = "traces.jsonl";
const SUMMARY: &str = "summary.json";
const REPORT: &str = "report.html";

/// A locked evaluation directory.
#[derive(Debug)]
pub(crate) struct OutputDir {
    path: PathBuf,
    _lock: RunLock,
}

impl OutputDir {
    /// Begins an evaluation in a directory that does not exist or is empty, or goes on with one of the same configuration.
    pub(crate) fn open(path: &Path, config: &EvalConfig) -> Result<Self, EvalError> {
        let directory = Self::lock(path)?;
        match read_config(path)? {
            None => directory.write_json(CONFIG, config)?,
            Some(old) => {
                let changes = config.changes_since(&old);
                if !changes.is_empty() {
                    return Err(EvalError::Changed {
                        path: path.to_path_buf(),
                        changes,
                    });
                }
                if config.info.device != old.info.device {
                    let (old, new) = (&old.info.device, &config.info.device);
                    note(&format!(
                        "begun on `{old}`, goes on on `{new}`: devices round differently"
                    ));
                }
            }
        }
        Ok(directory)
    }

    /// The same, whatever the configuration of what is there.
    fn lock(path: &Path) -> Result<Self, EvalError> {
        // Nothing is left in a directory that is not ours.
        if !path.join(CONFIG).exists() && !is_empty(path)? {
            return Err(EvalError::NotAnEvaluation {
                path: path.to_path_buf(),
            });
        }
        std::fs::create_dir_all(path).map_err(|source| RunError::io("create", path, source))?;
        Ok(Self {
            path: path.to_path_buf(),
            _lock: RunLock::acquire(path)?,
        })
    }

    /// The file that grows.
    pub(crate) fn traces(&self) -> PathBuf {
        self.path.join(TRACES)
    }

    /// Writes what makes an evaluation complete; the summary comes last.
    pub(crate) fn complete(&self, summary: &impl Serialize, report: &str) -> Result<(), EvalError> {
        write_atomic(&self.path.join(REPORT), report.as_bytes())?;
        Ok(self.write_json(SUMMARY, summary)?)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), RunError> {
        let path = self.path.join(name);
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| RunError::Encode {
            path: path.clone(),
            source,
        })?;
        bytes.push(b'\n');
        write_atomic(&path, &bytes)
    }
}

/// An evaluation that is done, to merge or compare.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) path: PathBuf,
    pub(crate) config: EvalConfig,
}

impl Finished {
    /// Reads the configuration of an evaluation and checks that all its problems are done.
    pub(crate) fn open(path: &Path) -> Result<Self, EvalError> {
        let missing = |file, advice| EvalError::Missing {
            path: path.to_path_buf(),
            file,
            advice,
        };
        let config = read_config(path)?
            .ok_or_else(|| missing(CONFIG, "name the `--output` of a `temper eval`"))?;
        if !path.join(SUMMARY).is_file() {
            return Err(missing(SUMMARY, "run its command again to finish it"));
        }
        Ok(Self {
            path: path.to_path_buf(),
            config,
        })
    }

    pub(crate) fn traces(&self) -> PathBuf {
        self.path.join(TRACES)
    }
}

/// Whether a directory is absent, or holds nothing but what a start that was killed leaves.
fn is_empty(path: &Path) -> Result<bool, RunError> {
    let left = |name: std::ffi::OsString| {
        name == LOCK || name.to_string_lossy().starts_with(".tmp-write-")
    };
    match std::fs::read_dir(path) {
        Ok(entries) => Ok(entries.flatten().all(|entry| left(entry.file_name()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(RunError::io("list", path, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;

    #[test]
    fn other_settings_and_other_contents_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new/eval");
        drop(OutputDir::open(&path, &config()).unwrap());
        drop(OutputDir::open(&path, &config()).unwrap());
        let mut other = config();
        other.dtype = "bf16".to_owned();
        let error = OutputDir::open(&path, &other).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`dtype` was \"f32\", is \"bf16\""),
            "{error}"
        );
        let foreign = parent.path().join("foreign");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join("thesis.tex"), "x").unwrap();
        assert!(matches!(
            OutputDir::open(&foreign, &config()),
            Err(EvalError::NotAnEvaluation { .. })
        ));
        assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);
    }

    #[test]
    fn two_processes_do_not_write_the_same_evaluation() {
        let parent = tempfile::tempdir().unwrap();
        let _first = OutputDir::open(parent.path(), &config()).unwrap();
        assert!(matches!(
            OutputDir::open(parent.path(), &config()),
            Err(EvalError::InUse { .. })
        ));
    }

    #[test]
    fn only_a_finished_evaluation_can_be_used() {
        let parent = tempfile::tempdir().unwrap();
        let error = Finished::open(parent.path()).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
        let directory = OutputDir::open(parent.path(), &config()).unwrap();
        let error = Finished::open(parent.path()).unwrap_err();
        assert!(error.to_string().contains("to finish it"), "{error}");
        directory.complete(&1, "<!doctype html>").unwrap();
        assert!(Finished::open(parent.path()).is_ok());
    }
}
