//! The denoising UNet of latent diffusion (`UNet2DConditionModel` of diffusers; Rombach et al., arXiv 2112.10752): Stable Diffusion
//! 1.x, 2.x and XL (arXiv 2307.01952), and every model with the same blocks.
//!
//! | preset | channels | heads a level | text width | projection | extra conditions | parameters |
//! |---|---|---|---|---|---|---|
//! | `sd15` | 320 640 1280 1280 | 8 8 8 8 | 768 | convolution | – | 859,520,964 |
//! | `sd21` | 320 640 1280 1280 | 5 10 20 20 | 1024 | linear | – | 865,910,724 |
//! | `sdxl` | 320 640 1280 | 5 10 20 | 2048 | linear | pooled text, sizes and crop | 2,567,463,684 |
//!
//! The whole network is a list of [`Segment`](segment::Segment)s over one hidden state and a stack of skips. The plain pass, the
//! outputs of main modules and gradients with recomputation all walk that list.
//!
//! Deviation: attention is always computed with an f32 softmax; class embeddings, image conditioning and time-scale-shift blocks are
//! refused by name.

mod config;
mod control;
mod embedding;
mod features;
mod load;
mod memory;
mod model;
mod plan;
mod presets;
mod segment;
mod train;
mod transformer;

pub use config::{TextTime, UnetConfig};
pub use control::{ControlConfig, ControlEncoder};
pub use model::{AddedConditions, Hidden, Unet, UnetInput};
pub use train::UnetStep;
