//! The output head and its loss together, a chunk of tokens at a time.
//!
//! Full logits of a micro-batch are the largest tensor of a run (`[N, V]`, 128 kB a token at V = 32,000). Here they exist for one chunk
//! at a time: the loss and both gradients are computed when the chunk is, and only `[N, C]` is kept for the backward pass.

use burn::tensor::activation::log_softmax;
use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use rayon::prelude::*;
use temper_adapters::ops::simd::{exp_sum, max};
use temper_adapters::ops::{HostView, Updated, erase, with_gradient};
use temper_adapters::vectorized;

use super::plain;

/// The label of a position that is no target.
pub const IGNORE: i32 = -100;

/// Floats of logits held at a time.
const CHUNK_FLOATS: usize = 8 << 20;

/// `scale · Σ −log softmax(h_i Wᵀ)[label_i]` over the positions whose label is not [`IGNORE`], in f32, as a tensor of one value.
///
/// `hidden: [N, C]`, `weight: [V, C]`, `labels: [N]` already aligned with the position that predicts them. Positions without
/// a target are not computed at all. The gradient scales linearly with the upstream one.
pub fn cross_entropy_sum(
    hidden: Tensor<2>,
    weight: &Tensor<2>,
    labels: &[i32],
    scale: f64,
) -> Tensor<1> {
    let targets: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] != IGNORE).collect();
    let device = plain(&hidden).device();
    let indices: Vec<i32> = targets.iter().map(|&i| i as i32).collect();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [targets.len()]), &device);
    if targets.is_empty() {
        return hidden
            .slice([0..1, 0..1])
            .reshape([1])
            .cast(FloatDType::F32)
            .mul_scalar(0.0);
    }
    let selected = hidden.select(0, indices);
    let labels: Vec<i32> = targets.iter().map(|&i| labels[i]).collect();
    let tracked = |t: &Tensor<2>| t.is_autodiff() && t.is_tracked();
    let wanted = [tracked(&selected), tracked(weight)];
    let sums = Chunks {
        weight: plain(weight),
        labels: &labels,
        scale,
        wanted,
    }
    .run(&plain(&selected));
    let (dh, dw) = (sums.hidden_gradient, sums.weight_gradient);
    with_gradient(sums.loss, [&selected, weight], move |upstream, _| {
        let factor = upstream.reshape([1, 1]);
        let scaled = |g: Tensor<2>| {
            let factor = factor.clone().cast(g.dtype());
            erase(g * factor)
        };
        [dh.map(scaled), dw.map(scaled)]
    })
}

struct Chunks<'a> {
    weight: Tensor<2>,
    labels: &'a [i32],
    scale: f64,
    wanted: [bool; 2],
}

struct Sums {
    loss: Tensor<1>,
    hidden_gradient: Option<Tensor<2>>,
    weight_gradient: Option<Tensor<2>>,
}

impl Chunks<'_> {
    fn run(&self, hidden: &Tensor<2>) -> Sums {
        let [vocabulary, _] = self.weight.dims();
        let rows = (CHUNK_FLOATS / vocabulary).clamp(16, 1024);
        let mut loss: Option<Tensor<1>> = None;
        let (mut hidden_parts, mut weight_gradient) = (Vec::new(), None::<Tensor<2>>);
        for first in (0..self.labels.len()).step_by(rows) {
            let last = (first + rows).min(self.labels.len());
            let chunk = hidden.clone().slice(first..last);
            let logits = chunk.clone().matmul(self.weight.clone().transpose());
            let (value, slope) = self.chunk(logits, &self.labels[first..last]);
            loss = Some(match loss {
                Some(sum) => sum + value,
                None => value,
            });
            if let Some(slope) = slope {
                if self.wanted[0] {
                    hidden_parts.push(slope.clone().matmul(self.weight.clone()));
                }
                if self.wanted[1] {
                    let part = slope.transpose().matmul(chunk);
                    weight_gradient = Some(match weight_gradient {
                        Some(sum) => sum + part,
                        None => part,
                    });
                }
            }
        }
        let hidden_gradient = self.wanted[0].then(|| Tensor::cat(hidden_parts, 0));
        let Some(loss) = loss else {
            unreachable!("there is at least one target")
        };
        Sums {
            loss,
            hidden_gradient,
            weight_gradient,
        }
    }

    /// Loss of one chunk, and `scale · (softmax − onehot)` when a gradient is wanted.
    fn chunk(&self, logits: Tensor<2>, labels: &[i32]) -> (Tensor<1>, Option<Tensor<2>>) {
        let any = self.wanted[0] || self.wanted[1];
        let [rows, vocabulary] = logits.dims();
        if HostView::view(&logits).is_some() {
            let flat = logits.reshape([rows * vocabulary]);
            let mut loss = 0.0;
            let changed = HostView::update(flat, |values| {
                loss = host_chunk(values, labels, self.scale as f32);
            });
            let Updated::Changed(slope) = changed else {
                unreachable!("a viewed tensor is on the host")
            };
            let loss = HostView::tensor(vec![(loss * self.scale) as f32], [1]);
            return (loss, any.then(|| slope.reshape([rows, vocabulary])));
        }
        self.composed_chunk(logits, labels, any)
    }

    fn composed_chunk(
        &self,
        logits: Tensor<2>,
        labels: &[i32],
        any: bool,
    ) -> (Tensor<1>, Option<Tensor<2>>) {
        let [rows, _] = logits.dims();
        let dtype = logits.dtype();
        let device = logits.device();
        let log_probabilities = log_softmax(logits.cast(FloatDType::F32), 1);
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels.to_vec(), [rows]), &device);
        let labels = labels.reshape([rows, 1]);
        let loss = log_probabilities
            .clone()
            .gather(1, labels.clone())
            .sum()
            .mul_scalar(-self.scale);
        let slope = any.then(|| {
            let ones = Tensor::<2>::ones([rows, 1], &device).neg();
            let slope = log_probabilities.exp().scatter(
                1,
                labels,
                ones,
                burn::tensor::IndexingUpdateOp::Add,
            );
            slope.mul_scalar(self.scale).cast(dtype)
        });
        (loss, slope)
    }
}

/// Turns logits into `scale · (softmax − onehot)` in place; returns the summed loss, unscaled.
fn host_chunk(logits: &mut [f32], labels: &[i32], scale: f32) -> f64 {
    let vocabulary = logits.len() / labels.len();
    logits
        .par_chunks_mut(vocabulary)
        .zip(labels)
        .map(|(row, &label)| {
            let label = label as usize;
            let target = row[label];
            let (top, total) = scaled_softmax(row, scale);
            row[label] -= scale;
            total.ln() + f64::from(top) - f64::from(target)
        })
        .sum()
}

vectorized! {
/// Turns one row of logits into `scale · softmax`; returns the largest logit and `Σ exp(logit − largest)`.
fn scaled_softmax<'a>(row: &'a mut [f32], scale: f32) -> (f32, f64) {
    let top = max(row);
    let total = exp_sum(row, top);
    let factor = (f64::from(scale) / total) as f32;
    for value in row.iter_mut() {
        *value *= factor;
    }
    (top, total)
}
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn chunked_loss_and_gradients_equal_the_plain_formula() {
        let device = Device::flex().autodiff();
        device.seed(8);
        let normal = Distribution::Normal(0.0, 1.0);
        let hidden = Tensor::<2>::random([40, 12], normal, &device).require_grad();
        let weight = Tensor::<2>::random([33, 12], normal, &device).require_grad();
        let labels: Vec<i32> = (0..40)
            .map(|i| if i % 3 == 0 { IGNORE } else { i % 33 })
            .collect();
        let loss = cross_entropy_sum(hidden.clone(), &weight, &labels, 0.25);
        let ours = loss.clone().into_scalar::<f32>();
        let grads = loss.backward();
        let keep: Vec<i32> = (0..40).filter(|i| i % 3 != 0).collect();
        let rows = Tensor::<1, Int>::from_data(
            TensorData::new(keep.clone(), [keep.len()]),
            &device.clone().inner(),
        );
        let targets: Vec<i32> = keep.iter().map(|&i| labels[i as usize]).collect();
        let targets =
            Tensor::<2, Int>::from_data(TensorData::new(targets, [keep.len(), 1]), &device.inner());
        let logits = hidden
            .clone()
            .select(0, rows)
            .matmul(weight.clone().transpose());
        let plain = log_softmax(logits, 1)
            .gather(1, targets)
            .sum()
            .mul_scalar(-0.25);
        assert!((ours - plain.clone().into_scalar::<f32>()).abs() < 1e-4);
        let expected = plain.backward();
        let tolerance = Tolerance::<f32>::rel_abs(1e-4, 1e-5);
        for input in [&hidden, &weight] {
            let got = input.grad(&grads).expect("gradient").into_data();
            got.assert_approx_eq(
                &input.grad(&expected).expect("gradient").into_data(),
                tolerance,
            );
        }
    }

    #[test]
    fn a_batch_without_targets_has_loss_zero_and_no_nan() {
        let device = Device::flex();
        let loss = cross_entropy_sum(
            Tensor::ones([3, 4], &device),
            &Tensor::ones([5, 4], &device),
            &[IGNORE; 3],
            1.0,
        );
        assert_eq!(loss.into_scalar::<f32>(), 0.0);
    }
}
