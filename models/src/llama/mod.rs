//! LLaMA 2 (arXiv 2307.09288) and the checkpoints that load from the same classes: Llama 3.x, Mistral, TinyLlama.
//!
//! | model | hidden | ffn | layers | heads | key/value heads | vocabulary |
//! |---|---|---|---|---|---|---|
//! | 7B | 4096 | 11008 | 32 | 32 | 32 | 32000 |
//! | 13B | 5120 | 13824 | 40 | 40 | 40 | 32000 |
//! | 70B | 8192 | 28672 | 80 | 64 | 8 | 32000 |
//!
//! Deviation: attention beyond Mistral's sliding window is refused.

mod adapt;
mod cache;
mod config;
mod load;
mod model;
mod presets;
mod train;

pub use cache::{KeyValueCache, Segment};
pub use config::LlamaConfig;
pub use model::{Block, Llama};
pub use train::TokenBatch;
