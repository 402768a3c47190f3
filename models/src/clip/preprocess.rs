//! From photographs to `pixel_values`: the numbers of `preprocessor_config.json`.

use std::path::Path;

use serde_json::{Value, json};

use crate::ModelError;
use crate::keys::{Keys, load_json};

/// How an image encoder wants its images: resized, cropped, scaled to [0, 1], normalised.
///
/// Resizing and cropping belong to whoever reads photographs; [`Self::pixel_values`] does the rest.
///
/// # Examples
/// ```
/// use temper_models::Preprocessor;
///
/// let clip = Preprocessor::clip(224);
/// let black = clip.pixel_values(&[0; 12], [2, 2]);
/// assert_eq!(black.len(), 12);
/// assert!((black[0] + 0.481_454_66 / 0.268_629_54).abs() < 1e-6);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessor {
    /// What images are resized to, if they are.
    pub resize: Option<Resize>,
    /// Height and width of the centre that is cut out after resizing, if it is.
    pub crop: Option<[usize; 2]>,
    /// Bicubic interpolation; bilinear otherwise.
    pub bicubic: bool,
    /// What 8-bit values are multiplied by.
    pub rescale_factor: f32,
    /// Subtracted from each channel after that.
    pub mean: [f32; 3],
    /// Each channel is divided by this at last.
    pub std: [f32; 3],
}

/// A size that images are resized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The shorter side gets this length, the longer follows.
    ShortestEdge(usize),
    /// Height and width, whatever the shape was.
    Exact([usize; 2]),
}

impl Preprocessor {
    /// The numbers of OpenAI's CLIP (bicubic, centre crop).
    pub fn clip(side: usize) -> Self {
        Self {
            resize: Some(Resize::ShortestEdge(side)),
            crop: Some([side, side]),
            bicubic: true,
            rescale_factor: 1.0 / 255.0,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }

    /// The numbers of ImageNet models (bilinear, no crop), what `facebook/dino-vits16` uses.
    pub fn imagenet(side: usize) -> Self {
        Self {
            resize: Some(Resize::Exact([side, side])),
            crop: None,
            bicubic: false,
            rescale_factor: 1.0 / 255.0,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }

    /// Reads `preprocessor_config.json` of `directory`; `fallback` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or a key is wrong.
    pub fn load(directory: &Path, fallback: Self) -> Result<Self, ModelError> {
        let file = directory.join("preprocessor_config.json");
        if file.is_file() {
            load_json(&file, |value| Self::from_json(value, &fallback))
        } else {
            Ok(fallback)
        }
    }

    /// Reads the content of a `preprocessor_config.json`; missing keys are those of `fallback`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_json(value: &Value, fallback: &Self) -> Result<Self, ModelError> {
        let keys = Keys(value);
        let resize = match size_of(keys, "size")? {
            Some(size) => Some(size),
            None => fallback.resize,
        };
        let crop = match size_of(keys, "crop_size")? {
            Some(Resize::Exact(size)) => Some(size),
            Some(Resize::ShortestEdge(side)) => Some([side, side]),
            None => fallback.crop,
        };
        let channels = |key: &str, default: [f32; 3]| match keys.get(key) {
            None => Ok(default),
            Some(value) => three(value).ok_or_else(|| keys.wrong(key, "three numbers")),
        };
        let normalises = keys.flag_or("do_normalize", true)?;
        let mean = channels("image_mean", fallback.mean)?;
        let std = channels("image_std", fallback.std)?;
        if std.contains(&0.0) {
            return Err(keys.wrong("image_std", "three numbers other than 0"));
        }
        let factor = keys.number("rescale_factor")?.map(|factor| factor as f32);
        let crops = keys.flag_or("do_center_crop", fallback.crop.is_some())?;
        Ok(Self {
            resize: resize.filter(|_| keys.get("do_resize") != Some(&json!(false))),
            crop: crop.filter(|_| crops),
            bicubic: resample(keys, fallback.bicubic)?,
            rescale_factor: if keys.flag_or("do_rescale", true)? {
                factor.unwrap_or(fallback.rescale_factor)
            } else {
                1.0
            },
            mean: if normalises { mean } else { [0.0; 3] },
            std: if normalises { std } else { [1.0; 3] },
        })
    }

    /// `(rgb · rescale_factor − mean) / std`, channel by channel: `rgb` is `[H, W, 3]`, the result `[3, H, W]`.
    ///
    /// # Panics
    /// When `rgb` has not 3·H·W values.
    pub fn pixel_values(&self, rgb: &[u8], [height, width]: [usize; 2]) -> Vec<f32> {
        assert_eq!(rgb.len(), 3 * height * width, "three values a pixel");
        let channel = |channel: usize| {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            rgb.iter()
                .skip(channel)
                .step_by(3)
                .map(move |&value| (f32::from(value) * self.rescale_factor - mean) / std)
        };
        (0..3).flat_map(channel).collect()
    }
}

/// `224`, `{"shortest_edge": 224}` or `{"height": 224, "width": 224}`.
fn size_of(keys: Keys<'_>, key: &str) -> Result<Option<Resize>, ModelError> {
    let Some(value) = keys.get(key) else {
        return Ok(None);
    };
    let part = |part: &str| crate::keys::size(value.get(part)?);
    let size = match (part("shortest_edge"), part("height"), part("width")) {
        (Some(side), _, _) => Some(Resize::ShortestEdge(side)),
        (_, Some(height), Some(width)) => Some(Resize::Exact([height, width])),
        _ => crate::keys::size(value).map(|side| {
            // Old files give one number: a square for a crop, the shorter side where a crop follows.
            if keys.get("crop_size").is_some() && key == "size" {
                Resize::ShortestEdge(side)
            } else {
                Resize::Exact([side, side])
            }
        }),
    };
    let expected = "a size, `shortest_edge`, or `height` and `width`";
    size.map(Some).ok_or_else(|| keys.wrong(key, expected))
}

/// The codes of the reference's imaging library: 2 is bilinear, 3 bicubic.
fn resample(keys: Keys<'_>, fallback: bool) -> Result<bool, ModelError> {
    match keys.get("resample").map(Value::as_u64) {
        None => Ok(fallback),
        Some(Some(2)) => Ok(false),
        Some(Some(3)) => Ok(true),
        Some(_) => Err(keys.wrong("resample", "2 (bilinear) or 3 (bicubic)")),
    }
}

fn three(value: &Value) -> Option<[f32; 3]> {
    let values: Vec<f32> = value
        .as_array()?
        .iter()
        .map(|value| value.as_f64().map(|value| value as f32))
        .collect::<Option<_>>()?;
    values.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_either_age_is_read() {
        let new = json!({"size": {"shortest_edge": 30}, "crop_size": {"height": 28, "width": 26}, "resample": 3,
            "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_center_crop": true});
        let read = Preprocessor::from_json(&new, &Preprocessor::imagenet(9)).unwrap();
        assert_eq!(read.resize, Some(Resize::ShortestEdge(30)));
        assert_eq!((read.crop, read.bicubic), (Some([28, 26]), true));
        assert_eq!((read.mean, read.std), ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]));
        let old = json!({"size": 224, "crop_size": 224});
        let read = Preprocessor::from_json(&old, &Preprocessor::clip(1)).unwrap();
        assert_eq!(read, Preprocessor::clip(224));
        let dino = json!({"size": 224, "do_resize": true, "resample": 2});
        let read = Preprocessor::from_json(&dino, &Preprocessor::imagenet(1)).unwrap();
        assert_eq!(read, Preprocessor::imagenet(224));
    }

    #[test]
    fn wrong_numbers_are_refused_by_key() {
        for (key, value) in [
            ("size", json!("large")),
            ("resample", json!(1)),
            ("image_std", json!([0.0, 1.0, 1.0])),
            ("image_mean", json!([0.5])),
        ] {
            let file = json!({ key: value });
            let error = Preprocessor::from_json(&file, &Preprocessor::clip(224)).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
