//! What can go wrong while questions are bootstrapped.

use std::path::PathBuf;

use temper_datasets::DataError;

use crate::Failure;
use crate::run::RunError;

/// Why a bootstrapping run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// A line of the provenance, other than a torn last one, is no record.
    #[error("line {line} of `{}` is no record of a generation", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The decoder's reason.
        #[source]
        source: serde_json::Error,
    },
    /// The provenance is of other questions or prompts than those of the recipe.
    #[error(
        "row {row} of the questions is not the one that `{}` is about: questions or prompts have changed",
        path.display()
    )]
    OtherQuestions {
        /// Row of the question, from 0.
        row: u64,
        /// The provenance.
        path: PathBuf,
    },
    /// No question can be used.
    #[error("no question in `{files}` can be used; the first problem: {reason}")]
    NoQuestions {
        /// The question files.
        files: String,
        /// What is wrong with the first row.
        reason: String,
    },
    /// The system gives no means to wait for replies.
    #[error("cannot wait for replies")]
    Runtime {
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The run directory.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The question files.
    #[error(transparent)]
    Data(#[from] DataError),
}

impl From<BootstrapError> for Failure {
    fn from(error: BootstrapError) -> Self {
        let hint = match &error {
            BootstrapError::OtherQuestions { .. } => {
                "resume with the files the run was started with, or choose another `run.dir`"
            }
            BootstrapError::Journal { .. } => {
                "the file was changed by hand or by another program: remove that line, and its generation is asked for again"
            }
            BootstrapError::NoQuestions { .. } => {
                "`questions.task` says how rows are read: `gsm8k` or `math`"
            }
            BootstrapError::Runtime { .. } | BootstrapError::Run(_) | BootstrapError::Data(_) => {
                return Self::run(error);
            }
        };
        Self::run(error).with_hint(hint)
    }
}
