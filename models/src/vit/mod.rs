//! Vision transformer (arXiv 2010.11929) as DINO trains it (arXiv 2104.14294), `ViTModel` of transformers.
//!
//! | model | layers | width | heads | feed-forward | patch | image |
//! |---|---|---|---|---|---|---|
//! | `facebook/dino-vits16` | 12 | 384 | 6 | 1536 | 16 | 224 |
//!
//! The embedding of an image is the class token after the last norm. Images of another size than the model's are taken: the
//! table of positions is interpolated, bicubic, as the reference does. A stored pooler is ignored: DINO does not train it.

mod config;
mod model;
mod positions;

pub use config::DinoVitConfig;
pub use model::DinoVit;
