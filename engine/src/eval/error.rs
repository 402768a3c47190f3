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
    /// A subject with pictures of one kind alone.
    #[error("there is no folder `{name}` in `{}`: each subject needs generated and real pictures", path.display())]
    NoCounterpart {
        /// The subject.
        name: String,
        /// Where its folder should be.
        path: PathBuf,
    },
    /// A folder of pictures of which none counts.
    #[error("no picture in `{}` can be scored{counts}", path.display())]
    NothingToScore {
        /// The folder.
        path: PathBuf,
        /// What was left out.
        counts: String,
    },
    /// A line of a list of prompts.
    #[error("line {line} of `{}`: {reason}; a line is like {{\"file_name\": \"1.png\", \"text\": \"a dog\"}}", path.display())]
    BadPrompts {
        /// The list.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Results that are there already.
    #[error("`{}` is there already; choose another `--output`, or add `--overwrite`", path.display())]
    OutputTaken {
        /// The file.
        path: PathBuf,
    },
    /// Embeddings that are no numbers.
    #[error("{model} gives values that are not finite; try `--dtype f32`")]
    NotFinite {
        /// The model.
        model: String,
    },
    /// Pictures that LPIPS cannot look at.
    #[error(
        "LPIPS cannot look at {width} × {height} pixels; choose a larger square by `--lpips-size`"
    )]
    TooSmall {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// A picture without its map.
    #[error("no map for `{}` in `{}`: expected an image of the same name, whatever its extension", picture.display(), path.display())]
    NoMap {
        /// The picture.
        picture: PathBuf,
        /// The folder of maps.
        path: PathBuf,
    },
    /// A map of another size than its picture.
    #[error(
        "`{}` has {} × {} pixels and `{}` {} × {}; add `--resize` to bring maps to the size of what they are compared with",
        map.display(), size.0, size.1, picture.display(), expected.0, expected.1
    )]
    SizesDiffer {
        /// The map.
        map: PathBuf,
        /// Its width and height.
        size: (usize, usize),
        /// What it is compared with.
        picture: PathBuf,
        /// Its width and height.
        expected: (usize, usize),
    },
    /// Label maps with other labels than classes.
    #[error("`{}` against `{}`: {reason}; see `--classes` and `--ignore`", picture.display(), truth.display())]
    BadLabels {
        /// The predicted map.
        picture: PathBuf,
        /// The true one.
        truth: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A directory that holds another model than the option is for.
    #[error("cannot use `{}` for --{option}: {source}", path.display())]
    Judge {
        /// The directory.
        path: PathBuf,
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        source: Box<temper_models::ModelError>,
    },
    /// A model of pictures failed.
    #[error(transparent)]
    Model(#[from] temper_models::ModelError),
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
