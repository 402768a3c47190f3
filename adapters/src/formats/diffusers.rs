//! `pytorch_lora_weights.safetensors` of diffusers.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::FormatError;
use super::detect::DIFFUSERS_FILE;
use super::names::Component;
use crate::peft::{AdapterConfig, AdapterFile, Slot, python_text};
use crate::weights::{WeightsError, save_safetensors};

/// Key of the header under which the configurations stand, each key prefixed by its component.
const METADATA: &str = "lora_adapter_metadata";
const FORMAT: &str = "a LoRA file of diffusers";

type Configurations = BTreeMap<Component, AdapterConfig>;

/// The configurations in the header of a file; none in files from before 2025.
pub(super) fn configurations(
    file: &Path,
    metadata: &BTreeMap<String, String>,
) -> Result<(Configurations, Vec<String>), FormatError> {
    let Some(text) = metadata.get(METADATA) else {
        return Ok((BTreeMap::new(), Vec::new()));
    };
    let whole: Map<String, Value> =
        serde_json::from_str(text).map_err(|source| FormatError::Metadata {
            file: file.to_owned(),
            source,
        })?;
    let (mut configs, mut remarks) = (BTreeMap::new(), Vec::new());
    for component in Component::ALL {
        let prefix = format!("{}.", component.name());
        let own = whole.iter().filter_map(|(key, value)| {
            Some((key.strip_prefix(&prefix)?.to_owned(), value.clone()))
        });
        let mut own: Map<String, Value> = own.collect();
        if own.is_empty() {
            continue;
        }
        own.entry("peft_type")
            .or_insert_with(|| Value::from("LORA"));
        let text = Value::Object(own).to_string();
        let (config, warnings) = AdapterConfig::parse(text.as_bytes(), file)?;
        remarks.extend(
            warnings
                .iter()
                .map(|warning| format!("{component}: {warning}")),
        );
        configs.insert(component, config);
    }
    Ok((configs, remarks))
}

/// Writes `LoRA` adapters as diffusers does: keys `unet.<module>.lora_A.weight`, configurations in the header (alpha, ranks,
/// rsLoRA and patterns are carried as they are). `path` is the file, or a directory to hold `pytorch_lora_weights.safetensors`.
///
/// Tools that do not read the header take alpha to be the rank; see [`write_kohya`](super::write_kohya) for those.
///
/// # Errors
/// [`FormatError::Unwritable`] for OFT, biases and modules stored whole; [`FormatError::Weights`] when the disk refuses.
pub fn write_diffusers_lora(
    path: &Path,
    adapters: &[(Component, &AdapterFile)],
) -> Result<(), FormatError> {
    let (mut tensors, mut header) = (Vec::new(), Map::new());
    for (component, adapter) in adapters {
        let AdapterConfig::Lora(_) = adapter.config() else {
            return Err(FormatError::Unwritable {
                what: "OFT".to_owned(),
                format: FORMAT,
                hint: "use the PEFT directory, kohya's layout or a merged model",
            });
        };
        refuse_plain(adapter, FORMAT)?;
        for tensor in adapter.tensors() {
            let tail = match (&tensor.slot, component) {
                // diffusers 0.42 passes a magnitude of text encoders over that has the name it writes itself.
                (Slot::LoraMagnitude, Component::Unet) => "",
                _ => ".weight",
            };
            let (part, module, slot) = (component.name(), &tensor.module, tensor.slot.name());
            tensors.push((
                format!("{part}.{module}.{slot}{tail}"),
                tensor.tensor.clone(),
            ));
        }
        let Ok(Value::Object(mut config)) = serde_json::from_str(&adapter.config().to_text())
        else {
            continue;
        };
        // diffusers 0.42 would drop out while it draws: it loads the adapter in training mode.
        config.insert("lora_dropout".to_owned(), 0.0.into());
        let prefixed = |(key, value)| (format!("{}.{key}", component.name()), value);
        header.extend(config.into_iter().map(prefixed));
    }
    let metadata = BTreeMap::from([
        ("format".to_owned(), "pt".to_owned()),
        (METADATA.to_owned(), python_text(&Value::Object(header))),
    ]);
    let file = if path.extension().is_some_and(|kind| kind == "safetensors") {
        path.to_owned()
    } else {
        path.join(DIFFUSERS_FILE)
    };
    create_parent(&file)?;
    Ok(save_safetensors(&file, &tensors, &metadata)?)
}

/// Only adapter parameters have a name in other tools' layouts.
pub(super) fn refuse_plain(adapter: &AdapterFile, format: &'static str) -> Result<(), FormatError> {
    for tensor in adapter.tensors() {
        if let Slot::Bias | Slot::Saved(_) = tensor.slot {
            return Err(FormatError::Unwritable {
                what: format!(
                    "`{}.{}`, trained beside the adapter,",
                    tensor.module,
                    tensor.slot.name()
                ),
                format,
                hint: "use the PEFT directory or a merged model",
            });
        }
    }
    Ok(())
}

pub(super) fn create_parent(file: &Path) -> Result<(), FormatError> {
    match file.parent() {
        Some(parent) => {
            Ok(std::fs::create_dir_all(parent).map_err(WeightsError::io("create", parent))?)
        }
        None => Ok(()),
    }
}
