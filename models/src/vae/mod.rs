//! The autoencoder of latent diffusion (arXiv 2112.10752, §3.1), `AutoencoderKL` of diffusers.
//!
//! | model | widths | blocks a level | latent channels | `scaling_factor` |
//! |---|---|---|---|---|
//! | Stable Diffusion 1.x, 2.x | 128, 256, 512, 512 | 2 | 4 | 0.18215 |
//! | SDXL | 128, 256, 512, 512 | 2 | 4 | 0.13025 |
//!
//! Every norm has 32 groups and adds 1e-6 to the variance; attention stands in the middle alone, with one head. The SDXL
//! autoencoder overflows in f16: with `force_upcast` f16 is replaced by f32.

mod blocks;
mod coder;
mod config;
mod model;
mod posterior;

pub use config::VaeConfig;
pub use model::{Vae, VaeStep};
pub use posterior::Posterior;
