//! Datasets, tokenizers and recipes.

use std::path::Path;

use serde_json::{Value, json};
use temper_datasets::reader::data_files;
use temper_datasets::{Tokenizer, describe};

use crate::Failure;
use crate::commands::recipe::{diffusion_summary, method_name};
use crate::commands::report::Report;
use crate::recipe::{DiffusionRecipe, Length, Recipe};

/// Data files; every row is read.
pub(super) fn inspect_data(path: &Path) -> Result<Report, Failure> {
    let mut report = Report::new("dataset", path);
    let mut rows = Vec::new();
    let mut all = Some(0);
    for file in data_files(&[path.to_owned()])? {
        let found = describe(&file)?;
        all = all.zip(found.rows).map(|(all, rows)| all + rows);
        let name = file
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let kind = found
            .kind
            .map_or("unknown", temper_datasets::DataKind::name);
        rows.push(vec![
            json!(name),
            json!(kind),
            json!(found.rows),
            json!(found.fields),
        ]);
    }
    if rows.iter().any(|row| row[1] == "unknown") {
        report.note(
            "unknown means that the fields are those of no `data.kind`: metamathqa (`query` and `response`, or \
             `instruction` and `output`), gsm8k (`question` and `answer`), text (`text`), chat (`messages`), tokens \
             (`input_ids`)",
        );
    }
    report.fact("rows", all);
    report.table("files", &["name", "data_kind", "rows", "fields"], rows);
    Ok(report)
}

/// A tokenizer, with the settings of the files beside it.
pub(super) fn inspect_tokenizer(path: &Path) -> Result<Report, Failure> {
    let tokenizer = Tokenizer::load(path)?;
    let mut report = Report::new("tokenizer", path);
    let token = |id: u32| format!("{id} `{}`", tokenizer.token(id).unwrap_or_default());
    report.fact("ids", tokenizer.vocab_size());
    report.fact("begin_token", tokenizer.bos().map(token));
    report.fact("end_token", tokenizer.eos().map(token));
    report.fact(
        "stop_tokens",
        tokenizer
            .stop_ids()
            .iter()
            .map(|id| token(*id))
            .collect::<Vec<_>>(),
    );
    report.fact("chat_template", tokenizer.chat_template().is_some());
    report.fact("fingerprint", tokenizer.fingerprint());
    Ok(report)
}

/// A recipe, which must be without problems.
pub(super) fn inspect_recipe(path: &Path) -> Result<Report, Failure> {
    let mut report = Report::new("recipe", path);
    if DiffusionRecipe::is_at(path) {
        let recipe = DiffusionRecipe::load(path, &[])?;
        report.fact("recipe", diffusion_summary(&recipe));
        for advice in recipe.advice() {
            report.note(advice);
        }
        return Ok(report);
    }
    let recipe = Recipe::load(path, &[])?;
    report.fact("model", recipe.model.source());
    report.fact("method", method_name(&recipe));
    report.fact("data", recipe.data.path.as_slice().to_vec());
    report.fact("data_kind", recipe.data.kind.as_str());
    report.fact("max_length", recipe.data.max_length);
    let (key, length): (_, Value) = match recipe.train.length() {
        Length::Steps(steps) => ("steps", steps.into()),
        Length::Epochs(epochs) => ("epochs", epochs.into()),
    };
    report.fact(key, length);
    report.fact("batch_size", recipe.train.batch_size);
    report.fact("lr", recipe.train.lr);
    report.fact("seed", recipe.seed);
    report.fact("device", recipe.device.as_str());
    report.fact("run_directory", recipe.run.dir.display().to_string());
    for advice in recipe.advice() {
        report.note(advice);
    }
    Ok(report)
}
