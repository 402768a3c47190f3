//! `temper train` on images as a user runs it: the real binary on small models, compared with diffusers and PEFT, with what a step
//! must give by its definition, interrupted and resumed.

#[cfg(test)]
#[path = "diffusion_runs/autoencoder.rs"]
mod autoencoder;
#[cfg(test)]
#[path = "diffusion_runs/buckets.rs"]
mod buckets;
#[cfg(test)]
#[path = "diffusion_runs/captions.rs"]
mod captions;
#[cfg(test)]
#[path = "diffusion_runs/curves.rs"]
mod curves;
#[cfg(test)]
#[path = "cli_diffusion/files.rs"]
mod files;
#[cfg(test)]
#[path = "diffusion_runs/latents.rs"]
mod latents;
#[cfg(test)]
#[path = "diffusion_runs/masks.rs"]
mod masks;
#[cfg(test)]
#[path = "diffusion_runs/refusals.rs"]
mod refusals;
#[cfg(test)]
#[path = "diffusion_runs/replay.rs"]
mod replay;
#[cfg(test)]
#[path = "diffusion_runs/results.rs"]
mod results;
#[cfg(test)]
#[path = "diffusion_runs/resumed.rs"]
mod resumed;
#[cfg(test)]
#[path = "diffusion_runs/subject.rs"]
mod subject;
#[cfg(test)]
#[path = "diffusion_runs/support.rs"]
mod support;
#[cfg(test)]
#[path = "diffusion_runs/text_training.rs"]
mod text_training;
#[cfg(test)]
#[path = "diffusion_runs/xl.rs"]
mod xl;
