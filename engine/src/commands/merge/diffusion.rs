//! Adapters folded into a UNet, or into the networks of a whole pipeline.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use temper_adapters::peft::AdapterFile;
use temper_adapters::weights::Dtype;
use temper_adapters::{Adaptable, RandomSource, attach_scaled};
use temper_datasets::random::{below, rng};
use temper_models::{AddedConditions, ClipText, ModelError, Unet, UnetConfig, UnetInput};

use super::{Args, Comparison, file_dtype};
use crate::commands::output::print;
use crate::diffusion::{
    AdapterChoice, Component, DiffusionError, Pipeline, Place, SavePipeline, TrainedWith,
    control_of, copy_folder, read_part, stored_dtype,
};
use crate::run::note;
use crate::{Failure, device};

/// A UNet directory.
pub(super) fn unet(args: &Args, directory: &Path) -> Result<(), Failure> {
    let open = device::open(&args.device)?;
    let stored = stored_dtype(directory);
    let compute = held(args, stored, &open.precisions());
    let device = &open.device;
    let mut unet = Unet::load(directory, compute, device)?;
    let probe = UnetProbe::new(unet.config(), device);
    let mut folded: Option<Fold> = None;
    // What acts first on the input stands farthest from the weight, and is folded last.
    for adapter in args.adapter.iter().rev() {
        if let Some(fold) = folded.take() {
            fold.compare(&probe.prediction(&unet)?, &args.output)?;
        }
        let file = read_part(&adapter.path, Component::Unet, &unet.modules())?;
        act(&mut unet, &file, adapter)?;
        folded = Some(Fold::new(
            args,
            adapter,
            "prediction",
            probe.prediction(&unet)?,
        ));
        unet.merge();
    }
    let dtype = args.dtype.map_or(stored, |dtype| file_dtype(dtype.into()));
    unet.save(&args.output, dtype, args.max_shard_size)?;
    drop(unet);
    print(format!("wrote {}", args.output.display()))?;
    for control in args
        .adapter
        .iter()
        .filter_map(|adapter| control_of(&adapter.path))
    {
        note(&format!(
            "warning: `{}`, the encoder of control pictures, has no place in a UNet: keep it, and give it to `temper sample` with \
             --control-model",
            control.display()
        ));
    }
    let after = probe.prediction(&Unet::load(&args.output, compute, device)?)?;
    folded.map_or(Ok(()), |fold| fold.compare(&after, &args.output))
}

/// A pipeline: networks that an adapter changes are written anew, everything else is copied.
pub(super) fn pipeline(args: &Args, path: &Path, place: &Place) -> Result<(), Failure> {
    let adapters = args.adapter.iter().map(|adapter| adapter.path.as_path());
    let trained = TrainedWith::of_all(adapters, &TrainedWith::default())?;
    let open = device::open(&args.device)?;
    let stored = match place {
        Place::File(file) => stored_dtype(file),
        Place::Directory => stored_dtype(&path.join(Component::Unet.name())),
    };
    let compute = held(args, stored, &open.precisions());
    let mut pipeline = Pipeline::open(path, compute, &open)?;
    let folded = fold(args, &mut pipeline)?;
    let mut changed: Vec<Component> = folded.keys().copied().collect();
    let noise_process = trained.noise_process(&pipeline.scheduler)?;
    if noise_process.to_json() != pipeline.scheduler.to_json() {
        note(&format!(
            "the scheduler is written as in training: {trained}"
        ));
        pipeline.scheduler = noise_process;
        changed.push(Component::Scheduler);
    }
    if let Some(skip) = trained.clip_skip.filter(|skip| *skip > 0) {
        note(&format!(
            "warning: draw with --clip-skip {skip}, which a pipeline cannot say"
        ));
    }
    let how = SavePipeline {
        changed: &changed,
        dtype: args.dtype.map(|dtype| file_dtype(dtype.into())),
        max_shard_bytes: args.max_shard_size,
    };
    pipeline.save(&args.output, &how)?;
    drop(pipeline);
    print(format!("wrote {}", args.output.display()))?;
    keep_control(args)?;
    let written = Pipeline::open(&args.output, compute, &open)?;
    for (component, fold) in folded {
        fold.compare(&probe(&written, component)?, &args.output)?;
    }
    Ok(())
}

/// Folds all adapters into `pipeline`. Returns the last fold of each network, still to be compared with what is written.
fn fold(args: &Args, pipeline: &mut Pipeline) -> Result<BTreeMap<Component, Fold>, Failure> {
    let mut folded: BTreeMap<Component, Fold> = BTreeMap::new();
    for adapter in args.adapter.iter().rev() {
        for (component, file) in pipeline.read_adapter(&adapter.path)? {
            if let Some(fold) = folded.remove(&component) {
                fold.compare(&probe(pipeline, component)?, &args.output)?;
            }
            act(pipeline.adaptable(component)?, &file, adapter)?;
            let what = match component {
                Component::Unet => "prediction",
                _ => "text state",
            };
            let before = probe(pipeline, component)?;
            folded.insert(component, Fold::new(args, adapter, what, before));
            pipeline.adaptable(component)?.merge();
        }
    }
    Ok(folded)
}

/// Attaches an adapter with its strength.
fn act(
    model: &mut dyn Adaptable,
    file: &AdapterFile,
    adapter: &AdapterChoice,
) -> Result<(), Failure> {
    let attached = attach_scaled(model, file, adapter.strength);
    for remark in attached.map_err(|error| DiffusionError::adapter(&adapter.path, error))? {
        note(&format!("warning: `{}`: {remark}", adapter.path.display()));
    }
    Ok(())
}

/// What a network gave with an adapter beside its weights, which were then folded.
struct Fold {
    adapter: String,
    what: &'static str,
    before: Vec<f32>,
}

impl Fold {
    fn new(args: &Args, adapter: &AdapterChoice, what: &'static str, before: Vec<f32>) -> Self {
        let adapter = match (args.adapter.len(), adapter.strength) {
            (1, 1.0) => "adapter".to_owned(),
            (_, strength) => format!("`{}` at strength {strength}", adapter.path.display()),
        };
        Self {
            adapter,
            what,
            before,
        }
    }

    fn compare(&self, after: &[f32], output: &Path) -> Result<(), Failure> {
        let comparison = Comparison {
            what: self.what,
            adapter: &self.adapter,
            before: &self.before,
            after,
        };
        comparison.report(output)
    }
}

/// The encoder of control pictures goes along, where `temper sample --control` finds it.
fn keep_control(args: &Args) -> Result<(), Failure> {
    let mut found = args
        .adapter
        .iter()
        .filter_map(|adapter| control_of(&adapter.path));
    let Some(control) = found.next() else {
        return Ok(());
    };
    let to = args.output.join("control");
    copy_folder(&control, &to)?;
    print(format!("wrote {}", to.display()))?;
    for other in found.filter(|other| *other != control) {
        note(&format!(
            "warning: `{}`, another encoder of control pictures, was left out: the pipeline holds that of `{}`",
            other.display(),
            control.display()
        ));
    }
    Ok(())
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

/// What a network gives for an input that is always the same.
fn probe(pipeline: &Pipeline, component: Component) -> Result<Vec<f32>, ModelError> {
    match component {
        Component::Unet => {
            let probe = UnetProbe::new(pipeline.unet.config(), &pipeline.device.device);
            probe.prediction(&pipeline.unet)
        }
        Component::TextEncoder2 => text_state(&pipeline.text_encoders[1]),
        _ => text_state(&pipeline.text_encoders[0]),
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
