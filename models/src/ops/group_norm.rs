//! Group normalisation (arXiv 1803.08494), with the `SiLU` that follows it in diffusion models.

use burn::tensor::{DType, FloatDType, Tensor};
use rayon::prelude::*;
use temper_adapters::ops::{HostView, InputGradients, erase, with_gradient};
use temper_adapters::vectorized;

use super::activation::{logistic, silu, swish_slope};

/// Values summed in f32 before they join an f64 sum.
const RUN: usize = 4096;

/// `(x − mean) / √(var + eps) · weight + bias` of `x: [B, C, H, W]`, with the statistics of each image over the channels of
/// one of `groups` groups; `weight, bias: [C]`. With `silu` the result passes through `x σ(x)`.
///
/// Computed in f32, returned in the dtype of `x`. On `cpu` the input and two numbers a group are kept for the backward pass, with
/// or without the activation.
///
/// # Panics
/// When the groups do not divide the channels.
pub fn group_norm(
    x: Tensor<4>,
    groups: usize,
    eps: f64,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    silu: bool,
) -> Tensor<4> {
    let [_, channels, _, _] = x.dims();
    assert!(
        channels.is_multiple_of(groups),
        "{groups} groups of {channels} channels"
    );
    let views = (
        HostView::view(&x),
        HostView::view(weight),
        HostView::view(bias),
    );
    match views {
        (Some(x_values), Some(gain), Some(offset)) => {
            let problem = Problem::new(x.dims(), groups, silu);
            problem.run([&x], [weight, bias], [x_values, gain, offset], eps)
        }
        _ => composed(x, groups, eps, [weight, bias], silu),
    }
}

fn composed(
    x: Tensor<4>,
    groups: usize,
    eps: f64,
    [weight, bias]: [&Tensor<1>; 2],
    with_silu: bool,
) -> Tensor<4> {
    let dtype = x.dtype();
    let [batch, channels, height, width] = x.dims();
    let x = if dtype == DType::F32 {
        x
    } else {
        x.cast(FloatDType::F32)
    };
    let x = x.reshape([batch, groups, channels / groups * height * width]);
    let x = x.clone() - x.mean_dim(2);
    let scale = (x.clone().square().mean_dim(2) + eps).sqrt().recip();
    let normal = (x * scale).reshape([batch, channels, height, width]);
    let row = |p: &Tensor<1>| p.clone().reshape([1, channels, 1, 1]).cast(FloatDType::F32);
    let y = normal * row(weight) + row(bias);
    let y = if with_silu { silu(y) } else { y };
    if dtype == DType::F32 {
        y
    } else {
        y.cast(dtype)
    }
}

#[derive(Clone, Copy)]
struct Problem {
    shape: [usize; 4],
    groups: usize,
    /// Channels of a group.
    members: usize,
    /// Pixels of a channel.
    pixels: usize,
    silu: bool,
}

/// Mean and inverse deviation of one group of one image.
type Statistics = [f32; 2];

impl Problem {
    fn new(shape: [usize; 4], groups: usize, silu: bool) -> Self {
        let [_, channels, height, width] = shape;
        Self {
            shape,
            groups,
            members: channels / groups,
            pixels: height * width,
            silu,
        }
    }

    fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The channels of group `index` of all images, as a range of the parameters.
    fn channels(&self, index: usize) -> std::ops::Range<usize> {
        let first = index % self.groups * self.members;
        first..first + self.members
    }

    fn run(
        self,
        [x]: [&Tensor<4>; 1],
        [weight, bias]: [&Tensor<1>; 2],
        [values, gain, offset]: [HostView; 3],
        eps: f64,
    ) -> Tensor<4> {
        let size = self.members * self.pixels;
        let mut output = vec![0.0; self.numel()];
        let mut statistics = vec![[0.0; 2]; self.shape[0] * self.groups];
        output
            .par_chunks_mut(size)
            .zip(values.as_slice().par_chunks(size))
            .zip(&mut statistics)
            .enumerate()
            .for_each(|(index, ((y, x), statistics))| {
                *statistics = moments(x, eps);
                let channels = self.channels(index);
                let affine = gain.as_slice()[channels.clone()]
                    .iter()
                    .zip(&offset.as_slice()[channels]);
                let rows = y.chunks_mut(self.pixels).zip(x.chunks(self.pixels));
                for ((y, x), (&w, &b)) in rows.zip(affine) {
                    affine_row(y, x, line(*statistics, w, b), self.silu);
                }
            });
        let output = HostView::tensor(output, self.shape);
        with_gradient(output, [x, weight, bias], move |dy, wanted| {
            let Some(dy) = HostView::view(&dy) else {
                unreachable!("a gradient leaves its device")
            };
            let parameters = [gain.as_slice(), offset.as_slice()];
            self.backward(
                [values.as_slice(), dy.as_slice()],
                parameters,
                &statistics,
                wanted,
            )
        })
    }

    fn backward(
        self,
        [x, dy]: [&[f32]; 2],
        [gain, offset]: [&[f32]; 2],
        statistics: &[Statistics],
        wanted: [bool; 3],
    ) -> InputGradients<3> {
        let (size, channels) = (self.members * self.pixels, self.shape[1]);
        let mut dx = vec![0.0; self.numel()];
        // Σ dz and Σ dz x̂ of each channel of each image.
        let mut sums = vec![[0.0_f64; 2]; self.shape[0] * channels];
        dx.par_chunks_mut(size)
            .zip(x.par_chunks(size).zip(dy.par_chunks(size)))
            .zip(sums.par_chunks_mut(self.members).zip(statistics))
            .enumerate()
            .for_each(|(index, ((dx, (x, dy)), (sums, &statistics)))| {
                let channels = self.channels(index);
                let parameters = [&gain[channels.clone()], &offset[channels]];
                self.group_gradient(dx, [x, dy], parameters, statistics, sums);
            });
        let column = |part: usize| {
            let mut total = vec![0.0; channels];
            for image in sums.chunks(channels) {
                for (total, sums) in total.iter_mut().zip(image) {
                    *total += sums[part];
                }
            }
            let total = total.into_iter().map(|value| value as f32).collect();
            erase(HostView::tensor::<1>(total, [channels]))
        };
        [
            wanted[0].then(|| erase(HostView::tensor(dx, self.shape))),
            wanted[1].then(|| column(1)),
            wanted[2].then(|| column(0)),
        ]
    }

    /// `dx = s (g − mean(g) − x̂ mean(g x̂))` with `g = dz · w`, `dz` the gradient before the activation.
    fn group_gradient(
        self,
        dx: &mut [f32],
        [x, dy]: [&[f32]; 2],
        [gain, offset]: [&[f32]; 2],
        [mean, inverse]: Statistics,
        sums: &mut [[f64; 2]],
    ) {
        let n = (self.members * self.pixels) as f64;
        let mut shared = [0.0_f64; 2];
        for (channel, sums) in sums.iter_mut().enumerate() {
            let span = channel * self.pixels..(channel + 1) * self.pixels;
            let (w, b) = (gain[channel], offset[channel]);
            let affine = line([mean, inverse], w, b);
            let inputs = [&x[span.clone()], &dy[span.clone()]];
            let [sum, product] = before_activation(&mut dx[span], inputs, affine, self.silu, mean);
            *sums = [sum, product * f64::from(inverse)];
            shared[0] += f64::from(w) * sums[0];
            shared[1] += f64::from(w) * sums[1];
        }
        let [level, tilt] = shared.map(|sum| (sum / n) as f32);
        for (channel, &w) in gain.iter().enumerate() {
            let span = channel * self.pixels..(channel + 1) * self.pixels;
            // dx = s w · dz − s² tilt · x + s (s tilt · mean − level)
            let factors = [
                inverse * w,
                -inverse * inverse * tilt,
                inverse * (inverse * tilt * mean - level),
            ];
            combine(&mut dx[span.clone()], &x[span], factors);
        }
    }
}

/// Normalisation and affine map as one line: `y = a x + c`.
fn line([mean, inverse]: Statistics, w: f32, b: f32) -> [f32; 2] {
    [inverse * w, b - mean * inverse * w]
}

fn moments(x: &[f32], eps: f64) -> Statistics {
    let n = x.len() as f64;
    let mean = x.chunks(RUN).map(sum_run).sum::<f64>() / n;
    let mean = mean as f32;
    let variance = x
        .chunks(RUN)
        .map(|run| deviation_run(run, mean))
        .sum::<f64>()
        / n;
    [mean, (1.0 / (variance + eps).sqrt()) as f32]
}

vectorized! {
    fn sum_run<'a>(x: &'a [f32]) -> f64 {
        lanes(x, |x| x)
    }

    fn deviation_run<'a>(x: &'a [f32], mean: f32) -> f64 {
        lanes(x, |x| (x - mean) * (x - mean))
    }

    fn affine_row<'a>(y: &'a mut [f32], x: &'a [f32], affine: [f32; 2], silu: bool) -> () {
        let [a, c] = affine;
        if silu {
            for (y, x) in y.iter_mut().zip(x) {
                let z = a * x + c;
                *y = z * logistic(z);
            }
        } else {
            for (y, x) in y.iter_mut().zip(x) {
                *y = a * x + c;
            }
        }
    }

    /// `dz` of one channel, its sum, and the sum of `dz (x − mean)`.
    fn before_activation<'a>(dz: &'a mut [f32], inputs: [&'a [f32]; 2], affine: [f32; 2], silu: bool, mean: f32) -> [f64; 2] {
        let ([x, dy], [a, c]) = (inputs, affine);
        if silu {
            for (dz, (x, dy)) in dz.iter_mut().zip(x.iter().zip(dy)) {
                *dz = dy * swish_slope(a * x + c, 1.0);
            }
        } else {
            dz.copy_from_slice(dy);
        }
        let mut sums = [0.0; 2];
        for (dz, x) in dz.chunks(RUN).zip(x.chunks(RUN)) {
            sums[0] += lanes(dz, |dz| dz);
            sums[1] += lane_products(dz, x, mean);
        }
        sums
    }

    fn combine<'a>(dx: &'a mut [f32], x: &'a [f32], factors: [f32; 3]) -> () {
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = factors[0] * *dx + factors[1] * x + factors[2];
        }
    }
}

/// `Σ f(xᵢ)`, in sixteen lanes.
#[inline(always)]
fn lanes(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let (wide, rest) = x.as_chunks::<16>();
    let mut lanes = [0.0_f32; 16];
    for chunk in wide {
        for lane in 0..16 {
            lanes[lane] += f(chunk[lane]);
        }
    }
    let rest = rest.iter().map(|&x| f64::from(f(x))).sum::<f64>();
    rest + lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>()
}

/// `Σ aᵢ (xᵢ − mean)`, in sixteen lanes.
#[inline(always)]
fn lane_products(a: &[f32], x: &[f32], mean: f32) -> f64 {
    let ((wide_a, rest_a), (wide_x, rest_x)) = (a.as_chunks::<16>(), x.as_chunks::<16>());
    let mut lanes = [0.0_f32; 16];
    for (a, x) in wide_a.iter().zip(wide_x) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * (x[lane] - mean);
        }
    }
    let rest = rest_a.iter().zip(rest_x);
    let rest = rest.map(|(a, x)| f64::from(a * (x - mean))).sum::<f64>();
    rest + lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::super::check::{compare, differences, flat};
    use super::*;

    #[test]
    fn host_loops_equal_the_composed_form_and_its_gradients() {
        for silu in [false, true] {
            let input = |x: &[Tensor<1>]| {
                let x = x[0].clone().mul_scalar(2.0).add_scalar(3.0);
                x.reshape([2, 6, 5, 7])
            };
            compare(
                &[2 * 6 * 35, 6, 6],
                &|x| flat(group_norm(input(x), 3, 1e-5, &x[1], &x[2], silu)),
                &|x| flat(composed(input(x), 3, 1e-5, [&x[1], &x[2]], silu)),
            );
        }
    }

    #[test]
    fn gradients_are_the_slopes() {
        differences(&[4 * 9, 4, 4], &|x| {
            let input = x[0].clone().reshape([1, 4, 3, 3]);
            flat(group_norm(input, 2, 1e-5, &x[1], &x[2], true))
        });
    }

    #[test]
    fn a_constant_group_gives_the_bias() {
        let x = HostView::tensor(vec![7.0; 8], [1, 2, 2, 2]);
        let (w, b) = (
            HostView::tensor(vec![2.0, 3.0], [2]),
            HostView::tensor(vec![0.5, -1.0], [2]),
        );
        let y = group_norm(x, 1, 1e-5, &w, &b, false).into_data();
        let expected = [0.5, 0.5, 0.5, 0.5, -1.0, -1.0, -1.0, -1.0];
        assert_eq!(y.try_to_vec::<f32>().unwrap(), expected);
    }
}
