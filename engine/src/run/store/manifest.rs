//! What a checkpoint directory is trusted for: the files its manifest names, with their hashes.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::atomic::{hash_file, hex, is_safe_relative, sync_dir, sync_file};
use crate::run::RunError;

pub(super) const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
/// A manifest longer than this is not one of ours.
const LIMIT: u64 = 64 << 20;

/// The list that makes a checkpoint directory complete. It is written last, so a directory without
/// it is a torn save.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// Version of the tool that wrote it.
    pub tool_version: String,
    /// Optimizer steps done.
    pub step: u64,
    /// The files, sorted by name.
    pub files: Vec<ManifestFile>,
    /// SHA-256 over everything above, so that damage to the manifest itself shows.
    pub digest: String,
}

/// One file that a [`Manifest`] vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Path inside the checkpoint directory, with `/`.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Syncs and hashes every file below `dir`, and its folders.
    pub(super) fn of(dir: &Path, step: u64) -> Result<Self, RunError> {
        let mut files = Vec::new();
        collect(dir, "", &mut files)?;
        if files.is_empty() {
            return Err(RunError::EmptyCheckpoint {
                path: dir.to_path_buf(),
            });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let tool_version = env!("CARGO_PKG_VERSION").to_owned();
        let mut manifest = Self {
            format: FORMAT,
            tool_version,
            step,
            files,
            digest: String::new(),
        };
        manifest.digest = manifest.compute_digest();
        Ok(manifest)
    }

    fn compute_digest(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(format!(
            "{}\n{}\n{}\n",
            self.format, self.tool_version, self.step
        ));
        for file in &self.files {
            hasher.update(format!("{:?} {} {}\n", file.name, file.bytes, file.sha256));
        }
        hex(&hasher.finalize())
    }

    fn check(&self, path: &Path) -> Result<(), RunError> {
        if self.format != FORMAT {
            let path = path.to_path_buf();
            return Err(RunError::ManifestFormat {
                path,
                found: self.format,
                known: FORMAT,
            });
        }
        if self.digest != self.compute_digest() {
            return Err(RunError::ManifestDigest {
                path: path.to_path_buf(),
            });
        }
        let mut seen = BTreeSet::new();
        for file in &self.files {
            if !is_safe_relative(&file.name) || !seen.insert(&file.name) {
                return Err(RunError::UnsafeName {
                    path: path.to_path_buf(),
                    name: file.name.clone(),
                });
            }
        }
        Ok(())
    }
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<ManifestFile>) -> Result<(), RunError> {
    let listing = fs::read_dir(dir).map_err(|source| RunError::io("list", dir, source))?;
    for entry in listing {
        let entry = entry.map_err(|source| RunError::io("list", dir, source))?;
        let path = entry.path();
        let kind = entry
            .file_type()
            .map_err(|source| RunError::io("inspect", &path, source))?;
        let name = entry.file_name();
        let name = match name.to_str().map(|name| format!("{prefix}{name}")) {
            Some(name) if is_safe_relative(&name) && !kind.is_symlink() && name != MANIFEST => name,
            _ => {
                let name = name.to_string_lossy().into_owned();
                return Err(RunError::UnsafeName {
                    path: dir.to_path_buf(),
                    name,
                });
            }
        };
        if kind.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else {
            sync_file(&path)?;
            let hashed = hash_file(&path);
            let (bytes, sha256) = hashed.map_err(|source| RunError::io("hash", &path, source))?;
            files.push(ManifestFile {
                name,
                bytes,
                sha256,
            });
        }
    }
    sync_dir(dir)
}

/// Reads the manifest of a checkpoint directory and re-hashes every file it names. Files it does
/// not name are ignored.
///
/// # Errors
/// [`RunError`] saying which file is missing, short or damaged, or that the save never finished.
pub fn verify(dir: &Path) -> Result<Manifest, RunError> {
    let path = dir.join(MANIFEST);
    let manifest = read(dir, &path)?;
    manifest.check(&path)?;
    for file in &manifest.files {
        verify_file(&dir.join(&file.name), file)?;
    }
    Ok(manifest)
}

fn read(dir: &Path, path: &Path) -> Result<Manifest, RunError> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RunError::NoManifest {
                path: dir.to_path_buf(),
            });
        }
        Err(source) => return Err(RunError::io("read", path, source)),
    };
    if length > LIMIT {
        let path = path.to_path_buf();
        return Err(RunError::WrongSize {
            path,
            expected: LIMIT,
            actual: length,
        });
    }
    let bytes = fs::read(path).map_err(|source| RunError::io("read", path, source))?;
    serde_json::from_slice(&bytes).map_err(|source| RunError::Decode {
        path: path.to_path_buf(),
        source,
    })
}

fn verify_file(path: &Path, expected: &ManifestFile) -> Result<(), RunError> {
    // The size first: it is free, and most torn files are short.
    let actual = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RunError::MissingFile {
                path: path.to_path_buf(),
            });
        }
        Err(source) => return Err(RunError::io("read", path, source)),
    };
    if actual != expected.bytes {
        let path = path.to_path_buf();
        return Err(RunError::WrongSize {
            path,
            expected: expected.bytes,
            actual,
        });
    }
    let (_, sha256) = hash_file(path).map_err(|source| RunError::io("read", path, source))?;
    if sha256 != expected.sha256 {
        return Err(RunError::WrongHash {
            path: path.to_path_buf(),
        });
    }
    Ok(())
}

/// A checkpoint whose every file was checked against its manifest.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Optimizer steps done.
    pub step: u64,
    /// The directory.
    pub path: PathBuf,
    /// What it is trusted for.
    pub manifest: Manifest,
}

impl Checkpoint {
    /// The path of a file that the manifest vouches for.
    ///
    /// # Errors
    /// [`RunError::NotInManifest`] for any other file, even one that lies in the directory.
    pub fn file(&self, name: &str) -> Result<PathBuf, RunError> {
        if self.manifest.files.iter().any(|file| file.name == name) {
            return Ok(self.path.join(name));
        }
        Err(RunError::NotInManifest {
            path: self.path.clone(),
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_manifest_still_cannot_leave_its_directory() {
        for name in ["../state.json", "/etc/passwd", "a/../../b"] {
            let file = ManifestFile {
                name: name.to_owned(),
                bytes: 0,
                sha256: String::new(),
            };
            let digest = String::new();
            let tool_version = "0".to_owned();
            let mut manifest = Manifest {
                format: FORMAT,
                tool_version,
                step: 1,
                files: vec![file],
                digest,
            };
            manifest.digest = manifest.compute_digest();
            let refused = manifest.check(Path::new("manifest.json"));
            assert!(
                matches!(refused, Err(RunError::UnsafeName { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn manifest_of_a_newer_version_is_told_apart_from_damage() {
        let tool_version = "9".to_owned();
        let manifest = Manifest {
            format: 2,
            tool_version,
            step: 1,
            files: vec![],
            digest: String::new(),
        };
        let refused = manifest.check(Path::new("manifest.json"));
        assert!(matches!(
            refused,
            Err(RunError::ManifestFormat { found: 2, .. })
        ));
    }
}
