//! Adapters folded into a UNet, or into the networks of a whole pipeline.

use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use temper_adapters::weights::Dtype;
use temper_adapters::{Adaptable, RandomSource, merge_into};
use temper_datasets::random::{below, rng};
use temper_models::{AddedConditions, ClipText, ModelError, Unet, UnetConfig, UnetInput};

use super::{Args, Comparison, file_dtype};
use crate::commands::output::print;
use crate::diffusion::{
    AdapterChoice, Component, Pipeline, Place, SavePipeline, apply_adapters, read_part,
    stored_dtype,
};
use crate::loading::attach_to;
use crate::run::note;
use crate::{Failure, device};

/// One adapter as it was trained: it is first run beside the weights, and then folded in.
fn plain(adapters: &[AdapterChoice]) -> Option<&AdapterChoice> {
    match adapters {
        [only] if only.strength == 1.0 => Some(only),
        _ => None,
    }
}

/// A UNet directory.
pub(super) fn unet(args: &Args, directory: &Path) -> Result<(), Failure> {
    let open = device::open(&args.device)?;
    let stored = stored_dtype(directory);
    let compute = held(args, stored, &open.precisions());
    let device = &open.device;
    let mut unet = Unet::load(directory, compute, device)?;
    let read = |path: &Path, unet: &Unet| read_part(path, Component::Unet, &unet.modules());
    if let Some(adapter) = plain(&args.adapter) {
        let file = read(&adapter.path, &unet)?;
        attach_to(&mut unet, &file, &adapter.path)?;
    } else {
        for adapter in args.adapter.iter().rev() {
            let file = read(&adapter.path, &unet)?;
            for remark in merge_into(&mut unet, &file, adapter.strength)? {
                note(&format!("warning: {remark}"));
            }
        }
    }
    let probe = UnetProbe::new(unet.config(), device);
    let before = probe.prediction(&unet)?;
    unet.merge();
    let dtype = args.dtype.map_or(stored, |dtype| file_dtype(dtype.into()));
    unet.save(&args.output, dtype, args.max_shard_size)?;
    drop(unet);
    print(format!("wrote {}", args.output.display()))?;
    let after = probe.prediction(&Unet::load(&args.output, compute, device)?)?;
    compare("prediction", &before, &after, &args.output)
}

/// A pipeline: networks that an adapter changes are written anew, everything else is copied.
pub(super) fn pipeline(args: &Args, path: &Path, place: &Place) -> Result<(), Failure> {
    let open = device::open(&args.device)?;
    let stored = match place {
        Place::File(file) => stored_dtype(file),
        Place::Directory => stored_dtype(&path.join(Component::Unet.name())),
    };
    let compute = held(args, stored, &open.precisions());
    let mut pipeline = Pipeline::open(path, compute, &open)?;
    let mut changed = Vec::new();
    for adapter in &args.adapter {
        let parts = pipeline.read_adapter(&adapter.path)?;
        changed.extend(parts.iter().map(|(component, _)| *component));
        if plain(&args.adapter).is_some() {
            for (component, file) in parts {
                attach_to(pipeline.adaptable(component)?, &file, &adapter.path)?;
            }
        }
    }
    changed.sort_unstable();
    changed.dedup();
    if plain(&args.adapter).is_none() {
        for remark in apply_adapters(&mut pipeline, &args.adapter)? {
            note(&format!("warning: {remark}"));
        }
    }
    let before = Probes::run(&pipeline, &changed)?;
    for component in &changed {
        pipeline.adaptable(*component)?.merge();
    }
    let how = SavePipeline {
        changed: &changed,
        dtype: args.dtype.map(|dtype| file_dtype(dtype.into())),
        max_shard_bytes: args.max_shard_size,
    };
    pipeline.save(&args.output, &how)?;
    drop(pipeline);
    print(format!("wrote {}", args.output.display()))?;
    let written = Pipeline::open(&args.output, compute, &open)?;
    let after = Probes::run(&written, &changed)?;
    for ((component, before), (_, after)) in before.0.iter().zip(&after.0) {
        let what = match component {
            Component::Unet => "prediction",
            _ => "text state",
        };
        compare(what, before, after, &args.output)?;
    }
    Ok(())
}

fn compare(
    what: &'static str,
    before: &[f32],
    after: &[f32],
    output: &Path,
) -> Result<(), Failure> {
    let comparison = Comparison {
        what,
        before,
        after,
    };
    comparison.report(output)
}

/// The fold is f32 in any case. Holding the weights in the target's precision halves the memory, and rounds once.
fn held(args: &Args, stored: Dtype, precisions: &[FloatDType]) -> FloatDType {
    let target = args.dtype.map_or(stored, |dtype| file_dtype(dtype.into()));
    let same = match stored {
        Dtype::F16 => FloatDType::F16,
        Dtype::BF16 => FloatDType::BF16,
        _ => FloatDType::F32,
    };
    if target == stored && precisions.contains(&same) {
        same
    } else {
        FloatDType::F32
    }
}

/// What each changed network gives for the same input.
struct Probes(Vec<(Component, Vec<f32>)>);

impl Probes {
    fn run(pipeline: &Pipeline, changed: &[Component]) -> Result<Self, Failure> {
        let mut found = Vec::new();
        for component in changed {
            let values = match component {
                Component::Unet => {
                    let probe = UnetProbe::new(pipeline.unet.config(), &pipeline.device.device);
                    probe.prediction(&pipeline.unet)?
                }
                Component::TextEncoder2 => text_state(&pipeline.text_encoders[1])?,
                _ => text_state(&pipeline.text_encoders[0])?,
            };
            found.push((*component, values));
        }
        Ok(Self(found))
    }
}

/// Small latents, the same for both networks.
struct UnetProbe(UnetInput);

impl UnetProbe {
    fn new(config: &UnetConfig, device: &Device) -> Self {
        let random = RandomSource::new(|purpose| rng(0, purpose, 0, 0));
        // The smallest side that every level can halve.
        let side = 1 << config.block_out_channels().len().min(6);
        let draw = |purpose, count| random.normal(purpose, count, 1.0);
        let (channels, width) = (config.in_channels(), config.cross_attention_dim());
        let sample = TensorData::new(
            draw("merge-sample", channels * side * side),
            [1, channels, side, side],
        );
        let text = TensorData::new(draw("merge-text", 8 * width), [1, 8, width]);
        let added = config.addition().map(|addition| {
            let pooled = addition
                .input_dim
                .saturating_sub(6 * addition.time_embed_dim);
            let pooled = TensorData::new(draw("merge-pooled", pooled), [1, pooled]);
            AddedConditions {
                text_embeds: Tensor::from_data(pooled, device),
                time_ids: Tensor::full([1, 6], side as f32, device),
            }
        });
        Self(UnetInput {
            sample: Tensor::from_data(sample, device),
            timesteps: vec![500.0],
            encoder_hidden_states: Tensor::from_data(text, device),
            added,
            control: None,
        })
    }

    fn prediction(&self, unet: &Unet) -> Result<Vec<f32>, ModelError> {
        let Ok(values) = unet.forward(&self.0)?.into_data().try_to_vec::<f32>() else {
            unreachable!("predictions are f32")
        };
        Ok(values)
    }
}

fn text_state(encoder: &ClipText) -> Result<Vec<f32>, ModelError> {
    let config = encoder.config();
    let tokens = config.max_position_embeddings.min(16);
    let mut random = rng(0, "merge-probe", 0, 0);
    let ids: Vec<u32> = (0..tokens)
        .map(|_| below(&mut random, config.vocab_size as u64) as u32)
        .collect();
    let output = encoder.forward(&ids, [1, tokens])?;
    let Ok(values) = output.last_hidden_state.into_data().try_to_vec::<f32>() else {
        unreachable!("states are f32")
    };
    Ok(values)
}
