//! Pixels in memory.

use crate::error::{DataError, Result};

/// A picture: 8-bit RGB in rows from the top, as it is meant to be seen.
///
/// ```
/// use temper_datasets::images::Photo;
///
/// let red = Photo::filled(4, 2, [255, 0, 0]);
/// let tensor = red.to_signed(); // [3, 2, 4] in [-1, 1]
/// assert_eq!((tensor.len(), tensor[0], tensor[8]), (24, 1.0, -1.0));
/// assert_eq!(Photo::from_signed(&tensor, 4, 2)?, red);
/// # Ok::<(), temper_datasets::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Photo {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height * 3` bytes: red, green, blue of each pixel, row by row.
    pub rgb: Vec<u8>,
    /// `width * height` bytes of opacity (255 is opaque) where the file was transparent anywhere. The pixels
    /// in `rgb` are already composed with a background.
    pub alpha: Option<Vec<u8>>,
}

impl Photo {
    /// A picture of these pixels.
    ///
    /// # Errors
    /// If `rgb` has another length than `width * height * 3`, or a side is 0.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        check_length("rgb", rgb.len(), width, height, 3)?;
        Ok(Self {
            width,
            height,
            rgb,
            alpha: None,
        })
    }

    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self {
            width,
            height,
            rgb: colour.repeat(width * height),
            alpha: None,
        }
    }

    /// A grey picture, such as an edge map.
    ///
    /// # Errors
    /// If `grey` has another length than `width * height`, or a side is 0.
    pub fn from_grey(width: usize, height: usize, grey: &[u8]) -> Result<Self> {
        check_length("grey", grey.len(), width, height, 1)?;
        Self::new(width, height, grey.iter().flat_map(|g| [*g; 3]).collect())
    }

    /// The picture of a tensor `[3, height, width]` with values in [-1, 1]; what lies beyond is clamped, and
    /// values that are not numbers become black.
    ///
    /// # Errors
    /// If `values` has another length than `3 * height * width`, or a side is 0.
    pub fn from_signed(values: &[f32], width: usize, height: usize) -> Result<Self> {
        Self::from_planes(values, width, height, |value| value.mul_add(0.5, 0.5))
    }

    /// The picture of a tensor `[3, height, width]` with values in [0, 1], as [`from_signed`](Self::from_signed).
    ///
    /// # Errors
    /// As [`from_signed`](Self::from_signed).
    pub fn from_unit(values: &[f32], width: usize, height: usize) -> Result<Self> {
        Self::from_planes(values, width, height, |value| value)
    }

    fn from_planes(
        values: &[f32],
        width: usize,
        height: usize,
        unit: impl Fn(f32) -> f32,
    ) -> Result<Self> {
        check_length("values", values.len(), width, height, 3)?;
        let pixels = width * height;
        // `as u8` maps what is not a number to 0.
        let byte = |value: f32| (unit(value).clamp(0.0, 1.0) * 255.0).round() as u8;
        let rgb = (0..pixels).flat_map(|at| [0, 1, 2].map(|c| byte(values[c * pixels + at])));
        Self::new(width, height, rgb.collect())
    }

    /// The tensor `[3, height, width]` in [-1, 1].
    pub fn to_signed(&self) -> Vec<f32> {
        self.to_planes(|byte| f32::from(byte) / 127.5 - 1.0)
    }

    /// The tensor `[3, height, width]` in [0, 1].
    pub fn to_unit(&self) -> Vec<f32> {
        self.to_planes(|byte| f32::from(byte) / 255.0)
    }

    pub(super) fn to_planes(&self, value: impl Fn(u8) -> f32) -> Vec<f32> {
        let channel = |c: usize| self.rgb.iter().skip(c).step_by(3);
        (0..3)
            .flat_map(|c| channel(c).map(|byte| value(*byte)))
            .collect()
    }

    /// Brightness of each pixel, `[height, width]`, by the weights of ITU-R 601 (0.299, 0.587, 0.114).
    pub fn luma(&self) -> Vec<u8> {
        let weighted = |pixel: &[u8]| {
            let [r, g, b] = [0, 1, 2].map(|c| u32::from(pixel[c]));
            // Fixed point as in libjpeg and Pillow, so that maps agree with those of other tools.
            ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
        };
        self.rgb.chunks_exact(3).map(weighted).collect()
    }

    /// The part that begins at column `left` and row `top`; what lies outside is cut off.
    #[must_use]
    pub fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Self {
        let left = left.min(self.width);
        let top = top.min(self.height);
        let width = width.min(self.width - left);
        let height = height.min(self.height - top);
        let window = |plane: &[u8], channels: usize| {
            let rows = (top..top + height).map(|row| (row * self.width + left) * channels);
            rows.flat_map(|first| plane[first..first + width * channels].iter().copied())
                .collect::<Vec<u8>>()
        };
        Self {
            width,
            height,
            rgb: window(&self.rgb, 3),
            alpha: self.alpha.as_deref().map(|alpha| window(alpha, 1)),
        }
    }

    /// Left and right exchanged.
    #[must_use]
    pub fn flipped(&self) -> Self {
        let mirror = |plane: &[u8], channels: usize| {
            let rows = plane.chunks_exact((self.width * channels).max(1));
            rows.flat_map(|row| row.chunks_exact(channels).rev().flatten().copied())
                .collect::<Vec<u8>>()
        };
        Self {
            width: self.width,
            height: self.height,
            rgb: mirror(&self.rgb, 3),
            alpha: self.alpha.as_deref().map(|alpha| mirror(alpha, 1)),
        }
    }
}

pub(super) fn check_length(
    field: &'static str,
    found: usize,
    width: usize,
    height: usize,
    channels: usize,
) -> Result<()> {
    let expected = width
        .checked_mul(height)
        .and_then(|pixels| pixels.checked_mul(channels));
    if expected == Some(found) && found > 0 {
        return Ok(());
    }
    Err(DataError::setting(
        field,
        format!("has {found} values, which is no picture of {width} × {height} × {channels}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(width: usize, height: usize) -> Photo {
        let mut photo = Photo::filled(width, height, [0; 3]);
        for (at, byte) in photo.rgb.iter_mut().enumerate() {
            *byte = at as u8;
        }
        photo.alpha = Some((0..width * height).map(|at| at as u8).collect());
        photo
    }

    #[test]
    fn every_byte_survives_the_way_through_a_tensor() {
        let rgb: Vec<u8> = (0..=255).flat_map(|v| [v, 255 - v, v / 2]).collect();
        let photo = Photo::new(16, 16, rgb).unwrap();
        assert_eq!(
            Photo::from_signed(&photo.to_signed(), 16, 16).unwrap(),
            photo
        );
        assert_eq!(Photo::from_unit(&photo.to_unit(), 16, 16).unwrap(), photo);
    }

    #[test]
    fn tensors_beyond_their_range_are_clamped_and_nan_is_black() {
        let values = [2.0, -3.0, f32::NAN];
        let photo = Photo::from_signed(&values, 1, 1).unwrap();
        assert_eq!(photo.rgb, [255, 0, 0]);
    }

    #[test]
    fn a_crop_takes_the_window_of_pixels_and_alpha() {
        let crop = numbered(4, 3).crop(1, 2, 2, 5);
        assert_eq!((crop.width, crop.height), (2, 1));
        assert_eq!(crop.rgb, [27, 28, 29, 30, 31, 32]);
        assert_eq!(crop.alpha.unwrap(), [9, 10]);
    }

    #[test]
    fn flipping_twice_changes_nothing() {
        let photo = numbered(5, 3);
        assert_eq!(photo.flipped().rgb[..3], photo.rgb[12..15]);
        assert_eq!(photo.flipped().flipped(), photo);
    }

    #[test]
    fn pixels_of_another_number_are_refused() {
        let error = Photo::new(2, 2, vec![0; 11]).unwrap_err().to_string();
        assert!(error.contains("11 values"), "{error}");
        assert!(Photo::new(0, 5, Vec::new()).is_err());
    }
}
