//! Tensors on disk: safetensors files in and out, one tensor in memory at a time.
//!
//! A [`Checkpoint`] maps a Hugging Face directory (single file or sharded) without copying it and
//! hands out one tensor at a time. [`save_safetensors`] and [`save_model`] write the same layout
//! back, byte for byte what the reference library writes. Nothing here knows a device: a
//! [`HostTensor`] is a dtype, a shape and little-endian bytes.
//!
//! Every file is treated as hostile until its header has been checked: no error panics, nothing is
//! allocated from a number that was not compared with the file's own size, and every message
//! names the file and, where there is one, the tensor.

mod checkpoint;
mod error;
mod header;
mod host;
mod index;
mod mapped;
mod model_writer;
pub(crate) mod near;
mod shard_plan;
mod view;
mod write;

pub use checkpoint::{Checkpoint, NameReport, TensorInfo};
pub use error::{IndexProblem, WeightsError};
pub use host::HostTensor;
pub(crate) use index::read_limited;
pub use model_writer::{SaveModel, save_model};
pub use safetensors::Dtype;
pub use shard_plan::TensorSpec;
pub use view::View;
pub use write::{save_safetensors, write_atomically};

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod round_trip_tests;
