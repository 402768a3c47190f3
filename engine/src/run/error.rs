//! The one error of the run module.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong around a run directory. Every variant names the path it happened at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The operating system refused an operation.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The disk filled up while writing. Earlier checkpoints are untouched.
    #[error(
        "disk is full: cannot {action} `{}`; earlier files are intact, free some space and resume",
        path.display()
    )]
    DiskFull {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file being written.
        path: PathBuf,
    },
    /// The place is read-only or belongs to somebody else. Earlier checkpoints are untouched.
    #[error(
        "`{}` is not writable; change its permissions or choose another `run.dir`",
        path.display()
    )]
    NotWritable {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// There is not enough room for what is about to be written.
    #[error(
        "not enough space in `{}`: {needed} bytes needed, {available} free; free some space \
         or keep fewer checkpoints",
        path.display()
    )]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// Bytes needed, a tenth more than the expected size.
        needed: u64,
        /// Bytes free for this user.
        available: u64,
    },
    /// A value could not be written as JSON.
    #[error("cannot encode `{}`", path.display())]
    Encode {
        /// The file that was to be written.
        path: PathBuf,
        /// The encoder's reason.
        #[source]
        source: serde_json::Error,
    },
    /// A JSON file does not hold what it should.
    #[error("cannot read `{}`", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        #[source]
        source: serde_json::Error,
    },
    /// A checkpoint directory has no manifest, so its save never finished.
    #[error("`{}` has no `manifest.json`: its save did not finish", path.display())]
    NoManifest {
        /// The checkpoint directory.
        path: PathBuf,
    },
    /// A manifest was altered after it was written.
    #[error("`{}` does not match its own digest: it was altered or damaged", path.display())]
    ManifestDigest {
        /// The manifest.
        path: PathBuf,
    },
    /// A manifest was written by a newer version of the tool.
    #[error(
        "`{}` has manifest format {found}, this version reads {known}; use a newer version",
        path.display()
    )]
    ManifestFormat {
        /// The manifest.
        path: PathBuf,
        /// The format it declares.
        found: u32,
        /// The format known here.
        known: u32,
    },
    /// A checkpoint directory was renamed: its manifest speaks of another step.
    #[error("`{}` holds step {found} by its manifest", path.display())]
    WrongStep {
        /// The checkpoint directory.
        path: PathBuf,
        /// The step in the manifest.
        found: u64,
    },
    /// A file name would leave its directory.
    #[error("`{name}` in `{}` is not a plain relative path", path.display())]
    UnsafeName {
        /// The directory or manifest that named it.
        path: PathBuf,
        /// The offending name.
        name: String,
    },
    /// A file that the manifest names is not there.
    #[error("`{}` is missing", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// A file is shorter or longer than its manifest says.
    #[error("`{}` has {actual} bytes, its manifest says {expected}", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes on disk.
        actual: u64,
    },
    /// A file has the right size and the wrong content.
    #[error("`{}` does not match the hash in its manifest: it is damaged", path.display())]
    WrongHash {
        /// The file.
        path: PathBuf,
    },
    /// A file was asked for that the manifest does not vouch for.
    #[error("`{name}` is not in the manifest of `{}`", path.display())]
    NotInManifest {
        /// The checkpoint directory.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// A checkpoint without files was about to be saved.
    #[error("checkpoint `{}` holds no files", path.display())]
    EmptyCheckpoint {
        /// The temporary directory.
        path: PathBuf,
    },
    /// Another process works in the run directory.
    #[error(
        "run directory `{}` is in use by {holder}; wait for it, stop it, or choose another \
         `run.dir`",
        path.display()
    )]
    Locked {
        /// The run directory.
        path: PathBuf,
        /// Process and host, as far as the lock file tells.
        holder: String,
    },
    /// A new run was asked for in a directory that holds something.
    #[error(
        "run directory `{}` is not empty; pass `--resume` to go on, set `run.overwrite = \
         true` to start over, or choose another `run.dir`",
        path.display()
    )]
    NotEmpty {
        /// The run directory.
        path: PathBuf,
    },
    /// Overwriting was asked for in a directory that does not look like a run.
    #[error(
        "`{}` does not look like a run directory, so nothing in it is overwritten; choose \
         another `run.dir`",
        path.display()
    )]
    NotARun {
        /// The directory.
        path: PathBuf,
    },
    /// Resuming was asked for where no run is.
    #[error(
        "there is no run to resume in `{}`; check `run.dir`, or start without `--resume`",
        path.display()
    )]
    NothingToResume {
        /// The directory.
        path: PathBuf,
    },
    /// A line of `metrics.jsonl`, other than a torn last one, is not a metric.
    #[error("line {line} of `{}` is not a metric", path.display())]
    BadMetric {
        /// The metrics file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The decoder's reason.
        #[source]
        source: serde_json::Error,
    },
    /// The loss curve could not be drawn.
    #[error("cannot draw the loss curve: {reason}")]
    Chart {
        /// The drawing library's reason.
        reason: String,
    },
    /// A signal handler could not be installed.
    #[error("cannot handle signal {signal}")]
    Signal {
        /// The signal's number.
        signal: i32,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

impl RunError {
    /// Sorts an operating-system error into the variant that tells the user what to do.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { action, path }
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Self::NotWritable { path, source }
            }
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_told_apart_from_a_read_only_one() {
        let path = Path::new("out/x");
        let full = RunError::io("write", path, io::ErrorKind::StorageFull.into());
        let locked = RunError::io("write", path, io::ErrorKind::ReadOnlyFilesystem.into());
        assert!(matches!(full, RunError::DiskFull { .. }));
        assert!(
            full.to_string()
                .starts_with("disk is full: cannot write `out/x`")
        );
        assert!(matches!(locked, RunError::NotWritable { .. }));
    }
}
