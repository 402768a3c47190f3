//! Pointwise activations, and the gated one of diffusion transformers.

use std::f32::consts::FRAC_1_SQRT_2;

use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, silu as burn_silu};
use rayon::prelude::*;
use temper_adapters::ops::simd::exp;
use temper_adapters::ops::{HostView, erase, with_gradient};
use temper_adapters::vectorized;

const CHUNK: usize = 4096;

/// `x · σ(x)` (also called swish), element by element.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    pointwise(x, Activation::Silu)
}

/// `x · Φ(x)` with the normal distribution function, the exact form (arXiv 1606.08415). Absolute error below 1e-6.
pub fn gelu_erf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    pointwise(x, Activation::GeluErf)
}

/// `x · σ(1.702 x)`, the approximation that CLIP was trained with.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    pointwise(x, Activation::QuickGelu)
}

/// `h · gelu_erf(g)` of the halves `[h | g]` of the last axis of `x: [.., 2C]` (arXiv 2002.05202), `[.., C]`.
///
/// Only `x` is kept for the backward pass.
///
/// # Panics
/// When the last axis is odd.
pub fn geglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let mut shape = x.dims();
    assert!(shape[D - 1].is_multiple_of(2), "two halves");
    let view = HostView::view(&x);
    shape[D - 1] /= 2;
    match view {
        Some(values) => geglu_on_host(x, values, shape),
        None => geglu_composed(x),
    }
}

#[derive(Clone, Copy)]
enum Activation {
    Silu,
    GeluErf,
    QuickGelu,
}

fn pointwise<const D: usize>(x: Tensor<D>, kind: Activation) -> Tensor<D> {
    match HostView::view(&x) {
        Some(values) => pointwise_on_host(x, values, kind),
        None => pointwise_composed(x, kind),
    }
}

fn pointwise_composed<const D: usize>(x: Tensor<D>, kind: Activation) -> Tensor<D> {
    match kind {
        Activation::Silu => burn_silu(x),
        Activation::GeluErf => gelu_composed(x),
        Activation::QuickGelu => sigmoid(x.clone().mul_scalar(QUICK)) * x,
    }
}

fn geglu_composed<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let half = x.dims()[D - 1] / 2;
    let h = x.clone().narrow(D - 1, 0, half);
    h * gelu_composed(x.narrow(D - 1, half, half))
}

/// Of single operations: the `gelu` of Burn 0.22.1 goes back, on every card, along the slope of its tanh approximation,
/// up to 5e-4 away from its own.
fn gelu_composed<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let below = x.clone().mul_scalar(FRAC_1_SQRT_2).erf().add_scalar(1.0);
    x.mul_scalar(0.5) * below
}

fn pointwise_on_host<const D: usize>(
    x: Tensor<D>,
    values: HostView,
    kind: Activation,
) -> Tensor<D> {
    let shape = x.dims();
    let mut output = vec![0.0; values.as_slice().len()];
    output
        .par_chunks_mut(CHUNK)
        .zip(values.as_slice().par_chunks(CHUNK))
        .for_each(|(y, x)| forward(y, x, kind));
    let output = HostView::tensor(output, shape);
    with_gradient(output, [&x], move |dy, _| {
        let Some(dy) = HostView::view(&dy) else {
            unreachable!("a gradient leaves its device")
        };
        let mut dx = vec![0.0; values.as_slice().len()];
        dx.par_chunks_mut(CHUNK)
            .zip(values.as_slice().par_chunks(CHUNK))
            .zip(dy.as_slice().par_chunks(CHUNK))
            .for_each(|((dx, x), dy)| backward(dx, [x, dy], kind));
        [Some(erase(HostView::tensor(dx, shape)))]
    })
}

fn geglu_on_host<const D: usize>(x: Tensor<D>, values: HostView, shape: [usize; D]) -> Tensor<D> {
    let width = shape[D - 1];
    let mut output = vec![0.0; values.as_slice().len() / 2];
    output
        .par_chunks_mut(width)
        .zip(values.as_slice().par_chunks(2 * width))
        .for_each(|(y, x)| gated_forward(y, x));
    let output = HostView::tensor(output, shape);
    with_gradient(output, [&x], move |dy, _| {
        let Some(dy) = HostView::view(&dy) else {
            unreachable!("a gradient leaves its device")
        };
        let mut dx = vec![0.0; values.as_slice().len()];
        dx.par_chunks_mut(2 * width)
            .zip(values.as_slice().par_chunks(2 * width))
            .zip(dy.as_slice().par_chunks(width))
            .for_each(|((dx, x), dy)| gated_backward(dx, [x, dy]));
        let mut shape = shape;
        shape[D - 1] *= 2;
        [Some(erase(HostView::tensor(dx, shape)))]
    })
}

vectorized! {
    fn forward<'a>(y: &'a mut [f32], x: &'a [f32], kind: Activation) -> () {
        // One loop a kind: a choice inside the loop would keep it from vectorising.
        match kind {
            Activation::Silu => {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x * logistic(x);
                }
            }
            Activation::GeluErf => {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x * normal(x).0;
                }
            }
            Activation::QuickGelu => {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x * logistic(QUICK * x);
                }
            }
        }
    }

    fn backward<'a>(dx: &'a mut [f32], inputs: [&'a [f32]; 2], kind: Activation) -> () {
        let [x, dy] = inputs;
        match kind {
            Activation::Silu => {
                for (dx, (&x, &dy)) in dx.iter_mut().zip(x.iter().zip(dy)) {
                    *dx = dy * swish_slope(x, 1.0);
                }
            }
            Activation::GeluErf => {
                for (dx, (&x, &dy)) in dx.iter_mut().zip(x.iter().zip(dy)) {
                    *dx = dy * gelu_slope(x);
                }
            }
            Activation::QuickGelu => {
                for (dx, (&x, &dy)) in dx.iter_mut().zip(x.iter().zip(dy)) {
                    *dx = dy * swish_slope(x, QUICK);
                }
            }
        }
    }

    fn gated_forward<'a>(y: &'a mut [f32], x: &'a [f32]) -> () {
        let (h, g) = x.split_at(y.len());
        for (y, (&h, &g)) in y.iter_mut().zip(h.iter().zip(g)) {
            *y = h * g * normal(g).0;
        }
    }

    fn gated_backward<'a>(dx: &'a mut [f32], inputs: [&'a [f32]; 2]) -> () {
        let [x, dy] = inputs;
        let ((h, g), (dh, dg)) = (x.split_at(dy.len()), dx.split_at_mut(dy.len()));
        for ((dh, dg), ((&h, &g), &dy)) in dh.iter_mut().zip(dg).zip(h.iter().zip(g).zip(dy)) {
            let (below, density) = normal(g);
            *dh = dy * g * below;
            *dg = dy * h * (below + g * density);
        }
    }
}

const QUICK: f32 = 1.702;

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(super) fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Derivative of `x σ(s x)`.
#[inline(always)]
pub(super) fn swish_slope(x: f32, scale: f32) -> f32 {
    let s = logistic(scale * x);
    s * (1.0 + scale * x * (1.0 - s))
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    let (below, density) = normal(x);
    below + x * density
}

/// Distribution function and density of the standard normal distribution, `Φ(x)` and `φ(x)`.
///
/// `Φ` is half the complementary error function, by formula 7.1.26 of Abramowitz and Stegun: absolute error 1.5e-7, and no
/// cancellation for negative `x`.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const INVERSE_ROOT_2_PI: f32 = 0.398_942_3;
    let z = x.abs() * FRAC_1_SQRT_2;
    let bell = exp(-z * z);
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4 * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * bell;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, bell * INVERSE_ROOT_2_PI)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::check::{compare, differences, flat};
    use super::*;

    const KINDS: [Activation; 3] = [Activation::Silu, Activation::GeluErf, Activation::QuickGelu];

    #[test]
    fn host_loops_equal_the_composed_forms_and_their_gradients() {
        for kind in KINDS {
            let shaped = |x: &[Tensor<1>]| x[0].clone().mul_scalar(3.0).reshape([7, 5, 31]);
            compare(
                &[7 * 5 * 31],
                &|x| flat(pointwise::<3>(shaped(x), kind)),
                &|x| flat(pointwise_composed::<3>(shaped(x), kind)),
            );
            differences(&[60], &|x| flat(pointwise(x[0].clone(), kind)));
        }
    }

    #[test]
    fn gated_host_loop_equals_the_composed_form_and_its_gradients() {
        let shaped = |x: &[Tensor<1>]| x[0].clone().mul_scalar(2.0).reshape([9, 34]);
        compare(&[9 * 34], &|x| flat(geglu(shaped(x))), &|x| {
            flat(geglu_composed(shaped(x)))
        });
        differences(&[3 * 34], &|x| flat(geglu(x[0].clone().reshape([3, 34]))));
    }

    #[test]
    fn the_form_for_cards_has_the_slope_of_the_exact_gelu_and_not_of_its_approximation() {
        let device = Device::flex().autodiff();
        let points: Vec<f32> = (-400..=400_i16).map(|i| f32::from(i) * 0.01).collect();
        let x = Tensor::<1>::from_floats(points.as_slice(), &device).require_grad();
        let grads = gelu_composed(x.clone()).sum().backward();
        let slopes: Vec<f32> = x.grad(&grads).unwrap().into_data().try_to_vec().unwrap();
        for (x, slope) in points.into_iter().zip(slopes) {
            let error = slope - gelu_slope(x);
            assert!(error.abs() < 1e-5, "slope at {x}: error {error:e}");
        }
    }

    #[test]
    fn the_normal_distribution_is_within_a_millionth_of_known_values() {
        // Φ from tables of the normal distribution.
        let known = [
            (0.0, 0.5),
            (1.0, 0.841_344_746),
            (-1.0, 0.158_655_254),
            (2.5, 0.993_790_335),
            (-3.0, 0.001_349_898),
            (0.1, 0.539_827_837),
        ];
        for (x, expected) in known {
            let error = f64::from(normal(x).0) - expected;
            assert!(error.abs() < 1e-6, "Φ({x}): error {error:e}");
        }
        // The tail keeps its relative accuracy: Φ(−6) = 9.866e-10.
        assert!((f64::from(normal(-6.0).0) / 9.865_876e-10 - 1.0).abs() < 2e-2);
    }
}
