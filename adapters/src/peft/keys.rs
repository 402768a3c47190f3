//! Names of tensors in `adapter_model.safetensors`.

use super::common::{Bias, Common};
use super::error::KeyProblem;
use super::matching::Matcher;

/// Every key starts with this.
const PREFIX: &str = "base_model.model.";

/// Which parameter of a module a tensor is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Slot {
    /// `oft_R.weight [blocks or 1, b(b-1)/2]`: packed skew-symmetric blocks.
    OftR,
    /// `lora_A.weight [rank, inputs]` (convolution: `[rank, inputs, k, k]`).
    LoraA,
    /// `lora_B.weight [outputs, rank]` (convolution: `[outputs, rank, 1, 1]`).
    LoraB,
    /// `lora_magnitude_vector [outputs]`, of `DoRA`; `[1, outputs, 1, 1]` of convolutions.
    LoraMagnitude,
    /// The base layer's own bias, trained along.
    Bias,
    /// A parameter of a module stored whole, by its name (`weight`, `bias`).
    Saved(String),
}

impl Slot {
    /// The name in the layout.
    pub fn name(&self) -> &str {
        match self {
            Self::OftR => "oft_R",
            Self::LoraA => "lora_A",
            Self::LoraB => "lora_B",
            Self::LoraMagnitude => "lora_magnitude_vector",
            Self::Bias => "bias",
            Self::Saved(name) => name,
        }
    }
}

/// The key of a parameter. `wrapped`: the module also has an adapter, so its own parameters lie in
/// `base_layer`.
pub(crate) fn key(module: &str, slot: &Slot, wrapped: bool) -> String {
    let tail = match slot {
        Slot::OftR | Slot::LoraA | Slot::LoraB => format!("{}.weight", slot.name()),
        Slot::Bias if wrapped => "base_layer.bias".to_owned(),
        Slot::LoraMagnitude | Slot::Bias | Slot::Saved(_) => slot.name().to_owned(),
    };
    format!("{PREFIX}{module}.{tail}")
}

/// A key taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) module: String,
    pub(crate) slot: Slot,
    /// The adapter's name, which some tools leave in the key.
    pub(crate) adapter: Option<String>,
}

/// Takes `key` apart, under the options of `common`.
pub(crate) fn parse(
    key: &str,
    common: &Common,
    matcher: &Matcher<'_>,
) -> Result<Parsed, KeyProblem> {
    let owned = || key.to_owned();
    let path = key
        .strip_prefix(PREFIX)
        .ok_or_else(|| KeyProblem::Prefix { key: owned() })?;
    let parts: Vec<&str> = path.split('.').collect();
    if let Some(at) = parts.iter().rposition(|part| parameter(part).is_some()) {
        let module = parts[..at].join(".");
        return adapter_parameter(key, module, parts[at], &parts[at + 1..]);
    }
    plain_parameter(path, &parts, common, matcher)
        .ok_or_else(|| KeyProblem::NotCovered { key: owned() })
}

/// A parameter of the adapter itself; `tail` is what follows its name in the key.
fn adapter_parameter(
    key: &str,
    module: String,
    name: &str,
    tail: &[&str],
) -> Result<Parsed, KeyProblem> {
    let unsupported = |what| {
        Err(KeyProblem::Unsupported {
            key: key.to_owned(),
            what,
        })
    };
    let slot = match parameter(name) {
        Some(Ok(slot)) if !module.is_empty() => slot,
        Some(Err(what)) => return unsupported(what),
        _ => {
            return Err(KeyProblem::NotCovered {
                key: key.to_owned(),
            });
        }
    };
    // The magnitude is stored without `.weight`, except by tools that treat it like the others.
    let adapter = match (&slot, tail) {
        (_, [.., "bias"]) => return unsupported("a LoRA bias, not supported yet"),
        (_, ["weight"]) | (Slot::LoraMagnitude, []) => None,
        (_, [adapter, "weight"]) | (Slot::LoraMagnitude, [adapter]) => Some((*adapter).to_owned()),
        _ => {
            return Err(KeyProblem::NotCovered {
                key: key.to_owned(),
            });
        }
    };
    Ok(Parsed {
        module,
        slot,
        adapter,
    })
}

/// A parameter of the base model: a bias, or part of a module stored whole.
fn plain_parameter(
    path: &str,
    parts: &[&str],
    common: &Common,
    matcher: &Matcher<'_>,
) -> Option<Parsed> {
    if let [module @ .., "modules_to_save", adapter, name] = parts {
        let slot = Slot::Saved((*name).to_owned());
        return Some(Parsed {
            module: module.join("."),
            slot,
            adapter: Some((*adapter).to_owned()),
        });
    }
    let (module, name) = path.rsplit_once('.')?;
    let parsed = |module: &str, slot| Parsed {
        module: module.to_owned(),
        slot,
        adapter: None,
    };
    if module.is_empty() {
        return None;
    }
    if matcher.saves(module) {
        return Some(parsed(module, Slot::Saved(name.to_owned())));
    }
    if name != "bias" || common.bias == Bias::None {
        return None;
    }
    Some(parsed(
        module.strip_suffix(".base_layer").unwrap_or(module),
        Slot::Bias,
    ))
}

/// The parameter that a part of a key names: a slot, or the reason why it cannot be read.
fn parameter(part: &str) -> Option<Result<Slot, &'static str>> {
    Some(match part {
        "oft_R" => Ok(Slot::OftR),
        "lora_A" => Ok(Slot::LoraA),
        "lora_B" => Ok(Slot::LoraB),
        "lora_magnitude_vector" => Ok(Slot::LoraMagnitude),
        "oft_r" | "oft_s" => Err(
            "from PEFT before 0.16, whose OFT parameters are not compatible; train the adapter again",
        ),
        "boft_R" | "boft_s" | "boft_P" => Err("a BOFT parameter, not supported yet"),
        "oft_embedding_R" | "lora_embedding_A" | "lora_embedding_B" => {
            Err("an adapter on an embedding, not supported yet")
        }
        _ => return None,
    })
}
