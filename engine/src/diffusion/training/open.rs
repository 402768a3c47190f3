//! From a recipe to networks that are ready to train.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::FloatDType;
use temper_adapters::formats::as_in;
use temper_adapters::peft::{AdapterConfig, AdapterFile, TargetRule, resolve};
use temper_adapters::{Adaptable, Adapter, Parameters, RandomSource, attach, attach_trained};
use temper_datasets::{ClipTokenizer, random};
use temper_models::{
    ClipText, ControlConfig, ControlEncoder, Prediction, SchedulerConfig, Unet, UnetConfig, Vae,
    VaeConfig,
};

use super::networks::{Networks, Stage};
use super::text::{UnusedText, for_text};
use crate::device::{self, OpenDevice};
use crate::diffusion::{ModelIndex, Pipeline, unet_of_file};
use crate::loading::dtype_of;
use crate::recipe::{
    self, DiffusionRecipe, EpsScaling, ImagesKind, Init, Method, PredictionType, Trained,
};
use crate::run::{ADAPTERS, note};
use crate::train::{AdapterText, check_ranks, peft_config, same_method};
use crate::{Failure, hub};

/// Networks on a device, adapters attached.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) networks: Networks,
    pub(super) device: OpenDevice,
    /// The noise process, with what the recipe changes of it.
    pub(super) scheduler: SchedulerConfig,
    /// The adapter of the U-Net; `None` when all weights are trained.
    pub(super) adapter: Option<AdapterConfig>,
    /// Those of the trained text encoders.
    pub(super) text_adapters: Vec<AdapterConfig>,
}

impl Opened {
    pub(super) fn new(recipe: &DiffusionRecipe) -> Result<Self, Failure> {
        let device = device::open(&recipe.device)?;
        let compute = device.precision(dtype_of(recipe.precision.compute))?;
        let stage = stage(recipe, compute, &device)?;
        let mut scheduler = match &stage {
            Stage::Pipeline(pipeline) => pipeline.scheduler.clone(),
            Stage::Unet(_) | Stage::Vae(_) => scheduler(recipe)?,
        };
        change(&mut scheduler, recipe)?;
        let mut networks = Networks {
            stage,
            control: None,
        };
        if let Stage::Pipeline(pipeline) = &mut networks.stage {
            pipeline.scheduler = scheduler.clone();
        }
        if recipe.diffusion.control.is_some() {
            networks.control = Some(control(recipe, &networks, compute, &device)?);
        }
        let mut opened = Self {
            networks,
            device,
            scheduler,
            adapter: None,
            text_adapters: Vec::new(),
        };
        opened.prepare(recipe)?;
        Ok(opened)
    }

    /// Leaves trainable what the recipe trains.
    fn prepare(&mut self, recipe: &DiffusionRecipe) -> Result<(), Failure> {
        let networks = &mut self.networks;
        networks.visit_mut(&mut |param| param.set_trainable(false));
        if let Stage::Vae(vae) = &mut networks.stage {
            vae.visit_mut(&mut |param| param.set_trainable(true));
            return Ok(());
        }
        if let Some(unet) = networks.unet_mut() {
            let from = start(recipe, ADAPTERS[0])?;
            self.adapter = train(recipe, unet, ("", recipe.adapter.as_ref()), from.as_deref())?;
        }
        if let Some(control) = &mut self.networks.control {
            control.visit_mut(&mut |param| param.set_trainable(true));
        }
        if recipe.diffusion.train_text_encoder {
            let skipped = recipe.diffusion.clip_skip.unwrap_or(0);
            let adapter = recipe.adapter.as_ref().map(for_text);
            let xl = self.networks.pipeline().is_some_and(Pipeline::is_xl);
            let count = self.networks.texts().count();
            for (number, (name, encoder)) in self.networks.texts_mut().enumerate() {
                let layers = encoder.config().encoder.num_hidden_layers;
                let unused = UnusedText::new(layers, skipped, xl, number + 1 == count);
                unused.check(name, adapter.as_ref())?;
                let from = start(recipe, ADAPTERS[1 + number])?;
                let config = train(recipe, encoder, (name, adapter.as_ref()), from.as_deref())?;
                self.text_adapters.extend(config);
                unused.freeze(encoder);
            }
        }
        Ok(())
    }
}

/// Where the adapter of a network starts, if not anew: in the one that the recipe names, that of a text encoder beside it in its run.
fn start(recipe: &DiffusionRecipe, folder: &str) -> Result<Option<PathBuf>, Failure> {
    let adapter = recipe.adapter.as_ref();
    let Some(spec) = adapter.and_then(|adapter| adapter.init_from.as_deref()) else {
        return Ok(None);
    };
    let of_unet = hub::resolve_model(spec)?;
    if folder == ADAPTERS[0] {
        return Ok(Some(of_unet));
    }
    let beside = of_unet.with_file_name(folder);
    if of_unet.with_file_name("recipe.toml").is_file() && beside.is_dir() {
        return Ok(Some(beside));
    }
    note(&format!(
        "warning: `adapter.init_from`: no `{folder}` stands beside `{spec}`: the adapter of that text encoder starts anew"
    ));
    Ok(None)
}

/// Makes one network trainable by the recipe's method.
fn train(
    recipe: &DiffusionRecipe,
    network: &mut dyn Adaptable,
    (name, adapter): (&str, Option<&recipe::Adapter>),
    init_from: Option<&Path>,
) -> Result<Option<AdapterConfig>, Failure> {
    let modules = network.modules();
    let text = adapter.map(|adapter| AdapterText {
        adapter,
        base: recipe.model.path.as_deref().unwrap_or_default(),
        task_type: None,
        bounds_by_layer: true,
    });
    let Some(config) = peft_config(text, &modules)? else {
        network.visit_mut(&mut |param| param.set_trainable(true));
        return Ok(None);
    };
    check_ranks(&config, &modules)?;
    let source = random_source(recipe.seed, name);
    let warnings = match init_from {
        None => attach(network, &config, &source).map_err(Failure::usage)?,
        Some(directory) => {
            let (file, _) = AdapterFile::load(directory)?;
            let file = as_in(&file, &modules)?;
            same_method(&config, file.config(), &directory.display().to_string())?;
            let file = AdapterFile::new(config.clone(), file.tensors().to_vec())
                .map_err(Failure::usage)?;
            attach_trained(network, &file, &source).map_err(Failure::usage)?
        }
    };
    for warning in &warnings {
        note(warning);
    }
    if let Method::Oft(oft) = recipe.method()
        && oft.coft
        && oft.eps_scaling == EpsScaling::Official
    {
        // Several block sizes: each layer has its own bound, the file the largest.
        constrain(network, oft.eps);
    }
    Ok(Some(config))
}

/// The bound of the authors' program, `eps · b² / √r`, for every layer by its own block size b. (One `eps` in PEFT's file cannot say
/// that for layers of several widths; there it holds for the largest.)
fn constrain(network: &mut dyn Adaptable, eps: f64) {
    let bound = |adapter: Option<&mut Adapter>| {
        if let Some(Adapter::Oft(oft)) = adapter {
            let (b, blocks) = (
                oft.spec().block_size as f64,
                oft.parameter().shape()[0] as f64,
            );
            oft.set_tau(Some(eps * b * b / blocks.sqrt()));
        }
    };
    network.visit_linears_mut(&mut |linear| bound(linear.adapter_mut()));
    network.visit_convs_mut(&mut |conv| bound(conv.adapter_mut()));
    network.project();
}

/// Random numbers of the start.
pub(super) fn random_source(seed: u64, network: &str) -> RandomSource {
    let network = network.to_owned();
    RandomSource::new(move |purpose| random::rng(seed, &format!("init {network}{purpose}"), 0, 0))
}

/// Every layer's bound on the norm of a block, for the report: name, block size, blocks and τ.
pub(super) fn bounds(
    recipe: &DiffusionRecipe,
    config: &AdapterConfig,
    modules: &[temper_adapters::peft::Module],
) -> Result<Vec<(String, usize, usize, f64)>, Failure> {
    let Method::Oft(oft) = recipe.method() else {
        return Ok(Vec::new());
    };
    let targets = resolve(config, modules)?.targets;
    let layers = targets.into_iter().filter_map(|target| match target.rule {
        TargetRule::Oft { block_size, blocks } => {
            let stored = if oft.block_share { 1 } else { blocks };
            let scale = match oft.eps_scaling {
                EpsScaling::Official => (block_size * block_size) as f64,
                EpsScaling::Peft => 1.0,
            };
            let tau = oft.eps * scale / (stored as f64).sqrt();
            Some((target.name, block_size, blocks, tau))
        }
        _ => None,
    });
    Ok(layers.collect())
}

fn stage(
    recipe: &DiffusionRecipe,
    compute: FloatDType,
    device: &OpenDevice,
) -> Result<Stage, Failure> {
    let on = &device.device;
    match (recipe.diffusion.train, recipe.images.kind) {
        (Trained::Vae, _) => Ok(Stage::Vae(Box::new(match recipe.model.init {
            Init::Random => Vae::random(
                VaeConfig::from_json(&config(recipe)?)?,
                compute,
                on,
                &random_source(recipe.seed, ""),
            )?,
            Init::Pretrained => Vae::load(&part(recipe, "vae")?, compute, on)?,
        }))),
        (Trained::Unet, ImagesKind::Latents) => {
            Ok(Stage::Unet(Box::new(unet(recipe, compute, device)?)))
        }
        (Trained::Unet, ImagesKind::Photos) => Ok(Stage::Pipeline(Box::new(pipeline(
            recipe, compute, device,
        )?))),
    }
}

fn unet(
    recipe: &DiffusionRecipe,
    compute: FloatDType,
    device: &OpenDevice,
) -> Result<Unet, Failure> {
    Ok(match recipe.model.init {
        Init::Random => Unet::random(
            UnetConfig::from_json(&config(recipe)?)?,
            compute,
            &device.device,
            &random_source(recipe.seed, ""),
        ),
        Init::Pretrained => {
            let place = part(recipe, "unet")?;
            if place.is_file() {
                unet_of_file(&place, compute, device)?
            } else {
                Unet::load(&place, compute, &device.device)?
            }
        }
    })
}

/// A folder of `model.path`, or `model.path` itself when it is the folder of one network or a whole model in one file.
pub(super) fn part(recipe: &DiffusionRecipe, name: &str) -> Result<PathBuf, Failure> {
    let path = hub::resolve_model(recipe.model.path.as_deref().unwrap_or_default())?;
    let folder = path.join(name);
    Ok(if folder.join("config.json").is_file() {
        folder
    } else {
        path
    })
}

/// The architecture for random weights.
pub(super) fn config(recipe: &DiffusionRecipe) -> Result<serde_json::Value, Failure> {
    let Some(file) = &recipe.model.config else {
        return Err(Failure::usage(
            "`model.init = \"random\"` needs `model.config`",
        ));
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::run(format!("cannot read `{}`: {error}", file.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::run(format!("`{}` is not JSON: {error}", file.display())))
}

/// The noise process that the recipe names, or Stable Diffusion's.
pub(super) fn scheduler(recipe: &DiffusionRecipe) -> Result<SchedulerConfig, Failure> {
    let folder = match (&recipe.model.scheduler, &recipe.model.path) {
        (Some(folder), _) => Some(folder.clone()),
        (None, Some(path)) => Some(hub::resolve_model(path)?.join("scheduler")),
        (None, None) => None,
    };
    match folder.filter(|folder| folder.join("scheduler_config.json").is_file()) {
        Some(folder) => Ok(SchedulerConfig::load(&folder)?),
        None => Ok(SchedulerConfig::stable_diffusion("ddim")?),
    }
}

/// What the recipe changes of the noise process.
///
/// # Errors
/// If the outcome cannot be learned.
pub(super) fn change(
    scheduler: &mut SchedulerConfig,
    recipe: &DiffusionRecipe,
) -> Result<(), Failure> {
    if let Some(prediction) = recipe.diffusion.prediction_type {
        scheduler.prediction_type = match prediction {
            PredictionType::Epsilon => Prediction::Epsilon,
            PredictionType::VPrediction => Prediction::VPrediction,
            PredictionType::Sample => Prediction::Sample,
        };
    }
    let asked = recipe.diffusion.zero_terminal_snr;
    if (asked || scheduler.rescale_betas_zero_snr)
        && scheduler.prediction_type == Prediction::Epsilon
    {
        let key = if asked {
            "`diffusion.zero_terminal_snr`"
        } else {
            "`rescale_betas_zero_snr` of `scheduler_config.json`"
        };
        let message = format!(
            "{key} cannot be learned by a model that predicts the noise: without a signal the noise is the input"
        );
        return Err(Failure::usage(message).with_hint(
            "write `prediction_type = \"v_prediction\"` in `[diffusion]`, and train all weights",
        ));
    }
    if asked {
        scheduler.rescale_betas_zero_snr = true;
        scheduler.timestep_spacing = temper_models::Spacing::Trailing;
    }
    Ok(())
}

/// The whole model: of one place, with single parts from elsewhere, or around a U-Net with random weights.
fn pipeline(
    recipe: &DiffusionRecipe,
    compute: FloatDType,
    device: &OpenDevice,
) -> Result<Pipeline, Failure> {
    let model = &recipe.model;
    if model.init == Init::Random {
        return around_random(recipe, compute, device);
    }
    let spec = model.path.as_deref().unwrap_or_default();
    let mut pipeline = Pipeline::load(spec, compute, device)?;
    if let Some(folder) = &model.vae {
        pipeline.vae = Vae::load(folder, FloatDType::F32, &device.device)?;
    }
    if let Some(folder) = &model.text_encoder {
        pipeline.text_encoders[0] = ClipText::load(folder, compute, &device.device)?;
    }
    if let Some(folder) = &model.tokenizer {
        pipeline.tokenizers[0] = Arc::new(ClipTokenizer::load(folder)?);
    }
    if model.scheduler.is_some() {
        pipeline.scheduler = scheduler(recipe)?;
    }
    pipeline.check()?;
    Ok(pipeline)
}

fn around_random(
    recipe: &DiffusionRecipe,
    compute: FloatDType,
    device: &OpenDevice,
) -> Result<Pipeline, Failure> {
    let model = &recipe.model;
    let base = model.path.as_deref().map(hub::resolve_model).transpose()?;
    let folder = |key: &str, own: &Option<PathBuf>, name: &str| {
        match (own, &base) {
        (Some(folder), _) => Ok(folder.clone()),
        (None, Some(base)) => Ok(base.join(name)),
        (None, None) => Err(Failure::usage(format!("`model.{key}` is missing"))
            .with_hint("a U-Net with random weights needs `vae`, `text_encoder` and `tokenizer`, or a `path` that has them")),
    }
    };
    let vae = folder("vae", &model.vae, "vae")?;
    let encoder = folder("text_encoder", &model.text_encoder, "text_encoder")?;
    let tokenizer = folder("tokenizer", &model.tokenizer, "tokenizer")?;
    let scheduler = scheduler(recipe)?;
    let directory = base.unwrap_or_default();
    let pipeline = Pipeline {
        tokenizers: vec![Arc::new(ClipTokenizer::load(&tokenizer)?)],
        text_encoders: vec![ClipText::load(&encoder, compute, &device.device)?],
        vae: Vae::load(&vae, FloatDType::F32, &device.device)?,
        unet: unet(recipe, compute, device)?,
        compute,
        device: device.clone(),
        index: ModelIndex::of_parts(directory, false, scheduler.kind.class_name()),
        // Saved whole, from memory.
        from_file: true,
        scheduler,
    };
    pipeline.check()?;
    Ok(pipeline)
}

/// The encoder of the control image for a U-Net whose autoencoder shrinks by `factor`. The paper's halves the sides three times, as
/// the autoencoders of Stable Diffusion do; a smaller one fewer times.
pub(super) fn control_config(unet: &UnetConfig, factor: usize) -> Result<ControlConfig, Failure> {
    let mut config = ControlConfig::for_unet(unet);
    let levels = factor.max(1).ilog2() as usize + 1;
    config.block_out_channels.truncate(levels);
    if config.reduction() == factor {
        return Ok(config);
    }
    let message = format!(
        "`diffusion.control`: this autoencoder shrinks images by {factor}, the encoder of the control image by {}",
        config.reduction()
    );
    Err(Failure::usage(message).with_hint("use an autoencoder that shrinks by 8, 4 or 2"))
}

/// The encoder of the image that is followed, at its start: it changes nothing.
fn control(
    recipe: &DiffusionRecipe,
    networks: &Networks,
    compute: FloatDType,
    device: &OpenDevice,
) -> Result<ControlEncoder, Failure> {
    let Some(unet) = networks.unet() else {
        return Err(Failure::usage("`diffusion.control` needs a U-Net"));
    };
    let factor = networks.pipeline().map_or(8, Pipeline::factor);
    let config = control_config(unet.config(), factor)?;
    Ok(ControlEncoder::random(
        config,
        compute,
        &device.device,
        &random_source(recipe.seed, "control "),
    ))
}
