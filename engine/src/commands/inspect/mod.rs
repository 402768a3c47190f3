//! `temper inspect`: what a file or directory is, and whether it is sound.

mod adapter;
mod files;
mod foreign;
mod model;
mod network;
mod pipeline;
mod run_dir;
mod thing;

use std::path::PathBuf;

use super::output::print;
use crate::Failure;
use thing::{Kind, Thing};

/// Arguments of `temper inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model, pipeline, adapter, run or checkpoint directory, weights, dataset, tokenizer, recipe or picture
    path: PathBuf,
    /// Of an adapter: check that it fits this model directory or weights file
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let thing = Thing::at(&args.path)?;
    let is_adapter = matches!(thing.kind, Kind::Adapter | Kind::AdapterFile);
    if args.model.is_some() && !is_adapter {
        let found = format!(
            "`--model` checks an adapter, but `{}` is {}",
            args.path.display(),
            thing.kind.name()
        );
        return Err(Failure::usage(found));
    }
    let path = &thing.path;
    let (report, is_sound) = match thing.kind {
        Kind::Adapter => adapter::inspect(path, args.model.as_deref())?,
        Kind::AdapterFile => foreign::inspect_adapter(path, args.model.as_deref())?,
        Kind::Run => (run_dir::inspect_run(path)?, true),
        Kind::Checkpoint => (run_dir::inspect_checkpoint(path)?, true),
        Kind::Model => model::inspect_model(path)?,
        Kind::Pipeline => pipeline::inspect_pipeline(path)?,
        Kind::Scheduler => (pipeline::inspect_scheduler(path)?, true),
        Kind::ClipTokenizer => (pipeline::inspect_clip_tokenizer(path)?, true),
        Kind::Picture => (pipeline::inspect_picture(path)?, true),
        Kind::Weights => (model::inspect_weights(path)?, true),
        Kind::Tokenizer => (files::inspect_tokenizer(path)?, true),
        Kind::Data => (files::inspect_data(path)?, true),
        Kind::Recipe => (files::inspect_recipe(path)?, true),
    };
    if args.json {
        print(format!("{:#}", report.to_json()))?;
    } else {
        print(report.to_text())?;
    }
    // What is wrong has been printed.
    if is_sound {
        Ok(())
    } else {
        Err(Failure::reported())
    }
}
