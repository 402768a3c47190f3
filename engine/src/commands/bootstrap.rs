//! `temper bootstrap`: questions with known answers become a data set in the manner of `MetaMathQA`.

use std::path::PathBuf;

use crate::Failure;
use crate::bootstrap::{BootstrapSwitches, bootstrap, dry_run};
use crate::recipe::BootstrapRecipe;

/// Arguments of `temper bootstrap`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Recipe (TOML)
    recipe: PathBuf,
    /// Override a key of the recipe, as in `--set budget.max_requests=1000`; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on with what is in the run directory; replies that were given up are asked for again
    #[arg(long)]
    resume: bool,
    /// Print rows, requests, tokens and first prompts without asking or writing anything
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let recipe = BootstrapRecipe::load(&args.recipe, &args.set)?;
    if args.dry_run {
        return dry_run(&recipe);
    }
    let switches = BootstrapSwitches {
        resume: args.resume,
        quiet: args.quiet,
    };
    bootstrap(&recipe, switches)
}
