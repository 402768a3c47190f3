//! Latent diffusion.

mod training;

pub use training::{dry_run, train};
