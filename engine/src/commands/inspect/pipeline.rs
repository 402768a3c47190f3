//! Diffusion pipelines, their schedulers, and pictures that say how they were made.

use std::path::Path;

use serde_json::{Value, json};
use temper_adapters::weights::Checkpoint;
use temper_datasets::ClipTokenizer;
use temper_datasets::images::{caption_beside, list, read, read_png_text};
use temper_models::SchedulerConfig;

use super::network::Network;
use crate::Failure;
use crate::commands::report::Report;
use crate::diffusion::{Component, ModelIndex, Parts};

/// A pipeline directory. The second value is whether its parts are there and belong together.
pub(super) fn inspect_pipeline(path: &Path) -> Result<(Report, bool), Failure> {
    let index = ModelIndex::load(path)?;
    let mut report = Report::new("pipeline", path);
    report.fact("class", index.class());
    let mut problems = Vec::new();
    let mut rows = Vec::new();
    let mut all = 0;
    let mut networks = Vec::new();
    let mut tokenizers = Vec::new();
    for component in Component::ALL.into_iter().filter(|part| index.has(*part)) {
        let folder = match index.folder(component) {
            Ok(folder) => folder,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        match part(component, &folder) {
            Ok(Found::Network(network, weights)) => {
                all += network.parameters();
                rows.push(row(
                    component,
                    network.class(),
                    Some(network.parameters()),
                    &weights,
                ));
                networks.push(*network);
            }
            Ok(Found::Tokenizer(tokenizer)) => {
                let what = format!(
                    "{} ids, {} tokens",
                    tokenizer.vocab_size(),
                    tokenizer.max_length()
                );
                rows.push(row(component, &what, None, &Value::Null));
                tokenizers.push(*tokenizer);
            }
            Ok(Found::Scheduler(scheduler)) => {
                rows.push(row(
                    component,
                    scheduler.kind.class_name(),
                    None,
                    &Value::Null,
                ));
            }
            Err(error) => problems.push(format!("{}: {error}", component.name())),
        }
    }
    report.count("parameters", all);
    report.table("parts", &["part", "what", "parameters", "dtype"], rows);
    problems.extend(check(&networks, &tokenizers));
    report.fact("usable", problems.is_empty());
    for problem in &problems {
        report.note(problem.as_str());
    }
    Ok((report, problems.is_empty()))
}

/// What a folder of a pipeline holds.
enum Found {
    Network(Box<Network>, Value),
    Tokenizer(Box<ClipTokenizer>),
    Scheduler(Box<SchedulerConfig>),
}

fn part(component: Component, folder: &Path) -> Result<Found, Box<dyn std::error::Error>> {
    Ok(match component {
        Component::Tokenizer | Component::Tokenizer2 => {
            Found::Tokenizer(Box::new(ClipTokenizer::load(folder)?))
        }
        Component::Scheduler => Found::Scheduler(Box::new(SchedulerConfig::load(folder)?)),
        _ => {
            let network =
                Network::of(folder).ok_or("its `config.json` is of another network")??;
            let weights = Checkpoint::open(folder)?;
            let largest = weights
                .names()
                .filter_map(|name| weights.info(name))
                .max_by_key(|info| info.bytes);
            let dtype = largest.map(|info| format!("{:?}", info.dtype));
            Found::Network(Box::new(network), json!(dtype))
        }
    })
}

fn row(component: Component, what: &str, parameters: Option<usize>, dtype: &Value) -> Vec<Value> {
    vec![
        json!(component.name()),
        json!(what),
        json!(parameters),
        dtype.clone(),
    ]
}

/// What does not fit, if the parts were read.
fn check(networks: &[Network], tokenizers: &[ClipTokenizer]) -> Option<String> {
    let (mut unet, mut vae, mut texts) = (None, None, Vec::new());
    for network in networks {
        match network {
            Network::Unet(config) => unet = Some(config),
            Network::Vae(config) => vae = Some(config),
            Network::Text(config) => texts.push(config),
            Network::Control(_) => {}
        }
    }
    let parts = Parts {
        unet: unet?,
        vae: vae?,
        texts,
        tokenizers: tokenizers.iter().collect(),
    };
    parts.check().err().map(|error| error.to_string())
}

/// A directory with `scheduler_config.json`.
pub(super) fn inspect_scheduler(path: &Path) -> Result<Report, Failure> {
    let config = SchedulerConfig::load(path)?;
    let mut report = Report::new("scheduler", path);
    report.fact("class", config.kind.class_name());
    report.fact("training_steps", config.num_train_timesteps);
    report.fact("beta_start", config.beta_start);
    report.fact("beta_end", config.beta_end);
    report.fact("beta_schedule", config.beta_schedule.name());
    report.fact("prediction", config.prediction_type.name());
    report.fact("timestep_spacing", config.timestep_spacing.name());
    report.fact("zero_terminal_snr", config.rescale_betas_zero_snr);
    report.fact("karras_sigmas", config.use_karras_sigmas);
    Ok(report)
}

/// A folder of pictures. The second value is whether all of them can be read.
pub(super) fn inspect_pictures(path: &Path) -> Result<(Report, bool), Failure> {
    let mut report = Report::new("pictures", path);
    let files = list(path, false)?;
    report.fact("pictures", files.len());
    let (mut rows, mut broken) = (Vec::new(), Vec::new());
    for file in &files {
        let name = file.file_name().map(|name| name.to_string_lossy());
        match read(file) {
            Ok(photo) => rows.push(vec![
                json!(name),
                json!(photo.width),
                json!(photo.height),
                json!(caption_beside(file)?),
            ]),
            Err(error) => broken.push(error.to_string()),
        }
    }
    report.table("readable", &["file", "width", "height", "caption"], rows);
    report.fact("unreadable", broken.len());
    for problem in &broken {
        report.note(problem.as_str());
    }
    report.note("`temper data preview RECIPE` shows what a recipe makes of them");
    Ok((report, broken.is_empty()))
}

/// The vocabulary of CLIP.
pub(super) fn inspect_clip_tokenizer(path: &Path) -> Result<Report, Failure> {
    let tokenizer = ClipTokenizer::load(path)?;
    let mut report = Report::new("tokenizer", path);
    report.fact("ids", tokenizer.vocab_size());
    report.fact("tokens_of_a_text", tokenizer.max_length());
    Ok(report)
}

/// A picture: its size as it is trained on, and what a PNG says about itself.
pub(super) fn inspect_picture(path: &Path) -> Result<Report, Failure> {
    let photo = read(path)?;
    let mut report = Report::new("picture", path);
    report.fact("width", photo.width);
    report.fact("height", photo.height);
    let is_png = path
        .extension()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("png"));
    if !is_png {
        return Ok(report);
    }
    for (key, text) in read_png_text(path)? {
        if key != crate::commands::sample::RECIPE {
            report.note(format!("{key}: {text}"));
            continue;
        }
        let recipe: Value = serde_json::from_str(&text)?;
        let rows = recipe.as_object().into_iter().flatten();
        let rows = rows.map(|(option, value)| vec![json!(option), value.clone()]);
        report.table("drawn_with", &["option", "value"], rows.collect());
    }
    Ok(report)
}
