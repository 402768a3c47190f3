//! Edges.

use image::GrayImage;

use super::photo::Photo;
use crate::error::{DataError, Result};

/// Edges of a picture by Canny's method: `[height, width]` of 0 and 255.
///
/// A Gaussian of σ = 1.4, Sobel gradients, thinning, and hysteresis between the thresholds, which are lengths
/// of gradients: at most about 1140. A pixel on the border is never an edge, and pictures of fewer than three
/// rows or columns have none.
///
/// # Errors
/// If the thresholds are not 0 ≤ `low` ≤ `high`, or the pixels do not fit the size.
///
/// ```
/// use temper_datasets::images::{Photo, canny};
///
/// let flat = Photo::filled(16, 16, [90; 3]);
/// assert!(canny(&flat, 100.0, 200.0)?.iter().all(|edge| *edge == 0));
/// # Ok::<(), temper_datasets::DataError>(())
/// ```
pub fn canny(photo: &Photo, low: f32, high: f32) -> Result<Vec<u8>> {
    if !(low >= 0.0 && low <= high && high.is_finite()) {
        let reason = format!("has the thresholds {low} and {high}; they must be 0 ≤ low ≤ high");
        return Err(DataError::setting("canny", reason));
    }
    let (width, height) = (photo.width, photo.height);
    if width < 3 || height < 3 {
        return Ok(vec![0; width * height]);
    }
    let grey = GrayImage::from_raw(width as u32, height as u32, photo.luma())
        .ok_or_else(|| DataError::setting("canny", "got pixels that do not fit the size"))?;
    Ok(imageproc::edges::canny(&grey, low, high).into_raw())
}
