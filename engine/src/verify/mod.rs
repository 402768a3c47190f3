//! Checks of what goes wrong in silence, on the user's own machine and device.
//!
//! Every check is a number and a tolerance. They run on a toy LLaMA and a toy UNet with random weights, in seconds.

mod images;
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

/// Groups of checks, by the name that `--only` takes.
pub const GROUPS: [&str; 10] = [
    "gradients",
    "accumulation",
    "checkpointing",
    "packing",
    "merge",
    "audit",
    "mask",
    "resume",
    "parity",
    "images",
];

/// Runs the checks of these groups on `device`, or all when `only` is empty.
///
/// # Errors
/// When a check cannot run at all; a check that fails is reported, not an error.
pub fn verify(device: &OpenDevice, only: &[String], report: Report<'_>) -> Result<(), Failure> {
    for group in GROUPS {
        if only.is_empty() || only.iter().any(|name| name == group) {
            run_group(group, device, report)?;
        }
    }
    Ok(())
}

fn run_group(group: &str, open: &OpenDevice, report: Report<'_>) -> Result<(), Failure> {
    let device = &open.device;
    match group {
        "gradients" => invariants::gradients(device, report),
        "accumulation" => invariants::accumulation(device, report),
        "checkpointing" => invariants::recomputation(device, report),
        "packing" => invariants::packing(device, report),
        "merge" => invariants::merge(device, report),
        "audit" => invariants::audit(device, report),
        "mask" => pipeline::mask_and_eos(report),
        "resume" => pipeline::resume(device, open.backend == Backend::Cpu, report),
        "images" => images::parity(open, report),
        _ => {
            parity::operations(open, report);
            parity::training_step(open, report)
        }
    }
}
