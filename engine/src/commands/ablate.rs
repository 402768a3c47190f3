//! `temper ablate`: variants of a recipe side by side.

use std::path::PathBuf;

use super::output::print;
use crate::Failure;
use crate::ablation::ablate;

/// Arguments of `temper ablate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Recipe (TOML) with an `[ablation]`
    recipe: PathBuf,
    /// Override a key for all variants that do not set it themselves; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let table = ablate(&args.recipe, &args.set, args.quiet)?;
    print(table.trim_end())
}
