//! Files that are either the old one or the new one, never half of each.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::run::RunError;

/// Replaces `path` by `bytes` in one step: a temporary file beside it is written and synced, then
/// renamed, then the directory is synced. After a crash at any instant `path` holds the old bytes
/// or the new ones.
///
/// # Errors
/// [`RunError`] if the directory does not exist, is not writable or full. The old file is then
/// untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    write_atomic_with(path, |file| file.write_all(bytes))
}

/// The same for content that is written piece by piece.
///
/// # Errors
/// As [`write_atomic`], and what `content` reports.
pub(crate) fn write_atomic_with(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), RunError> {
    let temporary = temporary_beside(path);
    let written = write_synced_with(&temporary, content)
        .and_then(|()| rename(&temporary, path))
        .and_then(|()| sync_parent(path));
    if written.is_err() {
        // The error above matters more than a leftover; a second failure here adds nothing.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn temporary_beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Not built from the file's own name, which may already have the longest length a file system
    // allows.
    path.with_file_name(format!(".tmp-write-{number}-{}", std::process::id()))
}

/// Writes a whole file and syncs it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    write_synced_with(path, |file| file.write_all(bytes))
}

fn write_synced_with(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), RunError> {
    let attempt = || -> io::Result<()> {
        let mut file = io::BufWriter::new(File::create(path)?);
        content(&mut file)?;
        file.into_inner()?.sync_all()
    };
    attempt().map_err(|source| RunError::io("write", path, source))
}

/// Renames within one file system.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), RunError> {
    fs::rename(from, to).map_err(|source| RunError::io("rename to", to, source))
}

/// Syncs the directory that holds `path`, so that a rename in it survives a power loss.
pub(crate) fn sync_parent(path: &Path) -> Result<(), RunError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Syncs a directory. Windows has no such call: its file system journals renames.
#[cfg(unix)]
pub(crate) fn sync_dir(path: &Path) -> Result<(), RunError> {
    sync_file(path)
}

/// Syncs a directory. Windows has no such call: its file system journals renames.
#[cfg(not(unix))]
pub(crate) fn sync_dir(_path: &Path) -> Result<(), RunError> {
    Ok(())
}

/// Syncs an existing file that somebody else wrote.
pub(crate) fn sync_file(path: &Path) -> Result<(), RunError> {
    let open = if cfg!(windows) {
        // Windows flushes only through a writable handle.
        fs::OpenOptions::new().write(true).open(path)
    } else {
        File::open(path)
    };
    open.and_then(|file| file.sync_all())
        .map_err(|source| RunError::io("sync", path, source))
}

/// Length and SHA-256 (lower-case hexadecimal) of a file, read in pieces.
pub(crate) fn hash_file(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
        bytes += count as u64;
    }
    Ok((bytes, hex(&hasher.finalize())))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Whether `name` is a relative path of plain components: nothing absolute, no `..`, no `\`, no
/// drive, no NUL.
pub(crate) fn is_safe_relative(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\\', '\0', ':'])
        && name
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
        && Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_write_replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weird näme with spaces");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn atomic_write_manages_the_longest_file_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n".repeat(255));
        write_atomic(&path, b"x").unwrap();
        assert_eq!(fs::read(path).unwrap(), b"x");
    }

    #[test]
    fn failed_atomic_write_keeps_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("target");
        fs::create_dir_all(path.join("inside")).unwrap();
        let error = write_atomic(&path, b"new").unwrap_err();
        assert!(error.to_string().contains("target"), "{error}");
        assert!(path.join("inside").is_dir());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "temporary file is removed"
        );
    }

    #[test]
    fn hash_is_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        fs::write(&path, b"abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_file(&path).unwrap(), (3, expected.to_owned()));
    }

    #[test]
    fn names_that_leave_the_directory_are_unsafe() {
        for name in [
            "../x",
            "a/../b",
            "/etc/passwd",
            "",
            "a//b",
            "./a",
            "a/.",
            "..",
            "c:\\x",
            "a\0",
        ] {
            assert!(!is_safe_relative(name), "{name:?}");
        }
        for name in [
            "a",
            "a/b.json",
            ".gitattributes",
            "a..b",
            "weights-00001-of-00002.safetensors",
        ] {
            assert!(is_safe_relative(name), "{name:?}");
        }
    }
}
