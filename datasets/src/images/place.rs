//! Where a photograph lies in its training size: resized, cropped, flipped.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::photo::Photo;
use super::resize::{Filter, covering_size, resize_plane};
use crate::bytes::hex;

/// Which part of a resized photograph is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// The middle.
    #[default]
    Center,
    /// Another part in every epoch.
    Random,
}

/// Geometry of an example. All pairs are (height, width) or (top, left), the order of SDXL's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Size of the photograph as seen.
    pub original_size: [usize; 2],
    /// Size to which it is scaled; the flip comes next, then the crop.
    pub resized: [usize; 2],
    /// First row and column of the crop.
    pub crop_top_left: [usize; 2],
    /// Size of the crop.
    pub target_size: [usize; 2],
    /// Left and right are exchanged.
    pub flip: bool,
}

impl Placement {
    /// The middle of a photograph of `width` × `height`, scaled so that it just covers `target` (width,
    /// height).
    pub fn center((width, height): (usize, usize), target: (usize, usize)) -> Self {
        let resized = covering_size((width, height), target);
        let room = (resized.0 - target.0, resized.1 - target.1);
        Self {
            original_size: [height, width],
            resized: [resized.1, resized.0],
            crop_top_left: [half_even(room.1), half_even(room.0)],
            target_size: [target.1, target.0],
            flip: false,
        }
    }

    /// Rows and columns by which the crop can move.
    pub(super) fn room(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.resized[axis] - self.target_size[axis])
    }

    /// Whether pixels had to be invented.
    pub fn enlarges(&self) -> bool {
        self.resized[0] > self.original_size[0] || self.resized[1] > self.original_size[1]
    }

    /// Identifies the pixels that an image of this content has in this placement: the key under which
    /// latents may be cached.
    pub(super) fn id(&self, content: &[u8; 32], background: [u8; 3], filter: Filter) -> String {
        let mut hasher = Sha256::new();
        hasher.update(content);
        hasher.update(background);
        hasher.update([filter as u8, u8::from(self.flip)]);
        for number in [self.resized, self.crop_top_left, self.target_size].as_flattened() {
            hasher.update((*number as u64).to_le_bytes());
        }
        hex(&hasher.finalize()[..16])
    }

    /// A plane of the resized photograph, flipped and cropped: `[height, width, channels]`.
    pub(super) fn cut(&self, plane: &[u8], channels: usize) -> Vec<u8> {
        let [_, width] = self.resized;
        let [top, left] = self.crop_top_left;
        let [rows, columns] = self.target_size;
        let mut out = Vec::with_capacity(rows * columns * channels);
        for line in plane.chunks_exact(width * channels).skip(top).take(rows) {
            if self.flip {
                let pixels = line.chunks_exact(channels).rev().skip(left).take(columns);
                out.extend(pixels.flatten());
            } else {
                out.extend(&line[left * channels..(left + columns) * channels]);
            }
        }
        out
    }
}

/// Half of a number; of two equally near, the even one, as Python's `round` does.
fn half_even(number: usize) -> usize {
    let half = number / 2;
    half + (number % 2) * (half % 2)
}

/// A photograph with its companions at the size from which crops are cut.
#[derive(Debug)]
pub(super) struct Prepared {
    /// `[height, width, 3]`.
    pub(super) rgb: Vec<u8>,
    /// `[height, width]`.
    pub(super) mask: Option<Vec<u8>>,
    /// `[height, width, 3]`.
    pub(super) hint: Option<Vec<u8>>,
}

impl Prepared {
    pub(super) fn new(
        photo: &Photo,
        mask: Option<&Photo>,
        hint: Option<&Photo>,
        size: [usize; 2],
        filter: Filter,
    ) -> Self {
        let to = (size[1], size[0]);
        let from = |photo: &Photo| (photo.width, photo.height);
        let colours = |photo: &Photo| resize_plane::<3>(&photo.rgb, from(photo), to, filter);
        let grey = |photo: &Photo| resize_plane::<1>(&photo.luma(), from(photo), to, filter);
        Self {
            rgb: colours(photo),
            mask: mask.map(grey),
            hint: hint.map(colours),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let optional = [&self.mask, &self.hint].into_iter().flatten();
        self.rgb.len() + optional.map(Vec::len).sum::<usize>()
    }
}

/// The mean of every `scale` × `scale` block of a mask, in [0, 1]: `[rows / scale, columns / scale]`.
pub(super) fn reduce_mask(mask: &[u8], rows: usize, columns: usize, scale: usize) -> Vec<f32> {
    let wide = columns / scale;
    let mut sums = vec![0_u32; wide * (rows / scale)];
    for (y, line) in mask.chunks_exact(columns).enumerate() {
        for (x, value) in line.iter().enumerate() {
            if let Some(sum) = sums.get_mut(y / scale * wide + x / scale) {
                *sum += u32::from(*value);
            }
        }
    }
    let all = (scale * scale * 255) as f32;
    sums.into_iter().map(|sum| sum as f32 / all).collect()
}
