//! Adapters in the layout of PEFT.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;
use temper_adapters::peft::{AdapterConfig, AdapterFile, ModulePattern};

use super::Report;
use super::model::{list, modules};
use crate::Failure;

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

fn describe(adapter: &AdapterFile, report: &mut Report) {
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
    if let Some(saved) = &common.modules_to_save {
        report.fact("modules_stored_whole", saved.clone());
    }
    if let Some(version) = &common.peft_version {
        report.fact("written_by", format!("PEFT {version}"));
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

/// The strict comparison, both ways.
fn check(adapter: &AdapterFile, model: &Path, report: &mut Report) -> Result<bool, Failure> {
    let found = adapter.check(&modules(model)?)?;
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
