//! The networks that read texts and pictures.
//!
//! | network | input | shape | output |
//! |---|---|---|---|
//! | CLIP text | `input_ids` | `[B, T]` | `last_hidden_state [B, T, D]`, `pooler_output [B, D]`, `text_embeds [B, P]` with a projection |
//! | CLIP vision | `pixel_values` | `[B, 3, H, W]` | `last_hidden_state`, `pooler_output`, `image_embeds` with a projection |
//! | ViT | `pixel_values` | `[B, 3, H, W]` | `last_hidden_state` |
//!
//! `hidden_states.N` on request: the embeddings, then what each layer gives, before the last norm.

use burn::tensor::{Device, Tensor};
use temper_models::{ClipText, ClipVision, DinoVit};

use super::tensors::{floats, open, output, token_ids};
use super::{Job, Outputs};
use crate::Failure;
use crate::diffusion::Component;

/// The states of a text encoder.
pub(super) fn text(job: &Job<'_>) -> Result<Outputs, Failure> {
    let file = open(&job.args.input, &["input_ids"])?;
    let (ids, shape) = token_ids(&file)?;
    let (device, dtype) = job.options.open()?;
    let mut model = ClipText::load(&job.directory, dtype, &device.device)?;
    job.adapt(&mut model, Component::TextEncoder)?;
    let found = model.forward(&ids, shape)?;
    let mut outputs = vec![
        output("last_hidden_state", found.last_hidden_state)?,
        output("pooler_output", found.pooler_output)?,
    ];
    if let Some(embeds) = found.text_embeds {
        outputs.push(output("text_embeds", embeds)?);
    }
    if job.args.hidden_states {
        for (index, state) in found.hidden_states.into_iter().enumerate() {
            outputs.push(output(format!("hidden_states.{index}"), state)?);
        }
    }
    Ok(outputs)
}

/// Of a directory with both encoders, the one that the input is for.
pub(super) fn either(job: &Job<'_>) -> Result<Outputs, Failure> {
    let file = open(&job.args.input, &["input_ids", "pixel_values"])?;
    match file.info("input_ids") {
        Some(_) => text(job),
        None => vision(job),
    }
}

/// The states of CLIP's image encoder.
pub(super) fn vision(job: &Job<'_>) -> Result<Outputs, Failure> {
    job.refuse_adapter()?;
    let (device, dtype) = job.options.open()?;
    let pixels = pixels(job, &device.device)?;
    let model = ClipVision::load(&job.directory, dtype, &device.device)?;
    let found = model.forward(pixels)?;
    Ok(vec![
        output("last_hidden_state", found.last_hidden_state)?,
        output("pooler_output", found.pooler_output)?,
        output("image_embeds", found.image_embeds)?,
    ])
}

/// The states of a vision transformer.
pub(super) fn vit(job: &Job<'_>) -> Result<Outputs, Failure> {
    job.refuse_adapter()?;
    let (device, dtype) = job.options.open()?;
    let pixels = pixels(job, &device.device)?;
    let model = DinoVit::load(&job.directory, dtype, &device.device)?;
    Ok(vec![output("last_hidden_state", model.forward(pixels)?)?])
}

fn pixels(job: &Job<'_>, device: &Device) -> Result<Tensor<4>, Failure> {
    let file = open(&job.args.input, &["pixel_values"])?;
    floats(
        &file,
        "pixel_values",
        "[rows, channels, height, width]",
        |_| true,
        device,
    )
}
