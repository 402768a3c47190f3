//! `temper inspect`: what a file or directory is, and whether it is sound.

mod adapter;
mod files;
mod foreign;
mod model;
mod network;
mod pipeline;
mod run_dir;
mod thing;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::output::print;
use super::report::Report;
use crate::Failure;
use crate::hub;
use crate::run::{adapters_at, printable};
use thing::{Kind, Thing};

/// Arguments of `temper inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model, pipeline, adapter, run or checkpoint directory, weights, dataset, tokenizer, recipe, picture or folder of pictures
    path: PathBuf,
    /// Of an adapter, or of the adapters of a run: check that it fits this model, pipeline or weights file
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let thing = Thing::at(&args.path)?;
    let reports = match &args.model {
        None => vec![inspect(&thing)?],
        Some(model) => check(&thing, &hub::resolve_model(model)?)?,
    };
    if args.json {
        let mut all: Vec<Value> = reports.iter().map(|(report, _)| report.to_json()).collect();
        let all = match all.len() {
            1 => all.remove(0),
            _ => Value::Array(all),
        };
        print(format!("{all:#}"))?;
    } else {
        let all: Vec<String> = reports.iter().map(|(report, _)| report.to_text()).collect();
        print(printable(&all.join("\n\n")))?;
    }
    // What is wrong has been printed.
    if reports.iter().all(|(_, is_sound)| *is_sound) {
        Ok(())
    } else {
        Err(Failure::reported())
    }
}

/// An adapter, or all adapters of a run, compared with a model.
fn check(thing: &Thing, model: &Path) -> Result<Vec<(Report, bool)>, Failure> {
    let path = &thing.path;
    let places = adapters_at(path);
    match thing.kind {
        Kind::Adapter => Ok(vec![adapter::inspect(path, Some(model))?]),
        Kind::AdapterFile => Ok(vec![foreign::inspect_adapter(path, Some(model))?]),
        Kind::Run if places != [path.clone()] => {
            let compared = places
                .iter()
                .map(|place| adapter::inspect(place, Some(model)));
            compared.collect()
        }
        Kind::Run => {
            let message = format!("the run `{}` left no adapter to check", path.display());
            Err(Failure::run(message))
        }
        kind => Err(Failure::usage(format!(
            "`--model` checks an adapter, but `{}` is {}",
            path.display(),
            kind.name()
        ))),
    }
}

/// The report, and whether the thing is sound.
fn inspect(thing: &Thing) -> Result<(Report, bool), Failure> {
    let path = &thing.path;
    Ok(match thing.kind {
        Kind::Adapter => adapter::inspect(path, None)?,
        Kind::AdapterFile => foreign::inspect_adapter(path, None)?,
        Kind::Run => (run_dir::inspect_run(path)?, true),
        Kind::Checkpoint => (run_dir::inspect_checkpoint(path)?, true),
        Kind::Model => model::inspect_model(path)?,
        Kind::Pipeline => pipeline::inspect_pipeline(path)?,
        Kind::Scheduler => (pipeline::inspect_scheduler(path)?, true),
        Kind::ClipTokenizer => (pipeline::inspect_clip_tokenizer(path)?, true),
        Kind::Pictures => pipeline::inspect_pictures(path)?,
        Kind::Picture => (pipeline::inspect_picture(path)?, true),
        Kind::Weights => (model::inspect_weights(path)?, true),
        Kind::Tokenizer => (files::inspect_tokenizer(path)?, true),
        Kind::Data => (files::inspect_data(path)?, true),
        Kind::Recipe => (files::inspect_recipe(path)?, true),
    })
}
