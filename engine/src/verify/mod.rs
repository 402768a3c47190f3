//! Checks of what goes wrong in silence, on the user's own machine and device.
//!
//! Every check is a number and a tolerance. They run on a toy LLaMA with random weights, in seconds.

mod invariants;
mod parity;
mod pipeline;
mod toy;

use serde::Serialize;

use crate::Failure;
use crate::device::{Backend, OpenDevice};

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// How far off it is.
    pub error: f64,
    /// How far off it may be.
    pub tolerance: f64,
}

impl Check {
    /// Whether the error is within the tolerance (a NaN is not).
    ///
    /// # Examples
    /// ```
    /// use temper_engine::verify::Check;
    /// assert!(!Check { name: "loss".into(), error: f64::NAN, tolerance: 1.0 }.passed());
    /// ```
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Receives checks as they finish.
pub type Report<'a> = &'a mut dyn FnMut(Check);

/// Runs every check on `device`.
///
/// # Errors
/// When a check cannot run at all; a check that fails is reported, not an error.
pub fn verify(device: &OpenDevice, report: Report<'_>) -> Result<(), Failure> {
    invariants::gradients(&device.device, report)?;
    invariants::accumulation(&device.device, report)?;
    invariants::recomputation(&device.device, report)?;
    invariants::packing(&device.device, report)?;
    invariants::merge(&device.device, report)?;
    invariants::audit(&device.device, report)?;
    pipeline::mask_and_eos(report)?;
    pipeline::resume(&device.device, device.backend == Backend::Cpu, report)?;
    parity::operations(device, report);
    parity::training_step(device, report)
}
