//! What a run leaves for others to load.
//!
//! | trained | in the run directory |
//! |---|---|
//! | adapter of the U-Net | `adapter/`, a PEFT directory; for LoRA with diffusers' `pytorch_lora_weights.safetensors` in it, where that can hold all |
//! | adapters of text encoders | `adapter_text_encoder/`, `adapter_text_encoder_2/`, PEFT directories, names as in transformers 5 |
//! | encoder of a control image | `control/` |
//! | all weights | `model/`, a diffusers directory; for latents from a file `model/unet/` |

use temper_adapters::formats::{Component, FormatError, as_in_transformers, write_diffusers_lora};
use temper_adapters::peft::AdapterConfig;
use temper_adapters::weights::Dtype;
use temper_adapters::{Adaptable, adapter_file};

use super::networks::{CONTROL, Networks, Stage, UNET};
use crate::Failure;
use crate::diffusion::{self, SavePipeline};
use crate::run::{ADAPTERS, RunDir, note};

const SHARD: u64 = 5_000_000_000;

/// Configurations of the adapters that were trained.
#[derive(Debug)]
pub(super) struct Adapters {
    /// Of the U-Net; `None` when all of its weights were.
    pub(super) unet: Option<AdapterConfig>,
    /// Of the text encoders.
    pub(super) texts: Vec<AdapterConfig>,
}

impl Adapters {
    /// The directories of the result.
    pub(super) fn directories(&self) -> impl Iterator<Item = &'static str> {
        let (of_model, of_adapters): (&[&str], usize) = match self.unet {
            Some(_) => (&[], 1 + self.texts.len()),
            None => (&["model"], 0),
        };
        of_model.iter().chain(&ADAPTERS[..of_adapters]).copied()
    }
}

/// Saves everything that was trained.
pub(super) fn save(networks: &Networks, adapters: &Adapters, run: &RunDir) -> Result<(), Failure> {
    if let Some(control) = &networks.control {
        control.save(&run.path().join(CONTROL), Dtype::F32, SHARD)?;
    }
    match &adapters.unet {
        Some(config) => save_adapters(networks, config, &adapters.texts, run),
        None => save_model(networks, run),
    }
}

fn save_adapters(
    networks: &Networks,
    config: &AdapterConfig,
    texts: &[AdapterConfig],
    run: &RunDir,
) -> Result<(), Failure> {
    let mut files = Vec::new();
    let folder = |number: usize| run.path().join(ADAPTERS[number]);
    if let Some(unet) = networks.unet() {
        let file = adapter_file(unet as &dyn Adaptable, config)?;
        file.save(&folder(0))?;
        files.push((Component::Unet, file));
    }
    let components = [Component::TextEncoder, Component::TextEncoder2];
    for (((_, encoder), config), component) in networks.texts().zip(texts).zip(components) {
        let file = adapter_file(encoder as &dyn Adaptable, config)?;
        as_in_transformers(&file, &encoder.modules())?.save(&folder(files.len()))?;
        files.push((component, file));
    }
    if matches!(config, AdapterConfig::Lora(_)) {
        let files: Vec<_> = files.iter().map(|(part, file)| (*part, file)).collect();
        match write_diffusers_lora(&run.adapter(), &files) {
            // The result is whole without it: biases, for example, have no name there.
            Err(error @ FormatError::Unwritable { .. }) => note(&format!("warning: {error}")),
            written => written?,
        }
    }
    Ok(())
}

fn save_model(networks: &Networks, run: &RunDir) -> Result<(), Failure> {
    let directory = run.model();
    match &networks.stage {
        Stage::Vae(vae) => vae.save(&directory, Dtype::F32, SHARD)?,
        Stage::Unet(unet) => unet.save(&directory.join(UNET), Dtype::F32, SHARD)?,
        Stage::Pipeline(pipeline) => {
            // Every part is written, because single ones may have come from elsewhere than the rest.
            let how = SavePipeline {
                changed: &diffusion::Component::ALL,
                dtype: Some(Dtype::F32),
                max_shard_bytes: SHARD,
            };
            pipeline.save(&directory, &how)?;
        }
    }
    Ok(())
}
