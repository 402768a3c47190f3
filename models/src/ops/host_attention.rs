//! Attention on host memory, a block of queries at a time, so that no more than one block of scores a thread exists.
//!
//! The backward pass recomputes the scores from the saved log-sum-exp (FlashAttention, arXiv 2205.14135, alg. 4).

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use rayon::prelude::*;
use temper_adapters::ops::simd::{dot, exp, exp_sum, max};
use temper_adapters::ops::{HostView, Matrix, MatrixMut, erase, matmul_into, with_gradient};
use temper_adapters::vectorized;

use super::attention::{Heads, Layout};
use super::rope::rotate_head;

/// Queries a block. Scores of a block take 64·T floats.
const BLOCK: usize = 64;

/// Causal attention inside documents, with rotated queries and keys.
pub(super) fn attention(
    inputs: [Tensor<2>; 3],
    [q, k, v]: [HostView; 3],
    heads: Heads,
    layout: &Layout,
) -> Tensor<2> {
    let problem = Problem {
        heads,
        batch: layout.batch(),
        queries: layout.tokens(),
        keys: layout.tokens(),
        scale: (heads.width as f32).sqrt().recip(),
        seen: Seen::Documents(Arc::clone(&layout.starts)),
    };
    let q = rotated(q.as_slice(), heads, heads.query, layout, false);
    let k = rotated(k.as_slice(), heads, heads.key_value, layout, false);
    let rows = problem.outputs([&q, &k, v.as_slice()]);
    let output = HostView::tensor(problem.output(&rows), problem.shape(heads.query));
    let [q_input, k_input, v_input] = &inputs;
    let layout = layout.clone();
    with_gradient(output, [q_input, k_input, v_input], move |upstream, _| {
        let Some(dy) = HostView::view(&upstream) else {
            unreachable!("a gradient leaves its device")
        };
        let [dq, dk, dv] = problem.gradients([&q, &k, v.as_slice()], &rows, dy.as_slice());
        let dq = rotated(&dq, heads, heads.query, &layout, true);
        let dk = rotated(&dk, heads, heads.key_value, &layout, true);
        let tensor = |values, count| Some(erase(HostView::tensor(values, problem.shape(count))));
        [
            tensor(dq, heads.query),
            tensor(dk, heads.key_value),
            tensor(dv, heads.key_value),
        ]
    })
}

/// Attention of all queries of a row over its keys; with `causal`, over the keys up to their own place.
pub(super) fn attend_full(
    inputs: [Tensor<3>; 3],
    [q, k, v]: [HostView; 3],
    heads: usize,
    scale: f64,
    causal: bool,
) -> Tensor<3> {
    let ([batch, queries, width], [_, keys, _]) = (inputs[0].dims(), inputs[1].dims());
    let problem = Problem {
        heads: Heads {
            query: heads,
            key_value: heads,
            width: width / heads,
        },
        batch,
        queries,
        keys,
        scale: scale as f32,
        seen: if causal { Seen::Earlier } else { Seen::All },
    };
    let rows = problem.outputs([&q, &k, &v].map(HostView::as_slice));
    let output = HostView::tensor(problem.output(&rows), [batch, queries, width]);
    let [q_input, k_input, v_input] = &inputs;
    with_gradient(output, [q_input, k_input, v_input], move |upstream, _| {
        let Some(dy) = HostView::view(&upstream) else {
            unreachable!("a gradient leaves its device")
        };
        let values = [&q, &k, &v].map(HostView::as_slice);
        let [dq, dk, dv] = problem.gradients(values, &rows, dy.as_slice());
        let tensor =
            |values, tokens: usize| Some(erase(HostView::tensor(values, [batch, tokens, width])));
        [tensor(dq, queries), tensor(dk, keys), tensor(dv, keys)]
    })
}

/// A copy of `[N, count·D]` with every head rotated by the angles of its token.
fn rotated(
    values: &[f32],
    heads: Heads,
    count: usize,
    layout: &Layout,
    backwards: bool,
) -> Vec<f32> {
    let (width, half) = (heads.width, heads.width / 2);
    let mut output = values.to_vec();
    output
        .par_chunks_mut(count * width)
        .enumerate()
        .for_each(|(token, row)| {
            let span = token * half..(token + 1) * half;
            let (cos, sin) = (&layout.cos[span.clone()], &layout.sin[span]);
            rotate_row(row, width, [cos, sin], backwards);
        });
    output
}

/// Shapes: B rows, T queries a row, S keys a row.
struct Problem {
    heads: Heads,
    batch: usize,
    queries: usize,
    keys: usize,
    scale: f32,
    seen: Seen,
}

/// The keys that a query attends.
enum Seen {
    All,
    /// Those at its own place and before.
    Earlier,
    /// The same from the start of its document on; one entry a token of every row.
    Documents(Arc<[u32]>),
}

struct HeadOutput {
    /// `[T, D]`.
    output: Vec<f32>,
    /// `log Σ exp(score)` of each query.
    log_sum: Vec<f32>,
}

struct Saved<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    rows: &'a [HeadOutput],
    dy: &'a [f32],
}

/// Gradients of one key head `[S, D]` and of the query heads it serves, `[T, D]` each.
struct GroupGradient {
    dq: Vec<Vec<f32>>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// One block of queries of one head, and the keys any of them attends.
struct Block {
    first: usize,
    count: usize,
    low: usize,
    keys: usize,
}

impl Problem {
    /// `[N, count·D]` of the queries.
    fn shape(&self, count: usize) -> [usize; 2] {
        [self.batch * self.queries, count * self.heads.width]
    }

    /// What query `t` of row `b` attends.
    fn seen(&self, b: usize, t: usize) -> Range<usize> {
        match &self.seen {
            Seen::All => 0..self.keys,
            Seen::Earlier => 0..t + 1,
            Seen::Documents(starts) => starts[b * self.queries + t] as usize..t + 1,
        }
    }

    fn outputs(&self, [q, k, v]: [&[f32]; 3]) -> Vec<HeadOutput> {
        (0..self.batch * self.heads.query)
            .into_par_iter()
            .map(|index| self.forward(q, k, v, index))
            .collect()
    }

    fn output(&self, rows: &[HeadOutput]) -> Vec<f32> {
        self.gather(self.heads.query, self.queries, |index| &rows[index].output)
    }

    /// Gradients of queries, keys and values, each in the layout of its input.
    fn gradients(&self, [q, k, v]: [&[f32]; 3], rows: &[HeadOutput], dy: &[f32]) -> [Vec<f32>; 3] {
        let saved = Saved { q, k, v, rows, dy };
        let heads = self.heads;
        let groups: Vec<GroupGradient> = (0..self.batch * heads.key_value)
            .into_par_iter()
            .map(|index| self.backward(&saved, index))
            .collect();
        let members = heads.query / heads.key_value;
        let dq = self.gather(heads.query, self.queries, |index| {
            let (b, head) = (index / heads.query, index % heads.query);
            &groups[b * heads.key_value + head / members].dq[head % members]
        });
        let dk = self.gather(heads.key_value, self.keys, |index| &groups[index].dk);
        let dv = self.gather(heads.key_value, self.keys, |index| &groups[index].dv);
        [dq, dk, dv]
    }

    /// Some queries of head `head` of row `b` inside a `[B·T, H·D]` buffer.
    fn query_rows<'a>(&self, data: &'a [f32], [b, head]: [usize; 2], block: &Block) -> Matrix<'a> {
        let (stride, width) = (self.heads.query * self.heads.width, self.heads.width);
        let offset = (b * self.queries + block.first) * stride + head * width;
        Matrix::rows(data, offset, [block.count, width], stride)
    }

    /// The keys of a block inside a `[B·S, K·D]` buffer.
    fn key_rows<'a>(&self, data: &'a [f32], [b, head]: [usize; 2], block: &Block) -> Matrix<'a> {
        let (stride, width) = (self.heads.key_value * self.heads.width, self.heads.width);
        let offset = (b * self.keys + block.low) * stride + head * width;
        Matrix::rows(data, offset, [block.keys, width], stride)
    }

    /// `[B·count]` matrices `[tokens, D]` to `[B·tokens, count·D]`.
    fn gather<'a>(
        &self,
        count: usize,
        tokens: usize,
        part: impl Fn(usize) -> &'a Vec<f32> + Sync,
    ) -> Vec<f32> {
        let width = self.heads.width;
        let mut output = vec![0.0; self.batch * tokens * count * width];
        output
            .par_chunks_mut(count * width)
            .enumerate()
            .for_each(|(token, row)| {
                let (b, t) = (token / tokens, token % tokens);
                for (head, target) in row.chunks_mut(width).enumerate() {
                    target.copy_from_slice(&part(b * count + head)[t * width..(t + 1) * width]);
                }
            });
        output
    }

    fn blocks(&self, b: usize) -> impl Iterator<Item = Block> + '_ {
        (0..self.queries).step_by(BLOCK).map(move |first| {
            let count = BLOCK.min(self.queries - first);
            let all = || (first..first + count).map(|t| self.seen(b, t));
            let low = all().map(|seen| seen.start).min().unwrap_or(0);
            let high = all().map(|seen| seen.end).max().unwrap_or(low);
            Block {
                first,
                count,
                low,
                keys: high - low,
            }
        })
    }

    /// What row `i` of a block attends, counted from the block's first key.
    fn seen_in(&self, b: usize, block: &Block, i: usize) -> Range<usize> {
        let seen = self.seen(b, block.first + i);
        seen.start - block.low..seen.end - block.low
    }

    /// Scaled scores of a block, `[count, keys]`.
    fn scores(
        &self,
        [q, k]: [&[f32]; 2],
        [b, query_head]: [usize; 2],
        block: &Block,
        scores: &mut Vec<f32>,
    ) {
        scores.resize(block.count * block.keys, 0.0);
        let key_head = query_head * self.heads.key_value / self.heads.query;
        let queries = self.query_rows(q, [b, query_head], block);
        let keys = self.key_rows(k, [b, key_head], block);
        let dst = &mut MatrixMut {
            data: scores,
            offset: 0,
            row_stride: block.keys,
        };
        matmul_into(dst, queries, keys.transposed(), self.scale, false);
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32], index: usize) -> HeadOutput {
        let (b, head) = (index / self.heads.query, index % self.heads.query);
        let width = self.heads.width;
        let key_head = head * self.heads.key_value / self.heads.query;
        let mut result = HeadOutput {
            output: vec![0.0; self.queries * width],
            log_sum: vec![0.0; self.queries],
        };
        let mut scores = Vec::new();
        for block in self.blocks(b) {
            self.scores([q, k], [b, head], &block, &mut scores);
            for (i, scores) in scores.chunks_mut(block.keys).enumerate() {
                result.log_sum[block.first + i] = softmax_row(scores, self.seen_in(b, &block, i));
            }
            let values = self.key_rows(v, [b, key_head], &block);
            let weights = Matrix::rows(&scores, 0, [block.count, block.keys], block.keys);
            let dst = &mut MatrixMut {
                data: &mut result.output,
                offset: block.first * width,
                row_stride: width,
            };
            matmul_into(dst, weights, values, 1.0, false);
        }
        result
    }

    fn backward(&self, saved: &Saved<'_>, index: usize) -> GroupGradient {
        let (b, key_head) = (index / self.heads.key_value, index % self.heads.key_value);
        let group = self.heads.query / self.heads.key_value;
        let width = self.heads.width;
        let mut result = GroupGradient {
            dq: Vec::new(),
            dk: vec![0.0; self.keys * width],
            dv: vec![0.0; self.keys * width],
        };
        for member in 0..group {
            let mut dq = vec![0.0; self.queries * width];
            self.backward_head(
                saved,
                [b, key_head, key_head * group + member],
                &mut dq,
                &mut result,
            );
            result.dq.push(dq);
        }
        result
    }

    fn backward_head(
        &self,
        saved: &Saved<'_>,
        [b, key_head, head]: [usize; 3],
        dq: &mut [f32],
        sums: &mut GroupGradient,
    ) {
        let width = self.heads.width;
        let row = &saved.rows[b * self.heads.query + head];
        let (mut weights, mut slopes) = (Vec::new(), Vec::new());
        for block in self.blocks(b) {
            self.scores([saved.q, saved.k], [b, head], &block, &mut weights);
            slopes.resize(weights.len(), 0.0);
            let dy = self.query_rows(saved.dy, [b, head], &block);
            let values = self.key_rows(saved.v, [b, key_head], &block);
            let dst = &mut MatrixMut {
                data: &mut slopes,
                offset: 0,
                row_stride: block.keys,
            };
            matmul_into(dst, dy, values.transposed(), 1.0, false);
            self.slopes(b, &block, [&mut weights, &mut slopes], dy, row);
            let p = Matrix::rows(&weights, 0, [block.count, block.keys], block.keys);
            let ds = Matrix { data: &slopes, ..p };
            let keys = self.key_rows(saved.k, [b, key_head], &block);
            let queries = self.query_rows(saved.q, [b, head], &block);
            let at = |data, row: usize| MatrixMut {
                data,
                offset: row * width,
                row_stride: width,
            };
            matmul_into(&mut at(dq, block.first), ds, keys, self.scale, false);
            matmul_into(
                &mut at(&mut sums.dk, block.low),
                ds.transposed(),
                queries,
                self.scale,
                true,
            );
            matmul_into(
                &mut at(&mut sums.dv, block.low),
                p.transposed(),
                dy,
                1.0,
                true,
            );
        }
    }

    /// Scores and `dP` of a block to probabilities and `dS`.
    fn slopes(
        &self,
        b: usize,
        block: &Block,
        [weights, slopes]: [&mut [f32]; 2],
        dy: Matrix<'_>,
        row: &HeadOutput,
    ) {
        let width = self.heads.width;
        for i in 0..block.count {
            let t = block.first + i;
            let dy_row = &dy.data[dy.offset + i * dy.row_stride..][..width];
            let delta = wide_dot(dy_row, &row.output[t * width..(t + 1) * width]);
            let span = i * block.keys..(i + 1) * block.keys;
            score_gradient(
                &mut weights[span.clone()],
                &mut slopes[span],
                self.seen_in(b, block, i),
                [row.log_sum[t], delta],
            );
        }
    }
}

vectorized! {
    fn rotate_row<'a>(row: &'a mut [f32], width: usize, angles: [&'a [f32]; 2], backwards: bool) -> () {
        for head in row.chunks_mut(width) {
            rotate_head(head, angles[0], angles[1], backwards);
        }
    }

    fn wide_dot<'a>(a: &'a [f32], b: &'a [f32]) -> f32 {
        dot(a, b)
    }

    /// Softmax over the keys `seen`, zero elsewhere; returns the log of the sum.
    fn softmax_row<'a>(scores: &'a mut [f32], seen: Range<usize>) -> f32 {
        let (first, last) = (seen.start, seen.end);
        scores[..first].fill(0.0);
        scores[last..].fill(0.0);
        let row = &mut scores[first..last];
        let top = max(row);
        let total = exp_sum(row, top) as f32;
        let scale = 1.0 / total;
        for value in row {
            *value *= scale;
        }
        top + total.ln()
    }

    /// `weights`: scores to probabilities; `slopes`: `dP` to `dS = P (dP − δ)`, both zero outside `seen`. `sums`: log-sum-exp and δ.
    fn score_gradient<'a>(weights: &'a mut [f32], slopes: &'a mut [f32], seen: Range<usize>, sums: [f32; 2]) -> () {
        let (first, last) = (seen.start, seen.end);
        for outside in [&mut *weights, &mut *slopes] {
            outside[..first].fill(0.0);
            outside[last..].fill(0.0);
        }
        for (weight, slope) in weights[first..last].iter_mut().zip(&mut slopes[first..last]) {
            *weight = exp(*weight - sums[0]);
            *slope = *weight * (*slope - sums[1]);
        }
    }
}
