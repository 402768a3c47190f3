//! Files of other tools: adapters in one file, and whole models in one file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;
use temper_adapters::formats::{self, Format};
use temper_adapters::weights::Checkpoint;
use temper_models::single_file::{Family, is_single_file, split};
use temper_models::{ClipTextConfig, ModelError, UnetConfig, VaeConfig};

use super::adapter::describe;
use super::model::totals;
use crate::Failure;
use crate::commands::report::Report;
use crate::diffusion::ModuleNames;

/// The layout of an adapter in one file, if it is one.
pub(super) fn layout(path: &Path) -> Option<&'static str> {
    match formats::detect(path).ok()? {
        Format::Diffusers(_) => Some("diffusers"),
        Format::Kohya(_) => Some("kohya"),
        _ => None,
    }
}

/// An adapter in one file. With a model, the second value is whether they fit.
pub(super) fn inspect_adapter(
    path: &Path,
    model: Option<&Path>,
) -> Result<(Report, bool), Failure> {
    let file = Checkpoint::open(path)?;
    let mut report = Report::new("adapter", path);
    report.fact("layout", layout(path));
    let [methods, networks, layers] = contents(&file);
    for (key, found) in [("methods", methods), ("networks", networks)] {
        report.fact(key, found.into_iter().collect::<Vec<_>>());
    }
    report.fact("layers", layers.len());
    let rows = file.metadata().into_iter();
    let rows: Vec<_> = rows
        .map(|(key, value)| vec![json!(key), json!(value)])
        .collect();
    if !rows.is_empty() {
        report.table("metadata", &["key", "value"], rows);
    }
    let Some(model) = model else {
        totals(&file, &mut report);
        report.note("with --model MODEL its names are compared with the layers of the model");
        return Ok((report, true));
    };
    let names = ModuleNames::of(model)?;
    report.fact("checked_against", model.display().to_string());
    match formats::read(path, &names.modules()) {
        Ok(imported) => {
            report.fact("fits", true);
            for (component, adapter) in &imported.adapters {
                report.fact("network", component.name());
                describe(adapter, &mut report);
            }
            imported
                .remarks
                .into_iter()
                .for_each(|remark| report.note(remark));
            Ok((report, true))
        }
        Err(error) => {
            report.fact("fits", false);
            totals(&file, &mut report);
            report.note(error.to_string());
            Ok((report, false))
        }
    }
}

/// Methods, networks and layers, by the keys alone.
fn contents(file: &Checkpoint) -> [BTreeSet<String>; 3] {
    let mut found = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
    for key in file.names() {
        let method = if key.contains("oft_R") { "oft" } else { "lora" };
        let network = if key.starts_with("unet.") || key.contains("lora_unet_") {
            "unet"
        } else if key.starts_with("text_encoder_2.") || key.starts_with("lora_te2_") {
            "text_encoder_2"
        } else {
            "text_encoder"
        };
        let layer = [".lora", ".oft_R", ".alpha", ".dora_scale", ".processor"]
            .iter()
            .filter_map(|end| key.find(end))
            .min()
            .map_or(key, |at| &key[..at]);
        for (set, text) in found.iter_mut().zip([method, network, layer]) {
            set.insert(text.to_owned());
        }
    }
    found
}

/// A whole model in one file, if it is one.
pub(super) fn whole_model(weights: &Checkpoint, report: &mut Report) -> Result<(), Failure> {
    if !is_single_file(weights) {
        return Ok(());
    }
    let parts = split(weights)?;
    report.fact(
        "model",
        match parts.family {
            Family::Sd1 => "Stable Diffusion 1.x in one file",
            Family::Sd2 => "Stable Diffusion 2.x in one file",
            Family::Sdxl => "SDXL in one file",
        },
    );
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    sizes.insert(
        "unet".to_owned(),
        UnetConfig::from_json(&parts.unet.config)?.parameter_count(),
    );
    if let Some(vae) = &parts.vae {
        let config: Result<_, ModelError> = VaeConfig::from_json(&vae.config);
        sizes.insert("vae".to_owned(), config?.parameter_count());
    }
    for (number, text) in parts.text_encoders.iter().enumerate() {
        let config = ClipTextConfig::from_json(&text.config)?;
        sizes.insert(
            format!("text encoder {}", number + 1),
            config.parameter_count(),
        );
    }
    let rows = sizes
        .into_iter()
        .map(|(part, size)| vec![json!(part), json!(size)]);
    report.table("parts", &["part", "parameters"], rows.collect());
    report.fact("tensors_of_no_part", parts.ignored.len());
    Ok(())
}
