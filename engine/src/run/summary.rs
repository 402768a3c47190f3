//! The numbers a run ends with.

use serde::{Deserialize, Serialize};

use super::{Items, TaskMetric};

/// The content of `summary.json`. Losses are means per supervised token, in nats, or per value of an image.
///
/// ```
/// use temper_engine::run::Summary;
///
/// let summary = Summary { first_loss: 2.5, last_loss: 0.5, steps: 40, ..Summary::default() };
/// assert!(serde_json::to_string(&summary)?.contains("\"last_loss\":0.5"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Training loss of the first step.
    pub first_loss: f64,
    /// Training loss of the last step.
    pub last_loss: f64,
    /// Loss on held-out data after the last step.
    pub eval_loss: Option<f64>,
    /// Loss on held-out data before the first step.
    pub eval_loss_before: Option<f64>,
    /// Most memory held at once: of the device where it reports it, else of the process.
    pub peak_memory_bytes: u64,
    /// Optimizer steps done.
    pub steps: u64,
    /// Parameters that received updates.
    pub trainable_parameters: u64,
    /// All parameters, frozen ones included.
    pub total_parameters: u64,
    /// What was read, and the speed over the whole run, without evaluation and saving.
    #[serde(flatten)]
    pub items: Items,
    /// Steps whose update was skipped because a loss or gradient was not finite.
    pub skipped_steps: u64,
    /// The step this run resumed from, if it did.
    pub resumed_from: Option<u64>,
    /// The run ended because the held-out loss stopped improving.
    pub stopped_early: bool,
    /// Step with the lowest held-out loss, which an early stop goes back to.
    pub best_step: Option<u64>,
    /// What the result solves, when the recipe has `[eval]`; its step is the one whose parameters are the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskMetric>,
    /// Wall time of this process.
    pub seconds: f64,
}
