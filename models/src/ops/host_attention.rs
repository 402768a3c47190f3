//! Attention on host memory, a block of queries at a time, so that no more than one block of scores exists.
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

pub(super) fn attention(
    inputs: [Tensor<2>; 3],
    [q, k, v]: [HostView; 3],
    heads: Heads,
    layout: &Layout,
) -> Tensor<2> {
    let problem = Arc::new(Problem {
        heads,
        layout: layout.clone(),
    });
    let q = problem.rotated(q.as_slice(), heads.query, false);
    let k = problem.rotated(k.as_slice(), heads.key_value, false);
    let rows: Vec<HeadOutput> = (0..layout.batch() * heads.query)
        .into_par_iter()
        .map(|index| problem.forward(&q, &k, v.as_slice(), index))
        .collect();
    let output = problem.gather(heads.query, |index| &rows[index].output);
    let width = heads.query * heads.width;
    let output = HostView::tensor(output, [layout.batch() * layout.tokens(), width]);
    let [q_input, k_input, v_input] = &inputs;
    with_gradient(output, [q_input, k_input, v_input], move |upstream, _| {
        let Some(dy) = HostView::view(&upstream) else {
            unreachable!("a gradient leaves its device")
        };
        let saved = Saved {
            q: &q,
            k: &k,
            v: v.as_slice(),
            rows: &rows,
            dy: dy.as_slice(),
        };
        let groups: Vec<GroupGradient> = (0..problem.layout.batch() * heads.key_value)
            .into_par_iter()
            .map(|index| problem.backward(&saved, index))
            .collect();
        problem.collect_gradients(&groups)
    })
}

struct Problem {
    heads: Heads,
    layout: Layout,
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

/// Gradients of one key head and of the query heads it serves, `[T, D]` each.
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
    fn tokens(&self) -> usize {
        self.layout.tokens()
    }

    /// The start of what query `t` of row `b` attends.
    fn start(&self, b: usize, t: usize) -> usize {
        self.layout.starts[b * self.tokens() + t] as usize
    }

    fn scale(&self) -> f32 {
        (self.heads.width as f32).sqrt().recip()
    }

    /// A copy of `[N, count·D]` with every head rotated by the angles of its token.
    fn rotated(&self, values: &[f32], count: usize, backwards: bool) -> Vec<f32> {
        let (width, half) = (self.heads.width, self.heads.width / 2);
        let mut output = values.to_vec();
        output
            .par_chunks_mut(count * width)
            .enumerate()
            .for_each(|(token, row)| {
                let span = token * half..(token + 1) * half;
                let (cos, sin) = (&self.layout.cos[span.clone()], &self.layout.sin[span]);
                rotate_row(row, width, [cos, sin], backwards);
            });
        output
    }

    /// Head `head` of row `b` inside a `[N, count·D]` buffer.
    fn head<'a>(
        &self,
        data: &'a [f32],
        b: usize,
        head: usize,
        count: usize,
        [first, rows]: [usize; 2],
    ) -> Matrix<'a> {
        let stride = count * self.heads.width;
        let offset = (b * self.tokens() + first) * stride + head * self.heads.width;
        Matrix::rows(data, offset, [rows, self.heads.width], stride)
    }

    /// `[B·count]` matrices `[T, D]` to `[N, count·D]`.
    fn gather<'a>(&self, count: usize, part: impl Fn(usize) -> &'a Vec<f32> + Sync) -> Vec<f32> {
        let (tokens, width) = (self.tokens(), self.heads.width);
        let mut output = vec![0.0; self.layout.batch() * tokens * count * width];
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
        (0..self.tokens()).step_by(BLOCK).map(move |first| {
            let count = BLOCK.min(self.tokens() - first);
            let low = (first..first + count)
                .map(|t| self.start(b, t))
                .min()
                .unwrap_or(first);
            Block {
                first,
                count,
                low,
                keys: first + count - low,
            }
        })
    }

    /// Scaled scores of a block, `[count, keys]`.
    fn scores(
        &self,
        q: &[f32],
        k: &[f32],
        [b, query_head]: [usize; 2],
        block: &Block,
        scores: &mut Vec<f32>,
    ) {
        scores.resize(block.count * block.keys, 0.0);
        let key_head = query_head * self.heads.key_value / self.heads.query;
        let queries = self.head(
            q,
            b,
            query_head,
            self.heads.query,
            [block.first, block.count],
        );
        let keys = self.head(
            k,
            b,
            key_head,
            self.heads.key_value,
            [block.low, block.keys],
        );
        let dst = &mut MatrixMut {
            data: scores,
            offset: 0,
            row_stride: block.keys,
        };
        matmul_into(dst, queries, keys.transposed(), self.scale(), false);
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32], index: usize) -> HeadOutput {
        let (b, head) = (index / self.heads.query, index % self.heads.query);
        let width = self.heads.width;
        let key_head = head * self.heads.key_value / self.heads.query;
        let mut result = HeadOutput {
            output: vec![0.0; self.tokens() * width],
            log_sum: vec![0.0; self.tokens()],
        };
        let mut scores = Vec::new();
        for block in self.blocks(b) {
            self.scores(q, k, [b, head], &block, &mut scores);
            for (row, scores) in scores.chunks_mut(block.keys).enumerate() {
                let t = block.first + row;
                let seen = self.start(b, t) - block.low..t + 1 - block.low;
                result.log_sum[t] = softmax_row(scores, seen);
            }
            let values = self.head(
                v,
                b,
                key_head,
                self.heads.key_value,
                [block.low, block.keys],
            );
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
        let size = self.tokens() * self.heads.width;
        let mut result = GroupGradient {
            dq: Vec::new(),
            dk: vec![0.0; size],
            dv: vec![0.0; size],
        };
        for member in 0..group {
            let mut dq = vec![0.0; size];
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
            let span = [block.first, block.count];
            self.scores(saved.q, saved.k, [b, head], &block, &mut weights);
            slopes.resize(weights.len(), 0.0);
            let dy = self.head(saved.dy, b, head, self.heads.query, span);
            let values = self.head(
                saved.v,
                b,
                key_head,
                self.heads.key_value,
                [block.low, block.keys],
            );
            let dst = &mut MatrixMut {
                data: &mut slopes,
                offset: 0,
                row_stride: block.keys,
            };
            matmul_into(dst, dy, values.transposed(), 1.0, false);
            self.slopes(b, &block, [&mut weights, &mut slopes], dy, row);
            let p = Matrix::rows(&weights, 0, [block.count, block.keys], block.keys);
            let ds = Matrix { data: &slopes, ..p };
            let keys = self.head(
                saved.k,
                b,
                key_head,
                self.heads.key_value,
                [block.low, block.keys],
            );
            let queries = self.head(saved.q, b, head, self.heads.query, span);
            let at = |data, row: usize| MatrixMut {
                data,
                offset: row * width,
                row_stride: width,
            };
            matmul_into(&mut at(dq, block.first), ds, keys, self.scale(), false);
            matmul_into(
                &mut at(&mut sums.dk, block.low),
                ds.transposed(),
                queries,
                self.scale(),
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
            let seen = self.start(b, t) - block.low..t + 1 - block.low;
            let dy_row = &dy.data[dy.offset + i * dy.row_stride..][..width];
            let delta = wide_dot(dy_row, &row.output[t * width..(t + 1) * width]);
            let span = i * block.keys..(i + 1) * block.keys;
            score_gradient(
                &mut weights[span.clone()],
                &mut slopes[span],
                seen,
                [row.log_sum[t], delta],
            );
        }
    }

    /// Back to `[N, ·]`, with the rotation of queries and keys undone.
    fn collect_gradients(
        &self,
        groups: &[GroupGradient],
    ) -> temper_adapters::ops::InputGradients<3> {
        let (rows, heads) = (self.layout.batch() * self.tokens(), self.heads);
        let members = heads.query / heads.key_value;
        let dq = self.gather(heads.query, |index| {
            let (b, head) = (index / heads.query, index % heads.query);
            &groups[b * heads.key_value + head / members].dq[head % members]
        });
        let dk = self.gather(heads.key_value, |index| &groups[index].dk);
        let dv = self.gather(heads.key_value, |index| &groups[index].dv);
        let dq = self.rotated(&dq, heads.query, true);
        let dk = self.rotated(&dk, heads.key_value, true);
        let tensor = |values, count: usize| {
            Some(erase(HostView::tensor(values, [rows, count * heads.width])))
        };
        [
            tensor(dq, heads.query),
            tensor(dk, heads.key_value),
            tensor(dv, heads.key_value),
        ]
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
