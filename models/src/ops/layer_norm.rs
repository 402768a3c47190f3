//! Layer normalisation (arXiv 1607.06450).

use burn::tensor::{DType, FloatDType, Tensor};
use rayon::prelude::*;
use temper_adapters::ops::simd::dot;
use temper_adapters::ops::{HostView, erase, with_gradient};
use temper_adapters::vectorized;

/// `(x − mean) / √(var + eps) · weight + bias` over the last axis of `x: [.., C]`; `weight, bias: [C]`.
///
/// Computed in f32, returned in the dtype of `x`. On `cpu` the input and two numbers a row are kept for the backward pass.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    let shape = x.dims();
    let width = shape[D - 1];
    let rows = shape.iter().product::<usize>() / width;
    let x = x.reshape([rows, width]);
    let views = (
        HostView::view(&x),
        HostView::view(weight),
        HostView::view(bias),
    );
    let y = match views {
        (Some(values), Some(gain), Some(offset)) => {
            on_host([&x], [weight, bias], [values, gain, offset], eps as f32)
        }
        _ => composed(x, weight, bias, eps),
    };
    y.reshape(shape)
}

fn composed(x: Tensor<2>, weight: &Tensor<1>, bias: &Tensor<1>, eps: f64) -> Tensor<2> {
    let dtype = x.dtype();
    let [_, width] = x.dims();
    let wide = |x: Tensor<2>| {
        if x.dtype() == DType::F32 {
            x
        } else {
            x.cast(FloatDType::F32)
        }
    };
    let x = wide(x);
    let x = x.clone() - x.mean_dim(1);
    let scale = (x.clone().square().mean_dim(1) + eps).sqrt().recip();
    let row = |p: &Tensor<1>| wide(p.clone().reshape([1, width]));
    let y = x * scale * row(weight) + row(bias);
    if dtype == DType::F32 {
        y
    } else {
        y.cast(dtype)
    }
}

fn on_host(
    [x]: [&Tensor<2>; 1],
    [weight, bias]: [&Tensor<1>; 2],
    [values, gain, offset]: [HostView; 3],
    eps: f32,
) -> Tensor<2> {
    let shape = x.dims();
    let [rows, width] = shape;
    let mut output = vec![0.0; rows * width];
    let mut statistics = vec![[0.0; 2]; rows];
    output
        .par_chunks_mut(width)
        .zip(values.as_slice().par_chunks(width))
        .zip(&mut statistics)
        .for_each(|((y, x), statistics)| {
            *statistics = normalise(y, x, [gain.as_slice(), offset.as_slice()], eps);
        });
    let output = HostView::tensor(output, shape);
    with_gradient(output, [x, weight, bias], move |dy, wanted| {
        let Some(dy) = HostView::view(&dy) else {
            unreachable!("a gradient leaves its device")
        };
        let (x, dy, gain) = (values.as_slice(), dy.as_slice(), gain.as_slice());
        let dx = wanted[0].then(|| {
            let mut dx = vec![0.0; rows * width];
            dx.par_chunks_mut(width)
                .zip(x.par_chunks(width).zip(dy.par_chunks(width)))
                .zip(&statistics)
                .for_each(|((dx, (x, dy)), &statistics)| {
                    input_gradient(dx, [x, dy, gain], statistics);
                });
            erase(HostView::tensor(dx, shape))
        });
        let (mut dw, mut db) = (vec![0.0; width], vec![0.0; width]);
        if wanted[1] || wanted[2] {
            parameter_gradients([&mut dw, &mut db], [x, dy], &statistics);
        }
        let row = |values| Some(erase(HostView::tensor(values, [width])));
        [
            dx,
            wanted[1].then(|| row(dw)).flatten(),
            wanted[2].then(|| row(db)).flatten(),
        ]
    })
}

vectorized! {
/// Writes one normalised row; returns its mean and inverse deviation.
fn normalise<'a>(y: &'a mut [f32], x: &'a [f32], affine: [&'a [f32]; 2], eps: f32) -> [f32; 2] {
    let n = x.len() as f32;
    let mean = total(x) / n;
    for (y, x) in y.iter_mut().zip(x) {
        *y = x - mean;
    }
    let inverse = 1.0 / (dot(y, y) / n + eps).sqrt();
    for ((y, w), b) in y.iter_mut().zip(affine[0]).zip(affine[1]) {
        *y = *y * inverse * w + b;
    }
    [mean, inverse]
}

/// `dx = s (g − mean(g) − x̂ mean(g x̂))` with `g = dy · w`, `x̂ = (x − m) s`.
fn input_gradient<'a>(dx: &'a mut [f32], inputs: [&'a [f32]; 3], statistics: [f32; 2]) -> () {
    let ([x, dy, gain], [mean, inverse]) = (inputs, statistics);
    let n = x.len() as f32;
    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(gain) {
        *dx = dy * w;
    }
    let sum = total(dx);
    let shared = (dot(dx, x) - mean * sum) * inverse * inverse / n;
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx = inverse * (*dx - sum / n - (x - mean) * shared);
    }
}

/// `dw = Σ dy x̂` and `db = Σ dy` over the rows.
fn parameter_gradients<'a>(outputs: [&'a mut [f32]; 2], inputs: [&'a [f32]; 2], statistics: &'a [[f32; 2]]) -> () {
    let ([dw, db], [x, dy]) = (outputs, inputs);
    let width = dw.len();
    let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
    for ((x, dy), [mean, inverse]) in rows.zip(statistics) {
        for ((dw, db), (x, dy)) in dw.iter_mut().zip(db.iter_mut()).zip(x.iter().zip(dy)) {
            *dw += dy * (x - mean) * inverse;
            *db += dy;
        }
    }
}
}

/// The sum of all values, in sixteen lanes.
#[inline(always)]
fn total(values: &[f32]) -> f32 {
    let (wide, rest) = values.as_chunks::<16>();
    let mut lanes = [0.0_f32; 16];
    for chunk in wide {
        for lane in 0..16 {
            lanes[lane] += chunk[lane];
        }
    }
    lanes.iter().chain(rest).sum()
}

#[cfg(test)]
mod tests {
    use super::super::check::{compare, differences, flat};
    use super::*;

    #[test]
    fn host_loop_equals_the_composed_form_and_its_gradients() {
        let input = |x: &[Tensor<1>]| x[0].clone().mul_scalar(2.0).add_scalar(5.0);
        compare(
            &[6 * 37, 37, 37],
            &|x| flat(layer_norm(input(x).reshape([2, 3, 37]), &x[1], &x[2], 1e-5)),
            &|x| flat(composed(input(x).reshape([6, 37]), &x[1], &x[2], 1e-5)),
        );
    }

    #[test]
    fn gradients_are_the_slopes() {
        differences(&[3 * 21, 21, 21], &|x| {
            flat(layer_norm(
                x[0].clone().reshape([3, 21]),
                &x[1],
                &x[2],
                1e-5,
            ))
        });
    }
}
