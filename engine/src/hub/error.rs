//! Why a model or dataset could not be found.

use std::path::PathBuf;

use crate::run::{NotThat, RunError};

/// What can go wrong on the way to a model or dataset. No message ever holds the access token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Neither a path that exists nor the name of a repository.
    #[error(
        "`{spec}` does not exist; give an existing path, or `org/name` of a repository on the hub"
    )]
    NoSuchPath {
        /// What was asked for.
        spec: String,
    },
    /// Something else where a model was asked for.
    #[error(transparent)]
    NotAModel(#[from] NotThat),
    /// A revision that no repository can have.
    #[error(
        "`{revision}` cannot be a revision of `{repo}`; give a branch, tag or commit, such as \
          `main`"
    )]
    BadRevision {
        /// `org/name`.
        repo: String,
        /// What was asked for.
        revision: String,
    },
    /// Offline, and the cache does not have it.
    #[error(
        "`{missing}` of `{repo}` at revision `{revision}` is not in the cache `{}`; unset \
         `HF_HUB_OFFLINE` to download it",
        cache.display()
    )]
    NotCached {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// What the cache lacks.
        missing: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The hub does not have it.
    #[error(
        "`{repo}` at revision `{revision}` has no `{what}` on `{endpoint}`; check the \
         spelling of name and revision"
    )]
    NotFound {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// The repository itself, or a file.
        what: String,
        /// Address of the hub.
        endpoint: String,
    },
    /// The hub wants another token, or any.
    #[error("`{endpoint}` refuses `{repo}` (status {status}); {hint}")]
    Denied {
        /// `org/name`.
        repo: String,
        /// HTTP status.
        status: u16,
        /// Address of the hub.
        endpoint: String,
        /// What to do.
        hint: &'static str,
    },
    /// The hub answered with an error of its own.
    #[error("`{url}` answered with status {status}")]
    Status {
        /// The address.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The hub could not be reached, or the connection broke too often.
    #[error(
        "cannot fetch `{url}`, and nothing of that name is on this machine; what has arrived is kept, run again to go on"
    )]
    Request {
        /// The address.
        url: String,
        /// The transport's reason.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The hub answered with something else than was asked for.
    #[error("`{url}` answered with {problem}")]
    BadReply {
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A repository names a file outside itself.
    #[error(
        "`{repo}` names the file `{name}`, which is not a plain relative path; nothing was \
         downloaded"
    )]
    UnsafeName {
        /// `org/name`.
        repo: String,
        /// The offending name.
        name: String,
    },
    /// A file arrived with other bytes than the hub announced. It was thrown away.
    #[error("`{name}` arrived damaged: {problem}; it was thrown away, run again to fetch it anew")]
    Damaged {
        /// The file.
        name: String,
        /// Announced and received.
        problem: String,
    },
    /// A repository without weights in a safe format.
    #[error(
        "`{repo}` at revision `{revision}` has no `.safetensors` weights; other formats are \
         not read"
    )]
    NoWeights {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// A repository without the files of a tokenizer.
    #[error("`{repo}` at revision `{revision}` has no tokenizer: no `vocab.json`")]
    NoTokenizer {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// No data file, or none of the wanted name.
    #[error("`{spec}` has no such data file; it has {listing}")]
    NoData {
        /// What was asked for.
        spec: String,
        /// The data files there are.
        listing: String,
    },
    /// More than one set of data files.
    #[error(
        "`{spec}` has several sets of data files; choose with `:file`, `:folder` or `:name-*` \
          among {listing}"
    )]
    AmbiguousData {
        /// What was asked for.
        spec: String,
        /// The data files there are.
        listing: String,
    },
    /// The cache could not be read or written.
    #[error(transparent)]
    Storage(#[from] RunError),
}

impl HubError {
    /// Whether trying again may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status == 408 || *status == 429 || *status >= 500,
            Self::Request { source, .. } => !matches!(
                **source,
                ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::TooManyRedirects
            ),
            _ => false,
        }
    }

    /// Whether the hub seems to be away, so that a cached copy is the best there is.
    pub(super) fn is_unreachable(&self) -> bool {
        self.is_transient()
    }
}
