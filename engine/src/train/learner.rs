//! What the trainer needs of a model and its data. The loop knows neither tokens nor images.

use temper_adapters::Adaptable;
use temper_models::Gradients;

use crate::Failure;
use crate::eval::Summary;
use crate::run::{RunDir, Unit};

/// What one optimizer step saw.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// Mean loss over the targets of the step.
    pub loss: f64,
    /// Items read, in the learner's unit.
    pub items: u64,
    /// Items that entered the loss.
    pub targets: u64,
}

/// A model with its data: gives gradients of any step, by number.
pub trait Learner {
    /// Loss and gradients of the global batch of `step`, a pure function of the step and the parameters.
    ///
    /// # Errors
    /// Data that cannot be read or does not fit the model.
    fn gradients(&mut self, step: u64, sums: &mut Gradients) -> Result<StepReport, Failure>;

    /// The parameters.
    fn model(&self) -> &dyn Adaptable;

    /// The parameters, to update them.
    fn model_mut(&mut self) -> &mut dyn Adaptable;

    /// Mean loss on the held-out data, if there is any, and the number of targets it is the mean of.
    ///
    /// # Errors
    /// As [`Self::gradients`].
    fn evaluate(&self) -> Result<Option<(f64, u64)>, Failure>;

    /// Solves the problems of the recipe's `[eval]` with the parameters as they are after `step` steps, and leaves the rows in `run`.
    /// `None` when there are none to solve, or `stop` came true before the end.
    ///
    /// # Errors
    /// What keeps the model from being read or the rows from being written.
    fn sit(
        &self,
        step: u64,
        run: &RunDir,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Summary>, Failure> {
        let _ = (step, run, stop);
        Ok(None)
    }

    /// What [`StepReport::items`] counts.
    fn unit(&self) -> Unit {
        Unit::Tokens
    }

    /// The learning rate of a parameter, as a multiple of the recipe's.
    fn rate_scale(&self, name: &str) -> f64 {
        let _ = name;
        1.0
    }

    /// Shows what the model does with the parameters as they are after `step` steps; leaves it in `run`. False when `stop` came true
    /// before the end.
    ///
    /// # Errors
    /// What keeps the model from being run or the result from being written.
    fn show(&self, step: u64, run: &RunDir, stop: &dyn Fn() -> bool) -> Result<bool, Failure> {
        let _ = (step, run, stop);
        Ok(true)
    }

    /// Which examples `step` reads, for the report of a step that went wrong.
    fn describe_step(&self, step: u64) -> String;
}
