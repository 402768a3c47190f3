//! Adapter files of other tools, in and out.
//!
//! | format | keys | read | written |
//! |---|---|---|---|
//! | PEFT directory | `base_model.model.<module>.lora_A.weight`, `.oft_R.weight` | yes | [`AdapterFile::save`](crate::peft::AdapterFile::save) |
//! | diffusers `LoRA` | `unet.<module>.lora_A.weight`, `text_encoder.…`, `text_encoder_2.…` | yes | [`write_diffusers_lora`] |
//! | older diffusers | `….lora.down.weight`, `….processor.to_q_lora.down.weight`, `….lora_linear_layer.down.weight` | yes | no |
//! | kohya `LoRA` | `lora_unet_<module with _>.lora_down.weight`, `.lora_up.weight`, `.alpha`; `lora_te_…`, `lora_te1_…`, `lora_te2_…` | yes | [`write_kohya`] |
//! | kohya or `OneTrainer` OFT | `lora_unet_<module with _>.oft_R.weight` | linear layers | [`write_kohya`] |
//!
//! Blocks of the UNet may have the names of diffusers or those of the original code (`input_blocks_4_1_…`). Everything becomes an
//! [`AdapterFile`](crate::peft::AdapterFile) per [`Component`], checked against the modules of the model: each tensor of the file has a place, or the file
//! is refused with the list of those that have none. The scale of `LoRA` (alpha, rank, rsLoRA, patterns) is carried over exactly.
//!
//! Recognised and refused by name: files of kohya's first OFT (`oft_blocks`: it rotates outputs, another function), of PEFT before
//! 0.16 (`oft_r`), `LoHa`, `LoKr`, Tucker-decomposed convolutions, weight differences, and OFT on convolutions under kohya's
//! prefixes, which tools do not agree on.

mod build;
mod detect;
mod diffusers;
mod error;
mod keys;
mod kohya;
mod names;
mod read;
mod text_names;

pub use detect::{Format, detect};
pub use diffusers::write_diffusers_lora;
pub use error::FormatError;
pub use kohya::{KohyaModel, write_kohya};
pub use names::{Component, Modules};
pub use read::{Imported, read};
pub use text_names::{as_in, as_in_transformers};

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod import_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod round_trip_tests;
