//! The cache folder that the ecosystem's tools share.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use hf_hub::{Cache, CacheRepo};
use sha2::{Digest, Sha256};

use super::client::RemoteFile;
use super::spec::{RepoSpec, is_commit};
use super::{HubConfig, HubError};
use crate::run::{RunError, hash_file, hex, is_safe_relative, note, write_atomic};

/// The folder of one repository.
#[derive(Debug)]
pub(super) struct RepoCache {
    repo: CacheRepo,
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(config: &HubConfig, repo: &RepoSpec) -> Self {
        let repository = repo.at(&repo.revision);
        let folder = repository.folder_name();
        Self {
            root: config.cache.join(&folder),
            locks: config.cache.join(".locks").join(&folder),
            repo: Cache::new(config.cache.clone()).repo(repository),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// The folder that a branch, tag or commit stands for, if there is one.
    pub(super) fn snapshot_of(&self, revision: &str) -> Option<PathBuf> {
        let commit = if is_commit(revision) {
            revision.to_owned()
        } else {
            fs::read_to_string(self.reference(revision))
                .ok()?
                .trim()
                .to_owned()
        };
        let dir = is_commit(&commit).then(|| self.snapshot(&commit))?;
        dir.is_dir().then_some(dir)
    }

    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.reference(revision);
        create_parent(&path)?;
        Ok(write_atomic(&path, commit.as_bytes())?)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }

    /// Where the content with this tag is kept. A tag that is not a plain word is hashed: it comes
    /// from a server and becomes a file name.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if (1..=128).contains(&etag.len()) && etag.chars().all(plain) {
            return self.repo.blob_path(etag);
        }
        self.repo.blob_path(&hex(&Sha256::digest(etag)))
    }

    /// Waits until no other process fetches this blob. Dropping the file lets the next one in.
    pub(super) fn lock(&self, blob: &Path) -> Result<File, HubError> {
        let mut name = blob.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let path = self.locks.join(name);
        create_parent(&path)?;
        create_parent(blob)?;
        let fail = |source| RunError::io("lock", &path, source);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        if file.try_lock().is_err() {
            note(&format!(
                "waiting for another process that downloads `{}`",
                blob.display()
            ));
            file.lock().map_err(fail)?;
        }
        Ok(file)
    }
}

fn create_parent(path: &Path) -> Result<(), RunError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|source| RunError::io("create", parent, source))
}

/// Checks a finished download against what the hub announced, and makes it a blob.
pub(super) fn publish(
    partial: &Path,
    blob: &Path,
    remote: &RemoteFile,
    name: &str,
) -> Result<(), HubError> {
    if let Some(expected) = remote.sha256() {
        let (_, actual) =
            hash_file(partial).map_err(|source| RunError::io("read", partial, source))?;
        if actual != expected {
            let _ = fs::remove_file(partial);
            let problem = format!("its SHA-256 is {actual}, the hub announced {expected}");
            return Err(HubError::Damaged {
                name: name.to_owned(),
                problem,
            });
        }
    }
    let renamed = fs::rename(partial, blob);
    Ok(renamed.map_err(|source| RunError::io("rename to", blob, source))?)
}

/// Makes `pointer` a relative link to `blob`; where links are not allowed, a copy.
pub(super) fn link(blob: &Path, pointer: &Path) -> Result<(), HubError> {
    create_parent(pointer)?;
    if pointer.symlink_metadata().is_ok() && !pointer.exists() {
        // A link whose blob was removed.
        fs::remove_file(pointer).map_err(|source| RunError::io("remove", pointer, source))?;
    }
    let target = relative(blob, pointer);
    let linked = symlink(&target, pointer).or_else(|error| match error.kind() {
        ErrorKind::AlreadyExists => Ok(()),
        _ => fs::hard_link(blob, pointer).or_else(|_| fs::copy(blob, pointer).map(|_| ())),
    });
    Ok(linked.map_err(|source| RunError::io("link", pointer, source))?)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &Path, _link: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// `blob` as seen from the folder of `pointer`. Both lie in one repository folder.
fn relative(blob: &Path, pointer: &Path) -> PathBuf {
    let from: Vec<Component> = pointer.parent().unwrap_or(pointer).components().collect();
    let to: Vec<Component> = blob.components().collect();
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[shared..].iter().map(|_| Component::ParentDir);
    up.chain(to[shared..].iter().copied()).collect()
}

/// The files below a folder as names with `/`, three folders deep at most.
pub(super) fn files_below(dir: &Path) -> Vec<String> {
    fn visit(dir: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let name = format!("{prefix}{name}");
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && depth > 0 {
                visit(&path, &format!("{name}/"), depth - 1, names);
            } else if path.is_file() {
                names.push(name);
            }
        }
    }
    let mut names = Vec::new();
    visit(dir, "", 3, &mut names);
    names
}

/// What a snapshot lacks to be a model, if anything: an interrupted download must not pass for one.
pub(super) fn missing_from_model(dir: &Path) -> Option<String> {
    let names = files_below(dir);
    let configs = ["config.json", "model_index.json", "adapter_config.json"];
    if !names.iter().any(|name| configs.contains(&name.as_str())) {
        return Some("config.json".to_owned());
    }
    if !names.iter().any(|name| name.ends_with(".safetensors")) {
        return Some("*.safetensors".to_owned());
    }
    if let Some(part) = missing_part(dir, &names) {
        return Some(part);
    }
    names
        .iter()
        .filter(|name| name.ends_with(".safetensors.index.json"))
        .find_map(|index| missing_shard(dir, index))
}

/// A part that `model_index.json` promises and that has no file, if there is one.
fn missing_part(dir: &Path, names: &[String]) -> Option<String> {
    let text = fs::read(dir.join("model_index.json")).ok()?;
    let index: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let parts = [
        ("unet", ".safetensors"),
        ("vae", ".safetensors"),
        ("text_encoder", ".safetensors"),
        ("text_encoder_2", ".safetensors"),
        ("tokenizer", ".json"),
        ("tokenizer_2", ".json"),
        ("scheduler", ".json"),
    ];
    let promised = |part: &str| {
        index
            .get(part)
            .and_then(|entry| entry.get(1))
            .is_some_and(serde_json::Value::is_string)
    };
    let held = |part: &str, end: &str| {
        let folder = format!("{part}/");
        names
            .iter()
            .any(|name| name.starts_with(&folder) && name.ends_with(end))
    };
    parts
        .into_iter()
        .find(|(part, end)| promised(part) && !held(part, end))
        .map(|(part, end)| format!("{part}/*{end}"))
}

fn missing_shard(dir: &Path, index: &str) -> Option<String> {
    let folder = index
        .rsplit_once('/')
        .map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let content: Option<serde_json::Value> = fs::read(dir.join(index))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(map) = content
        .as_ref()
        .and_then(|content| content.get("weight_map")?.as_object())
    else {
        return Some(index.to_owned());
    };
    let files = map.values().filter_map(serde_json::Value::as_str);
    let missing =
        |file: &&str| !is_safe_relative(file) || !dir.join(format!("{folder}{file}")).is_file();
    files
        .into_iter()
        .find(missing)
        .map(|file| format!("{folder}{file}"))
}
