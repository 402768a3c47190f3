//! The product of a weight with the patches of an image, which are gathered a panel at a time and never stored whole.
//!
//! A panel is a few vectors of neighbouring output pixels by some input channels: it stays in the first-level cache while all
//! rows of the weight pass by, six at a time, in registers.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::geometry::Geometry;
use crate::ops::simd::dispatch;

/// Rows of a panel, about: input channels times taps.
const DEPTH: usize = 256;
/// Output pixels of one piece of work, about.
const PIXELS: usize = 512;

/// `bias + weight · patches(x)`: `[B, O, H', W']`. `weight: [O, C·kh·kw]`.
pub(super) fn convolve(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    geometry: Geometry,
) -> Vec<f32> {
    let pixels = geometry.pixels();
    let mut output = vec![0.0; geometry.batch * geometry.outputs * pixels];
    let pieces = pieces(geometry, rayon::current_num_threads());
    let mut work: Vec<Work<'_, '_>> = pieces
        .into_iter()
        .map(|piece| Work {
            x,
            weight,
            bias,
            geometry,
            piece,
            output: Vec::new(),
        })
        .collect();
    share(&mut output, &mut work, geometry);
    work.into_par_iter().for_each(dispatch);
    output
}

/// Neighbouring rows of one output image.
#[derive(Clone, Debug)]
struct Band {
    image: usize,
    rows: Range<usize>,
}

/// Some bands, for some output channels.
#[derive(Clone, Debug)]
struct Piece {
    bands: Vec<Band>,
    outputs: Range<usize>,
}

/// Cuts the output into pieces of about [`PIXELS`] pixels; into groups of channels too while threads would be idle.
fn pieces(geometry: Geometry, threads: usize) -> Vec<Piece> {
    let [height, width] = geometry.out();
    let parts = height.div_ceil((PIXELS / width).max(1)).max(1);
    let tall = height.div_ceil(parts);
    let bands: Vec<Band> = (0..geometry.batch)
        .flat_map(|image| {
            (0..height).step_by(tall).map(move |first| Band {
                image,
                rows: first..(first + tall).min(height),
            })
        })
        .collect();
    let together = (PIXELS / (tall * width)).clamp(1, bands.len().div_ceil(threads).max(1));
    let groups: Vec<&[Band]> = bands.chunks(together).collect();
    // Whole tiles of six rows for each thread that the pixels leave without work.
    let shares = threads.div_ceil(groups.len()).max(1);
    let span = geometry.outputs.div_ceil(shares).next_multiple_of(6);
    groups
        .iter()
        .flat_map(|bands| {
            (0..geometry.outputs).step_by(span).map(|first| Piece {
                bands: bands.to_vec(),
                outputs: first..(first + span).min(geometry.outputs),
            })
        })
        .collect()
}

/// Hands every piece of work its slices of the output: one for each band and channel.
fn share<'b>(output: &'b mut [f32], work: &mut [Work<'_, 'b>], geometry: Geometry) {
    let [_, width] = geometry.out();
    let mut planes: Vec<&'b mut [f32]> = output.chunks_mut(geometry.pixels()).collect();
    for work in work {
        for band in &work.piece.bands {
            for channel in work.piece.outputs.clone() {
                // Pieces of one plane come in the order of their rows.
                let plane = &mut planes[band.image * geometry.outputs + channel];
                let (head, tail) = std::mem::take(plane).split_at_mut(band.rows.len() * width);
                *plane = tail;
                work.output.push(head);
            }
        }
    }
}

struct Work<'a, 'b> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    geometry: Geometry,
    piece: Piece,
    /// `[bands, outputs]` slices of a band's pixels.
    output: Vec<&'b mut [f32]>,
}

/// Input planes, padded or as they are.
#[derive(Clone, Copy)]
struct Planes<'a> {
    data: &'a [f32],
    /// Values of one plane.
    size: usize,
    /// Values of one row.
    width: usize,
}

impl WithSimd for Work<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.run::<S, 4>(simd);
        } else {
            self.run::<S, 2>(simd);
        }
    }
}

impl Work<'_, '_> {
    /// Panels of up to `N` vectors.
    #[inline(always)]
    fn run<S: Simd, const N: usize>(mut self, simd: S) {
        let (geometry, bands) = (self.geometry, std::mem::take(&mut self.piece.bands));
        let block = (DEPTH / geometry.taps()).max(1);
        let wide = N * S::F32_LANES;
        let (mut padded, mut offsets) = (Vec::new(), vec![0; wide]);
        let mut panel = vec![0.0; block.min(geometry.inputs) * geometry.taps() * wide];
        for first in (0..geometry.inputs).step_by(block) {
            let channels = first..(first + block).min(geometry.inputs);
            for (index, band) in bands.iter().enumerate() {
                let planes = planes(self.x, geometry, band, channels.clone(), &mut padded);
                let pixels = band.rows.len() * geometry.out()[1];
                for start in (0..pixels).step_by(wide) {
                    let vectors = (pixels - start).div_ceil(S::F32_LANES).min(N);
                    // Three vectors count as four: repeated pixels are computed and not stored.
                    let vectors = vectors.next_power_of_two();
                    let count = vectors * S::F32_LANES;
                    let offsets = &mut offsets[..count];
                    pixel_offsets(offsets, start, pixels, geometry, planes.width);
                    let panel = &mut panel[..channels.len() * geometry.taps() * count];
                    gather(panel, planes, offsets, geometry);
                    let place = Place {
                        band: index,
                        start,
                        channels: channels.clone(),
                    };
                    match vectors {
                        1 => self.rows::<S, 1>(simd, panel, &place),
                        2 => self.rows::<S, 2>(simd, panel, &place),
                        _ => self.rows::<S, N>(simd, panel, &place),
                    }
                }
            }
        }
    }

    /// All rows of the weight against one panel.
    #[inline(always)]
    fn rows<S: Simd, const N: usize>(&mut self, simd: S, panel: &[f32], place: &Place) {
        let count = self.piece.outputs.len();
        let mut row = 0;
        while row + 6 <= count {
            self.tile::<S, 6, N>(simd, panel, place, row);
            row += 6;
        }
        if row + 4 <= count {
            self.tile::<S, 4, N>(simd, panel, place, row);
            row += 4;
        }
        if row + 2 <= count {
            self.tile::<S, 2, N>(simd, panel, place, row);
            row += 2;
        }
        if row < count {
            self.tile::<S, 1, N>(simd, panel, place, row);
        }
    }

    /// `M` rows of the weight by `N` vectors of pixels, in registers.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &mut self,
        simd: S,
        panel: &[f32],
        place: &Place,
        row: usize,
    ) {
        let (taps, depth) = (self.geometry.taps(), self.geometry.depth());
        let steps = place.channels.len() * taps;
        let channel = self.piece.outputs.start + row;
        let weights: [&[f32]; M] = std::array::from_fn(|i| {
            &self.weight[(channel + i) * depth + place.channels.start * taps..][..steps]
        });
        let (vectors, _) = S::as_simd_f32s(panel);
        let (vectors, _) = vectors.as_chunks::<N>();
        let vectors = &vectors[..steps];
        let mut sums = [[simd.splat_f32s(0.0); N]; M];
        for step in 0..steps {
            for i in 0..M {
                let weight = simd.splat_f32s(weights[i][step]);
                for j in 0..N {
                    sums[i][j] = simd.mul_add_e_f32s(weight, vectors[step][j], sums[i][j]);
                }
            }
        }
        let slot = place.band * self.piece.outputs.len() + row;
        for i in 0..M {
            let bias = self.bias.map_or(0.0, |bias| bias[channel + i]);
            let begin = (place.channels.start == 0).then_some(bias);
            store::<S, N>(
                simd,
                &mut self.output[slot + i][place.start..],
                sums[i],
                begin,
            );
        }
    }
}

/// Where a panel belongs.
struct Place {
    band: usize,
    /// The first pixel, counted from the start of the band.
    start: usize,
    /// The input channels of the panel.
    channels: Range<usize>,
}

/// Writes sums to the first pixels of `target`: added to what is there, or to `begin`.
#[inline(always)]
fn store<S: Simd, const N: usize>(
    simd: S,
    target: &mut [f32],
    sums: [S::f32s; N],
    begin: Option<f32>,
) {
    for (target, sum) in target.chunks_mut(S::F32_LANES).zip(sums) {
        if target.len() == S::F32_LANES {
            let (vectors, _) = S::as_mut_simd_f32s(target);
            let before = begin.map_or(vectors[0], |value| simd.splat_f32s(value));
            vectors[0] = simd.add_f32s(before, sum);
        } else {
            let before = begin.map_or_else(
                || simd.partial_load_f32s(target),
                |value| simd.splat_f32s(value),
            );
            simd.partial_store_f32s(target, simd.add_f32s(before, sum));
        }
    }
}

/// The input planes that a band reads, with their borders.
#[inline(always)]
fn planes<'a>(
    x: &'a [f32],
    geometry: Geometry,
    band: &Band,
    channels: Range<usize>,
    padded: &'a mut Vec<f32>,
) -> Planes<'a> {
    let [height, width] = geometry.size;
    let plane = |channel: usize| (band.image * geometry.inputs + channel) * geometry.plane();
    if geometry.padding == [0, 0] {
        let skipped = band.rows.start * geometry.stride[0] * width;
        return Planes {
            data: &x[plane(channels.start) + skipped..plane(channels.end)],
            size: geometry.plane(),
            width,
        };
    }
    let [top, left] = geometry.padding;
    let first = band.rows.start * geometry.stride[0];
    let rows = (band.rows.len() - 1) * geometry.stride[0] + geometry.kernel[0];
    let wide = width + 2 * left;
    padded.resize(channels.len() * rows * wide, 0.0);
    for (target, channel) in padded.chunks_exact_mut(rows * wide).zip(channels) {
        let source = &x[plane(channel)..][..geometry.plane()];
        for (row, target) in target.chunks_exact_mut(wide).enumerate() {
            match (first + row).checked_sub(top) {
                Some(y) if y < height => {
                    target[..left].fill(0.0);
                    target[left..left + width].copy_from_slice(&source[y * width..(y + 1) * width]);
                    target[left + width..].fill(0.0);
                }
                _ => target.fill(0.0),
            }
        }
    }
    Planes {
        data: padded,
        size: rows * wide,
        width: wide,
    }
}

/// Where the patch of each pixel begins in a plane; pixels past the last repeat it.
#[inline(always)]
fn pixel_offsets(
    offsets: &mut [usize],
    start: usize,
    pixels: usize,
    geometry: Geometry,
    width: usize,
) {
    let [_, out_width] = geometry.out();
    let [down, right] = geometry.stride;
    let (mut y, mut x) = (start / out_width, start % out_width);
    let mut offset = 0;
    for (index, target) in offsets.iter_mut().enumerate() {
        if start + index < pixels {
            offset = y * down * width + x * right;
            x += 1;
            if x == out_width {
                (y, x) = (y + 1, 0);
            }
        }
        *target = offset;
    }
}

/// Copies the patches of some pixels: row `(c, ky, kx)` of the panel holds that tap of every pixel.
#[inline(always)]
fn gather(panel: &mut [f32], planes: Planes<'_>, offsets: &[usize], geometry: Geometry) {
    let run = |length: usize| {
        let mut runs = offsets.chunks_exact(length);
        offsets.len().is_multiple_of(length)
            && runs.all(|run| run.iter().enumerate().all(|(i, &at)| at == run[0] + i))
    };
    if run(16) {
        gather_runs::<16>(panel, planes, offsets, geometry);
    } else if run(8) {
        gather_runs::<8>(panel, planes, offsets, geometry);
    } else if run(4) {
        gather_runs::<4>(panel, planes, offsets, geometry);
    } else {
        gather_runs::<1>(panel, planes, offsets, geometry);
    }
}

/// The same for pixels that come in runs of `R` neighbours.
#[inline(always)]
fn gather_runs<const R: usize>(
    panel: &mut [f32],
    planes: Planes<'_>,
    offsets: &[usize],
    geometry: Geometry,
) {
    let [rows, columns] = geometry.kernel;
    let mut targets = panel.chunks_exact_mut(offsets.len());
    for channel in planes.data.chunks(planes.size) {
        for y in 0..rows {
            for x in 0..columns {
                let (Some(target), Some(source)) =
                    (targets.next(), channel.get(y * planes.width + x..))
                else {
                    return;
                };
                let (target, _) = target.as_chunks_mut::<R>();
                for (target, offsets) in target.iter_mut().zip(offsets.chunks_exact(R)) {
                    if let Some(run) = source[offsets[0]..].first_chunk::<R>() {
                        *target = *run;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_output_once() {
        for (batch, outputs, size) in [(1, 7, [5, 3]), (3, 20, [4, 4]), (2, 3, [40, 64])] {
            let geometry = Geometry {
                batch,
                inputs: 2,
                outputs,
                size,
                kernel: [1, 1],
                stride: [1, 1],
                padding: [0, 0],
            };
            for threads in [1, 2, 16] {
                let mut seen = vec![0; batch * outputs * size[0]];
                for piece in pieces(geometry, threads) {
                    for band in &piece.bands {
                        for channel in piece.outputs.clone() {
                            for row in band.rows.clone() {
                                seen[(band.image * outputs + channel) * size[0] + row] += 1;
                            }
                        }
                    }
                }
                assert!(seen.iter().all(|&count| count == 1));
            }
        }
    }
}
