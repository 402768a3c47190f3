//! Latent diffusion: pipelines of Stable Diffusion's layout, and pictures from them.
//!
//! [`Pipeline`] is a diffusers directory in memory; [`sample`] turns prompts into pictures. Below it, [`Denoiser`] takes latents
//! and conditioning as they are, which is what golden values of another framework can be compared with.

mod adapters;
mod checks;
mod denoise;
mod error;
mod index;
mod memory;
mod module_names;
mod pipeline;
mod prompts;
mod sampling;
mod single_file;
mod trained_with;
mod training;

pub use adapters::{AdapterChoice, apply_adapters};
pub(crate) use adapters::{control_of, read_adapter, read_part};
pub(crate) use checks::Parts;
pub use denoise::{Denoiser, Guidance};
pub use error::DiffusionError;
pub use index::{Component, ModelIndex};
pub(crate) use module_names::ModuleNames;
pub use pipeline::{Pipeline, SavePipeline};
pub(crate) use pipeline::{Place, copy_folder, stored_dtype};
pub use prompts::{Conditioning, PromptIds};
pub use sampling::{Control, Event, SampleRequest, sample};
pub(crate) use single_file::{Configs, configs_of_file, unet_of_file};
pub(crate) use trained_with::{TrainedWith, edges_of};
pub use training::{dry_run, preview, train};
