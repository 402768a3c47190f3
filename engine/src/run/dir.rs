//! The layout of a run directory, and who may begin in it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::lock::LOCK;
use super::results::ADAPTERS;
use super::{CheckpointStore, RunError, RunLock, write_atomic};

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// In a directory that does not exist or is empty.
    Fresh,
    /// Over an earlier run, whose files are removed. Files that are not a run's stay.
    Overwrite,
    /// From the newest checkpoint of an earlier run; from the beginning if it has none yet.
    Resume,
}

/// A locked run directory.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let parent = tempfile::tempdir()?;
/// use temper_engine::run::{RunDir, RunMode};
///
/// let path = parent.path().join("my-run");
/// let run = RunDir::create(&path, RunMode::Fresh)?;
/// run.write_json(&run.summary(), &serde_json::json!({ "steps": 3 }))?;
/// drop(run);
/// assert!(RunDir::create(&path, RunMode::Fresh).is_err());
/// assert!(RunDir::create(&path, RunMode::Resume).is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: RunLock,
}

/// Everything a run writes, folders included. Only these are ever overwritten; `cache` stays, because its entries are named after
/// what they were made from.
const OWN: [&str; 21] = [
    "recipe.toml",
    "environment.json",
    "metrics.jsonl",
    "events",
    "curve.svg",
    "checkpoints",
    "evals",
    ADAPTERS[0],
    ADAPTERS[1],
    ADAPTERS[2],
    "control",
    "model",
    "samples",
    "feedback_log.json",
    "summary.json",
    "samples.json",
    "not_finite.json",
    "provenance.jsonl",
    "data.json",
    "data.jsonl",
    "questions.jsonl",
];

/// What tells a run directory from any other: a folder `checkpoints` or a recipe may be anybody's.
const MARKS: [&str; 2] = [LOCK, "environment.json"];

impl RunDir {
    /// Creates or takes over `path` for training, and locks it.
    ///
    /// # Errors
    /// [`RunError`] if another process holds it, if it is not what `mode` needs, or if it cannot be
    /// written. Nothing is removed unless `mode` is [`RunMode::Overwrite`].
    pub fn create(path: &Path, mode: RunMode) -> Result<Self, RunError> {
        let run = Self::claim(path, mode)?;
        for folder in [run.checkpoints(), run.events()] {
            fs::create_dir_all(&folder)
                .map_err(|source| RunError::io("create", &folder, source))?;
        }
        Ok(run)
    }

    /// The same for a run without checkpoints and events.
    ///
    /// # Errors
    /// As [`RunDir::create`].
    pub fn claim(path: &Path, mode: RunMode) -> Result<Self, RunError> {
        let is_run = MARKS.iter().any(|name| path.join(name).exists());
        if mode == RunMode::Resume && !is_run {
            return Err(RunError::NothingToResume {
                path: path.to_path_buf(),
            });
        }
        if mode != RunMode::Resume && !is_run && !is_empty(path)? {
            return Err(match mode {
                RunMode::Overwrite => RunError::NotARun {
                    path: path.to_path_buf(),
                },
                _ => RunError::NotEmpty {
                    path: path.to_path_buf(),
                },
            });
        }
        fs::create_dir_all(path).map_err(|source| RunError::io("create", path, source))?;
        let lock = RunLock::acquire(path)?;
        // Asked again under the lock: another process may have begun here in the meantime.
        if mode == RunMode::Fresh && !is_empty(path)? {
            return Err(RunError::NotEmpty {
                path: path.to_path_buf(),
            });
        }
        if mode == RunMode::Overwrite {
            for name in OWN {
                remove(&path.join(name))?;
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    /// Whether overwriting the run in `path` would remove `input`, or part of it: `input` is the run, or lies in what it wrote.
    pub(crate) fn would_remove(path: &Path, input: &Path) -> bool {
        let Ok(input) = input.canonicalize() else {
            return false;
        };
        let real = |path: &Path| path.canonicalize().ok();
        let in_own =
            |name: &str| real(&path.join(name)).is_some_and(|removed| input.starts_with(removed));
        real(path).is_some_and(|run| run == input) || OWN.into_iter().any(in_own)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The recipe with every default filled in.
    pub fn recipe(&self) -> PathBuf {
        self.path.join("recipe.toml")
    }

    /// What the run ran on.
    pub fn environment(&self) -> PathBuf {
        self.path.join("environment.json")
    }

    /// One line per step.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Folder of the `TensorBoard` event files.
    pub fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// The loss curve.
    pub fn curve(&self) -> PathBuf {
        self.path.join("curve.svg")
    }

    /// Folder of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Folder of the problems solved after `step` optimizer steps.
    pub fn eval(&self, step: u64) -> PathBuf {
        self.evals().join(format!("step-{step:08}"))
    }

    /// Removes the problems solved after later steps than `step`: those will be made again. `None` removes all.
    ///
    /// # Errors
    /// [`RunError`] if the folder cannot be listed or a part of it cannot be removed.
    pub fn drop_evals_after(&self, step: Option<u64>) -> Result<(), RunError> {
        let evals = self.evals();
        let entries = match fs::read_dir(&evals) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(RunError::io("list", &evals, source)),
        };
        let last = step.map(|step| self.eval(step));
        for path in entries.flatten().map(|entry| entry.path()) {
            if last.as_ref().is_none_or(|last| path > *last) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn evals(&self) -> PathBuf {
        self.path.join("evals")
    }

    /// The resulting adapter, as others load it.
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter")
    }

    /// The resulting model, as others load it.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// The numbers the run ended with.
    pub fn summary(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// Opens the checkpoints.
    ///
    /// # Errors
    /// [`RunError`] if the folder cannot be listed.
    pub fn checkpoint_store(&self) -> Result<CheckpointStore, RunError> {
        CheckpointStore::open(&self.checkpoints())
    }

    /// Writes a JSON file, readable for people, in one step.
    ///
    /// # Errors
    /// [`RunError`] if `value` cannot be encoded or the file cannot be written.
    pub fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), RunError> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| RunError::Encode {
            path: path.to_path_buf(),
            source,
        })?;
        bytes.push(b'\n');
        write_atomic(path, &bytes)
    }
}

/// Whether a directory is absent or holds nothing but a lock file.
fn is_empty(path: &Path) -> Result<bool, RunError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(source) => return Err(RunError::io("list", path, source)),
    };
    Ok(entries.flatten().all(|entry| entry.file_name() == LOCK))
}

fn remove(path: &Path) -> Result<(), RunError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|source| RunError::io("remove", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used_run(parent: &Path) -> PathBuf {
        let path = parent.join("run with spaces ü");
        let run = RunDir::create(&path, RunMode::Fresh).unwrap();
        fs::write(run.metrics(), b"{}\n").unwrap();
        fs::write(path.join("my notes.txt"), b"keep").unwrap();
        for result in ["samples", "adapter_text_encoder", "control"] {
            fs::create_dir(path.join(result)).unwrap();
        }
        path
    }

    #[test]
    fn used_directory_is_refused_with_the_ways_out() {
        let parent = tempfile::tempdir().unwrap();
        let path = used_run(parent.path());
        let message = RunDir::create(&path, RunMode::Fresh)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("--resume") && message.contains("run.overwrite = true"),
            "{message}"
        );
        assert!(path.join("metrics.jsonl").exists());
    }

    #[test]
    fn overwriting_removes_the_run_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let path = used_run(parent.path());
        let run = RunDir::create(&path, RunMode::Overwrite).unwrap();
        assert!(!run.metrics().exists());
        // What an earlier run drew or left beside its adapter would pass for that of the new one.
        for result in ["samples", "adapter_text_encoder", "control"] {
            assert!(!path.join(result).exists(), "{result}");
        }
        assert!(path.join("my notes.txt").exists());
    }

    #[test]
    fn what_overwriting_would_remove_is_known_behind_every_path() {
        let parent = tempfile::tempdir().unwrap();
        let path = used_run(parent.path());
        let removes = |input: &Path| RunDir::would_remove(&path, input);
        assert!(removes(&path.join("samples")) && removes(&path.join("control/../samples")));
        // All that the run left, as data.
        assert!(removes(&path));
        assert!(!removes(&path.join("my notes.txt")) && !removes(parent.path()));
        assert!(!removes(&path.join("nowhere")) && !removes(Path::new("")));
        assert!(!RunDir::would_remove(
            &parent.path().join("new"),
            parent.path()
        ));
    }

    #[test]
    fn directory_that_is_no_run_is_never_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        for folder in ["model", "checkpoints"] {
            fs::create_dir(parent.path().join(folder)).unwrap();
        }
        fs::write(parent.path().join("recipe.toml"), b"mine").unwrap();
        let error = RunDir::create(parent.path(), RunMode::Overwrite).unwrap_err();
        assert!(matches!(error, RunError::NotARun { .. }));
        let error = RunDir::create(parent.path(), RunMode::Resume).unwrap_err();
        assert!(matches!(error, RunError::NothingToResume { .. }));
        assert!(parent.path().join("model").exists());
        assert!(parent.path().join("checkpoints").exists());
    }

    #[test]
    fn what_was_solved_after_the_resumed_step_is_dropped() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunDir::create(&parent.path().join("run"), RunMode::Fresh).unwrap();
        run.drop_evals_after(None).unwrap();
        for step in [0, 9, 10, 100] {
            fs::create_dir_all(run.eval(step)).unwrap();
        }
        let there = |run: &RunDir| [0, 9, 10, 100].map(|step| run.eval(step).exists());
        run.drop_evals_after(Some(10)).unwrap();
        assert_eq!(there(&run), [true, true, true, false]);
        run.drop_evals_after(Some(9)).unwrap();
        assert_eq!(there(&run), [true, true, false, false]);
        run.drop_evals_after(None).unwrap();
        assert_eq!(there(&run), [false; 4]);
    }

    #[test]
    fn resuming_needs_a_run() {
        let parent = tempfile::tempdir().unwrap();
        let missing = parent.path().join("typo");
        let error = RunDir::create(&missing, RunMode::Resume).unwrap_err();
        assert!(matches!(error, RunError::NothingToResume { .. }));
        assert!(!missing.exists(), "a typo leaves no directory behind");
        let path = used_run(parent.path());
        assert!(
            RunDir::create(&path, RunMode::Resume)
                .unwrap()
                .metrics()
                .exists()
        );
    }

    #[test]
    fn second_process_is_refused_in_every_mode() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let _first = RunDir::create(&path, RunMode::Fresh).unwrap();
        for mode in [RunMode::Overwrite, RunMode::Resume] {
            let error = RunDir::create(&path, mode).unwrap_err();
            assert!(matches!(error, RunError::Locked { .. }), "{error}");
        }
    }
}
