//! `temper train`: a recipe becomes a run directory.

use std::path::PathBuf;

use crate::Failure;
use crate::diffusion;
use crate::recipe::{DiffusionRecipe, Recipe};
use crate::train::{TrainSwitches, dry_run, train};

/// Arguments of `temper train`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Recipe (TOML): for a language model, or with a section `[images]` for a diffusion model
    recipe: PathBuf,
    /// Override a key of the recipe, as in `--set train.lr=1e-4`; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the newest checkpoint in the run directory
    #[arg(long)]
    resume: bool,
    /// Print parameters, steps, data and the memory plan without touching weights
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let switches = TrainSwitches {
        resume: args.resume,
        quiet: args.quiet,
        unreported: false,
    };
    if DiffusionRecipe::is_at(&args.recipe) {
        let recipe = DiffusionRecipe::load(&args.recipe, &args.set)?;
        if args.dry_run {
            return diffusion::dry_run(&recipe);
        }
        return diffusion::train(&recipe, switches).map(|_| ());
    }
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    if args.dry_run {
        return dry_run(&recipe);
    }
    train(&recipe, switches).map(|_| ())
}
