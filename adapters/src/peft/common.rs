//! The part of the configuration that all methods share.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::PeftError;
use super::fields::{Fields, as_strings, as_usize};

/// Which biases are trained and stored beside the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bias {
    /// None (`"none"`).
    #[default]
    None,
    /// Those of the adapted modules (`"oft_only"`, `"lora_only"`).
    Adapted,
    /// Every bias of the model (`"all"`).
    All,
}

/// Names or pattern that select modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModulePattern {
    /// Full names, or their last parts: `q_proj` means every `….q_proj`.
    Names(Vec<String>),
    /// A regular expression for the whole name.
    Regex(String),
    /// Every linear layer but the output head (`"all-linear"`).
    AllLinear,
}

/// Layer numbers to adapt, in the form they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// A single number.
    One(usize),
    /// A list of numbers; an empty list means all.
    Many(Vec<usize>),
}

/// Names of the module lists that `layers_to_transform` counts in, in the form they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerPatterns {
    /// A single name.
    One(String),
    /// Several names; an empty list means any.
    Many(Vec<String>),
}

/// Options that every adapter method has, with the names of `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Common {
    /// Class of a base model that the library does not know; kept as it is.
    pub auto_mapping: Option<Value>,
    /// Name or path of the base model.
    pub base_model_name_or_path: Option<String>,
    /// Biases stored with the adapter.
    pub bias: Bias,
    /// Modules left out, whatever `target_modules` says.
    pub exclude_modules: Option<ModulePattern>,
    /// The base stores `[in, out]` weights.
    pub fan_in_fan_out: bool,
    /// Where layers are counted; needs `layers_to_transform`.
    pub layers_pattern: Option<LayerPatterns>,
    /// Layers adapted; all when absent.
    pub layers_to_transform: Option<Layers>,
    /// Modules trained and stored whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Library version that wrote the file.
    pub peft_version: Option<String>,
    /// Revision of the base model.
    pub revision: Option<String>,
    /// Modules adapted.
    pub target_modules: Option<ModulePattern>,
    /// Task, such as `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl Common {
    pub(crate) fn take(fields: &mut Fields<'_>, only: &str) -> Result<Self, PeftError> {
        fields.value("inference_mode");
        Ok(Self {
            auto_mapping: fields.value("auto_mapping"),
            base_model_name_or_path: fields.string("base_model_name_or_path")?,
            bias: fields
                .read(
                    "bias",
                    "none, all or the adapted modules' own",
                    |value| match value.as_str()? {
                        "none" => Some(Bias::None),
                        "all" => Some(Bias::All),
                        name => (name == only).then_some(Bias::Adapted),
                    },
                )?
                .unwrap_or_default(),
            exclude_modules: take_pattern(fields, "exclude_modules")?.map(
                |pattern| match pattern {
                    // The shorthand exists for targets only; here it is an ordinary expression.
                    ModulePattern::AllLinear => ModulePattern::Regex("all-linear".to_owned()),
                    other => other,
                },
            ),
            fan_in_fan_out: fields.bool("fan_in_fan_out", false)?,
            layers_pattern: fields.read(
                "layers_pattern",
                "a text or a list of texts",
                |value| {
                    value.as_str().map_or_else(
                        || as_strings(value).map(LayerPatterns::Many),
                        |name| Some(LayerPatterns::One(name.to_owned())),
                    )
                },
            )?,
            layers_to_transform: take_layers(fields)?,
            modules_to_save: fields.strings("modules_to_save")?,
            peft_version: fields.string("peft_version")?,
            revision: fields.string("revision")?,
            target_modules: take_pattern(fields, "target_modules")?,
            task_type: fields.string("task_type")?,
        })
    }

    pub(crate) fn put(&self, map: &mut Map<String, Value>, only: &str) {
        let bias = match self.bias {
            Bias::None => "none",
            Bias::All => "all",
            Bias::Adapted => only,
        };
        let mut set = |key: &str, value: Value| {
            map.insert(key.to_owned(), value);
        };
        set("auto_mapping", json!(self.auto_mapping));
        set(
            "base_model_name_or_path",
            json!(self.base_model_name_or_path),
        );
        set("bias", json!(bias));
        set(
            "exclude_modules",
            pattern_value(self.exclude_modules.as_ref()),
        );
        set("fan_in_fan_out", json!(self.fan_in_fan_out));
        set("inference_mode", json!(true));
        set(
            "layers_pattern",
            match &self.layers_pattern {
                None => Value::Null,
                Some(LayerPatterns::One(name)) => json!(name),
                Some(LayerPatterns::Many(names)) => json!(names),
            },
        );
        set(
            "layers_to_transform",
            match &self.layers_to_transform {
                None => Value::Null,
                Some(Layers::One(layer)) => json!(layer),
                Some(Layers::Many(layers)) => json!(layers),
            },
        );
        set("modules_to_save", json!(self.modules_to_save));
        set("peft_version", json!(super::config::PEFT_VERSION));
        set("revision", json!(self.revision));
        set(
            "target_modules",
            pattern_value(self.target_modules.as_ref()),
        );
        set("task_type", json!(self.task_type));
    }

    /// Options that need each other.
    pub(crate) fn check(&self) -> Result<(), PeftError> {
        let empty = match &self.layers_pattern {
            None => true,
            Some(LayerPatterns::One(name)) => name.is_empty(),
            Some(LayerPatterns::Many(names)) => names.is_empty(),
        };
        if !empty && self.layers_to_transform.is_none() {
            return Err(PeftError::Conflict {
                first: "layers_pattern",
                relation: "needs",
                second: "layers_to_transform",
            });
        }
        Ok(())
    }
}

fn take_pattern(fields: &mut Fields<'_>, key: &str) -> Result<Option<ModulePattern>, PeftError> {
    fields.read(
        key,
        "a list of module names or a regular expression",
        |value| {
            if let Some(text) = value.as_str() {
                let all = text.eq_ignore_ascii_case("all-linear");
                let pattern = || ModulePattern::Regex(text.to_owned());
                return Some(if all {
                    ModulePattern::AllLinear
                } else {
                    pattern()
                });
            }
            as_strings(value).map(ModulePattern::Names)
        },
    )
}

fn take_layers(fields: &mut Fields<'_>) -> Result<Option<Layers>, PeftError> {
    fields.read(
        "layers_to_transform",
        "a layer number or a list of them",
        |value| {
            if let Some(layer) = as_usize(value) {
                return Some(Layers::One(layer));
            }
            value
                .as_array()?
                .iter()
                .map(as_usize)
                .collect::<Option<_>>()
                .map(Layers::Many)
        },
    )
}

fn pattern_value(pattern: Option<&ModulePattern>) -> Value {
    match pattern {
        None => Value::Null,
        Some(ModulePattern::Names(names)) => json!(names),
        Some(ModulePattern::Regex(text)) => json!(text),
        Some(ModulePattern::AllLinear) => json!("all-linear"),
    }
}

/// The JSON object in `text`.
pub(crate) fn object(file: &Path, text: &[u8]) -> Result<Map<String, Value>, PeftError> {
    // Python writes NaN and Infinity, which are no JSON; no key here takes them, so they are errors.
    serde_json::from_slice(text).map_err(|source| PeftError::ConfigJson {
        file: file.to_owned(),
        source,
    })
}
