//! Pictures as image models (CLIP, `ViT`) want them.

use std::path::Path;

use serde_json::Value;

use super::photo::Photo;
use super::place::Placement;
use super::read::ReadOptions;
use super::resize::{Filter, covering_size, resize};
use crate::error::{DataError, Result};

/// How a picture is brought to size before its middle is cut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeMode {
    /// The shorter side gets this length, the shape stays.
    ShorterSide(usize),
    /// Exactly this height and width, whatever the shape.
    Exact(usize, usize),
}

/// Preprocessing of an image model, as its `preprocessor_config.json` describes it: resize, cut out the
/// middle, scale to [0, 1], subtract `mean`, divide by `std`.
///
/// ```
/// use temper_datasets::images::{ModelInput, Photo};
///
/// let pixel_values = ModelInput::clip(224).apply(&Photo::filled(640, 480, [255; 3]))?;
/// assert_eq!(pixel_values.len(), 3 * 224 * 224);
/// assert!((pixel_values[0] - (1.0 - 0.481_454_66) / 0.268_629_54).abs() < 1e-6);
/// # Ok::<(), temper_datasets::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInput {
    /// How a picture is brought to size.
    pub resize: ResizeMode,
    /// Height and width of the middle that is used.
    pub crop: [usize; 2],
    /// Resampling.
    pub filter: Filter,
    /// Mean of red, green, blue.
    pub mean: [f32; 3],
    /// Deviation of red, green, blue.
    pub std: [f32; 3],
}

impl ModelInput {
    /// CLIP's: shorter side to `size` by bicubic resampling, CLIP's own mean and deviation.
    pub fn clip(size: usize) -> Self {
        Self {
            resize: ResizeMode::ShorterSide(size),
            crop: [size, size],
            filter: Filter::Bicubic,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }

    /// DINO's: shorter side to 8/7 of `size` (256 for 224) by bicubic resampling, mean and deviation of
    /// `ImageNet`.
    pub fn dino(size: usize) -> Self {
        Self {
            resize: ResizeMode::ShorterSide(size * 8 / 7),
            crop: [size, size],
            filter: Filter::Bicubic,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }

    /// Reads `preprocessor_config.json` of a model directory.
    ///
    /// # Errors
    /// If the file is missing or malformed, or asks for something else than these steps.
    pub fn load(directory: impl AsRef<Path>) -> Result<Self> {
        let path = directory.as_ref().join("preprocessor_config.json");
        let bytes = std::fs::read(&path).map_err(DataError::io("read", &path))?;
        let json: Value = serde_json::from_slice(&bytes).map_err(|source| DataError::BadJson {
            path: path.clone(),
            source,
        })?;
        Self::from_json(&json).map_err(|reason| DataError::BadFormat {
            path,
            kind: "preprocessor",
            reason,
        })
    }

    fn from_json(json: &Value) -> Result<Self, String> {
        let on = |key: &str| json.get(key).and_then(Value::as_bool).unwrap_or(true);
        for step in ["do_resize", "do_rescale", "do_normalize"] {
            if !on(step) {
                return Err(format!("`{step}` is false"));
            }
        }
        let factor = json.get("rescale_factor").and_then(Value::as_f64);
        if factor.is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
            return Err(format!(
                "`rescale_factor` is {}, not 1/255",
                factor.unwrap_or_default()
            ));
        }
        let size = json.get("size").ok_or("there is no `size`")?;
        let shortest = size.get("shortest_edge").and_then(length);
        let crop = json.get("crop_size").filter(|_| on("do_center_crop"));
        let resize = match (shortest, length(size), both(size)) {
            (Some(side), _, _) => ResizeMode::ShorterSide(side),
            // One number in an old file: the shorter side where a crop follows (CLIP), else both sides (ViT).
            (None, Some(side), _) if crop.is_some() => ResizeMode::ShorterSide(side),
            (None, Some(side), _) => ResizeMode::Exact(side, side),
            (None, None, Some([height, width])) => ResizeMode::Exact(height, width),
            (None, None, None) => return Err(format!("`size` is {size}")),
        };
        let crop = match (crop, resize) {
            (Some(crop), _) => length(crop)
                .map(|side| [side, side])
                .or_else(|| both(crop))
                .ok_or_else(|| format!("`crop_size` is {crop}"))?,
            (None, ResizeMode::ShorterSide(side)) => [side, side],
            (None, ResizeMode::Exact(height, width)) => [height, width],
        };
        let filter = match json.get("resample").and_then(Value::as_u64) {
            None | Some(3) => Filter::Bicubic,
            Some(2) => Filter::Bilinear,
            Some(1) => Filter::Lanczos,
            Some(other) => return Err(format!("`resample` is {other}; known are 1, 2 and 3")),
        };
        Ok(Self {
            resize,
            crop,
            filter,
            mean: three(json, "image_mean")?,
            std: three(json, "image_std")?,
        })
    }

    /// The `pixel_values` of a picture: `[3, crop height, crop width]`.
    ///
    /// # Errors
    /// If the picture has no pixels or the crop is larger than the resized picture.
    pub fn apply(&self, photo: &Photo) -> Result<Vec<f32>> {
        let (width, height) = match self.resize {
            ResizeMode::ShorterSide(side) => {
                covering_size((photo.width, photo.height), (side, side))
            }
            ResizeMode::Exact(height, width) => (width, height),
        };
        let [rows, columns] = self.crop;
        if (width as u64).saturating_mul(height as u64) > ReadOptions::default().max_pixels {
            let reason = format!("would scale a picture to {width} × {height}; crop it first");
            return Err(DataError::setting("resize", reason));
        }
        let fits = rows <= height && columns <= width && rows > 0 && columns > 0;
        if !fits || photo.rgb.is_empty() {
            let reason =
                format!("of {columns} × {rows} does not fit a picture of {width} × {height}");
            return Err(DataError::setting("crop", reason));
        }
        let resized = resize(photo, width, height, self.filter);
        // Rounded down, as transformers does; training crops round half to even.
        let placement = Placement {
            original_size: [photo.height, photo.width],
            resized: [height, width],
            crop_top_left: [(height - rows) / 2, (width - columns) / 2],
            target_size: self.crop,
            flip: false,
        };
        let cut = Photo::new(columns, rows, placement.cut(&resized.rgb, 3))?;
        let mut values = cut.to_unit();
        for (channel, plane) in values.chunks_exact_mut(rows * columns).enumerate() {
            for value in plane {
                *value = (*value - self.mean[channel]) / self.std[channel];
            }
        }
        Ok(values)
    }
}

/// A length between 1 and 65,536.
fn length(value: &Value) -> Option<usize> {
    let length = usize::try_from(value.as_u64()?).ok()?;
    (1..=1 << 16).contains(&length).then_some(length)
}

fn both(value: &Value) -> Option<[usize; 2]> {
    Some([length(value.get("height")?)?, length(value.get("width")?)?])
}

fn three(json: &Value, key: &str) -> Result<[f32; 3], String> {
    let values: Option<Vec<f32>> = json.get(key).and_then(Value::as_array).and_then(|values| {
        let numbers = values
            .iter()
            .map(|value| value.as_f64().map(|number| number as f32));
        numbers.collect()
    });
    let three = values.and_then(|values| <[f32; 3]>::try_from(values).ok());
    three.ok_or_else(|| format!("`{key}` is not three numbers"))
}
