//! What a run on images will be, said before any weight is read.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use temper_adapters::peft::AdapterConfig;
use temper_datasets::images::ImageLoader;
use temper_models::SchedulerConfig;

use super::latents::LatentFile;
use super::open::{bounds, change, scheduler};
use super::photos::{loader_config, open_instance};
use super::prior;
use super::remarks::remarks;
use super::session::total_steps;
use super::sizes::{Network, Sizes, published};
use crate::Failure;
use crate::device::{self, Backend};
use crate::recipe::{Compute, DiffusionRecipe, ImagesKind, Method, Trained};
use crate::run::available_bytes;
use crate::train::{AdapterText, MemoryPlan, check_ranks, grouped, peft_config, size};

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
        file.check_batch(&recipe.images.path, recipe.train.batch_size)?;
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

/// Those of the hub's models that predict the velocity.
const VELOCITY: [&str; 2] = ["stable-diffusion-2-1", "stable-diffusion-2"];

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
    let all = model.all(recipe, adapter)?;
    let sum = |of: fn(&Network) -> usize| all.iter().map(of).sum::<usize>();
    let weights = all.iter().map(|network| {
        // What is trained whole is held in f32.
        let each = if network.is_whole { 4 } else { bytes };
        each * network.parameters
    });
    let weights: usize = weights.sum();
    let (trained, added) = (sum(|network| network.trained), sum(|network| network.added));
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
    let kept: usize = all
        .iter()
        .map(|network| network.kept(train.gradient_checkpointing))
        .sum();
    let averages = recipe.diffusion.ema_decay.map_or(0, |_| 4 * trained);
    let rotations = 4 * sum(|network| network.rotations);
    let tensors = vec![
        ("weights", weights as u64),
        ("adapter", 4 * added as u64),
        ("gradients", 4 * trained as u64),
        ("optimizer moments", 8 * trained as u64),
        ("running means", averages as u64),
        (
            "activations (estimate)",
            (rows * kept * bytes + rotations) as u64,
        ),
    ];
    let parameters = sum(|network| network.parameters) + added;
    Ok(MemoryPlan::of_tensors(parameters, trained, tensors))
}
