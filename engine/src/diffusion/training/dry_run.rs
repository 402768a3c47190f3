//! What a run on images will be, said before any weight is read.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use temper_adapters::peft::{AdapterConfig, Module};
use temper_datasets::images::ImageLoader;
use temper_models::{ClipTextConfig, SchedulerConfig, UnetConfig, VaeConfig};

use super::latents::LatentFile;
use super::open::{bounds, change, config, part, scheduler};
use super::photos::{loader_config, open_instance};
use super::prior;
use super::remarks::remarks;
use super::session::total_steps;
use crate::Failure;
use crate::device::{self, Backend};
use crate::diffusion::sizes_of_file;
use crate::recipe::{AdapterKind, Compute, DiffusionRecipe, ImagesKind, Init, Method, Trained};
use crate::run::available_bytes;
use crate::train::{
    AdapterText, MemoryPlan, adapter_sizes, check_ranks, grouped, peft_config, size,
};

/// Prints parameters, steps, images and memory of a run without reading a weight.
///
/// # Errors
/// What would also keep the run from starting, as far as it shows without weights.
pub fn dry_run(recipe: &DiffusionRecipe) -> Result<(), Failure> {
    let on_host =
        device::open(&recipe.device).map_or(recipe.device == "cpu", |d| d.backend == Backend::Cpu);
    let model = Sizes::known(recipe)?;
    let base = recipe.model.path.as_deref().unwrap_or_default();
    let text = recipe.adapter.as_ref().map(|adapter| AdapterText {
        adapter,
        base,
        task_type: None,
        bounds_by_layer: true,
    });
    let adapter = peft_config(text, &model.modules)?;
    if let Some(adapter) = &adapter {
        check_ranks(adapter, &model.modules)?;
    }
    noise(recipe)?;
    let (rows, epoch, found, remarks) = images(recipe)?;
    let plan = plan(recipe, &model, adapter.as_ref(), on_host)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{plan}")?;
    writeln!(
        out,
        "images                {:>16}  ({found})",
        grouped(rows as u64)
    )?;
    if let Some(directory) = &recipe.images.class_dir {
        let there = prior::count(directory).unwrap_or(0);
        let missing = recipe.images.num_class_images.saturating_sub(there);
        let there = grouped(there as u64);
        writeln!(
            out,
            "images of the class   {there:>16}  ({missing} will be made)"
        )?;
    }
    for remark in remarks {
        writeln!(out, "note: {remark}")?;
    }
    let total = total_steps(recipe, epoch);
    let warmup = recipe.train.warmup(total as usize);
    writeln!(
        out,
        "optimizer steps       {:>16}  ({warmup} of warm-up)",
        grouped(total)
    )?;
    if let (Method::Oft(oft), Some(adapter)) = (recipe.method(), &adapter)
        && oft.coft
    {
        writeln!(out, "largest norm of a block (COFT)")?;
        for (name, block, blocks, tau) in bounds(recipe, adapter, &model.modules)? {
            writeln!(out, "  {tau:>10.3e}  {blocks} blocks of {block}  {name}")?;
        }
    }
    if let (true, Some(available)) = (on_host, available_bytes())
        && plan.total() > available
    {
        writeln!(out, "this does not fit: {} are available", size(available))?;
    }
    Ok(())
}

/// Refuses a noise process that cannot be learned, where it is at hand or known.
fn noise(recipe: &DiffusionRecipe) -> Result<(), Failure> {
    if recipe.diffusion.train == Trained::Vae {
        return Ok(());
    }
    let at_hand = match &recipe.model.path {
        Some(path) => Path::new(path).is_dir(),
        None => true,
    };
    let mut noise = if at_hand || recipe.model.scheduler.is_some() {
        scheduler(recipe)?
    } else if published(recipe).is_some_and(|(name, _)| !VELOCITY.contains(&name)) {
        SchedulerConfig::stable_diffusion("ddim")?
    } else {
        return Ok(());
    };
    change(&mut noise, recipe)
}

/// Number of images, steps of an epoch, and what is said of them.
fn images(recipe: &DiffusionRecipe) -> Result<(usize, u64, String, Vec<String>), Failure> {
    if recipe.images.kind == ImagesKind::Latents {
        let with_class = recipe.images.prior_loss_weight > 0.0;
        let file = LatentFile::open(&recipe.images.path, with_class)?;
        let found = format!("{} steps of {} latents", file.steps(), file.rows());
        let rows = file.rows() * file.steps();
        return Ok((rows, file.steps() as u64, found, Vec::new()));
    }
    let set = Arc::new(open_instance(recipe)?);
    let found = format!("{} in `{}`", set.report(), recipe.images.path.display());
    let rows = set.len();
    let loader = ImageLoader::new(set, None, loader_config(recipe, 1))?;
    Ok((rows, loader.steps_per_epoch(), found, remarks(&loader)))
}

/// What is known of the networks without their weights.
struct Sizes {
    /// Values of what is trained.
    trained: usize,
    /// Values of the frozen networks around it.
    around: usize,
    modules: Vec<Module>,
    /// Values of one image that the backward pass keeps, and those kept when blocks are recomputed.
    activations: [usize; 2],
}

/// Models of the hub whose sizes are known without a download.
const PUBLISHED: [(&str, &str); 6] = [
    ("stable-diffusion-v1-5", "sd15"),
    ("stable-diffusion-v1-4", "sd15"),
    ("stable-diffusion-2-1-base", "sd21"),
    ("stable-diffusion-2-1", "sd21"),
    ("stable-diffusion-2", "sd21"),
    ("stable-diffusion-xl-base-1.0", "sdxl"),
];

/// Those of them that predict the velocity.
const VELOCITY: [&str; 2] = ["stable-diffusion-2-1", "stable-diffusion-2"];

/// Name and preset of a model of the hub that is not a local path.
fn published(recipe: &DiffusionRecipe) -> Option<(&'static str, &'static str)> {
    let path = recipe.model.path.as_deref().unwrap_or_default();
    let name = path.split('@').next().unwrap_or(path).rsplit('/').next();
    let known = PUBLISHED.iter().find(|(known, _)| Some(*known) == name);
    known.copied().filter(|_| !Path::new(path).exists())
}

impl Sizes {
    fn known(recipe: &DiffusionRecipe) -> Result<Self, Failure> {
        if recipe.diffusion.train == Trained::Vae {
            return Self::of_vae(recipe);
        }
        let published = published(recipe).filter(|_| recipe.model.init == Init::Pretrained);
        let (unet, around) = match (published, recipe.model.init) {
            (Some((_, preset)), _) => (UnetConfig::preset(preset)?, published_around(preset)?),
            (None, Init::Random) => (
                UnetConfig::from_json(&config(recipe)?)?,
                around(recipe, None)?,
            ),
            (None, Init::Pretrained) => {
                let folder = part(recipe, "unet")?;
                if folder.is_file() {
                    return Ok(Self::of_unet(recipe, sizes_of_file(&folder)?));
                }
                let around = around(recipe, folder.parent())?;
                (UnetConfig::load(&folder)?, around)
            }
        };
        Ok(Self::of_unet(recipe, (unet, around)))
    }

    fn of_unet(recipe: &DiffusionRecipe, (unet, around): (UnetConfig, usize)) -> Self {
        let side = recipe.images.resolution / 8;
        Self {
            trained: unet.parameter_count(),
            around,
            modules: unet.modules(),
            activations: activations(&unet, side * side),
        }
    }

    fn of_vae(recipe: &DiffusionRecipe) -> Result<Self, Failure> {
        let vae = match recipe.model.init {
            Init::Random => VaeConfig::from_json(&config(recipe)?)?,
            Init::Pretrained => VaeConfig::load(&part(recipe, "vae")?)?,
        };
        let pixels = recipe.images.resolution * recipe.images.resolution;
        // About eight values of each channel in each of five residual blocks a level, on both sides.
        let kept = |(level, channels): (usize, &usize)| 80 * channels * (pixels >> (2 * level));
        let kept: usize = vae.block_out_channels.iter().enumerate().map(kept).sum();
        Ok(Self {
            trained: vae.parameter_count(),
            around: 0,
            modules: vae.modules(),
            activations: [kept, kept],
        })
    }
}

fn published_around(preset: &str) -> Result<usize, Failure> {
    let text = match preset {
        "sdxl" => 817_720_320,
        _ => ClipTextConfig::preset(preset)?.parameter_count(),
    };
    Ok(VaeConfig::preset(preset)?.parameter_count() + text)
}

/// Parameters of autoencoder and text encoders, as far as their configurations are at hand.
fn around(recipe: &DiffusionRecipe, base: Option<&Path>) -> Result<usize, Failure> {
    let model = &recipe.model;
    let folder = |own: &Option<std::path::PathBuf>, name: &str| {
        let folder = own.clone().or_else(|| base.map(|base| base.join(name)));
        folder.filter(|folder| folder.join("config.json").is_file())
    };
    let mut count = 0;
    if let Some(folder) = folder(&model.vae, "vae") {
        count += VaeConfig::load(&folder)?.parameter_count();
    }
    for (own, name) in [
        (&model.text_encoder, "text_encoder"),
        (&None, "text_encoder_2"),
    ] {
        if let Some(folder) = folder(own, name) {
            count += ClipTextConfig::load(&folder)?.parameter_count();
        }
    }
    Ok(count)
}

/// An estimate from the structure: a residual block keeps about eight values of every channel and pixel, a transformer block
/// thirty-four; recomputed, only the inputs of the blocks are kept, and one block at a time.
fn activations(config: &UnetConfig, pixels: usize) -> [usize; 2] {
    let json = config.to_json();
    let types = json["down_block_types"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let layers = json["layers_per_block"].as_u64().unwrap_or(2) as usize;
    let (mut whole, mut inputs, mut largest) = (0, 0, 0);
    for (level, channels) in config.block_out_channels().iter().enumerate() {
        let values = channels * (pixels >> (2 * level));
        let depth = match &json["transformer_layers_per_block"] {
            serde_json::Value::Array(list) => list.get(level).and_then(serde_json::Value::as_u64),
            one => one.as_u64(),
        };
        let attends = types.get(level).and_then(serde_json::Value::as_str);
        let depth = attends
            .filter(|name| name.contains("CrossAttn"))
            .map_or(0, |_| depth.unwrap_or(1) as usize);
        let block = values * (8 + 34 * depth);
        // Down and up: the way up has one block more.
        whole += (2 * layers + 1) * block;
        inputs += (4 * layers + 3) * values;
        largest = largest.max(block);
    }
    [whole, inputs + largest]
}

fn plan(
    recipe: &DiffusionRecipe,
    model: &Sizes,
    adapter: Option<&AdapterConfig>,
    on_host: bool,
) -> Result<MemoryPlan, Failure> {
    let half = match recipe.precision.compute {
        Compute::Bf16 | Compute::F16 => true,
        Compute::Auto => !on_host,
        Compute::F32 => false,
    };
    let bytes = if half { 2 } else { 4 };
    let sizes = adapter
        .map(|adapter| adapter_sizes(adapter, &model.modules))
        .transpose()?;
    let trainable = sizes.as_ref().map_or(model.trained, |sizes| sizes.trained);
    let added = sizes.as_ref().map_or(0, |sizes| sizes.added);
    let full = recipe.method() == Method::Full
        || recipe
            .adapter
            .as_ref()
            .is_some_and(|a| a.kind == AdapterKind::Full);
    let weights = if full { 4 } else { bytes } * model.trained + bytes * model.around;
    let train = &recipe.train;
    let with_class = if recipe.images.preserves_prior() {
        2
    } else {
        1
    };
    let rows = if train.micro_batch_size == train.batch_size {
        train.batch_size * with_class
    } else {
        train.micro_batch_size
    };
    let kept = model.activations[usize::from(train.gradient_checkpointing)];
    let averages = recipe.diffusion.ema_decay.map_or(0, |_| 4 * trainable);
    let rotations = sizes.as_ref().map_or(0, |sizes| 4 * sizes.rotations);
    let tensors = vec![
        ("weights", weights as u64),
        ("adapter", 4 * added as u64),
        ("gradients", 4 * trainable as u64),
        ("optimizer moments", 8 * trainable as u64),
        ("running means", averages as u64),
        (
            "activations (estimate)",
            (rows * kept * bytes + rotations) as u64,
        ),
    ];
    Ok(MemoryPlan::of_tensors(
        model.trained + model.around + added,
        trainable,
        tensors,
    ))
}
