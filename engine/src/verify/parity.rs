//! The device against the host in f32, operation by operation and for a whole step, in every precision it supports.

use burn::tensor::{DType, Device, FloatDType, Tensor};
use temper_adapters::ops::{linear, rotate};
use temper_adapters::{Cayley, Param, SkewPacking};
use temper_models::{Heads, Layout, Rope, attention, cross_entropy_sum, rms_norm, swiglu};

use super::toy::{Method, batch, gradient_error, gradients, noise, relative_error, values};
use super::{Check, Report};
use crate::Failure;
use crate::device::{Backend, OpenDevice, dtype_name};
use crate::train::{AdamW, OptimizerState};

const ROWS: usize = 12;
const WIDTH: usize = 32;

/// An operation: values and, one after another, the gradients of its inputs, for a device and a precision.
pub(super) type Operation = (&'static str, fn(&Place) -> Vec<f32>);

/// Where and in what an operation is computed.
pub(super) struct Place {
    pub(super) device: Device,
    pub(super) dtype: FloatDType,
}

impl Place {
    /// A leaf of the graph with fixed random values, `[rows, cols]`.
    pub(super) fn leaf(&self, purpose: &str, rows: usize, cols: usize) -> Tensor<2> {
        let plain = noise(purpose, rows * cols, 1.0, &self.device)
            .reshape([rows, cols])
            .cast(self.dtype);
        Tensor::from_inner(plain).require_grad()
    }
}

/// `Σ y · c` with fixed c, differentiated: values of y, then the gradient of each input, in f32.
pub(super) fn forward_and_backward(place: &Place, y: Tensor<2>, inputs: &[&Tensor<2>]) -> Vec<f32> {
    let [rows, cols] = y.dims();
    let weights = noise("upstream", rows * cols, 1.0, &place.device)
        .reshape([rows, cols])
        .cast(y.dtype());
    let mut all = values(y.clone());
    let mut grads = (y * Tensor::from_inner(weights)).sum().backward();
    for input in inputs {
        all.extend(
            input
                .grad_remove(&mut grads)
                .map_or_else(|| vec![f32::NAN], values),
        );
    }
    all
}

fn matmul(place: &Place) -> Vec<f32> {
    let (x, w) = (place.leaf("x", ROWS, WIDTH), place.leaf("w", 48, WIDTH));
    forward_and_backward(place, linear(x.clone(), &w), &[&x, &w])
}

/// `[M, K] × [K, 1]`, wrong under fusion with autotune in some releases of the tensor library.
fn matrix_vector(place: &Place) -> Vec<f32> {
    let (x, w) = (place.leaf("x", ROWS, WIDTH), place.leaf("v", WIDTH, 1));
    values((x.inner() * 1.5).matmul(w.inner()))
}

fn norm(place: &Place) -> Vec<f32> {
    let x = place.leaf("x", ROWS, WIDTH);
    let weight = noise("gain", WIDTH, 1.0, &place.device);
    forward_and_backward(place, rms_norm(x.clone(), &weight, 1e-5), &[&x])
}

fn gate(place: &Place) -> Vec<f32> {
    let (g, u) = (place.leaf("gate", ROWS, 48), place.leaf("up", ROWS, 48));
    forward_and_backward(place, swiglu(g.clone(), u.clone()), &[&g, &u])
}

fn grouped_attention(place: &Place) -> Vec<f32> {
    let heads = Heads {
        query: 4,
        key_value: 2,
        width: 8,
    };
    let (q, k, v) = (
        place.leaf("q", ROWS, 32),
        place.leaf("k", ROWS, 16),
        place.leaf("v", ROWS, 16),
    );
    let starts = [0, 0, 0, 0, 0, 5, 5, 5, 5, 9, 9, 9];
    let positions: Vec<u32> = starts
        .iter()
        .enumerate()
        .map(|(t, s)| t as u32 - s)
        .collect();
    let layout = Layout::new([1, ROWS], &positions, &starts, &Rope::new(8, 1e4, None));
    forward_and_backward(
        place,
        attention(q.clone(), k.clone(), v.clone(), heads, &layout),
        &[&q, &k, &v],
    )
}

fn rotation(place: &Place) -> Vec<f32> {
    let x = place.leaf("x", ROWS, WIDTH);
    let r =
        Tensor::from_inner(noise("r", 4 * 64, 1.0, &place.device).cast(place.dtype)).require_grad();
    let y = rotate(x.clone(), &r.reshape([4, 8, 8]));
    let mut all = forward_and_backward(place, y, &[&x]);
    all.truncate(2 * ROWS * WIDTH);
    all
}

fn cayley(place: &Place) -> Vec<f32> {
    let packed = Tensor::from_inner(noise("packed", 4 * 28, 0.2, &place.device).reshape([4, 28]))
        .require_grad();
    let q = SkewPacking::new(8, &place.device).unpack(packed.clone());
    let both = Cayley::Exact.rotation(q.clone()) + Cayley::Neumann { terms: 5 }.rotation(q);
    forward_and_backward(place, both.reshape([32, 8]), &[&packed])
}

fn loss(place: &Place) -> Vec<f32> {
    let (h, w) = (place.leaf("h", ROWS, WIDTH), place.leaf("head", 64, WIDTH));
    let labels: Vec<i32> = (0..ROWS as i32)
        .map(|i| if i % 4 == 0 { -100 } else { i * 5 })
        .collect();
    let loss = cross_entropy_sum(h.clone(), &w, &labels, 0.1);
    let mut all = values(loss.clone());
    let mut grads = loss.backward();
    for input in [&h, &w] {
        all.extend(
            input
                .grad_remove(&mut grads)
                .map_or_else(|| vec![f32::NAN], values),
        );
    }
    all
}

fn embedding(place: &Place) -> Vec<f32> {
    let table = place.leaf("table", 64, WIDTH);
    let ids = Tensor::<1, burn::tensor::Int>::from_data(
        [3, 7, 3, 60, 0, 7, 7, 1, 2, 3, 4, 5],
        &place.device,
    );
    forward_and_backward(place, table.clone().select(0, ids), &[&table])
}

fn adamw(place: &Place) -> Vec<f32> {
    let mut param = Param::new("p", &[64], noise("p", 64, 1.0, &place.device));
    param.set_trainable(true);
    let mut state = OptimizerState::default();
    for step in 0..3 {
        state.begin_update();
        let adam = AdamW {
            weight_decay: 0.1,
            ..AdamW::default()
        };
        state.update(
            &adam,
            1e-2,
            &mut param,
            noise(&format!("g{step}"), 64, 1.0, &place.device),
        );
    }
    values(param.plain())
}

const OPERATIONS: [Operation; 10] = [
    ("matmul", matmul),
    ("matmul [M,K]x[K,1]", matrix_vector),
    ("RMSNorm", norm),
    ("SwiGLU", gate),
    ("attention", grouped_attention),
    ("block rotation", rotation),
    ("Cayley exact + series", cayley),
    ("cross-entropy", loss),
    ("embedding", embedding),
    ("AdamW", adamw),
];

/// Errors relative to the largest value of the result. Half precision carries 8 or 11 bits.
pub(super) fn tolerance(dtype: FloatDType, f32_tolerance: f64) -> f64 {
    match DType::from(dtype) {
        DType::BF16 => 4e-2,
        DType::F16 => 6e-3,
        _ => f32_tolerance,
    }
}

pub(super) fn operations(device: &OpenDevice, report: Report<'_>) {
    compare(device, &OPERATIONS, report);
}

/// Each operation on the device, in every precision, against the host in f32.
pub(super) fn compare(device: &OpenDevice, operations: &[Operation], report: Report<'_>) {
    let host = Place {
        device: Device::flex(),
        dtype: FloatDType::F32,
    };
    for dtype in precisions(device) {
        let place = Place {
            device: device.device.clone(),
            dtype,
        };
        for (name, operation) in operations {
            let (found, expected) = (operation(&place), operation(&host));
            report(Check {
                name: format!(
                    "parity {} {}: {name}",
                    device.name,
                    dtype_name(dtype.into())
                ),
                error: relative_error(&found, &expected),
                tolerance: tolerance(dtype, 1e-4),
            });
        }
    }
}

/// f32 on the host is the reference itself: only what differs from it is compared.
pub(super) fn precisions(device: &OpenDevice) -> Vec<FloatDType> {
    let host = device.backend == Backend::Cpu;
    device
        .precisions()
        .into_iter()
        .filter(|&dtype| !(host && dtype == FloatDType::F32))
        .collect()
}

/// Loss and every gradient of one step, per method and precision.
pub(super) fn training_step(device: &OpenDevice, report: Report<'_>) -> Result<(), Failure> {
    let rows = batch(2);
    for dtype in precisions(device) {
        for method in [Method::Full, Method::OftSeries, Method::Lora] {
            let (expected_loss, expected) = gradients(
                &method.model(FloatDType::F32, &Device::flex())?,
                &rows,
                false,
            )?;
            let (loss, found) = gradients(&method.model(dtype, &device.device)?, &rows, false)?;
            let name = |what: &str| {
                format!(
                    "parity {} {}: step, {}, {what}",
                    device.name,
                    dtype_name(dtype.into()),
                    method.name()
                )
            };
            let error = (loss - expected_loss).abs() / expected_loss;
            report(Check {
                name: name("loss"),
                error,
                tolerance: tolerance(dtype, 1e-5),
            });
            let error = gradient_error(&found, &expected);
            // Many roundings follow each other from the loss back to the first block.
            report(Check {
                name: name("gradients"),
                error,
                tolerance: 4.0 * tolerance(dtype, 1e-4),
            });
        }
    }
    Ok(())
}
