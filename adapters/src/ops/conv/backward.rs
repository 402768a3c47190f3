//! Gradients of a convolution, each in pieces whose patches are gathered, used and dropped.

use std::ops::Range;

use rayon::prelude::*;

use super::forward::convolve;
use super::geometry::Geometry;
use crate::ops::{Matrix, MatrixMut, matmul_into, rows_product};

/// Rows of gathered patches held at a time, about: channels times taps.
const DEPTH: usize = 256;
/// Output pixels whose patches are held at a time.
const PIXELS: usize = 512;

/// `∂L/∂x: [B, C, H, W]` from `dy: [B, O, H', W']`.
///
/// With stride 1 it is itself a convolution, of `dy` with the weight turned around; else patches are scattered.
pub(super) fn input_gradient(dy: &[f32], weight: &[f32], geometry: Geometry) -> Vec<f32> {
    match geometry.turned() {
        Some(turned) => convolve(dy, &turn(weight, geometry), None, turned),
        None => scattered(dy, weight, geometry),
    }
}

/// `[O, C, kh·kw]` to `[C, O, kh·kw]`, the taps in reverse.
fn turn(weight: &[f32], geometry: Geometry) -> Vec<f32> {
    // Channels that are turned together, so that whole cache lines are read.
    const TOGETHER: usize = 16;
    let (taps, depth) = (geometry.taps(), geometry.depth());
    let row = geometry.outputs * taps;
    let mut turned = vec![0.0; weight.len()];
    turned
        .par_chunks_mut(TOGETHER * row)
        .enumerate()
        .for_each(|(block, turned)| {
            let width = turned.len() / row * taps;
            for (output, weight) in weight.chunks_exact(depth).enumerate() {
                let weight = &weight[block * TOGETHER * taps..][..width];
                for (channel, source) in weight.chunks_exact(taps).enumerate() {
                    let target = &mut turned[channel * row + output * taps..][..taps];
                    for (target, source) in target.iter_mut().zip(source.iter().rev()) {
                        *target = *source;
                    }
                }
            }
        });
    turned
}

/// Channels whose patches are held together.
fn channels_together(geometry: Geometry) -> usize {
    (DEPTH / geometry.taps()).clamp(1, geometry.inputs)
}

/// `Wᵀ dy` in pieces, each added to the pixels its rows were gathered from.
fn scattered(dy: &[f32], weight: &[f32], geometry: Geometry) -> Vec<f32> {
    let (together, plane) = (channels_together(geometry), geometry.plane());
    let mut dx = vec![0.0; geometry.batch * geometry.inputs * plane];
    let mut work: Vec<(usize, Range<usize>, &mut [f32])> = Vec::new();
    for (image, dx) in dx.chunks_mut(geometry.inputs * plane).enumerate() {
        for (index, dx) in dx.chunks_mut(together * plane).enumerate() {
            let first = index * together;
            work.push((image, first..first + dx.len() / plane, dx));
        }
    }
    let pixels = geometry.pixels();
    work.into_par_iter().for_each(|(image, channels, dx)| {
        let depth = channels.len() * geometry.taps();
        let mut patches = vec![0.0; depth * PIXELS.min(pixels)];
        for first in (0..pixels).step_by(PIXELS) {
            let count = PIXELS.min(pixels - first);
            let offset = image * geometry.outputs * pixels + first;
            let dy = Matrix::rows(dy, offset, [geometry.outputs, count], pixels);
            let columns = Matrix::rows(
                weight,
                channels.start * geometry.taps(),
                [geometry.outputs, depth],
                geometry.depth(),
            );
            let dst = &mut MatrixMut {
                data: &mut patches,
                offset: 0,
                row_stride: count,
            };
            matmul_into(dst, columns.transposed(), dy, 1.0, false);
            let rows = patches[..depth * count].chunks_exact(count);
            for (row, patches) in rows.enumerate() {
                let dx = &mut dx[row / geometry.taps() * plane..][..plane];
                let runs = Runs::new(geometry, row % geometry.taps(), first..first + count);
                for run in runs {
                    let targets = dx[run.source..].iter_mut().step_by(geometry.stride[1]);
                    let values = &patches[run.place..run.place + run.count];
                    for (target, value) in targets.zip(values) {
                        *target += value;
                    }
                }
            }
        }
    });
    dx
}

/// `∂L/∂W: [O, C·kh·kw]`.
pub(super) fn weight_gradient(x: &[f32], dy: &[f32], geometry: Geometry) -> Vec<f32> {
    let (together, taps, depth) = (
        channels_together(geometry),
        geometry.taps(),
        geometry.depth(),
    );
    let starts: Vec<usize> = (0..geometry.inputs).step_by(together).collect();
    let parts: Vec<Vec<f32>> = starts
        .par_iter()
        .map(|&first| {
            let channels = first..(first + together).min(geometry.inputs);
            part_of_weight_gradient([x, dy], geometry, channels)
        })
        .collect();
    let mut dw = vec![0.0; geometry.outputs * depth];
    dw.par_chunks_mut(depth).enumerate().for_each(|(row, dw)| {
        for (part, dw) in parts.iter().zip(dw.chunks_mut(together * taps)) {
            let width = dw.len();
            dw.copy_from_slice(&part[row * width..(row + 1) * width]);
        }
    });
    dw
}

/// `[O, channels·kh·kw]`: `dy patchesᵀ` summed over all images.
fn part_of_weight_gradient(
    [x, dy]: [&[f32]; 2],
    geometry: Geometry,
    channels: Range<usize>,
) -> Vec<f32> {
    let (depth, pixels) = (channels.len() * geometry.taps(), geometry.pixels());
    let mut part = vec![0.0; geometry.outputs * depth];
    let mut scratch = Vec::new();
    for image in 0..geometry.batch {
        let plane = (image * geometry.inputs + channels.start) * geometry.plane();
        let x = &x[plane..plane + channels.len() * geometry.plane()];
        for first in (0..pixels).step_by(PIXELS) {
            let count = PIXELS.min(pixels - first);
            let offset = image * geometry.outputs * pixels + first;
            let dy = Matrix::rows(dy, offset, [geometry.outputs, count], pixels);
            let patches = if geometry.is_product() {
                Matrix::rows(x, first, [depth, count], pixels)
            } else {
                gather(x, geometry, first..first + count, &mut scratch);
                Matrix::rows(&scratch, 0, [depth, count], count)
            };
            // Both have their pixels side by side: sums along them need no transposed copy.
            for (sum, value) in part.iter_mut().zip(rows_product(dy, patches)) {
                *sum += value;
            }
        }
    }
    part
}

/// Patches of some pixels: `[planes·taps, pixels]`.
fn gather(x: &[f32], geometry: Geometry, pixels: Range<usize>, patches: &mut Vec<f32>) {
    let (taps, plane) = (geometry.taps(), geometry.plane());
    patches.clear();
    patches.resize(x.len() / plane * taps * pixels.len(), 0.0);
    for (row, patches) in patches.chunks_exact_mut(pixels.len()).enumerate() {
        let x = &x[row / taps * plane..][..plane];
        for run in Runs::new(geometry, row % taps, pixels.clone()) {
            let sources = x[run.source..].iter().step_by(geometry.stride[1]);
            let targets = &mut patches[run.place..run.place + run.count];
            for (target, source) in targets.iter_mut().zip(sources) {
                *target = *source;
            }
        }
    }
}

/// Pixels of one output row whose tap lies inside the image.
struct Run {
    /// The first of them, counted from the start of the gathered pixels.
    place: usize,
    /// The input pixel under its tap.
    source: usize,
    count: usize,
}

/// The runs of one tap over some output pixels.
struct Runs {
    geometry: Geometry,
    tap: [usize; 2],
    pixels: Range<usize>,
    next: usize,
}

impl Runs {
    fn new(geometry: Geometry, tap: usize, pixels: Range<usize>) -> Self {
        let columns = geometry.kernel[1];
        Self {
            geometry,
            tap: [tap / columns, tap % columns],
            next: pixels.start,
            pixels,
        }
    }
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let Geometry {
            size,
            stride,
            padding,
            ..
        } = self.geometry;
        let [_, width] = self.geometry.out();
        while self.next < self.pixels.end {
            let (y, first) = (self.next / width, self.next % width);
            let last = width.min(first + self.pixels.end - self.next);
            let start = self.next;
            self.next += last - first;
            let row = (y * stride[0] + self.tap[0]).checked_sub(padding[0]);
            let Some(row) = row.filter(|&row| row < size[0]) else {
                continue;
            };
            // Columns x with padding <= x·stride + tap < width of the input + padding.
            let low = padding[1].saturating_sub(self.tap[1]).div_ceil(stride[1]);
            let high = (size[1] + padding[1])
                .saturating_sub(self.tap[1])
                .div_ceil(stride[1]);
            let (low, high) = (low.max(first), high.min(last));
            if low < high {
                let column = low * stride[1] + self.tap[1] - padding[1];
                return Some(Run {
                    place: start - self.pixels.start + low - first,
                    source: row * size[1] + column,
                    count: high - low,
                });
            }
        }
        None
    }
}
