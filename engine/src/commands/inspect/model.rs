//! Models and weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use temper_adapters::peft::{Module, ModuleKind};
use temper_adapters::weights::{Checkpoint, TensorInfo};
use temper_datasets::Tokenizer;
use temper_models::{LlamaConfig, RopeScaling};

use super::foreign::whole_model;
use super::network::{self, Network};
use crate::Failure;
use crate::commands::report::Report;
use crate::data_source::has_tokenizer;

/// Names that a report lists before it stops.
const LISTED: usize = 20;

/// A model directory. The second value is whether weights and architecture fit each other.
pub(super) fn inspect_model(path: &Path) -> Result<(Report, bool), Failure> {
    if let Some(network) = Network::of(path) {
        return network::inspect(path, network);
    }
    let mut report = Report::new("model", path);
    let weights = has_weights(path)
        .then(|| Checkpoint::open(path))
        .transpose()?;
    let config = LlamaConfig::load(path);
    match &config {
        Ok(config) => describe(config, &mut report),
        Err(error) => report.note(format!("the architecture is not usable here: {error}")),
    }
    tokenizer(path, &mut report);
    let Some(weights) = weights else {
        report.fact("weights", "none in this directory");
        return Ok((report, config.is_ok()));
    };
    totals(&weights, &mut report);
    let fits = config
        .as_ref()
        .is_ok_and(|config| fit(config, &weights, &mut report));
    Ok((report, fits))
}

pub(super) fn has_weights(path: &Path) -> bool {
    let names = ["model", "diffusion_pytorch_model"];
    let suffixes = ["safetensors", "safetensors.index.json", "fp16.safetensors"];
    names.iter().any(|name| {
        suffixes
            .iter()
            .any(|suffix| path.join(format!("{name}.{suffix}")).is_file())
    })
}

fn describe(config: &LlamaConfig, report: &mut Report) {
    report.fact("architecture", config.model_type.as_str());
    report.count("parameters", config.parameter_count());
    report.fact("layers", config.num_hidden_layers);
    report.fact("hidden_size", config.hidden_size);
    report.fact("feed_forward_size", config.intermediate_size);
    report.fact("attention_heads", config.num_attention_heads);
    report.fact("key_value_heads", config.num_key_value_heads);
    report.fact("head_size", config.head_dim);
    report.fact("vocabulary", config.vocab_size);
    report.fact("context", config.max_position_embeddings);
    if let Some(window) = config.sliding_window {
        report.fact("sliding_window", window);
    }
    report.fact("tied_embeddings", config.tie_word_embeddings);
    report.fact("rope_theta", config.rope_theta);
    report.fact(
        "rope_scaling",
        match config.rope_scaling {
            None => "none".to_owned(),
            Some(RopeScaling::Linear { factor }) => format!("linear, factor {factor}"),
            Some(RopeScaling::Llama3 { factor, .. }) => format!("llama3, factor {factor}"),
        },
    );
}

fn tokenizer(path: &Path, report: &mut Report) {
    if !has_tokenizer(path) {
        return;
    }
    match Tokenizer::load(path) {
        Ok(tokenizer) => report.fact("tokenizer", format!("{} ids", tokenizer.vocab_size())),
        Err(error) => report.note(error.to_string()),
    }
}

/// Counts over all tensors.
pub(super) fn totals(weights: &Checkpoint, report: &mut Report) {
    let infos: Vec<&TensorInfo> = weights
        .names()
        .filter_map(|name| weights.info(name))
        .collect();
    let files: BTreeSet<&Path> = infos.iter().map(|info| info.file.as_ref()).collect();
    let mut dtypes: BTreeMap<String, usize> = BTreeMap::new();
    for info in &infos {
        *dtypes.entry(format!("{:?}", info.dtype)).or_default() += 1;
    }
    let dtypes = match dtypes.len() {
        1 => dtypes.into_keys().collect(),
        _ => dtypes
            .iter()
            .map(|(dtype, count)| format!("{dtype} ({count})"))
            .collect::<Vec<_>>()
            .join(", "),
    };
    report.fact("files", files.len());
    report.fact("tensors", weights.len());
    report.count(
        "stored_values",
        infos
            .iter()
            .map(|info| info.shape.iter().product::<usize>())
            .sum(),
    );
    report.fact("dtype", dtypes);
    report.bytes("bytes", weights.total_bytes());
    for warning in weights.warnings() {
        report.note(warning.as_str());
    }
}

/// Compares the weights with what the architecture needs.
fn fit(config: &LlamaConfig, weights: &Checkpoint, report: &mut Report) -> bool {
    let names = weights.compare(&config.tensors().into_iter().collect());
    // A stored copy of tied embeddings or of the rotary frequencies does no harm.
    let fits = names.missing.is_empty() && names.wrong_shape.is_empty();
    let row = |(name, expected, found): &(String, Vec<usize>, Vec<usize>)| {
        vec![json!(name), json!(expected), json!(found)]
    };
    let rows: Vec<Vec<Value>> = names.wrong_shape.iter().map(row).collect();
    say_fit(fits, [&names.missing, &names.unexpected], rows, report);
    fits
}

/// Says whether weights fit, which are missing and not needed, and which have another shape than is needed.
pub(super) fn say_fit(
    fits: bool,
    [missing, not_needed]: [&[String]; 2],
    wrong_shape: Vec<Vec<Value>>,
    report: &mut Report,
) {
    let fit = if fits { "fit" } else { "do not fit" };
    report.fact("weights", format!("{fit} the architecture"));
    list("missing", missing, report);
    list("not_needed", not_needed, report);
    if !wrong_shape.is_empty() {
        report.table("wrong_shape", &["name", "needed", "found"], wrong_shape);
    }
}

/// Adds a list of names, if there are any.
pub(super) fn list(key: &'static str, names: &[String], report: &mut Report) {
    if names.is_empty() {
        return;
    }
    report.table(
        key,
        &["name"],
        names
            .iter()
            .take(LISTED)
            .map(|name| vec![json!(name)])
            .collect(),
    );
    if names.len() > LISTED {
        report.note(format!(
            "{} more {}",
            names.len() - LISTED,
            key.replace('_', " ")
        ));
    }
}

/// A `.safetensors` file, or a directory of them.
pub(super) fn inspect_weights(path: &Path) -> Result<Report, Failure> {
    let weights = Checkpoint::open(path)?;
    let mut report = Report::new("weights", path);
    whole_model(&weights, &mut report)?;
    totals(&weights, &mut report);
    let entries = weights.metadata();
    if !entries.is_empty() {
        let text: Vec<String> = entries
            .iter()
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        report.fact("metadata", text);
    }
    let row = |name: &str| {
        let info = weights.info(name)?;
        Some(vec![
            json!(name),
            json!(format!("{:?}", info.dtype)),
            json!(info.shape),
        ])
    };
    report.table(
        "tensors_by_name",
        &["name", "dtype", "shape"],
        weights.names().filter_map(row).collect(),
    );
    Ok(report)
}

/// The modules of a model: from its configuration, else as far as the shapes of its weights tell.
pub(super) fn modules(path: &Path) -> Result<Vec<Module>, Failure> {
    if let Some(network) = Network::of(path) {
        return Ok(network?.modules());
    }
    if path.join("config.json").is_file()
        && let Ok(config) = LlamaConfig::load(path)
    {
        return Ok(config.modules());
    }
    let weights = Checkpoint::open(path)?;
    let has_bias = |name: &str| weights.info(&format!("{name}.bias")).is_some();
    let module = |tensor: &str| {
        let name = tensor.strip_suffix(".weight")?;
        let kind = ModuleKind::of_weight(&weights.info(tensor)?.shape);
        let module = Module::new(name, kind);
        Some(if has_bias(name) {
            module.with_bias()
        } else {
            module
        })
    };
    Ok(weights.names().filter_map(module).collect())
}
