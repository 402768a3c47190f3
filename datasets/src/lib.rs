//! Data for fine-tuning language models: from files on disk to batches of token ids.
//!
//! The stages, in the order in which a row passes through them:
//!
//! 1. [`reader`] reads JSON, JSONL, text and Parquet files into [`Row`]s and names the file and line of
//!    anything broken.
//! 2. [`template`] renders a row into a prompt and a response.
//! 3. [`tokenizer`] turns both into ids; [`example`] decides which of them are trained.
//! 4. [`dataset`] does this once for all rows, in parallel, and keeps the result in a cache file.
//! 5. [`loader`] shuffles, packs and batches. A batch is a pure function of the seed and the step.
//!
//! And for mathematics: [`problems`] reads test files and makes prompts, [`grade`] judges answers, [`rewrite`]
//! makes new questions of old ones.
//!
//! For pictures: [`images`] reads photographs, crops and batches them, [`clip_tokenizer`] encodes their captions.
//!
//! ```no_run
//! use std::sync::Arc;
//! use temper_datasets::{DataConfig, DataKind, Dataset, Loader, LoaderConfig, Template, Tokenizer};
//!
//! # fn main() -> temper_datasets::Result<()> {
//! let tokenizer = Tokenizer::load("assets/stories260k")?;
//! let config = DataConfig {
//!     paths: vec!["assets/gsm8k/train-1000.jsonl".into()],
//!     kind: DataKind::Gsm8k,
//!     template: Template::Metamath { single_field: false },
//!     max_length: 512,
//!     ..DataConfig::default()
//! };
//! let dataset = Arc::new(Dataset::prepare(&config, &tokenizer, &|_, _| ())?);
//! let loader = Loader::new(dataset, LoaderConfig { seed: 42, batch_size: 8, ..LoaderConfig::default() })?;
//! let first = loader.step(0)?;
//! assert!(first.target_tokens > 0);
//! # Ok(())
//! # }
//! ```

pub mod arithmetic;
mod bytes;
mod cache;
pub mod chat;
pub mod clip_tokenizer;
pub mod dataset;
mod describe;
mod error;
pub mod example;
pub mod grade;
pub mod images;
pub mod loader;
pub mod packing;
mod parquet_rows;
pub mod preview;
pub mod problems;
pub mod random;
pub mod reader;
mod record;
pub mod report;
pub mod rewrite;
mod sentencepiece;
mod special;
mod split;
pub mod stream;
pub mod template;
pub mod tokenize;
pub mod tokenizer;

pub use chat::ChatTemplate;
pub use clip_tokenizer::{ClipTokenizer, ClipTokens};
pub use dataset::{DataConfig, Dataset};
pub use describe::{Description, describe};
pub use error::{DataError, Result};
pub use example::{Example, ExampleRef, IGNORED, LossOn, OverLength};
pub use loader::{Batch, Loader, LoaderConfig, StepBatch};
pub use preview::{Preview, preview};
pub use reader::{DataKind, RowLocation, read_rows};
pub use record::{Message, Row};
pub use report::{AffectedRow, CacheStatus, DataReport};
pub use stream::DecodeStream;
pub use template::{Rendered, Renderer, Template};
pub use tokenize::{TokenizeOptions, tokenize_jsonl};
pub use tokenizer::Tokenizer;
