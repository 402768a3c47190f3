//! Resampling, equal to Pillow's to the byte.
//!
//! The scripts whose results people compare with resize through Pillow (torchvision's `Resize` on pictures,
//! `CLIPImageProcessor`, kohya's trainer), so the same arithmetic is used here: separable filters whose
//! support grows when an image shrinks (antialiasing), weights in fixed point with 22 bits, and 8-bit values
//! between the horizontal and the vertical pass.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::photo::Photo;

/// Kernel of a resampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Linear, as in the DreamBooth script of diffusers.
    Bilinear,
    /// Cubic with a = -1/2, as CLIP's preprocessing.
    Bicubic,
    /// Windowed sinc with three lobes: the sharpest.
    #[default]
    Lanczos,
}

impl Filter {
    /// Half width of the kernel at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let angle = x * std::f64::consts::PI;
    angle.sin() / angle
}

/// Bits behind the point: 32, less 8 of the sample and 2 that overshooting kernels need.
const PRECISION: u32 = 22;

/// Weights of the inputs of one output sample.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Weights of the outputs in `window`, of `output` in all.
fn taps(input: usize, output: usize, window: Range<usize>, filter: Filter) -> Vec<Taps> {
    let scale = input as f64 / output as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let one = |at: usize| {
        let centre = (at as f64 + 0.5) * scale;
        // Truncation towards zero, then the border: as in the reference.
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(input);
        let raw: Vec<f64> = (first..end)
            .map(|x| filter.weight((x as f64 - centre + 0.5) * (1.0 / stretch)))
            .collect();
        let sum: f64 = raw.iter().sum();
        let fixed = |weight: &f64| {
            let weight = if sum == 0.0 { *weight } else { weight / sum };
            let scaled = weight * f64::from(1_u32 << PRECISION);
            (if weight < 0.0 {
                scaled - 0.5
            } else {
                scaled + 0.5
            }) as i32
        };
        Taps {
            first,
            weights: raw.iter().map(fixed).collect(),
        }
    };
    window.map(one).collect()
}

/// Resamples rows of `C` channels: `[height, width, C]` to `[height, taps, C]`.
fn rows<const C: usize>(plane: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plane.len() / width.max(1) * taps.len());
    for row in plane.chunks_exact(width * C) {
        for tap in taps {
            let mut sums = [0_i32; C];
            let pixels = row[tap.first * C..].chunks_exact(C);
            for (pixel, weight) in pixels.zip(&tap.weights) {
                for (sum, sample) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*sample) * weight;
                }
            }
            out.extend(sums.map(rounded));
        }
    }
    out
}

/// Resamples columns: `[height, stride]` to `[taps, stride]`.
fn columns(plane: &[u8], stride: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(stride * taps.len());
    let mut sums = vec![0_i32; stride];
    for tap in taps {
        sums.fill(0);
        for (row, weight) in (tap.first..).zip(&tap.weights) {
            let line = &plane[row * stride..][..stride];
            for (sum, sample) in sums.iter_mut().zip(line) {
                *sum += i32::from(*sample) * weight;
            }
        }
        out.extend(sums.iter().map(|sum| rounded(*sum)));
    }
    out
}

fn rounded(sum: i32) -> u8 {
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

/// Resamples a plane of `C` channels, `[height, width, C]`; a direction that keeps its size is left alone.
pub(super) fn resize_plane<const C: usize>(
    plane: &[u8],
    from: (usize, usize),
    to: (usize, usize),
    filter: Filter,
) -> Vec<u8> {
    resize_window::<C>(plane, from, to, (0..to.0, 0..to.1), filter)
}

/// The columns and rows `window` of a resampled plane, without computing the rest of it.
fn resize_window<const C: usize>(
    plane: &[u8],
    (width, height): (usize, usize),
    (to_width, to_height): (usize, usize),
    window: (Range<usize>, Range<usize>),
    filter: Filter,
) -> Vec<u8> {
    let columns_wide = window.0.len();
    let wide = if to_width == width && window.0 == (0..width) {
        Cow::Borrowed(plane)
    } else {
        Cow::Owned(rows::<C>(
            plane,
            width,
            &taps(width, to_width, window.0, filter),
        ))
    };
    if to_height == height && window.1 == (0..height) {
        return wide.into_owned();
    }
    columns(
        &wide,
        columns_wide * C,
        &taps(height, to_height, window.1, filter),
    )
}

/// Resamples a picture and its opacity; a side of 0 is taken as 1.
///
/// ```
/// use temper_datasets::images::{Filter, Photo, resize};
///
/// let grey = Photo::filled(10, 4, [9, 9, 9]);
/// assert_eq!(resize(&grey, 5, 8, Filter::Lanczos), Photo::filled(5, 8, [9, 9, 9]));
/// ```
pub fn resize(photo: &Photo, width: usize, height: usize, filter: Filter) -> Photo {
    let to = (width.max(1), height.max(1));
    let from = (photo.width, photo.height);
    let alpha = photo.alpha.as_deref();
    Photo {
        width: to.0,
        height: to.1,
        rgb: resize_plane::<3>(&photo.rgb, from, to, filter),
        alpha: alpha.map(|alpha| resize_plane::<1>(alpha, from, to, filter)),
    }
}

/// A picture scaled so that it just covers a size, linearly, and cut to its middle. One of that size stays as it is.
///
/// ```
/// use temper_datasets::images::{Photo, fit};
///
/// let mut photo = Photo::filled(40, 10, [0; 3]);
/// photo.rgb[(5 * 40 + 20) * 3] = 255;
/// let middle = fit(&photo, 10, 10);
/// assert_eq!((middle.width, middle.height, middle.rgb[(5 * 10 + 5) * 3]), (10, 10, 255));
/// ```
pub fn fit(photo: &Photo, width: usize, height: usize) -> Photo {
    let from = (photo.width, photo.height);
    let to = covering_size(from, (width, height));
    let (left, top) = ((to.0 - width) / 2, (to.1 - height) / 2);
    let window = (left..left + width, top..top + height);
    // Only what is kept: a strip of one pixel would have millions of rows when it is as wide as the target.
    Photo {
        width,
        height,
        rgb: resize_window::<3>(&photo.rgb, from, to, window.clone(), Filter::Bilinear),
        alpha: photo
            .alpha
            .as_deref()
            .map(|alpha| resize_window::<1>(alpha, from, to, window, Filter::Bilinear)),
    }
}

/// The smallest size of the same shape that covers `target` (width, height): one side fits exactly, the other
/// is rounded down, as torchvision and `CLIPImageProcessor` do for the shorter side.
pub fn covering_size(
    (width, height): (usize, usize),
    (target_width, target_height): (usize, usize),
) -> (usize, usize) {
    let (width, height) = (width.max(1) as u64, height.max(1) as u64);
    let (to_width, to_height) = (target_width as u64, target_height as u64);
    // Wider than the target: the heights are made equal.
    let (wide, high) = if width * to_height >= height * to_width {
        (width * to_height / height, to_height)
    } else {
        (to_width, height * to_width / width)
    };
    (wide as usize, high as usize)
}
