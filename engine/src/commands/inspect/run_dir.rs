//! Runs and checkpoints. Everything is only read: the run may still be going on.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Failure;
use crate::commands::recipe::{diffusion_summary, method_name};
use crate::commands::report::Report;
use crate::recipe::{DiffusionRecipe, Length, Recipe};
use crate::run::{Row, Summary, read_metrics, verify};

/// A run directory.
pub(super) fn inspect_run(path: &Path) -> Result<Report, Failure> {
    let mut report = Report::new("run", path);
    recipe(path, &mut report);
    metrics(path, &mut report)?;
    summary(path, &mut report);
    for (key, name) in [
        ("adapter", "adapter"),
        ("adapter_text_encoder", "adapter_text_encoder"),
        ("adapter_text_encoder_2", "adapter_text_encoder_2"),
        ("model_directory", "model"),
    ] {
        if path.join(name).is_dir() {
            report.fact(key, path.join(name).display().to_string());
        }
    }
    let checkpoints = checkpoints(path)?;
    report.fact("checkpoints", checkpoints.len());
    let rows: Vec<Vec<Value>> = checkpoints
        .iter()
        .map(|directory| checkpoint_row(directory))
        .collect();
    report.table("checkpoint_directories", &["name", "state", "bytes"], rows);
    Ok(report)
}

/// What was trained, as far as the resolved recipe tells. Its files need not exist here any more.
fn recipe(path: &Path, report: &mut Report) {
    let file = path.join("recipe.toml");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => return report.note(format!("cannot read `{}`: {error}", file.display())),
    };
    if let Ok(recipe) = toml::from_str::<DiffusionRecipe>(&text) {
        return report.fact("recipe", diffusion_summary(&recipe));
    }
    let recipe: Recipe = match toml::from_str(&text) {
        Ok(recipe) => recipe,
        Err(error) => {
            return report.note(format!(
                "`{}` is not a recipe: {}",
                file.display(),
                error.message()
            ));
        }
    };
    let name = recipe
        .run
        .name
        .clone()
        .or_else(|| Some(path.file_name()?.to_string_lossy().into_owned()));
    report.fact("name", name);
    report.fact("model", recipe.model.source());
    report.fact("method", method_name(&recipe));
    report.fact("data", recipe.data.path.as_slice().to_vec());
    match recipe.train.length() {
        Length::Steps(steps) => report.fact("planned_steps", steps),
        Length::Epochs(epochs) => report.fact("planned_epochs", epochs),
    }
}

fn metrics(path: &Path, report: &mut Report) -> Result<(), Failure> {
    let file = path.join("metrics.jsonl");
    let rows = if file.is_file() {
        read_metrics(&file)?
    } else {
        Vec::new()
    };
    report.fact("steps", rows.last().map(Row::step));
    let losses = rows.iter().filter_map(|row| {
        if let Row::Train(row) = row {
            Some(row.loss)
        } else {
            None
        }
    });
    let (mut first, mut last) = (None, None);
    for loss in losses {
        first = first.or(Some(loss));
        last = Some(loss);
    }
    report.fact("first_loss", first);
    report.fact("last_loss", last);
    let evaluated = rows.iter().rev().find_map(|row| {
        if let Row::Eval(row) = row {
            Some(row.eval_loss)
        } else {
            None
        }
    });
    if evaluated.is_some() {
        report.fact("last_eval_loss", evaluated);
    }
    Ok(())
}

fn summary(path: &Path, report: &mut Report) {
    let file = path.join("summary.json");
    let summary: Option<Summary> = fs::read(&file)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    report.fact("finished", summary.is_some());
    if let Some(summary) = summary {
        report.count(
            "trained_parameters",
            usize::try_from(summary.trainable_parameters).unwrap_or(usize::MAX),
        );
        let (key, speed) = summary.items.speed();
        let digits = if speed < 100.0 { 100.0 } else { 1.0 };
        report.fact(key, (speed * digits).round() / digits);
        report.fact("seconds", summary.seconds.round());
    } else if file.exists() {
        report.note(format!("`{}` is not a summary", file.display()));
    }
}

/// The directories `step-…`, newest first.
fn checkpoints(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = path.join("checkpoints");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |error| Failure::run(format!("cannot list `{}`: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("step-"))
        {
            found.push(path);
        }
    }
    found.sort();
    found.reverse();
    Ok(found)
}

fn checkpoint_row(directory: &Path) -> Vec<Value> {
    let name = directory
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    match verify(directory) {
        Ok(manifest) => {
            let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
            vec![json!(name), json!("verified"), json!(bytes)]
        }
        Err(reason) => vec![
            json!(name),
            json!(format!("skipped: {reason}")),
            Value::Null,
        ],
    }
}

/// One checkpoint, every file of which is compared with its hash.
pub(super) fn inspect_checkpoint(path: &Path) -> Result<Report, Failure> {
    let manifest = verify(path)?;
    let mut report = Report::new("checkpoint", path);
    report.fact("step", manifest.step);
    report.fact("state", "verified");
    report.fact("written_by", format!("temper {}", manifest.tool_version));
    report.bytes("bytes", manifest.files.iter().map(|file| file.bytes).sum());
    let rows = manifest
        .files
        .iter()
        .map(|file| vec![json!(file.name), json!(file.bytes), json!(file.sha256)]);
    report.table("files", &["name", "bytes", "sha256"], rows.collect());
    Ok(report)
}
