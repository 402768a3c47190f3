//! Attention of new tokens over stored keys and values, for sequences of different lengths at once.
//!
//! Shapes: N new tokens of all sequences one behind the other, H query heads, K key/value heads, D head width. Keys and values of
//! a sequence lie in the rows of its slot, `[slots · capacity, K·D]`.

use burn::tensor::{Bool, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use rayon::prelude::*;
use temper_adapters::ops::simd::{exp_sum, max};
use temper_adapters::ops::{HostView, Matrix, Updated, rows_product};
use temper_adapters::vectorized;

use super::attention::{Heads, attend};
use super::rope::{Rope, rotate_half, rotate_head, table_tensor};

/// Some tokens that one sequence adds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) slot: usize,
    /// Tokens the slot holds before.
    pub(crate) past: usize,
    /// Index of the first new token among the N.
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// What one call adds, for all blocks alike.
#[derive(Debug)]
pub(crate) struct CachedStep {
    spans: Vec<Span>,
    capacity: usize,
    /// Of each new token: the row of its key, and how many keys it attends.
    rows: Vec<usize>,
    seen: Vec<usize>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    composed: Option<ComposedStep>,
}

/// What the composed form needs on the device.
#[derive(Debug)]
struct ComposedStep {
    cos: Tensor<4>,
    sin: Tensor<4>,
    rows: Tensor<1, Int>,
    groups: Vec<Group>,
}

/// Spans that attend in one call: single tokens of several slots, or the tokens of one.
#[derive(Debug)]
struct Group {
    /// The first new token, and how many.
    first: usize,
    count: usize,
    /// The slots `low .. low + slots`, of each its first `keys` tokens.
    low: usize,
    slots: usize,
    keys: usize,
    /// For single tokens: the slot of each, counted from `low`.
    places: Option<Tensor<1, Int>>,
    hidden: Tensor<4, Bool>,
}

impl CachedStep {
    pub(crate) fn new(
        spans: Vec<Span>,
        capacity: usize,
        rope: &Rope,
        device: &Device,
        host: bool,
    ) -> Self {
        let tokens = || {
            spans
                .iter()
                .flat_map(|span| (0..span.count).map(move |t| (span, t)))
        };
        let rows: Vec<usize> = tokens()
            .map(|(span, t)| span.slot * capacity + span.past + t)
            .collect();
        let positions: Vec<u32> = tokens().map(|(span, t)| (span.past + t) as u32).collect();
        let (cos, sin) = rope.table(&positions);
        let seen = tokens().map(|(span, t)| span.past + t + 1).collect();
        let composed = (!host).then(|| ComposedStep {
            cos: table_tensor(&cos, [1, rows.len()], device),
            sin: table_tensor(&sin, [1, rows.len()], device),
            rows: indices(rows.iter().copied(), device),
            groups: groups(&spans, device),
        });
        Self {
            spans,
            capacity,
            rows,
            seen,
            cos,
            sin,
            composed,
        }
    }

    /// Indices of the last new token of each span.
    pub(crate) fn last_tokens(&self, device: &Device) -> Tensor<1, Int> {
        indices(
            self.spans.iter().map(|span| span.first + span.count - 1),
            device,
        )
    }
}

fn indices(values: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.map(|value| value as i32).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

fn groups(spans: &[Span], device: &Device) -> Vec<Group> {
    spans
        .chunk_by(|a, b| a.count == 1 && b.count == 1)
        .map(|spans| {
            if spans[0].count == 1 {
                singles(spans, device)
            } else {
                prefill(spans[0], device)
            }
        })
        .collect()
}

fn singles(spans: &[Span], device: &Device) -> Group {
    let slots = || spans.iter().map(|span| span.slot);
    let low = slots().min().unwrap_or(0);
    let count = slots().max().unwrap_or(0) + 1 - low;
    let keys = spans.iter().map(|span| span.past + 1).max().unwrap_or(1);
    // A slot without a token attends its first key: its result is not used, and no row of scores is empty.
    let mut seen = vec![1; count];
    for span in spans {
        seen[span.slot - low] = span.past + 1;
    }
    let hidden: Vec<bool> = seen
        .iter()
        .flat_map(|&seen| (0..keys).map(move |key| key >= seen))
        .collect();
    Group {
        first: spans[0].first,
        count: spans.len(),
        low,
        slots: count,
        keys,
        places: Some(indices(slots().map(|slot| slot - low), device)),
        hidden: Tensor::from_data(TensorData::new(hidden, [count, 1, 1, keys]), device),
    }
}

fn prefill(span: Span, device: &Device) -> Group {
    let keys = span.past + span.count;
    let hidden: Vec<bool> = (0..span.count)
        .flat_map(|t| (0..keys).map(move |key| key > span.past + t))
        .collect();
    Group {
        first: span.first,
        count: span.count,
        low: span.slot,
        slots: 1,
        keys,
        places: None,
        hidden: Tensor::from_data(TensorData::new(hidden, [1, 1, span.count, keys]), device),
    }
}

/// Rotates `q: [N, H·D]` and `k: [N, K·D]`, stores `k` and `v: [N, K·D]` in `[slots · capacity · K·D]` each, and attends:
/// `[N, H·D]`. On `cpu` in f32 the result of a token depends on its own sequence alone, to the bit.
pub(crate) fn cached_attention(
    [q, k, v]: [Tensor<2>; 3],
    stored: &mut [Tensor<1>; 2],
    heads: Heads,
    step: &CachedStep,
) -> Tensor<2> {
    match &step.composed {
        Some(composed) => composed_attention([q, k, v], stored, heads, (step, composed)),
        None => host_attention([q, k, v], stored, heads, step),
    }
}

fn composed_attention(
    [q, k, v]: [Tensor<2>; 3],
    stored: &mut [Tensor<1>; 2],
    heads: Heads,
    (step, composed): (&CachedStep, &ComposedStep),
) -> Tensor<2> {
    let tokens = step.rows.len();
    let rotate = |x: Tensor<2>, count: usize| {
        let x = x.reshape([1, tokens, count, heads.width]).swap_dims(1, 2);
        rotate_half(x, &composed.cos, &composed.sin)
            .swap_dims(1, 2)
            .reshape([tokens, count * heads.width])
    };
    let (q, k) = (rotate(q, heads.query), rotate(k, heads.key_value));
    let [keys, values] = stored;
    let width = heads.key_value * heads.width;
    assign_rows(keys, k, width, &composed.rows);
    assign_rows(values, v, width, &composed.rows);
    let parts: Vec<Tensor<2>> = composed
        .groups
        .iter()
        .map(|group| {
            let [keys, values] =
                [&*keys, &*values].map(|all| group.stored(all, heads, step.capacity));
            let queries = group.queries(q.clone().narrow(0, group.first, group.count), heads);
            group.results(attend(queries, keys, values, group.hidden.clone()), heads)
        })
        .collect();
    Tensor::cat(parts, 0)
}

/// Writes rows of `width` values, in place where the device allows.
fn assign_rows(stored: &mut Tensor<1>, new: Tensor<2>, width: usize, rows: &Tensor<1, Int>) {
    let empty = Tensor::empty([0], &new.device());
    let all = std::mem::replace(stored, empty);
    let values = all.dims()[0];
    let all = all.reshape([values / width, width]);
    *stored = all
        .select_assign(0, rows.clone(), new, IndexingUpdateOp::Assign)
        .reshape([values]);
}

impl Group {
    /// `[slots, K, keys, D]` of this group.
    fn stored(&self, all: &Tensor<1>, heads: Heads, capacity: usize) -> Tensor<4> {
        let total = all.dims()[0] / (capacity * heads.key_value * heads.width);
        all.clone()
            .reshape([total, capacity, heads.key_value, heads.width])
            .narrow(0, self.low, self.slots)
            .narrow(1, 0, self.keys)
            .swap_dims(1, 2)
    }

    /// `[slots, H, tokens a slot, D]`; slots without a token get zeros.
    fn queries(&self, q: Tensor<2>, heads: Heads) -> Tensor<4> {
        match &self.places {
            None => q
                .reshape([1, self.count, heads.query, heads.width])
                .swap_dims(1, 2),
            Some(places) => {
                let width = heads.query * heads.width;
                let all = Tensor::zeros([self.slots, width], (&q.device(), q.dtype()));
                let all = all.select_assign(0, places.clone(), q, IndexingUpdateOp::Assign);
                all.reshape([self.slots, heads.query, 1, heads.width])
            }
        }
    }

    fn results(&self, output: Tensor<4>, heads: Heads) -> Tensor<2> {
        let width = heads.query * heads.width;
        match &self.places {
            None => output.swap_dims(1, 2).reshape([self.count, width]),
            Some(places) => output
                .reshape([self.slots, width])
                .select(0, places.clone()),
        }
    }
}

fn host_attention(
    [q, k, v]: [Tensor<2>; 3],
    stored: &mut [Tensor<1>; 2],
    heads: Heads,
    step: &CachedStep,
) -> Tensor<2> {
    let rotated = |x: Tensor<2>, count: usize| {
        let Some(values) = HostView::view(&x) else {
            unreachable!("all tensors of a step share a device")
        };
        let mut values = values.as_slice().to_vec();
        rotate_rows(&mut values, count * heads.width, step);
        values
    };
    let (q, k) = (rotated(q, heads.query), rotated(k, heads.key_value));
    let Some(v) = HostView::view(&v) else {
        unreachable!("all tensors of a step share a device")
    };
    let width = heads.key_value * heads.width;
    let [keys, values] = stored;
    store_rows(keys, &k, width, &step.rows);
    store_rows(values, v.as_slice(), width, &step.rows);
    let (Some(keys), Some(values)) = (HostView::view(keys), HostView::view(values)) else {
        unreachable!("the cache is where its model is")
    };
    let stored = Stored {
        keys: keys.as_slice(),
        values: values.as_slice(),
        heads,
    };
    let group = heads.query / heads.key_value * heads.width;
    let mut output = vec![0.0; q.len()];
    // One piece of work a token and key head.
    output
        .par_chunks_mut(group)
        .enumerate()
        .for_each(|(index, output)| {
            let (token, head) = (index / heads.key_value, index % heads.key_value);
            let row = step.rows[token] + 1 - step.seen[token];
            let queries = &q[index * group..(index + 1) * group];
            stored.attend(queries, head, [row, step.seen[token]], output);
        });
    HostView::tensor(output, [step.rows.len(), heads.query * heads.width])
}

fn rotate_rows(values: &mut [f32], width: usize, step: &CachedStep) {
    let half = step.cos.len() / step.rows.len();
    values
        .par_chunks_mut(width)
        .enumerate()
        .for_each(|(token, row)| {
            let span = token * half..(token + 1) * half;
            rotate_row(row, &step.cos[span.clone()], &step.sin[span]);
        });
}

fn store_rows(stored: &mut Tensor<1>, new: &[f32], width: usize, rows: &[usize]) {
    let empty = Tensor::empty([0], &stored.device());
    let write = |all: &mut [f32]| {
        for (new, &row) in new.chunks(width).zip(rows) {
            all[row * width..(row + 1) * width].copy_from_slice(new);
        }
    };
    match HostView::update(std::mem::replace(stored, empty), write) {
        Updated::Changed(tensor) => *stored = tensor,
        Updated::Elsewhere(_) => unreachable!("the cache is where its model is"),
    }
}

struct Stored<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    heads: Heads,
}

impl Stored<'_> {
    /// The queries of one token that share key head `head`, over `seen` keys from `row` on.
    fn attend(&self, queries: &[f32], head: usize, [row, seen]: [usize; 2], output: &mut [f32]) {
        let (width, stride) = (self.heads.width, self.heads.key_value * self.heads.width);
        let offset = row * stride + head * width;
        let keys = Matrix::rows(self.keys, offset, [seen, width], stride);
        let queries = Matrix::rows(queries, 0, [queries.len() / width, width], width);
        let mut scores = rows_product(queries, keys);
        let scale = (width as f32).sqrt().recip();
        for (scores, output) in scores.chunks_mut(seen).zip(output.chunks_mut(width)) {
            weigh(scores, scale, &self.values[offset..], stride, output);
        }
    }
}

vectorized! {
    fn rotate_row<'a>(row: &'a mut [f32], cos: &'a [f32], sin: &'a [f32]) -> () {
        for head in row.chunks_mut(2 * cos.len()) {
            rotate_head(head, cos, sin, false);
        }
    }

    /// Softmax of the scaled scores, and the sum of the values under these weights, key after key.
    fn weigh<'a>(scores: &'a mut [f32], scale: f32, values: &'a [f32], stride: usize, output: &'a mut [f32]) -> () {
        for score in &mut *scores {
            *score *= scale;
        }
        let top = max(scores);
        let total = exp_sum(scores, top) as f32;
        let width = output.len();
        for (weight, value) in scores.iter().zip(values.chunks(stride)) {
            for (output, value) in output.iter_mut().zip(&value[..width]) {
                *output += weight * value;
            }
        }
        for value in output {
            *value /= total;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    const HEADS: Heads = Heads {
        query: 4,
        key_value: 2,
        width: 6,
    };

    /// Slot, past and count of the spans of three calls on three slots of 8: prompts of 5 and 2 tokens, single tokens of both, then both
    /// kinds at once.
    const CALLS: [&[[usize; 3]]; 3] = [
        &[[2, 0, 5], [0, 0, 2]],
        &[[0, 2, 1], [2, 5, 1]],
        &[[2, 6, 1], [1, 0, 3], [0, 3, 1]],
    ];

    /// New queries, keys and values of each call.
    fn inputs(device: &Device) -> Vec<[Tensor<2>; 3]> {
        let call = |call: &&[[usize; 3]]| {
            let tokens = call.iter().map(|[_, _, count]| count).sum();
            [HEADS.query, HEADS.key_value, HEADS.key_value].map(|heads| {
                Tensor::random(
                    [tokens, heads * HEADS.width],
                    Distribution::Normal(0.0, 1.0),
                    device,
                )
            })
        };
        CALLS.iter().map(call).collect()
    }

    fn outputs(inputs: &[[Tensor<2>; 3]], host: bool, device: &Device) -> Vec<Vec<f32>> {
        let width = HEADS.key_value * HEADS.width;
        let mut stored = [0; 2].map(|_| Tensor::<1>::zeros([3 * 8 * width], device));
        let rope = Rope::new(HEADS.width, 1e4, None);
        let call = |(call, new): (&&[[usize; 3]], &[Tensor<2>; 3])| {
            let mut first = 0;
            let mut spans = Vec::new();
            for &[slot, past, count] in *call {
                spans.push(Span {
                    slot,
                    past,
                    first,
                    count,
                });
                first += count;
            }
            let step = CachedStep::new(spans, 8, &rope, device, host);
            let output = cached_attention(new.clone(), &mut stored, HEADS, &step);
            output.into_data().try_to_vec::<f32>().unwrap()
        };
        CALLS.iter().zip(inputs).map(call).collect()
    }

    #[test]
    fn host_loop_equals_the_composed_form_for_prompts_and_single_tokens_mixed() {
        let device = Device::flex();
        let inputs = inputs(&device);
        let [ours, composed] = [true, false].map(|host| outputs(&inputs, host, &device));
        for (ours, composed) in ours.into_iter().zip(composed) {
            let n = [ours.len()];
            TensorData::new(ours, n).assert_approx_eq(
                &TensorData::new(composed, n),
                Tolerance::<f32>::rel_abs(1e-4, 1e-5),
            );
        }
    }
}
