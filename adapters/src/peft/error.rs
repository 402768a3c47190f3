//! What can be wrong with an adapter directory.

use std::fmt;
use std::path::PathBuf;

use super::CheckReport;
use crate::weights::WeightsError;
use crate::weights::near::{hint_list, list};

/// Why an adapter could not be read, written or fitted to a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeftError {
    /// The tensors could not be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The directory has no adapter.
    #[error(
        "no adapter in `{}`: `{missing}` is not there{}", directory.display(),
        if *pickled { "; it has pickled `adapter_model.bin`, convert it to safetensors first" } else { "" }
    )]
    NoAdapter {
        /// The directory searched.
        directory: PathBuf,
        /// The file that is needed.
        missing: &'static str,
        /// Whether a pickled adapter lies there instead.
        pickled: bool,
    },
    /// The configuration is not a JSON object.
    #[error("`{}` is not a JSON object: {source}", file.display())]
    ConfigJson {
        /// The configuration file.
        file: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A key of the configuration has a value of another type.
    #[error("`{key}` in `{}` is {found}, expected {expected}", file.display())]
    Field {
        /// The configuration file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What the key takes.
        expected: &'static str,
        /// The value, shortened.
        found: String,
    },
    /// The adapter is of a kind that is not supported.
    #[error("`{}` is an adapter of type `{method}`, which is not supported yet; OFT and LORA are", file.display())]
    UnsupportedMethod {
        /// The configuration file.
        file: PathBuf,
        /// Its `peft_type`.
        method: String,
    },
    /// An OFT adapter from before PEFT 0.14, whose parameters mean something else.
    #[error(
        "`{}` has no `oft_block_size`: it was made by PEFT before 0.14, whose OFT parameters are not \
         compatible; train the adapter again", file.display()
    )]
    OldOft {
        /// The configuration file.
        file: PathBuf,
    },
    /// The adapter uses an option that changes its meaning and is not supported.
    #[error("`{}` sets `{key}` to {value}, which is not supported yet", file.display())]
    UnsupportedOption {
        /// The configuration file.
        file: PathBuf,
        /// The key.
        key: String,
        /// Its value, shortened.
        value: String,
    },
    /// Not exactly one of `r` and `oft_block_size` is set.
    #[error(
        "r = {r} and oft_block_size = {oft_block_size}: exactly one of them must be above zero \
         (number of blocks, or size of a block)"
    )]
    BlockRule {
        /// Number of blocks asked for.
        r: usize,
        /// Block size asked for.
        oft_block_size: usize,
    },
    /// Blocks of size one cannot rotate anything.
    #[error(
        "module `{module}` with {inputs} inputs would get rotation blocks of size 1, which have no \
         parameters; choose a larger oft_block_size or fewer blocks"
    )]
    BlockOfOne {
        /// The module, or `every module` for the configuration itself.
        module: String,
        /// Its input size.
        inputs: usize,
    },
    /// A number in the configuration is out of range.
    #[error("{key} = {value} is out of range, expected {expected}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// Its value.
        value: f64,
        /// The range.
        expected: &'static str,
    },
    /// Two options that exclude or need each other.
    #[error("{first} {relation} {second}")]
    Conflict {
        /// The option set.
        first: &'static str,
        /// How they relate: `needs`, `cannot be combined with`.
        relation: &'static str,
        /// The other option.
        second: &'static str,
    },
    /// A pattern is not a regular expression that we can run.
    #[error(
        "pattern `{pattern}` is not a usable regular expression (no look-around, no back-references): {source}"
    )]
    Pattern {
        /// The pattern as written.
        pattern: String,
        /// The reason.
        source: Box<regex::Error>,
    },
    /// No module of the model is adapted.
    #[error("target_modules {wanted} matches no module of the model{}{}", hint_list(near), layers_hint(*layers))]
    NoTarget {
        /// The pattern or list.
        wanted: String,
        /// Module names that look alike.
        near: Vec<String>,
        /// Whether `layers_to_transform` also restricts the choice.
        layers: bool,
    },
    /// Some listed targets match nothing.
    #[error(
        "target_modules {} match no module of the model{}",
        quoted(entries),
        unmatched_hint(entries, near)
    )]
    UnmatchedTargets {
        /// The entries that match nothing.
        entries: Vec<String>,
        /// Module names that look alike.
        near: Vec<String>,
    },
    /// An entry of `modules_to_save` names no module with parameters of its own.
    #[error(
        "`modules_to_save` entry `{entry}` names no module of the model{}; name linear layers, norms or `embed_tokens` (a tied model has no `lm_head` of its own)",
        hint_list(near)
    )]
    UnmatchedSaved {
        /// The entry.
        entry: String,
        /// Module names that look alike.
        near: Vec<String>,
    },
    /// A target is a module that this method cannot adapt.
    #[error(
        "module `{module}` is targeted but is {kind}; only linear and convolution layers can be adapted"
    )]
    UnsupportedTarget {
        /// The module.
        module: String,
        /// What it is.
        kind: &'static str,
    },
    /// Tensors of the adapter file do not follow the layout; everything found is listed.
    #[error("the tensors of `{}` are not those of its configuration: {}", file.display(), list(problems))]
    Keys {
        /// The tensor file.
        file: PathBuf,
        /// Every problem found.
        problems: Vec<KeyProblem>,
    },
    /// Values that are no numbers.
    #[error(
        "`{}` holds values that are not finite (NaN or infinity), in {}; its training diverged, or the file is damaged",
        file.display(), list(keys)
    )]
    NotFinite {
        /// The tensor file.
        file: PathBuf,
        /// The tensors that hold them.
        keys: Vec<String>,
    },
    /// The adapter does not fit the model.
    #[error("the adapter does not fit the model: {0}")]
    Mismatch(Box<CheckReport>),
}

/// One tensor of an adapter file that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyProblem {
    /// The key does not start with `base_model.model.`.
    Prefix {
        /// The key.
        key: String,
    },
    /// A known parameter that is not supported, with the reason.
    Unsupported {
        /// The key.
        key: String,
        /// What it is.
        what: &'static str,
    },
    /// Neither an adapter parameter, nor covered by `bias` or `modules_to_save`.
    NotCovered {
        /// The key.
        key: String,
    },
    /// The parameter belongs to another method than the configuration's.
    WrongMethod {
        /// The key.
        key: String,
    },
    /// Two keys mean the same parameter.
    Duplicate {
        /// The second key.
        key: String,
    },
    /// The keys carry more than one adapter name.
    TwoAdapters {
        /// The first name.
        first: String,
        /// The second name.
        second: String,
    },
    /// A parameter without its counterpart: `lora_A` without `lora_B`, `DoRA` without magnitude.
    Incomplete {
        /// The module.
        module: String,
        /// The slot that is missing.
        missing: &'static str,
    },
    /// The shape contradicts the configuration or the counterpart.
    Shape {
        /// The key.
        key: String,
        /// The shape found.
        shape: Vec<usize>,
        /// What is expected.
        expected: String,
    },
    /// The elements are not floating-point numbers.
    Dtype {
        /// The key.
        key: String,
        /// The dtype found.
        dtype: String,
    },
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix { key } => write!(
                f,
                "`{key}` does not start with `base_model.model.` (a diffusers, kohya or merged file?)"
            ),
            Self::Unsupported { key, what } => write!(f, "`{key}` is {what}"),
            Self::NotCovered { key } => write!(
                f,
                "`{key}` is no adapter parameter and neither `bias` nor `modules_to_save` covers it"
            ),
            Self::WrongMethod { key } => {
                write!(f, "`{key}` belongs to another method than `peft_type` says")
            }
            Self::Duplicate { key } => write!(f, "`{key}` gives a parameter a second time"),
            Self::TwoAdapters { first, second } => {
                write!(f, "adapters `{first}` and `{second}` are in one file")
            }
            Self::Incomplete { module, missing } => {
                write!(f, "module `{module}` lacks its `{missing}`")
            }
            Self::Shape {
                key,
                shape,
                expected,
            } => {
                write!(f, "`{key}` has shape {shape:?}, expected {expected}")
            }
            Self::Dtype { key, dtype } => {
                write!(f, "`{key}` is {dtype}, expected F32, F16, BF16 or F64")
            }
        }
    }
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn layers_hint(layers: bool) -> &'static str {
    if layers {
        "; layers_to_transform is set too, and may exclude the layers meant"
    } else {
        ""
    }
}

/// Names that look alike, or that other options left nothing of what is there.
fn unmatched_hint(entries: &[String], near: &[String]) -> String {
    let is_there = |entry: &String| near.iter().any(|name| super::ends_with(name, entry));
    if entries.iter().any(is_there) {
        return " that is left to adapt: `exclude_modules`, `modules_to_save` or `layers_to_transform` takes them out".to_owned();
    }
    hint_list(near)
}
