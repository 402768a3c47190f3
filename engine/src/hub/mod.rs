//! Models and datasets by name: a local path, or `org/name[@revision]` on a Hugging Face hub.
//!
//! Files go to the cache that every other tool of that ecosystem shares (`models--org--name/` with
//! `blobs`, `refs` and `snapshots`), so nothing is downloaded twice. The `hf-hub` crate supplies
//! that layout and the addresses. The transfer itself is done here, because a file must survive a
//! server that ignores ranges, cuts connections, sends other bytes than it announced, or names
//! files outside the cache, and must be checked against its hash before anybody loads it.
//!
//! The access token goes to the hub only, never into a message.

mod address;
mod cache;
mod client;
mod config;
mod error;
mod select;
mod spec;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub(crate) use address::is_loopback;
pub use config::HubConfig;
pub use error::HubError;

use crate::run::{model_at, note};
use cache::RepoCache;
use client::Client;
use spec::{RepoSpec, Spec};

/// The directory of a model: `spec` itself if that exists, or the `model` of a run that trained all weights, else a snapshot of `org/name[@revision]`
/// in the cache, downloaded as far as it is missing. Settings come from the environment
/// ([`HubConfig::from_env`]).
///
/// ```no_run
/// let dir = temper_engine::hub::resolve_model("meta-llama/Llama-2-7b-hf@main")?;
/// assert!(dir.join("config.json").is_file());
/// # Ok::<(), temper_engine::hub::HubError>(())
/// ```
///
/// # Errors
/// [`HubError`] saying what is missing and where it was looked for.
pub fn resolve_model(spec: &str) -> Result<PathBuf, HubError> {
    resolve_model_with(spec, &HubConfig::from_env())
}

/// [`resolve_model`] with explicit settings.
///
/// # Errors
/// [`HubError`] saying what is missing and where it was looked for.
pub fn resolve_model_with(spec: &str, config: &HubConfig) -> Result<PathBuf, HubError> {
    let repo = match Spec::model(spec)? {
        Spec::Local { path, .. } => return Ok(model_at(path)?),
        Spec::Remote(repo) => repo,
    };
    let choose = |names: &[String]| select::model_files(&repo, names);
    snapshot(config, &repo, choose, cached_model)
}

/// The directory of a tokenizer: `spec` itself if that exists, else the tokenizer's files of
/// `org/name[@revision]`, without the weights that lie beside them. Settings come from the
/// environment ([`HubConfig::from_env`]).
///
/// # Errors
/// [`HubError`] saying what is missing and where it was looked for.
pub fn resolve_tokenizer(spec: &str) -> Result<PathBuf, HubError> {
    let repo = match Spec::model(spec)? {
        Spec::Local { path, .. } => return Ok(path),
        Spec::Remote(repo) => repo,
    };
    let choose = |names: &[String]| select::tokenizer_files(&repo, names);
    snapshot(&HubConfig::from_env(), &repo, choose, |cache, repo| {
        let files = ["vocab.json", "merges.txt"];
        cached(cache, repo, |dir| {
            let missing = files.into_iter().find(|name| !dir.join(name).is_file());
            missing.map(str::to_owned)
        })
    })
}

/// The snapshot of a repository with the chosen files, as far as `held` does not find it in the
/// cache or the hub is away.
fn snapshot(
    config: &HubConfig,
    repo: &RepoSpec,
    choose: impl FnOnce(&[String]) -> Result<Vec<String>, HubError>,
    held: impl Fn(&RepoCache, &RepoSpec) -> Result<PathBuf, HubError>,
) -> Result<PathBuf, HubError> {
    let cache = RepoCache::new(config, repo);
    if config.offline || repo.is_commit() {
        match (held(&cache, repo), config.offline) {
            (Ok(dir), _) => return Ok(dir),
            (Err(missing), true) => return Err(missing),
            (Err(_), false) => {}
        }
    }
    match download(config, &cache, repo, choose) {
        Ok((dir, _)) => Ok(dir),
        Err(error) if error.is_unreachable() => {
            let dir = held(&cache, repo).map_err(|_| error)?;
            note(&format!(
                "warning: `{}` is unreachable, using the cached `{repo}`",
                config.endpoint
            ));
            Ok(dir)
        }
        Err(error) => Err(error),
    }
}

/// The files of a dataset, sorted: `spec` itself if that is a file, the data files of a local
/// directory, or those of `org/name[@revision]`. Behind a colon may follow the files wanted: a
/// name, a folder, or a name with `*`, such as `openai/gsm8k:main/test-*`.
///
/// Without it, a dataset of one file or of one set of shards is taken whole; of several sets the
/// one called `train`. Anything else is an error that lists the files: splits are never mixed by
/// accident. Settings come from the environment ([`HubConfig::from_env`]).
///
/// ```no_run
/// let files = temper_engine::hub::resolve_dataset("meta-math/MetaMathQA:MetaMathQA-395K.json")?;
/// assert_eq!(files.len(), 1);
/// # Ok::<(), temper_engine::hub::HubError>(())
/// ```
///
/// # Errors
/// [`HubError`] saying what is missing and where it was looked for.
pub fn resolve_dataset(spec: &str) -> Result<Vec<PathBuf>, HubError> {
    resolve_dataset_with(spec, &HubConfig::from_env())
}

/// [`resolve_dataset`] with explicit settings.
///
/// # Errors
/// [`HubError`] saying what is missing and where it was looked for.
pub fn resolve_dataset_with(spec: &str, config: &HubConfig) -> Result<Vec<PathBuf>, HubError> {
    let repo = match Spec::dataset(spec)? {
        Spec::Local { path, files } => return local_dataset(spec, path, files.as_deref()),
        Spec::Remote(repo) => repo,
    };
    let choose = |names: &[String]| select::data_files(spec, repo.files.as_deref(), names);
    let cache = RepoCache::new(config, &repo);
    if config.offline {
        return cached_dataset(&cache, &repo, choose);
    }
    match download(config, &cache, &repo, choose) {
        Ok((dir, names)) => Ok(names.iter().map(|name| dir.join(name)).collect()),
        Err(error) if error.is_unreachable() => {
            let files = cached_dataset(&cache, &repo, choose).map_err(|_| error)?;
            note(&format!(
                "warning: `{}` is unreachable, using the cached `{repo}`",
                config.endpoint
            ));
            Ok(files)
        }
        Err(error) => Err(error),
    }
}

fn local_dataset(spec: &str, path: PathBuf, files: Option<&str>) -> Result<Vec<PathBuf>, HubError> {
    if path.is_file() {
        return Ok(vec![path]);
    }
    let names = select::data_files(spec, files, &cache::files_below(&path))?;
    Ok(names.iter().map(|name| path.join(name)).collect())
}

fn cached_model(cache: &RepoCache, repo: &RepoSpec) -> Result<PathBuf, HubError> {
    cached(cache, repo, cache::missing_from_model)
}

/// A snapshot in the cache, unless `missing` names something that it lacks.
fn cached(
    cache: &RepoCache,
    repo: &RepoSpec,
    missing: impl Fn(&Path) -> Option<String>,
) -> Result<PathBuf, HubError> {
    let dir = cache
        .snapshot_of(&repo.revision)
        .ok_or_else(|| not_cached(cache, repo, "snapshot"))?;
    match missing(&dir) {
        Some(missing) => Err(not_cached(cache, repo, &missing)),
        None => Ok(dir),
    }
}

fn cached_dataset(
    cache: &RepoCache,
    repo: &RepoSpec,
    choose: impl FnOnce(&[String]) -> Result<Vec<String>, HubError>,
) -> Result<Vec<PathBuf>, HubError> {
    let dir = cache
        .snapshot_of(&repo.revision)
        .ok_or_else(|| not_cached(cache, repo, "snapshot"))?;
    let names = choose(&cache::files_below(&dir))
        .map_err(|_| not_cached(cache, repo, repo.files.as_deref().unwrap_or("data files")))?;
    // A set of shards says how many it has: an interrupted download must not pass for a dataset.
    if let Some(missing) = select::missing_shard(&names) {
        return Err(not_cached(cache, repo, &missing));
    }
    Ok(names.iter().map(|name| dir.join(name)).collect())
}

fn not_cached(cache: &RepoCache, repo: &RepoSpec, missing: &str) -> HubError {
    HubError::NotCached {
        repo: repo.id.clone(),
        revision: repo.revision.clone(),
        missing: missing.to_owned(),
        cache: cache.root().to_path_buf(),
    }
}

/// Fetches the chosen files of one commit and returns the snapshot with their names.
fn download(
    config: &HubConfig,
    cache: &RepoCache,
    repo: &RepoSpec,
    choose: impl FnOnce(&[String]) -> Result<Vec<String>, HubError>,
) -> Result<(PathBuf, Vec<String>), HubError> {
    let client = Client::new(config);
    let info = client.info(repo)?;
    let unsafe_name = info
        .names
        .iter()
        .find(|name| !crate::run::is_safe_relative(name));
    if let Some(name) = unsafe_name {
        return Err(HubError::UnsafeName {
            repo: repo.id.clone(),
            name: name.clone(),
        });
    }
    let names = choose(&info.names)?;
    let snapshot = cache.snapshot(&info.commit);
    for name in &names {
        fetch(config, &client, cache, repo, &info.commit, name)?;
    }
    // Last: a revision points only at a snapshot that is whole.
    cache.write_ref(&repo.revision, &info.commit)?;
    Ok((snapshot, names))
}

fn fetch(
    config: &HubConfig,
    client: &Client,
    cache: &RepoCache,
    repo: &RepoSpec,
    commit: &str,
    name: &str,
) -> Result<(), HubError> {
    let pointer = cache.snapshot(commit).join(name);
    if pointer.is_file() {
        return Ok(());
    }
    let remote = client.describe(repo, commit, name)?;
    let blob = cache.blob(&remote.etag);
    let _lock = cache.lock(&blob)?;
    if !blob.is_file() {
        let partial = partial_of(&blob);
        client.fetch(repo, &remote, &partial, config.verbosity)?;
        cache::publish(&partial, &blob, &remote, name)?;
    }
    cache::link(&blob, &pointer)
}

fn partial_of(blob: &Path) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(".incomplete");
    name.into()
}
