//! Everything that computes: model architectures and the operations they share.
#![recursion_limit = "256"]

mod error;
mod llama;
mod ops;

pub use error::ModelError;
pub use llama::{
    Block, Gradients, KeyValueCache, Llama, LlamaConfig, Segment, TokenBatch, device_tensor,
    host_tensor,
};
pub use ops::{
    Heads, IGNORE, Layout, Rope, RopeScaling, attend, attention, cross_entropy_sum, rms_norm,
    swiglu,
};
