//! Everything that computes: model architectures and the operations they share.
#![recursion_limit = "256"]

mod ops;

pub use ops::*;
