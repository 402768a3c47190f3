//! Photographs: from files to training examples, and pictures back to files.
//!
//! 1. [`read`] decodes a file as it is meant to be seen, whole or not at all.
//! 2. [`ImageSet`] finds the images of a folder with their captions, masks and control images.
//! 3. [`ImageLoader`] places them ([`Placement`], [`Buckets`]), shuffles and batches. A batch is a pure function
//!    of the seed and the step.
//! 4. [`write_png`] and [`grid`] show what a model makes; [`canny`] and the scores compare.

mod batch;
mod bucket;
mod canny;
mod jpeg;
mod listing;
mod loader;
mod maps;
mod model_input;
mod photo;
mod place;
mod png_out;
mod read;
mod resize;
mod scan;
mod set;
#[cfg(test)]
mod tests;

pub use batch::{BatchPlan, ImageBatch, ImageExample, ImageLoaderConfig, PlannedExample};
pub use bucket::{Buckets, nearest_bucket};
pub use canny::canny;
pub use listing::{caption_beside, list};
pub use loader::ImageLoader;
pub use maps::{
    EdgeCounts, EdgeScores, IGNORED_LABEL, LabelCounts, LabelScores, edge_scores, read_labels,
};
pub use model_input::{ModelInput, ResizeMode};
pub use photo::Photo;
pub use place::{Crop, Placement};
pub use png_out::{grid, read_png_text, write_png};
pub use read::{ReadOptions, decode, dimensions, read, read_map, read_with};
pub use resize::{Filter, covering_size, fit, resize};
pub use scan::{by_stem, stem};
pub use set::{Captions, Hints, ImageEntry, ImageSet, ImageSetConfig, ImageSetReport, Masks};
