//! Checkpoints that survive a kill at any instant.
//!
//! The order of a save: files go into `.tmp-<step>-<pid>/` and are synced; `manifest.json` with
//! their hashes comes last and is synced; the directory is renamed to `step-00001234` and its
//! parent synced; the small file `latest` is replaced. A reader trusts only what a manifest names,
//! so whatever an interrupted save leaves is either invisible or reported and skipped.

mod atomic;
mod manifest;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub use atomic::write_atomic;
pub(crate) use atomic::{hash_file, hex, is_safe_relative, write_atomic_with};
pub use manifest::{Checkpoint, Manifest, ManifestFile, verify};

use crate::run::RunError;
use atomic::{rename, sync_dir, write_synced};
use manifest::MANIFEST;

const LATEST: &str = "latest";
const TEMPORARY: &str = ".tmp-";
const REPLACED: &str = ".old-";

/// The checkpoints of one run. The caller holds the run's lock: one store per directory at a time.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use temper_engine::run::{CheckpointStore, RunError};
///
/// let mut store = CheckpointStore::open(&dir.path().join("checkpoints"))?;
/// store.save::<RunError>(10, 5, |writer| writer.write("state.json", b"{\"a\":1}"))?;
/// let newest = store.latest_verified()?.newest.ok_or("no checkpoint")?;
/// assert_eq!(newest.step, 10);
/// assert!(newest.file("state.json")?.is_file());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CheckpointStore {
    dir: PathBuf,
    /// Steps whose hashes this process computed; pruning need not read them again.
    known_good: BTreeSet<u64>,
}

/// Where the files of a checkpoint under construction go.
#[derive(Debug)]
pub struct CheckpointWriter {
    dir: PathBuf,
}

/// What [`CheckpointStore::latest_verified`] saw.
#[derive(Debug)]
pub struct Found {
    /// The newest complete checkpoint.
    pub newest: Option<Checkpoint>,
    /// Newer ones that could not be trusted, newest first. They stay where they are.
    pub skipped: Vec<Skipped>,
}

/// A checkpoint that cannot be trusted.
#[derive(Debug)]
pub struct Skipped {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    pub reason: RunError,
}

impl CheckpointWriter {
    /// The directory to write into, for code that writes files itself. Subdirectories are fine,
    /// links are not. Every file found here when the writing is over becomes part of the
    /// checkpoint.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes one small file; `name` may contain `/`.
    ///
    /// # Errors
    /// [`RunError`] if the name leaves the directory or the file cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RunError> {
        if !is_safe_relative(name) {
            return Err(RunError::UnsafeName {
                path: self.dir.clone(),
                name: name.to_owned(),
            });
        }
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            create_dirs(parent)?;
        }
        write_synced(&path, bytes)
    }
}

impl CheckpointStore {
    /// Opens (and creates) the directory, removes what dead saves left behind, and completes an
    /// interrupted replacement.
    ///
    /// # Errors
    /// [`RunError`] if the directory cannot be created or listed.
    pub fn open(dir: &Path) -> Result<Self, RunError> {
        create_dirs(dir)?;
        let store = Self {
            dir: dir.to_path_buf(),
            known_good: BTreeSet::new(),
        };
        store.clean_up()?;
        Ok(store)
    }

    /// The directory of all checkpoints.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Saves the checkpoint of `step` (optimizer steps done), replacing one of the same step.
    /// `expected_bytes` is the size to come; a tenth more must be free. Returns the finished
    /// directory.
    ///
    /// # Errors
    /// Whatever `write` returns, or [`RunError`]. Earlier checkpoints are then untouched and
    /// nothing new is visible.
    pub fn save<E: From<RunError>>(
        &mut self,
        step: u64,
        expected_bytes: u64,
        write: impl FnOnce(&CheckpointWriter) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        self.check_space(expected_bytes)?;
        let temporary = self
            .dir
            .join(format!("{TEMPORARY}{step}-{}", std::process::id()));
        remove_tree(&temporary)?;
        create_dirs(&temporary)?;
        let writer = CheckpointWriter {
            dir: temporary.clone(),
        };
        let finished = write(&writer).and_then(|()| Ok(self.publish(step, &temporary)?));
        if finished.is_err() {
            // The error above matters more than a leftover, which the next start removes.
            let _ = remove_tree(&temporary);
        }
        finished
    }

    /// Refuses when there is no room for a checkpoint of about so many bytes.
    ///
    /// # Errors
    /// If there is not, or the free space cannot be measured.
    pub fn check_space(&self, expected_bytes: u64) -> Result<(), RunError> {
        let needed = expected_bytes.saturating_add(expected_bytes / 10);
        let available = fs4::available_space(&self.dir)
            .map_err(|source| RunError::io("measure the free space of", &self.dir, source))?;
        if needed > available {
            return Err(RunError::NoSpace {
                path: self.dir.clone(),
                needed,
                available,
            });
        }
        Ok(())
    }

    fn publish(&mut self, step: u64, temporary: &Path) -> Result<PathBuf, RunError> {
        let manifest = Manifest::of(temporary, step)?;
        let path = temporary.join(MANIFEST);
        let mut bytes =
            serde_json::to_vec_pretty(&manifest).map_err(|source| RunError::Encode {
                path: path.clone(),
                source,
            })?;
        bytes.push(b'\n');
        write_synced(&path, &bytes)?;
        sync_dir(temporary)?;

        let target = self.path_of(step);
        let replaced = self.dir.join(format!("{REPLACED}{}", directory_name(step)));
        if target.exists() {
            remove_tree(&replaced)?;
            rename(&target, &replaced)?;
        }
        rename(temporary, &target)?;
        sync_dir(&self.dir)?;
        remove_tree(&replaced)?;
        write_atomic(
            &self.dir.join(LATEST),
            format!("{}\n", directory_name(step)).as_bytes(),
        )?;
        self.known_good.insert(step);
        Ok(target)
    }

    /// Finds the newest checkpoint whose files all match their manifest, and says why newer ones do
    /// not.
    ///
    /// # Errors
    /// [`RunError`] only if the directory itself cannot be listed.
    pub fn latest_verified(&self) -> Result<Found, RunError> {
        let mut skipped = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match self.load(step) {
                Ok(checkpoint) => {
                    return Ok(Found {
                        newest: Some(checkpoint),
                        skipped,
                    });
                }
                Err(reason) => skipped.push(Skipped {
                    path: self.path_of(step),
                    reason,
                }),
            }
        }
        Ok(Found {
            newest: None,
            skipped,
        })
    }

    /// Verifies the checkpoint of one step.
    ///
    /// # Errors
    /// [`RunError`] saying which file is missing, short or damaged.
    pub fn load(&self, step: u64) -> Result<Checkpoint, RunError> {
        let path = self.path_of(step);
        let manifest = verify(&path)?;
        if manifest.step != step {
            return Err(RunError::WrongStep {
                path,
                found: manifest.step,
            });
        }
        Ok(Checkpoint {
            step,
            path,
            manifest,
        })
    }

    /// All steps that have a directory, in rising order, whether it can be trusted or not.
    ///
    /// # Errors
    /// [`RunError`] if the directory cannot be listed.
    pub fn steps(&self) -> Result<Vec<u64>, RunError> {
        let names = names_in(&self.dir)?;
        let mut steps: Vec<u64> = names.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes old checkpoints: the newest `count` that can be trusted stay, and so do those of the
    /// steps in `best`. One that cannot be trusted is never removed, and does not count. Returns the
    /// removed steps.
    ///
    /// # Errors
    /// [`RunError`] if a directory cannot be listed or removed.
    pub fn keep_last(&mut self, count: usize, best: &[u64]) -> Result<Vec<u64>, RunError> {
        let mut removed = Vec::new();
        let mut kept = 0;
        for step in self.steps()?.into_iter().rev() {
            if !self.known_good.contains(&step) {
                if self.load(step).is_err() {
                    continue;
                }
                self.known_good.insert(step);
            }
            kept += 1;
            if kept > count.max(1) && !best.contains(&step) {
                self.remove(step)?;
                removed.push(step);
            }
        }
        Ok(removed)
    }

    /// Moves the checkpoints after `step` out of the way, to `set-aside-step-…`. A run that goes on
    /// from an older checkpoint calls this, else its next resume would find the newer ones of the
    /// abandoned branch.
    ///
    /// # Errors
    /// [`RunError`] if a directory cannot be listed or renamed.
    pub fn set_aside_after(&mut self, step: u64) -> Result<Vec<PathBuf>, RunError> {
        let mut moved = Vec::new();
        for later in self.steps()?.into_iter().filter(|&later| later > step) {
            let free = (0_u32..).map(|number| match number {
                0 => self
                    .dir
                    .join(format!("set-aside-{}", directory_name(later))),
                _ => self
                    .dir
                    .join(format!("set-aside-{}-{number}", directory_name(later))),
            });
            if let Some(path) = free.into_iter().find(|path| !path.exists()) {
                rename(&self.path_of(later), &path)?;
                self.known_good.remove(&later);
                moved.push(path);
            }
        }
        sync_dir(&self.dir)?;
        Ok(moved)
    }

    fn remove(&mut self, step: u64) -> Result<(), RunError> {
        self.known_good.remove(&step);
        // Renamed first: a kill in the middle of the removal must not leave a torn `step-…`.
        let dying = self
            .dir
            .join(format!("{TEMPORARY}{step}-{}", std::process::id()));
        remove_tree(&dying)?;
        rename(&self.path_of(step), &dying)?;
        remove_tree(&dying)
    }

    fn clean_up(&self) -> Result<(), RunError> {
        for name in names_in(&self.dir)? {
            let path = self.dir.join(&name);
            if let Some(rest) = name.strip_prefix(TEMPORARY) {
                if !belongs_to_the_living(rest) {
                    remove_any(&path)?;
                }
            } else if let Some(step) = name.strip_prefix(REPLACED).and_then(step_of) {
                // Killed between the two renames of a replacement: the old one is the only one of
                // its step.
                if self.path_of(step).exists() {
                    remove_tree(&path)?;
                } else {
                    rename(&path, &self.path_of(step))?;
                }
            }
        }
        sync_dir(&self.dir)
    }

    fn path_of(&self, step: u64) -> PathBuf {
        self.dir.join(directory_name(step))
    }
}

fn directory_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step of a directory name that this module would write; anything else, such as `step-7`, is
/// not ours.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (directory_name(step) == name).then_some(step)
}

/// Whether `<step>-<pid>` names another process that still runs. Where that cannot be known the
/// run's lock decides: its holder, who is asking, is the only one who may be saving here.
fn belongs_to_the_living(rest: &str) -> bool {
    let pid = rest
        .rsplit('-')
        .next()
        .and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| pid != std::process::id() && Path::new(&format!("/proc/{pid}")).exists())
}

fn names_in(dir: &Path) -> Result<Vec<String>, RunError> {
    let fail = |source| RunError::io("list", dir, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        // A name that is not Unicode is not one of ours.
        names.extend(entry.map_err(fail)?.file_name().into_string().ok());
    }
    Ok(names)
}

fn create_dirs(path: &Path) -> Result<(), RunError> {
    fs::create_dir_all(path).map_err(|source| RunError::io("create", path, source))
}

fn remove_any(path: &Path) -> Result<(), RunError> {
    if path.is_dir() {
        return remove_tree(path);
    }
    fs::remove_file(path).map_err(|source| RunError::io("remove", path, source))
}

fn remove_tree(path: &Path) -> Result<(), RunError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RunError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}
