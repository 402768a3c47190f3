//! Samplers: from noise to an image in a few calls of a diffusion model.
//!
//! [`SchedulerConfig`] is the file `scheduler_config.json`, [`Scheduler`] a run of it: it says at which timesteps the model is
//! called, scales its input, and turns each prediction into the next state. Names, defaults and results are those of diffusers
//! 0.42.1; `tests/golden/diffusion/schedulers` holds them to it. Every scalar is f64 on the host, states are f32 on any device.
//!
//! Two parametrisations meet here. The state of DDPM, DDIM, PNDM, DPM-Solver++ and UniPC keeps its variance, x = αx0 + σε with
//! α² + σ² = 1 (α = √ᾱ). That of Euler and Heun is x = x0 + σε with σ = √((1−ᾱ)/ᾱ), and is scaled by 1/√(σ² + 1) for the model.

mod config;
mod ddim;
mod dpm;
mod fields;
mod guidance;
mod kind;
mod pndm;
mod run;
mod sigma;
mod spacing;
mod unipc;
mod values;

pub use config::SchedulerConfig;
pub use guidance::{guide, rescale_guidance};
pub use kind::{
    Algorithm, BetaSchedule, FinalSigma, Prediction, SchedulerKind, SolverType, Spacing, Variance,
};
pub use run::Scheduler;

#[cfg(test)]
mod config_tests;
