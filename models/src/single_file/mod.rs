//! One file that holds a whole Stable Diffusion model, under the names of the program it was trained with.
//!
//! | prefix in the file | becomes |
//! |---|---|
//! | `model.diffusion_model.` | `unet` |
//! | `first_stage_model.` | `vae` |
//! | `cond_stage_model.transformer.` (1.x), `conditioner.embedders.0.transformer.` (SDXL) | a CLIP text encoder |
//! | `cond_stage_model.model.` (2.x), `conditioner.embedders.1.model.` (SDXL) | an OpenCLIP text encoder |
//!
//! Nothing is copied: [`split`] gives views of the file under the names of diffusers and transformers, and a `config.json` for
//! each part. Sizes follow from the shapes. What leaves no trace there is filled in as the published models have it: 8 heads
//! where the projections of attention are convolutions, heads of 64 where they are linear and in text encoders, 32 groups,
//! and the scaling of the latents. Whether a 2.x model predicts noise or velocity cannot be seen: ask the user.
//!
//! The map is reconstructed from general knowledge of these files. It agrees with the converter of diffusers 0.42.1 on renamed tiny
//! models (`scripts/check_single_file.py`); no published file was read.

mod text;
mod unet;
mod vae;

use serde_json::Value;
use temper_adapters::weights::Checkpoint;

use crate::ModelError;

/// Which kind of model a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x.
    Sd2,
    /// SDXL.
    Sdxl,
}

/// One component of a single file, as its own directory would have it.
#[derive(Debug)]
pub struct Part {
    /// The content of its `config.json`, inferred.
    pub config: Value,
    /// Its tensors under the names of diffusers or transformers.
    pub weights: Checkpoint,
}

/// The components of a single file.
#[derive(Debug)]
pub struct SingleFile {
    /// What it holds.
    pub family: Family,
    /// For [`UnetConfig::from_json`](crate::UnetConfig::from_json) and [`Unet::from_checkpoint`](crate::Unet::from_checkpoint).
    pub unet: Part,
    /// For [`VaeConfig`](crate::VaeConfig) and [`Vae`](crate::Vae); some files leave it out.
    pub vae: Option<Part>,
    /// For [`ClipTextConfig`](crate::ClipTextConfig) and [`ClipText`](crate::ClipText), in the order of the pipeline; some files
    /// leave them out.
    pub text_encoders: Vec<Part>,
    /// Tensors that belong to no component: noise schedules, moving averages.
    pub ignored: Vec<String>,
}

/// More layers, blocks or levels than any file has: where counting them ends.
const MOST: usize = 4096;
const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";

/// Whether `checkpoint` is a single file of a whole model.
pub fn is_single_file(checkpoint: &Checkpoint) -> bool {
    checkpoint
        .info("model.diffusion_model.input_blocks.0.0.weight")
        .is_some()
}

/// Takes a single file apart.
///
/// # Errors
/// [`ModelError::SingleFile`] when the file has no UNet, or is of a kind that is not supported (the SDXL refiner).
///
/// # Examples
/// ```no_run
/// use burn::tensor::{Device, FloatDType};
/// use temper_adapters::weights::Checkpoint;
/// use temper_models::{Vae, VaeConfig, single_file};
///
/// let parts = single_file::split(&Checkpoint::open("v1-5-pruned-emaonly.safetensors")?)?;
/// if let Some(vae) = parts.vae {
///     let config = VaeConfig::from_json(&vae.config)?;
///     let vae = Vae::from_checkpoint(config, &vae.weights, FloatDType::F32, &Device::flex())?;
/// }
/// # Ok::<(), temper_models::ModelError>(())
/// ```
pub fn split(checkpoint: &Checkpoint) -> Result<SingleFile, ModelError> {
    if !is_single_file(checkpoint) {
        return Err(ModelError::SingleFile {
            what: "has no tensor `model.diffusion_model.input_blocks.0.0.weight`".to_owned(),
            hint: "this is not a single-file checkpoint of Stable Diffusion; give a diffusers directory, or the whole model's file",
        });
    }
    let family = family(checkpoint)?;
    let text_prefixes: &[&str] = match family {
        Family::Sd1 => &["cond_stage_model.transformer."],
        Family::Sd2 => &["cond_stage_model.model."],
        Family::Sdxl => &[
            "conditioner.embedders.0.transformer.",
            "conditioner.embedders.1.model.",
        ],
    };
    let mut text_encoders = Vec::new();
    for prefix in text_prefixes {
        text_encoders.extend(text::part(checkpoint, prefix, family)?);
    }
    let known = |name: &str| {
        let text = text_prefixes.iter().any(|prefix| name.starts_with(prefix));
        text || name.starts_with(UNET) || name.starts_with(VAE)
    };
    let ignored = checkpoint.names().filter(|name| !known(name));
    Ok(SingleFile {
        family,
        unet: unet::part(checkpoint, family)?,
        vae: vae(checkpoint, family)?,
        text_encoders,
        ignored: ignored.map(str::to_owned).collect(),
    })
}

/// The autoencoder of a single file, or of a file that holds an autoencoder alone under the same names (without their prefix).
///
/// # Errors
/// A tensor of an impossible shape.
pub fn vae(checkpoint: &Checkpoint, family: Family) -> Result<Option<Part>, ModelError> {
    let here = |prefix: &str| {
        checkpoint
            .info(&format!("{prefix}encoder.conv_in.weight"))
            .is_some()
    };
    let prefix = [VAE, ""].into_iter().find(|prefix| here(prefix));
    prefix
        .map(|prefix| vae::part(checkpoint, prefix, family))
        .transpose()
}

fn family(checkpoint: &Checkpoint) -> Result<Family, ModelError> {
    let has = |start: &str| checkpoint.names().any(|name| name.starts_with(start));
    if has("model.diffusion_model.label_emb.") {
        if has("conditioner.embedders.0.model.") {
            return Err(ModelError::SingleFile {
                what: "holds the SDXL refiner".to_owned(),
                hint: "only the SDXL base model is supported",
            });
        }
        return Ok(Family::Sdxl);
    }
    // Where the text encoder is left out, the width of its states tells.
    let context = checkpoint
        .names()
        .find(|name| name.ends_with("attn2.to_k.weight"));
    let width = context.and_then(|name| checkpoint.info(name)?.shape.get(1).copied());
    if has("cond_stage_model.model.") || (!has("cond_stage_model.") && width == Some(1024)) {
        return Ok(Family::Sd2);
    }
    Ok(Family::Sd1)
}

/// Dimension `at` of tensor `name`, which must be there.
fn dimension(checkpoint: &Checkpoint, name: &str, at: usize) -> Result<usize, ModelError> {
    let found = checkpoint
        .info(name)
        .and_then(|info| info.shape.get(at))
        .copied();
    found
        .filter(|size| *size > 0)
        .ok_or_else(|| ModelError::SingleFile {
            what: format!("has no usable tensor `{name}`"),
            hint: "sizes are read from it; is the file complete?",
        })
}
