//! Files with kohya's keys: `LoRA`, and OFT as `OneTrainer` and newer scripts name it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::FormatError;
use super::build::Parts;
use super::diffusers::{create_parent, refuse_plain};
use super::names::{Component, Modules, compvis_name, flattened};
use super::text_names::with_text_model;
use crate::peft::{
    AdapterConfig, AdapterFile, AdapterTensor, LoraConfig, Module, ModuleKind, OftConfig, Slot,
};
use crate::weights::{Dtype, HostTensor, save_safetensors};

const FORMAT: &str = "a file with kohya's keys";
/// Header key under which the options of a method stand, as JSON.
const ARGUMENTS: &str = "ss_network_args";
/// Terms of the series that readers of these files compute.
const TERMS: usize = 5;

/// The base model, which decides on names and on what the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KohyaModel {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x, ε-prediction.
    Sd2,
    /// Stable Diffusion 2.x, v-prediction.
    Sd2V,
    /// Stable Diffusion XL: blocks of the UNet are written under their original names, text encoders as `te1` and `te2`.
    Sdxl,
    /// Any other model: names as for 1.x, and no version in the header.
    Other,
}

impl KohyaModel {
    /// `ss_base_model_version`.
    fn version(self) -> Option<&'static str> {
        match self {
            Self::Sd1 => Some("sd_v1"),
            Self::Sd2 => Some("sd_v2"),
            Self::Sd2V => Some("sd_v2_v"),
            Self::Sdxl => Some("sdxl_base_v1-0"),
            Self::Other => None,
        }
    }

    fn header(self) -> BTreeMap<String, String> {
        let mut header = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        if let Some(version) = self.version() {
            let second = matches!(self, Self::Sd2 | Self::Sd2V);
            header.insert("ss_base_model_version".to_owned(), version.to_owned());
            header.insert(
                "ss_v2".to_owned(),
                if second { "True" } else { "False" }.to_owned(),
            );
        }
        header
    }

    /// The beginning of the keys of `module`.
    fn key(self, component: Component, module: &str, known: &[Module]) -> String {
        let name = match component {
            Component::Unet if self == Self::Sdxl => {
                compvis_name(module, known).unwrap_or_else(|| module.to_owned())
            }
            Component::Unet => module.to_owned(),
            _ => with_text_model(module),
        };
        format!("{}{}", self.prefix(component), flattened(&name))
    }

    fn prefix(self, component: Component) -> &'static str {
        match component {
            Component::Unet => "lora_unet_",
            Component::TextEncoder if self == Self::Sdxl => "lora_te1_",
            Component::TextEncoder => "lora_te_",
            Component::TextEncoder2 => "lora_te2_",
        }
    }
}

/// Writes adapters under kohya's keys, with the `ss_*` header that its readers look for. All adapters are of one method.
///
/// `LoRA`: the scale goes into `.alpha` (scale times rank, exact also for rsLoRA). OFT: readers of these files compute the
/// Cayley–Neumann series of five terms, so packed values of the exact transform, which has the opposite sign, are negated. What
/// then differs by the truncation of the series is said in the remarks returned.
///
/// # Errors
/// [`FormatError::Unwritable`] for `DoRA`, OFT on convolutions (tools turn them in different directions), biases, modules stored
/// whole and mixed methods; [`FormatError::Weights`] when the disk refuses.
pub fn write_kohya(
    path: &Path,
    adapters: &[(Component, &AdapterFile)],
    model: KohyaModel,
    modules: &Modules<'_>,
) -> Result<Vec<String>, FormatError> {
    let is_oft = |adapter: &AdapterFile| matches!(adapter.config(), AdapterConfig::Oft(_));
    let rotations = adapters
        .iter()
        .filter(|(_, adapter)| is_oft(adapter))
        .count();
    if rotations != 0 && rotations != adapters.len() {
        return unwritable("LoRA and OFT together", "write a file for each");
    }
    let (mut tensors, mut remarks, mut metadata) = (Vec::new(), Vec::new(), model.header());
    for (component, adapter) in adapters {
        refuse_plain(adapter, FORMAT)?;
        let known = modules.of(*component);
        let base = |module: &str| model.key(*component, module, known);
        metadata.extend(method_header(adapter.config())?);
        match adapter.config() {
            AdapterConfig::Lora(config) => low_rank(config, adapter, &base, &mut tensors)?,
            AdapterConfig::Oft(config) => {
                refuse_convolutions(adapter, known)?;
                remarks.extend(rotations_of(config, adapter, &base, &mut tensors)?);
            }
        }
    }
    create_parent(path)?;
    save_safetensors(path, &tensors, &metadata)?;
    Ok(remarks)
}

/// What the header says of the method.
fn method_header(config: &AdapterConfig) -> Result<Vec<(String, String)>, FormatError> {
    let entries = match config {
        AdapterConfig::Lora(config) => vec![
            ("ss_network_module", "networks.lora".to_owned()),
            ("ss_network_dim", config.r.to_string()),
            ("ss_network_alpha", alpha(config, "")?.to_string()),
        ],
        AdapterConfig::Oft(config) => vec![
            ("ss_network_module", "peft.oft".to_owned()),
            ("ss_network_dim", config.oft_block_size.to_string()),
            (ARGUMENTS, arguments(config)),
        ],
    };
    Ok(entries
        .into_iter()
        .map(|(key, text)| (key.to_owned(), text))
        .collect())
}

fn refuse_convolutions(adapter: &AdapterFile, known: &[Module]) -> Result<(), FormatError> {
    let is_convolution = |tensor: &&AdapterTensor| {
        let module = known.iter().find(|module| module.name == tensor.module);
        module.is_some_and(|module| matches!(module.kind, ModuleKind::Conv2d { .. }))
    };
    match adapter.tensors().iter().find(is_convolution) {
        Some(tensor) => unwritable(
            &format!("OFT on the convolution `{}`", tensor.module),
            "tools turn convolutions in different directions; use the PEFT directory or a merged model",
        ),
        None => Ok(()),
    }
}

fn unwritable<T>(what: &str, hint: &'static str) -> Result<T, FormatError> {
    Err(FormatError::Unwritable {
        what: what.to_owned(),
        format: FORMAT,
        hint,
    })
}

/// The alpha that gives PEFT's scale by kohya's rule, scale = alpha / rank.
fn alpha(config: &LoraConfig, module: &str) -> Result<f64, FormatError> {
    if config.use_rslora {
        Ok(config.scale(module)? * config.rank(module)? as f64)
    } else {
        Ok(config.alpha(module)?)
    }
}

fn low_rank(
    config: &LoraConfig,
    adapter: &AdapterFile,
    base: &dyn Fn(&str) -> String,
    tensors: &mut Vec<(String, HostTensor)>,
) -> Result<(), FormatError> {
    if config.use_dora {
        return unwritable(
            "DoRA",
            "use diffusers' layout, the PEFT directory or a merged model",
        );
    }
    for tensor in adapter.tensors() {
        let tail = match tensor.slot {
            Slot::LoraA => "lora_down",
            _ => "lora_up",
        };
        let base = base(&tensor.module);
        if tensor.slot == Slot::LoraA {
            let alpha = alpha(config, &tensor.module)?;
            // f32, as other tools write it, unless that would round.
            let short = alpha as f32;
            let value = if f64::from(short) == alpha {
                HostTensor::from_f32(Dtype::F32, Vec::new(), &[short])?
            } else {
                HostTensor::new(Dtype::F64, Vec::new(), alpha.to_le_bytes().to_vec())?
            };
            tensors.push((format!("{base}.alpha"), value));
        }
        tensors.push((format!("{base}.{tail}.weight"), tensor.tensor.clone()));
    }
    Ok(())
}

/// The series is said to have five terms whatever the adapter was trained with: it is what readers compute.
fn arguments(config: &OftConfig) -> String {
    json!({
        "use_cayley_neumann": true, "num_cayley_neumann_terms": TERMS, "oft_block_size": config.oft_block_size, "r": config.r,
        "block_share": config.block_share,
    })
    .to_string()
}

fn rotations_of(
    config: &OftConfig,
    adapter: &AdapterFile,
    base: &dyn Fn(&str) -> String,
    tensors: &mut Vec<(String, HostTensor)>,
) -> Result<Option<String>, FormatError> {
    for tensor in adapter.tensors() {
        let value = if config.use_cayley_neumann {
            tensor.tensor.clone()
        } else {
            let values: Vec<f32> = tensor.tensor.to_f32()?.iter().map(|value| -value).collect();
            HostTensor::from_f32(
                tensor.tensor.dtype(),
                tensor.tensor.shape().to_vec(),
                &values,
            )?
        };
        tensors.push((format!("{}.oft_R.weight", base(&tensor.module)), value));
    }
    Ok(if !config.use_cayley_neumann {
        Some("the exact rotations are written for a series of five terms: values negated, results equal up to its truncation".to_owned())
    } else if config.num_cayley_neumann_terms != TERMS {
        let terms = config.num_cayley_neumann_terms;
        Some(format!(
            "readers of this file compute five terms of the series, not {terms}: results equal up to its truncation"
        ))
    } else {
        None
    })
}

/// How rotations are meant, where the header says so: whether by the series, and with how many terms.
pub(super) fn rotation_options(metadata: &BTreeMap<String, String>) -> Option<(bool, usize)> {
    let arguments: Value = serde_json::from_str(metadata.get(ARGUMENTS)?).ok()?;
    // Some tools write every argument as a text.
    let text = |key: &str| match arguments.get(key)? {
        Value::String(text) => Some(text.to_lowercase()),
        other => Some(other.to_string()),
    };
    let series = text("use_cayley_neumann")? == "true";
    let terms = text("num_cayley_neumann_terms").and_then(|terms| terms.parse().ok());
    Some((series, terms.unwrap_or(TERMS)))
}

/// What is assumed about rotations whose file does not say how they are meant.
pub(super) fn rotation_remark(
    parts: &BTreeMap<String, Parts<'_>>,
    metadata: &BTreeMap<String, String>,
) -> Option<String> {
    let assumed = rotation_options(metadata).is_none() && parts.values().any(Parts::has_rotation);
    assumed.then(|| {
        "the file does not say how its rotations are computed; taken as a Cayley-Neumann series of five terms, the default of the \
         tools that write these keys"
            .to_owned()
    })
}
