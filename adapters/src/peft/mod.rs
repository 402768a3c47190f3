//! Adapters on disk, in the layout of the PEFT library (0.21.2): `adapter_config.json` and
//! `adapter_model.safetensors`.
//!
//! The layout is a contract with other tools, so it is kept to the byte: loading a directory and
//! saving it again gives the same files. [`AdapterConfig`] is the JSON, [`resolve`] applies its
//! rules to the modules of a model, [`AdapterFile`] holds the tensors, and [`AdapterFile::check`]
//! compares them with the model both ways: an adapter that does not fit is an error, never a
//! silently unchanged model.
//!
//! Not supported yet, and refused with a message that says so: BOFT, adapters on embeddings, `LoRA`
//! variants that change the base weights or the forward pass (`PiSSA`, `OLoRA`, layer
//! replication…), files older than PEFT 0.14 (`oft_r`, `oft_s`).

mod adapter;
mod block_size;
mod check;
mod common;
mod config;
mod error;
mod fields;
mod keys;
mod lora;
mod matching;
mod oft;
mod python_json;
mod resolve;
mod shapes;

pub use adapter::{AdapterFile, AdapterTensor};
pub use block_size::{adjust_block_size, block_size_from_cols, cols_from_block_size};
pub use check::CheckReport;
pub use common::{Bias, Common, LayerPatterns, Layers, ModulePattern};
pub use config::{AdapterConfig, ConfigWarning};
pub use error::{KeyProblem, PeftError};
pub use keys::Slot;
pub use lora::LoraConfig;
pub(crate) use matching::ends_with;
pub use matching::is_target;
pub use oft::OftConfig;
pub(crate) use python_json::to_text as python_text;
pub use resolve::{Module, ModuleKind, Resolution, Target, TargetRule, resolve};

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod refusal_tests;
