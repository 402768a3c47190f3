//! `[train]`: the length of the run, the optimizer (`AdamW`), its schedule, and what is saved when.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `[train]` section.
///
/// ```
/// # use temper_engine::recipe::{Length, Train};
/// let train = Train { steps: Some(100), batch_size: 8, ..Train::default() };
/// assert_eq!(train.length(), Length::Steps(100));
/// assert_eq!(train.total_steps(1_000), 100);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["batch_size", "lr"]))]
pub struct Train {
    /// Passes over the training rows; may be a fraction. Give this or `steps`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epochs: Option<f64>,
    /// Optimizer steps. Give this or `epochs`.
    #[schemars(range(min = 1))]
    pub steps: Option<usize>,
    /// Rows per optimizer step, whatever the memory allows at once.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Rows per forward and backward pass; the rest is accumulated. 0: the whole batch at once.
    pub micro_batch_size: usize,
    /// Peak learning rate.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub lr: f64,
    /// Course of the learning rate after warm-up.
    pub schedule: Schedule,
    /// Share of the steps over which the learning rate rises from 0, rounded up. Give this or
    /// `warmup_steps`.
    #[schemars(extend("default" = 0.03, "minimum" = 0, "exclusiveMaximum" = 1))]
    pub warmup_ratio: Option<f64>,
    /// Steps over which the learning rate rises from 0. Give this or `warmup_ratio`.
    pub warmup_steps: Option<usize>,
    /// Where the schedule ends, as a share of `lr`.
    #[schemars(range(min = 0, max = 1))]
    pub min_lr_ratio: f64,
    /// Decoupled weight decay.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Decay of the first moment, at least 0 and below 1.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub beta1: f64,
    /// Decay of the second moment, at least 0 and below 1.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub beta2: f64,
    /// Term that keeps the division by the second moment finite.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// Largest norm of the whole gradient; a longer one is scaled down. 0 turns clipping off.
    #[schemars(range(min = 0))]
    pub max_grad_norm: f64,
    /// How the losses of one optimizer step are averaged.
    pub loss_average: LossAverage,
    /// Recompute activations in the backward pass: far less memory, about a third more time.
    pub gradient_checkpointing: bool,
    /// Evaluate every so many steps; 0 evaluates only at the beginning and the end. Needs
    /// `[data.eval]`.
    pub eval_every: usize,
    /// Save a checkpoint every so many steps; 0 saves only at the end.
    pub save_every: usize,
    /// How many checkpoints are kept.
    #[schemars(range(min = 1))]
    pub keep_last: usize,
    /// Write metrics every so many steps.
    #[schemars(range(min = 1))]
    pub log_every: usize,
    /// Stop after so many evaluations without improvement. Left out: never.
    #[schemars(range(min = 1))]
    pub early_stopping_patience: Option<usize>,
    /// What happens when a loss or a gradient is not finite.
    pub non_finite: NonFinite,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            epochs: None,
            steps: None,
            batch_size: 0,
            micro_batch_size: 0,
            lr: 0.0,
            schedule: Schedule::default(),
            warmup_ratio: None,
            warmup_steps: None,
            min_lr_ratio: 0.0,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            loss_average: LossAverage::default(),
            gradient_checkpointing: false,
            eval_every: 0,
            save_every: 0,
            keep_last: 2,
            log_every: 1,
            early_stopping_patience: None,
            non_finite: NonFinite::default(),
        }
    }
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Passes over the rows.
    Epochs(f64),
    /// Optimizer steps.
    Steps(usize),
}

impl Train {
    /// Fills what depends on other keys: the micro-batch and the warm-up.
    pub(super) fn fill_defaults(&mut self) {
        if self.micro_batch_size == 0 {
            self.micro_batch_size = self.batch_size;
        }
        if self.warmup_steps.is_none() {
            self.warmup_ratio.get_or_insert(0.03);
        }
    }

    /// Whether the run is measured in epochs or in steps.
    pub fn length(&self) -> Length {
        match self.steps {
            Some(steps) => Length::Steps(steps),
            None => Length::Epochs(self.epochs.unwrap_or(1.0)),
        }
    }

    /// Optimizer steps of the run over `rows` training rows. The last batch of an epoch may be
    /// smaller.
    pub fn total_steps(&self, rows: usize) -> usize {
        match self.length() {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => {
                let per_epoch = rows.div_ceil(self.batch_size.max(1));
                (epochs * per_epoch as f64).ceil() as usize
            }
        }
    }

    /// Steps of warm-up in a run of `total` steps: `warmup_steps`, else `ceil(warmup_ratio *
    /// total)`.
    pub fn warmup(&self, total: usize) -> usize {
        let ratio = self.warmup_ratio.unwrap_or(0.03);
        self.warmup_steps
            .unwrap_or_else(|| (ratio * total as f64).ceil() as usize)
    }
}

/// Course of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine from `lr` down to `min_lr_ratio * lr`.
    #[default]
    Cosine,
    /// A straight line from `lr` down to `min_lr_ratio * lr`.
    Linear,
    /// `lr` to the end.
    Constant,
}

/// How the losses of one optimizer step are averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossAverage {
    /// Over all tokens that carry loss, so that the size of the micro-batch does not matter.
    #[default]
    Token,
    /// The mean of the means of the micro-batches, as trainers of 2023 did.
    MicroBatch,
}

/// What happens when a loss or a gradient is not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// Stop before the bad update and name the step and the rows.
    #[default]
    Stop,
}
