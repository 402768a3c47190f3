//! What a loader is told, and what it gives.

use serde::Serialize;

use super::bucket::Buckets;
use super::place::{Crop, Placement};
use super::resize::Filter;
use crate::error::{DataError, Result};

/// How images become batches.
///
/// | Setting | Default | Meaning |
/// |---|---|---|
/// | `seed` | 0 | decides order, crops, flips and dropped captions |
/// | `batch_size` | 1 | instance images per step; class images come on top |
/// | `resolution` | 512 | side of the square, or of the square with the area of the buckets |
/// | `buckets` | none | several sizes by aspect ratio instead of one square |
/// | `crop` | center | which part is used when the shapes differ |
/// | `flip` | `false` | exchange left and right in half of the cases |
/// | `filter` | Lanczos | resampling |
/// | `caption_dropout` | 0 | probability of an empty caption |
/// | `shuffle` | `true` | a new order in every epoch |
/// | `drop_last` | `false` | leave out incomplete batches |
/// | `latent_scale` | 8 | pixels per latent, for masks; sizes must be multiples of it |
/// | `cache_bytes` | 512 · 2²⁰ | memory for resized photographs |
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageLoaderConfig {
    /// Decides order, crops, flips and dropped captions.
    pub seed: u64,
    /// Instance images per step.
    pub batch_size: usize,
    /// Side of the square.
    pub resolution: usize,
    /// Several sizes by aspect ratio; all images of a batch have the same.
    pub buckets: Option<Buckets>,
    /// Which part is used when the shapes differ.
    pub crop: Crop,
    /// Exchange left and right in half of the cases.
    pub flip: bool,
    /// Resampling.
    pub filter: Filter,
    /// Probability of an empty caption, as classifier-free guidance needs for training from scratch.
    pub caption_dropout: f64,
    /// A new order in every epoch.
    pub shuffle: bool,
    /// Leave out incomplete batches.
    pub drop_last: bool,
    /// Pixels per latent in each direction.
    pub latent_scale: usize,
    /// Memory for resized photographs; it changes speed alone.
    #[serde(skip)]
    pub cache_bytes: usize,
}

impl Default for ImageLoaderConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            batch_size: 1,
            resolution: 512,
            buckets: None,
            crop: Crop::Center,
            flip: false,
            filter: Filter::default(),
            caption_dropout: 0.0,
            shuffle: true,
            drop_last: false,
            latent_scale: 8,
            cache_bytes: 512 << 20,
        }
    }
}

/// An example before its pixels are read.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedExample {
    /// From the class images, not from the subject's.
    pub is_class: bool,
    /// Which image of its set.
    pub index: usize,
    /// What the text encoder gets: the caption, or nothing where it was dropped.
    pub caption: String,
    /// Size, crop and flip.
    pub placement: Placement,
    /// Equal for examples with equal pixels: the key under which a latent may be cached.
    pub id: String,
}

/// The examples of a step before their pixels are read.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchPlan {
    /// Instance examples, then as many class examples (if there is a class set).
    pub examples: Vec<PlannedExample>,
    /// Rows of all examples.
    pub height: usize,
    /// Columns of all examples.
    pub width: usize,
    /// Epochs of instance images completed when this step is done.
    pub epoch: f64,
}

/// An example.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageExample {
    /// `[3, height, width]` in [-1, 1].
    pub pixels: Vec<f32>,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// What the text encoder gets.
    pub caption: String,
    /// `[height / latent_scale, width / latent_scale]`: weight of the loss in [0, 1].
    pub mask: Option<Vec<f32>>,
    /// `[3, height, width]` in [0, 1]: the control image.
    pub hint: Option<Vec<f32>>,
    /// Height and width of the photograph (SDXL's condition).
    pub original_size: [usize; 2],
    /// First row and column of the crop, in the resized and flipped photograph (SDXL's condition).
    pub crop_top_left: [usize; 2],
    /// Height and width of the crop (SDXL's condition).
    pub target_size: [usize; 2],
    /// Equal for examples with equal pixels.
    pub id: String,
    /// From the class images.
    pub is_class: bool,
}

/// The examples of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageBatch {
    /// Instance examples, then as many class examples (if there is a class set).
    pub examples: Vec<ImageExample>,
    /// Rows of all examples.
    pub height: usize,
    /// Columns of all examples.
    pub width: usize,
    /// Epochs of instance images completed when this step is done.
    pub epoch: f64,
}

/// The sizes that settings allow; there is at least one.
pub(super) fn targets(config: &ImageLoaderConfig) -> Result<Vec<(usize, usize)>> {
    let bad = |field, reason: String| Err(DataError::setting(field, reason));
    let ImageLoaderConfig {
        batch_size,
        resolution,
        latent_scale,
        caption_dropout,
        ..
    } = config;
    let sizes = [
        ("batch_size", *batch_size),
        ("resolution", *resolution),
        ("latent_scale", *latent_scale),
    ];
    if let Some((field, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
        return bad(field, "must be at least 1".into());
    }
    if !(0.0..=1.0).contains(caption_dropout) {
        return bad(
            "caption_dropout",
            format!("is {caption_dropout}, no probability"),
        );
    }
    let targets = match &config.buckets {
        Some(buckets) => buckets.sizes(*resolution)?,
        None => vec![(*resolution, *resolution)],
    };
    let odd = targets
        .iter()
        .find(|(width, height)| width % latent_scale != 0 || height % latent_scale != 0);
    if let Some((width, height)) = odd {
        let reason =
            format!("gives {width} × {height}, no multiple of {latent_scale} pixels per latent");
        return bad("resolution", reason);
    }
    Ok(targets)
}
