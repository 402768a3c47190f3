//! What can go wrong around an evaluation.

use std::path::PathBuf;

use crate::Failure;
use crate::generate::GenerateError;
use crate::run::RunError;

/// Why something could not be evaluated, merged or compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The directory holds something else.
    #[error(
        "`{}` is not empty and holds no evaluation; choose another `--output`",
        path.display()
    )]
    NotAnEvaluation {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds an evaluation of something else.
    #[error(
        "`{}` holds an evaluation with other settings: {}; choose another `--output` or undo the change",
        path.display(),
        changes.join("; ")
    )]
    Changed {
        /// The directory.
        path: PathBuf,
        /// Each setting with its old and its new value.
        changes: Vec<String>,
    },
    /// Another process evaluates into the directory.
    #[error("`{}` is in use by {holder}; wait for it, or choose another `--output`", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Process and host, as far as the lock tells.
        holder: String,
    },
    /// No evaluation where one should be.
    #[error("no evaluation in `{}`: there is no `{file}`; {advice}", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
        /// The file that should be there.
        file: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A line of `traces.jsonl`, other than a torn last one, is not a trace.
    #[error("line {line} of `{}` is no trace of this task: {reason}", path.display())]
    BadTrace {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that is not what its name says.
    #[error("`{}` is damaged: {source}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A data file without a single problem.
    #[error("`{}` has no {task} problem: {reason}", path.display())]
    NoProblems {
        /// The file.
        path: PathBuf,
        /// The task.
        task: String,
        /// The first row that was left out, and why.
        reason: String,
    },
    /// Shards that do not make one evaluation.
    #[error("the shards do not make one evaluation: {reason}")]
    Shards {
        /// What is missing or too much.
        reason: String,
    },
    /// Two evaluations that have nothing to compare.
    #[error("`{}` and `{}` cannot be compared: {reason}", first.display(), second.display())]
    Unpaired {
        /// One directory.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// Why.
        reason: String,
    },
    /// Prompts that cannot be made.
    #[error("{reason}")]
    Prompt {
        /// What is missing or in the way.
        reason: String,
    },
    /// The report could not be rendered.
    #[error("cannot render the report")]
    Report(#[from] minijinja::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    Run(RunError),
    /// The model or its settings failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The data failed.
    #[error(transparent)]
    Data(#[from] temper_datasets::DataError),
}

impl From<RunError> for EvalError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Locked { path, holder } => Self::InUse { path, holder },
            error => Self::Run(error),
        }
    }
}

impl From<EvalError> for Failure {
    fn from(error: EvalError) -> Self {
        match error {
            EvalError::Generate(error) => error.into(),
            EvalError::Changed { .. }
            | EvalError::NotAnEvaluation { .. }
            | EvalError::Prompt { .. } => Self::usage(error),
            error => Self::run(error),
        }
    }
}
