//! Evaluation: problems with known answers, asked, graded under every convention at once, and kept row by row.
//!
//! Scores of the same model can differ by tens of points between graders and prompts, so
//! an evaluation here names everything that determines its numbers ([`EvalConfig`]), grades each completion by all conventions
//! ([`Summary`]), stores each prompt and completion ([`Trace`]) and shows first where the conventions disagree.
//!
//! Parameters follow `MetaMath` (arXiv 2309.12284, evaluation program): zero-shot, greedy, 512 new tokens for GSM8K and 2048 for
//! MATH. A row depends on its problem and the configuration alone, not on the rows beside it: killing and resuming, or evaluating in
//! shards and merging, ends with the same bytes. (So on `cpu` in f32; elsewhere sums may be rounded differently in other company.)

mod chart;
mod completions;
mod config;
mod diff;
mod directory;
mod error;
mod merge;
mod perplexity;
pub mod pictures;
mod prompts;
mod report;
mod solve;
mod statistics;
mod summary;
mod table;
mod traces;

pub use completions::{CompletionsSummary, grade_completions};
pub use config::{DataId, EvalConfig, Generation, Info, ModelId, RowSettings, Shard};
pub use diff::{Changed, Comparison, Diff, diff};
pub use error::EvalError;
pub use merge::{Outcome, merge};
pub use perplexity::PerplexitySummary;
pub use statistics::{Paired, standard_error};
pub use summary::{ByGrader, GRADERS, Group, Score, Summary, Tokens};
pub use traces::{Ended, Trace};

pub(crate) use config::fingerprint;
pub(crate) use diff::diff_table;
pub(crate) use directory::OutputDir;
pub(crate) use perplexity::measure;
pub(crate) use solve::{Exam, Questions, Sitting};
pub(crate) use table::{perplexity_table, score_table, summary_table};

/// The task that asks nothing.
pub(crate) const PERPLEXITY: &str = "perplexity";
