//! One process per run directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::RunError;
use super::host::host_name;

pub(crate) const LOCK: &str = "run.lock";

/// Holds a run directory until dropped.
///
/// The operating system keeps the lock and drops it with the process, however that ends, so a lock
/// file left by a killed run is taken over without asking. The file only tells who the holder is.
#[derive(Debug)]
pub struct RunLock {
    file: File,
}

impl RunLock {
    /// Locks the existing directory `dir`.
    ///
    /// # Errors
    /// [`RunError::Locked`] naming the holder, or another [`RunError`] if the lock file cannot be
    /// written.
    pub fn acquire(dir: &Path) -> Result<Self, RunError> {
        let path = dir.join(LOCK);
        let fail = |source| RunError::io("lock", &path, source);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RunError::Locked {
                    path: dir.to_path_buf(),
                    holder: holder(&file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        let line = format!("process {} on {}\n", std::process::id(), host_name());
        file.set_len(0)
            .and_then(|()| file.write_all(line.as_bytes()))
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
        Ok(Self { file })
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two files of the same name.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

fn holder(mut file: &File) -> String {
    let mut line = String::new();
    let _ = file.seek(SeekFrom::Start(0));
    let _ = file.take(400).read_to_string(&mut line);
    match line.trim() {
        "" => "another process".to_owned(),
        line => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_refused_and_told_who_holds() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunLock::acquire(dir.path()).unwrap();
        let error = RunLock::acquire(dir.path()).unwrap_err();
        assert!(matches!(error, RunError::Locked { .. }));
        if cfg!(unix) {
            assert!(
                error
                    .to_string()
                    .contains(&format!("process {} on", std::process::id()))
            );
        }
        drop(first);
        RunLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn lock_file_of_a_dead_process_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join(LOCK),
            "process 4294967295 on elsewhere, long ago\n",
        )
        .unwrap();
        let _lock = RunLock::acquire(dir.path()).unwrap();
        let line = std::fs::read_to_string(dir.path().join(LOCK));
        if cfg!(unix) {
            assert!(
                line.unwrap()
                    .starts_with(&format!("process {} on", std::process::id()))
            );
        }
    }
}
