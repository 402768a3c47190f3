//! Training on images: what a recipe with a section `[images]` does.

mod stub;

pub use stub::{dry_run, train};
