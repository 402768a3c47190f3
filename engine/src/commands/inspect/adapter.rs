//! Adapters in the layout of PEFT.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;
use temper_adapters::formats::as_in;
use temper_adapters::peft::{
    AdapterConfig, AdapterFile, Module, ModulePattern, Slot, block_size_from_cols,
};
use temper_adapters::weights::Checkpoint;
use temper_models::single_file::is_single_file;

use super::model::{list, modules};
use crate::Failure;
use crate::commands::report::Report;
use crate::diffusion::{ModuleNames, Place};

/// An adapter directory. With a model, the second value is whether they fit.
pub(super) fn inspect(path: &Path, model: Option<&Path>) -> Result<(Report, bool), Failure> {
    let (adapter, warnings) = AdapterFile::load(path)?;
    let mut report = Report::new("adapter", path);
    describe(&adapter, &mut report);
    for warning in warnings {
        report.note(warning.to_string());
    }
    let fits = match model {
        Some(model) => check(&adapter, model, &mut report)?,
        None => true,
    };
    Ok((report, fits))
}

pub(super) fn describe(adapter: &AdapterFile, report: &mut Report) {
    let common = adapter.config().common();
    method(adapter.config(), report);
    report.fact("base_model", common.base_model_name_or_path.as_deref());
    report.fact(
        "target_modules",
        match &common.target_modules {
            None => json!("default"),
            Some(ModulePattern::Names(names)) => json!(names),
            Some(ModulePattern::Regex(pattern)) => json!(pattern),
            Some(ModulePattern::AllLinear) => json!("all-linear"),
        },
    );
    report.fact("modules", adapter.adapted_modules().len());
    report.fact("tensors", adapter.tensors().len());
    let sizes = adapter
        .tensors()
        .iter()
        .map(|entry| entry.tensor.shape().iter().product::<usize>());
    report.count("parameters", sizes.sum());
    let dtypes: BTreeSet<String> = adapter
        .tensors()
        .iter()
        .map(|entry| format!("{:?}", entry.tensor.dtype()))
        .collect();
    report.fact("dtype", dtypes.into_iter().collect::<Vec<_>>());
    rotations(adapter, report);
    report.fact("changes_nothing", adapter.changes_nothing());
    if let Some(saved) = &common.modules_to_save {
        report.fact("modules_stored_whole", saved.clone());
    }
    if let Some(version) = &common.peft_version {
        report.fact("layout_of", format!("PEFT {version}"));
    }
}

fn method(config: &AdapterConfig, report: &mut Report) {
    match config {
        AdapterConfig::Oft(oft) => {
            report.fact("method", if oft.coft { "coft" } else { "oft" });
            if oft.r > 0 {
                report.fact("blocks", oft.r);
            } else {
                report.fact("block_size", oft.oft_block_size);
            }
            report.fact("block_share", oft.block_share);
            let series = format!("series of {} terms", oft.num_cayley_neumann_terms);
            report.fact(
                "cayley",
                if oft.use_cayley_neumann {
                    series
                } else {
                    "exact".to_owned()
                },
            );
            if oft.coft {
                report.fact("eps", oft.eps);
            }
        }
        AdapterConfig::Lora(lora) => {
            let variants = [(lora.use_dora, "dora"), (lora.use_rslora, "rslora")];
            report.fact(
                "method",
                variants
                    .into_iter()
                    .find(|(used, _)| *used)
                    .map_or("lora", |(_, name)| name),
            );
            report.fact("rank", lora.r);
            report.fact("alpha", lora.lora_alpha);
        }
        _ => report.fact("method", "unknown"),
    }
}

/// What the rotations really are: block sizes that were adjusted to divide, COFT's bound and how much of it is used.
fn rotations(adapter: &AdapterFile, report: &mut Report) {
    let AdapterConfig::Oft(oft) = adapter.config() else {
        return;
    };
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    let mut bounds: BTreeMap<usize, usize> = BTreeMap::new();
    let mut largest = 0.0_f64;
    let rotations = adapter
        .tensors()
        .iter()
        .filter(|tensor| tensor.slot == Slot::OftR);
    for tensor in rotations {
        let &[rows, columns] = tensor.tensor.shape() else {
            continue;
        };
        if let Some(size) = block_size_from_cols(columns) {
            *sizes.entry(size).or_default() += 1;
        }
        *bounds.entry(rows).or_default() += 1;
        let values = tensor.tensor.to_f32().unwrap_or_default();
        // The whole block holds every packed value twice.
        let norm = |row: &[f32]| {
            let squares = row.iter().map(|value| f64::from(*value).powi(2));
            (2.0 * squares.sum::<f64>()).sqrt()
        };
        let norms = values.chunks(columns.max(1)).map(norm);
        largest = norms.fold(largest, f64::max);
    }
    let counted = |(what, layers): (String, &usize)| format!("{what} ({layers} layers)");
    let sizes = sizes
        .iter()
        .map(|(size, layers)| counted((size.to_string(), layers)));
    report.fact("effective_block_sizes", sizes.collect::<Vec<_>>());
    if oft.coft {
        let bound = |rows: usize| oft.eps / (rows as f64).sqrt();
        let bounds = bounds
            .iter()
            .map(|(rows, layers)| counted((format!("{:.3e}", bound(*rows)), layers)));
        report.fact("coft_tau", bounds.collect::<Vec<_>>());
    }
    report.fact("largest_block_norm", format!("{largest:.3e}"));
}

/// The layers that the adapter is for, of a pipeline those of the network that it names, and the adapter with their names.
fn modules_for(adapter: &AdapterFile, model: &Path) -> Result<(Vec<Module>, AdapterFile), Failure> {
    let is_pipeline = match Place::of(model) {
        Ok(Place::Directory) => true,
        Ok(Place::File(file)) => Checkpoint::open(file).is_ok_and(|file| is_single_file(&file)),
        Err(_) => false,
    };
    if !is_pipeline {
        let modules = modules(model)?;
        let adapter = as_in(adapter, &modules)?;
        return Ok((modules, adapter));
    }
    let names = ModuleNames::of(model)?;
    let all = names.modules();
    let (component, adapter, _) = all.owner(adapter);
    Ok((all.of(component).to_vec(), adapter))
}

/// The strict comparison, both ways.
fn check(adapter: &AdapterFile, model: &Path, report: &mut Report) -> Result<bool, Failure> {
    let (modules, adapter) = modules_for(adapter, model)?;
    let found = adapter.check(&modules)?;
    report.fact("checked_against", model.display().to_string());
    report.fact("fits", found.is_clean());
    report.fact("matched", found.matched.len());
    report.fact("missing", found.missing.len());
    report.fact("unexpected", found.unexpected.len());
    report.fact("of_another_shape", found.wrong_shape.len());
    list("missing_tensors", &found.missing, report);
    list("unexpected_tensors", &found.unexpected, report);
    let rows = found
        .wrong_shape
        .iter()
        .map(|(name, needed, found)| vec![json!(name), json!(needed), json!(found)]);
    if !found.wrong_shape.is_empty() {
        report.table("wrong_shapes", &["name", "needed", "found"], rows.collect());
    }
    Ok(found.is_clean())
}
