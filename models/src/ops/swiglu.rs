//! The gated activation of LLaMA's feed-forward layer (SwiGLU, arXiv 2002.05202).

use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use rayon::prelude::*;
use temper_adapters::ops::simd::exp;
use temper_adapters::ops::{HostView, erase, with_gradient};
use temper_adapters::vectorized;

const CHUNK: usize = 4096;

/// `silu(gate) · up`, element by element; `gate, up: [N, F]`.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    match (HostView::view(&gate), HostView::view(&up)) {
        (Some(g), Some(u)) => on_host(gate, up, g, u),
        _ => silu(gate) * up,
    }
}

fn on_host(gate: Tensor<2>, up: Tensor<2>, g: HostView, u: HostView) -> Tensor<2> {
    let shape = gate.dims();
    let mut output = vec![0.0; shape[0] * shape[1]];
    let chunks = g
        .as_slice()
        .par_chunks(CHUNK)
        .zip(u.as_slice().par_chunks(CHUNK));
    output
        .par_chunks_mut(CHUNK)
        .zip(chunks)
        .for_each(|(y, (g, u))| {
            forward(y, g, u);
        });
    let output = HostView::tensor(output, shape);
    with_gradient(output, [&gate, &up], move |dy, _| {
        let Some(dy) = HostView::view(&dy) else {
            unreachable!("a gradient leaves its device")
        };
        let (mut dg, mut du) = (
            vec![0.0; shape[0] * shape[1]],
            vec![0.0; shape[0] * shape[1]],
        );
        let inputs = g
            .as_slice()
            .par_chunks(CHUNK)
            .zip(u.as_slice().par_chunks(CHUNK));
        let outputs = dg.par_chunks_mut(CHUNK).zip(du.par_chunks_mut(CHUNK));
        let dy = dy.as_slice().par_chunks(CHUNK);
        outputs
            .zip(inputs)
            .zip(dy)
            .for_each(|(((dg, du), (g, u)), dy)| {
                backward([dg, du], [g, u, dy]);
            });
        [
            Some(erase(HostView::tensor(dg, shape))),
            Some(erase(HostView::tensor(du, shape))),
        ]
    })
}

vectorized! {
    fn forward<'a>(y: &'a mut [f32], g: &'a [f32], u: &'a [f32]) -> () {
        for ((y, g), u) in y.iter_mut().zip(g).zip(u) {
            *y = g * sigmoid(*g) * u;
        }
    }

    fn backward<'a>(outputs: [&'a mut [f32]; 2], inputs: [&'a [f32]; 3]) -> () {
        let ([dg, du], [g, u, dy]) = (outputs, inputs);
        for ((dg, du), ((g, u), dy)) in dg.iter_mut().zip(du).zip(g.iter().zip(u).zip(dy)) {
            let s = sigmoid(*g);
            *du = dy * g * s;
            *dg = dy * u * s * (1.0 + g * (1.0 - s));
        }
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn host_loop_equals_the_composed_form_and_its_gradients() {
        let device = Device::flex().autodiff();
        device.seed(6);
        let normal = Distribution::Normal(0.0, 3.0);
        let gate = Tensor::<2>::random([9, 31], normal, &device).require_grad();
        let up = Tensor::<2>::random([9, 31], normal, &device).require_grad();
        let ours = swiglu(gate.clone(), up.clone());
        let reference = silu(gate.clone()) * up.clone();
        let tolerance = Tolerance::<f32>::rel_abs(1e-5, 1e-5);
        ours.clone()
            .inner()
            .into_data()
            .assert_approx_eq(&reference.clone().inner().into_data(), tolerance);
        let (grads, expected) = (
            ours.square().sum().backward(),
            reference.square().sum().backward(),
        );
        for input in [&gate, &up] {
            let got = input.grad(&grads).expect("gradient").into_data();
            got.assert_approx_eq(
                &input.grad(&expected).expect("gradient").into_data(),
                Tolerance::<f32>::rel_abs(1e-4, 1e-3),
            );
        }
    }
}
