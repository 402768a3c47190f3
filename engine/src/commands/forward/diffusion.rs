//! The networks of a diffusion pipeline.
//!
//! | network | input | shape | output |
//! |---|---|---|---|
//! | UNet | `sample` | `[B, C, h, w]` | `sample` of the same shape |
//! | | `timestep` | one or B numbers | |
//! | | `encoder_hidden_states` | `[B, T, D]` | |
//! | | `text_embeds`, `time_ids` (SDXL) | `[B, P]`, `[B, 6]` | |
//! | VAE | `sample` | `[B, 3, H, W]`, −1 to 1 | `mean`, `logvar`, `std`, `[B, Z, H/f, W/f]` |
//! | | `latent` | `[B, Z, h, w]`, not scaled | `sample`, `[B, 3, h·f, w·f]` |

use burn::tensor::Device;
use temper_models::{AddedConditions, Unet, UnetConfig, UnetInput, Vae};

use super::tensors::{InputError, floats, numbers, open, output, shape, shaped_output};
use super::{Job, Outputs};
use crate::Failure;
use crate::diffusion::Component;

const UNET: [&str; 5] = [
    "sample",
    "timestep",
    "encoder_hidden_states",
    "text_embeds",
    "time_ids",
];
const VAE: [&str; 2] = ["sample", "latent"];

/// The prediction of a UNet, and the outputs of its main modules on request.
pub(super) fn unet(job: &Job<'_>) -> Result<Outputs, Failure> {
    let (device, dtype) = job.options.open()?;
    let config = UnetConfig::load(&job.directory)?;
    let input = unet_input(job, &config, &device.device)?;
    config.check_input(&input)?;
    let mut model = Unet::load(&job.directory, dtype, &device.device)?;
    job.adapt(&mut model, Component::Unet)?;
    if !job.args.activations {
        return Ok(vec![output("sample", model.forward(&input)?)?]);
    }
    let (sample, hidden) = model.forward_with_hidden(&input)?;
    let mut outputs = vec![output("sample", sample)?];
    for module in hidden {
        let name = format!("act.{}", module.name);
        outputs.push(shaped_output(name, module.values, module.shape)?);
    }
    Ok(outputs)
}

/// The tensors of the file; how their sizes fit the network, [`UnetConfig::check_input`] says.
fn unet_input(job: &Job<'_>, config: &UnetConfig, device: &Device) -> Result<UnetInput, Failure> {
    let file = open(&job.args.input, &UNET)?;
    let any = |_: &[usize; 4]| true;
    let sample = floats(
        &file,
        "sample",
        "[rows, channels, height, width]",
        any,
        device,
    )?;
    let rows = sample.dims()[0];
    let timestep = file.read("timestep")?;
    let mut timesteps = numbers("timestep", &timestep)?;
    if timesteps.len() == 1 {
        timesteps = vec![timesteps[0]; rows];
    } else if timestep.shape() != [rows] {
        return Err(shape(
            "timestep",
            &timestep,
            format!("one number, or [{rows}]"),
        ));
    }
    let extra = ["text_embeds", "time_ids"].map(|name| file.info(name).is_some());
    let added = if config.addition().is_some() || extra.contains(&true) {
        let any = |_: &[usize; 2]| true;
        Some(AddedConditions {
            text_embeds: floats(&file, "text_embeds", "[rows, width]", any, device)?,
            time_ids: floats(&file, "time_ids", "[rows, 6]", any, device)?,
        })
    } else {
        None
    };
    let any = |_: &[usize; 3]| true;
    let text = "encoder_hidden_states";
    Ok(UnetInput {
        sample,
        timesteps,
        encoder_hidden_states: floats(&file, text, "[rows, tokens, width]", any, device)?,
        added,
        control: None,
    })
}

/// The posterior of pictures, the pictures of latents, or both.
pub(super) fn vae(job: &Job<'_>) -> Result<Outputs, Failure> {
    job.refuse_adapter()?;
    let file = open(&job.args.input, &VAE)?;
    if file.is_empty() {
        return Err(InputError::Missing {
            missing: &VAE,
            what: "pictures to encode, latents to decode, or both",
        }
        .into());
    }
    let (device, dtype) = job.options.open()?;
    let model = Vae::load(&job.directory, dtype, &device.device)?;
    let config = model.config();
    let mut outputs = Vec::new();
    let read = |name, channels: usize, multiple: usize| {
        let expected =
            format!("[rows, {channels}, height, width], both sides multiples of {multiple}");
        let fits = |shape: &[usize; 4]| {
            let sides = [shape[2], shape[3]];
            shape[1] == channels && sides.iter().all(|side| side.is_multiple_of(multiple))
        };
        floats::<4>(&file, name, &expected, fits, &device.device)
    };
    if file.info("sample").is_some() {
        let pixels = read("sample", config.in_channels, config.downscale())?;
        let posterior = model.encode(pixels);
        outputs.push(output("std", posterior.std())?);
        outputs.push(output("mean", posterior.mean)?);
        outputs.push(output("logvar", posterior.logvar)?);
    }
    if file.info("latent").is_some() {
        let latents = read("latent", config.latent_channels, 1)?;
        outputs.push(output("sample", model.decode(latents))?);
    }
    Ok(outputs)
}
