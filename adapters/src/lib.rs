//! Everything that adapts: OFT, COFT, LoRA and DoRA on linear layers, PEFT directories in and out, merging.
#![recursion_limit = "256"]

mod cayley;
mod linear;
mod lora;
mod oft;
pub mod ops;
mod param;
mod random;
pub mod weights;

pub use cayley::{Cayley, SkewPacking};
pub use linear::{AdaptedLinear, Adapter};
pub use lora::{Lora, LoraSpec};
pub use oft::{Oft, OftSpec};
pub use param::{Param, Parameters};
pub use random::RandomSource;
