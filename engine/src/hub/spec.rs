//! What a user wrote: a path, or a repository.

use std::fmt;
use std::path::{Path, PathBuf};

use hf_hub::{Repo, RepoType};

use super::HubError;

/// A model or dataset, as written.
#[derive(Debug)]
pub(super) enum Spec {
    /// Something on this machine, perhaps with the files wanted in it.
    Local {
        path: PathBuf,
        files: Option<String>,
    },
    /// Something on the hub.
    Remote(RepoSpec),
}

/// A repository at a revision.
#[derive(Debug, Clone)]
pub(super) struct RepoSpec {
    pub(super) kind: RepoType,
    /// `org/name`.
    pub(super) id: String,
    /// Branch, tag or commit.
    pub(super) revision: String,
    /// The files wanted, for a dataset.
    pub(super) files: Option<String>,
}

impl Spec {
    pub(super) fn model(spec: &str) -> Result<Self, HubError> {
        if Path::new(spec).exists() {
            return Ok(Self::Local {
                path: spec.into(),
                files: None,
            });
        }
        RepoSpec::parse(spec, spec, RepoType::Model, None).map(Self::Remote)
    }

    pub(super) fn dataset(spec: &str) -> Result<Self, HubError> {
        if Path::new(spec).exists() {
            return Ok(Self::Local {
                path: spec.into(),
                files: None,
            });
        }
        let (name, files) = match spec.rsplit_once(':') {
            Some((name, files)) => (name, Some(files.to_owned())),
            None => (spec, None),
        };
        if files.is_some() && Path::new(name).is_dir() {
            return Ok(Self::Local {
                path: name.into(),
                files,
            });
        }
        RepoSpec::parse(spec, name, RepoType::Dataset, files).map(Self::Remote)
    }
}

impl RepoSpec {
    fn parse(
        spec: &str,
        name: &str,
        kind: RepoType,
        files: Option<String>,
    ) -> Result<Self, HubError> {
        let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
        if !looks_like_repository(id) {
            return Err(HubError::NoSuchPath {
                spec: spec.to_owned(),
            });
        }
        if !revision.split('/').all(is_plain) {
            return Err(HubError::BadRevision {
                repo: id.to_owned(),
                revision: revision.to_owned(),
            });
        }
        Ok(Self {
            kind,
            id: id.to_owned(),
            revision: revision.to_owned(),
            files,
        })
    }

    /// Whether the revision is a commit, which never changes.
    pub(super) fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }

    pub(super) fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.clone(), self.kind, revision.to_owned())
    }
}

impl fmt::Display for RepoSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.id, self.revision)
    }
}

pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `org/name` as the hub allows it. Anything else can only have been meant as a path.
fn looks_like_repository(id: &str) -> bool {
    id.len() <= 200
        && !id.contains("--")
        && id.split('/').count() == 2
        && id
            .split('/')
            .all(|part| is_plain(part) && !part.ends_with(['.', '-']))
}

/// A word of letters, digits, `_`, `-` and `.` that is no path trick and no hidden file.
fn is_plain(word: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !word.is_empty()
        && !word.starts_with(['.', '-'])
        && !word.contains("..")
        && word.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(spec: &str) -> RepoSpec {
        match Spec::dataset(spec).unwrap() {
            Spec::Remote(repo) => repo,
            Spec::Local { path, .. } => panic!("{} exists", path.display()),
        }
    }

    #[test]
    fn repository_revision_and_files_are_told_apart() {
        let repo = remote("openai/gsm8k@refs/pr/3:main/test-*.parquet");
        assert_eq!(
            (repo.id.as_str(), repo.revision.as_str()),
            ("openai/gsm8k", "refs/pr/3")
        );
        assert_eq!(repo.files.as_deref(), Some("main/test-*.parquet"));
        let repo = remote("org/name");
        assert_eq!((repo.revision.as_str(), repo.files), ("main", None));
    }

    #[test]
    fn what_can_only_be_a_path_is_reported_as_a_missing_path() {
        for spec in [
            "./model", "/model", "../a/b", "a/b/c", "model", "~/x", "a\\b", "a/..", "",
        ] {
            let error = Spec::model(spec).unwrap_err();
            assert!(
                matches!(error, HubError::NoSuchPath { .. }),
                "{spec}: {error}"
            );
        }
    }

    #[test]
    fn revision_cannot_leave_the_cache() {
        for spec in [
            "a/b@../../x",
            "a/b@",
            "a/b@x//y",
            "a/b@/x",
            "a/b@..",
            "a/b@x y",
        ] {
            let error = Spec::model(spec).unwrap_err();
            assert!(
                matches!(error, HubError::BadRevision { .. }),
                "{spec}: {error}"
            );
        }
    }

    #[test]
    fn existing_paths_win() {
        let dir = tempfile::tempdir().unwrap();
        let spec = dir.path().to_str().unwrap();
        assert!(matches!(Spec::model(spec), Ok(Spec::Local { .. })));
        let with_files = Spec::dataset(&format!("{spec}:test-*")).unwrap();
        assert!(matches!(with_files, Spec::Local { files: Some(files), .. } if files == "test-*"));
    }
}
