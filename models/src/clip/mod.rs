//! CLIP (arXiv 2103.00020): the text encoders of diffusion models, and the image encoder that measures them.
//!
//! | text encoder of | layers | width | heads | feed-forward | activation | projection | parameters |
//! |---|---|---|---|---|---|---|---|
//! | Stable Diffusion 1.x, SDXL's first (ViT-L/14) | 12 | 768 | 12 | 3072 | `quick_gelu` | – | 123,060,480 |
//! | Stable Diffusion 2.x (OpenCLIP H, last layer cut off) | 23 | 1024 | 16 | 4096 | gelu | – | 340,387,840 |
//! | SDXL's second (OpenCLIP bigG) | 32 | 1280 | 20 | 5120 | gelu | 1280 | 694,659,840 |
//!
//! Vocabulary 49,408, 77 positions. Two layouts of names exist on disk, with the prefix `text_model.` and, in newer files of
//! models without a projection, without it; in memory names always have it, which is what adapter files expect.

mod config;
mod dual;
mod preprocess;
mod presets;
mod text;
mod text_load;
mod vision;
mod vision_config;

pub use config::{ClipLayout, ClipTextConfig};
pub use dual::Clip;
pub use preprocess::{Preprocessor, Resize};
pub use text::{ClipText, ClipTextOutput};
pub use vision::{ClipVision, ClipVisionOutput};
pub use vision_config::ClipVisionConfig;
