//! Root-mean-square normalisation (arXiv 1910.07467).

use burn::tensor::{DType, FloatDType, Tensor};
use rayon::prelude::*;
use temper_adapters::ops::simd::dot;
use temper_adapters::ops::{HostView, erase, with_gradient};
use temper_adapters::vectorized;

/// `x · rsqrt(mean(x²) + eps) · weight` over the last axis of `x: [N, C]`, `weight: [C]`.
///
/// Computed in f32 and rounded to the dtype of `x` before the weight, as the reference LLaMA does.
pub fn rms_norm(x: Tensor<2>, weight: &Tensor<1>, eps: f64) -> Tensor<2> {
    match (HostView::view(&x), HostView::view(weight)) {
        (Some(values), Some(scale)) => on_host(x, weight, values, scale, eps as f32),
        _ => composed(x, weight, eps),
    }
}

fn composed(x: Tensor<2>, weight: &Tensor<1>, eps: f64) -> Tensor<2> {
    let dtype = x.dtype();
    let [_, width] = x.dims();
    let wide = if dtype == DType::F32 {
        x
    } else {
        x.cast(FloatDType::F32)
    };
    let scale = (wide.clone().square().mean_dim(1) + eps).sqrt().recip();
    let normal = wide * scale;
    let weight = weight.clone().reshape([1, width]);
    if dtype == DType::F32 {
        normal * weight
    } else {
        normal.cast(dtype) * weight.cast(dtype)
    }
}

fn on_host(
    x: Tensor<2>,
    weight: &Tensor<1>,
    values: HostView,
    scale: HostView,
    eps: f32,
) -> Tensor<2> {
    let [rows, width] = x.dims();
    let mut output = vec![0.0; rows * width];
    let mut inverse = vec![0.0; rows];
    let (source, gain) = (values.as_slice(), scale.as_slice());
    output
        .par_chunks_mut(width)
        .zip(&mut inverse)
        .enumerate()
        .for_each(|(row, (y, inverse))| {
            let x = &source[row * width..(row + 1) * width];
            *inverse = normalise(y, x, gain, eps);
        });
    let output = HostView::tensor(output, [rows, width]);
    with_gradient(output, [&x, weight], move |dy, wanted| {
        let Some(dy) = HostView::view(&dy) else {
            unreachable!("a gradient leaves its device")
        };
        let (x, dy, gain) = (values.as_slice(), dy.as_slice(), scale.as_slice());
        let dx = wanted[0].then(|| {
            let mut dx = vec![0.0; rows * width];
            dx.par_chunks_mut(width).enumerate().for_each(|(row, dx)| {
                let span = row * width..(row + 1) * width;
                input_gradient(dx, &x[span.clone()], &dy[span], gain, inverse[row]);
            });
            erase(HostView::tensor(dx, [rows, width]))
        });
        let dw = wanted[1].then(|| {
            let mut dw = vec![0.0; width];
            weight_gradient(&mut dw, x, dy, &inverse);
            erase(HostView::tensor(dw, [width]))
        });
        [dx, dw]
    })
}

vectorized! {
/// Writes one normalised row; returns the inverse root.
fn normalise<'a>(y: &'a mut [f32], x: &'a [f32], gain: &'a [f32], eps: f32) -> f32 {
    let inverse = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(gain) {
        *y = x * inverse * w;
    }
    inverse
}

/// `dx = s (g − x s² mean(g x))` with `g = dy · w` and `s` the inverse root.
fn input_gradient<'a>(dx: &'a mut [f32], x: &'a [f32], dy: &'a [f32], gain: &'a [f32], inverse: f32) -> () {
    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(gain) {
        *dx = dy * w;
    }
    let shared = dot(dx, x) * inverse * inverse / x.len() as f32;
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx = inverse * (*dx - x * shared);
    }
}

/// `dw = Σ dy x s` over the rows.
fn weight_gradient<'a>(dw: &'a mut [f32], x: &'a [f32], dy: &'a [f32], inverse: &'a [f32]) -> () {
    let width = dw.len();
    for ((x, dy), inverse) in x
        .chunks_exact(width)
        .zip(dy.chunks_exact(width))
        .zip(inverse)
    {
        for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
            *dw += dy * x * inverse;
        }
    }
}
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn host_loop_equals_the_composed_form_and_its_gradients() {
        let device = Device::flex().autodiff();
        device.seed(5);
        let normal = Distribution::Normal(0.0, 1.0);
        let x = Tensor::<2>::random([7, 21], normal, &device).require_grad();
        let w = Tensor::<1>::random([21], normal, &device).require_grad();
        let g = Tensor::<2>::random([7, 21], normal, &device);
        let ours = rms_norm(x.clone(), &w, 1e-5);
        let reference = composed(x.clone(), &w, 1e-5);
        let tolerance = Tolerance::<f32>::rel_abs(1e-5, 1e-5);
        ours.clone()
            .inner()
            .into_data()
            .assert_approx_eq(&reference.clone().inner().into_data(), tolerance);
        let (grads, expected) = (
            (ours * g.clone()).sum().backward(),
            (reference * g).sum().backward(),
        );
        let dx = x.grad(&grads).expect("dx").into_data();
        dx.assert_approx_eq(&x.grad(&expected).expect("dx").into_data(), tolerance);
        let dw = w.grad(&grads).expect("dw").into_data();
        dw.assert_approx_eq(&w.grad(&expected).expect("dw").into_data(), tolerance);
    }
}
