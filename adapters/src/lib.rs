//! Everything that adapts: OFT, COFT, LoRA and DoRA on linear layers, PEFT directories in and out, merging.
#![recursion_limit = "256"]

mod attach;
mod cayley;
mod conv;
pub mod energy;
pub mod formats;
mod linear;
mod lora;
mod oft;
pub mod ops;
mod param;
pub mod peft;
mod random;
mod strength;
pub mod weights;

pub use attach::{Adaptable, adapter_file, attach, attach_trained, trained_beside};
pub use cayley::{Cayley, SkewPacking};
pub use conv::AdaptedConv2d;
pub use linear::{AdaptedLinear, Adapter};
pub use lora::{Lora, LoraSpec};
pub use oft::{Oft, OftSpec};
pub use param::{Param, Parameters};
pub use random::RandomSource;
pub use strength::{attach_scaled, merge_into};
