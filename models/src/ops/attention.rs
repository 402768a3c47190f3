//! Causal attention with grouped keys over packed or padded documents (LLaMA 2, arXiv 2307.09288 §2.2), and the full self and
//! cross attention of image models.
//!
//! Shapes: B rows, T tokens a row, N = B·T, H query heads, K key/value heads, D head width, S cached keys.

use std::sync::{Arc, OnceLock};

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, FloatDType, Tensor, TensorData};
use temper_adapters::ops::HostView;

use super::host_attention;
use super::rope::{Rope, rotate_half, table_tensor};

/// Head counts and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads H.
    pub query: usize,
    /// Key and value heads K; divides H.
    pub key_value: usize,
    /// Width D of one head.
    pub width: usize,
}

/// Where the tokens of a micro-batch sit: their RoPE positions and which document they belong to.
///
/// Token `t` of a row attends the tokens `starts[t] ..= t` of that row. Documents packed into one row therefore never see each other,
/// and padding (`starts[t] = t`) sees only itself.
///
/// # Examples
/// ```
/// use temper_models::{Layout, Rope};
///
/// let layout = Layout::new([1, 4], &[0, 1, 0, 1], &[0, 0, 2, 2], &Rope::new(8, 1e4, None));
/// assert_eq!(layout.tokens(), 4);
/// ```
#[derive(Clone, Debug)]
pub struct Layout {
    batch: usize,
    tokens: usize,
    pub(crate) starts: Arc<[u32]>,
    pub(crate) cos: Arc<[f32]>,
    pub(crate) sin: Arc<[f32]>,
    composed: Arc<OnceLock<ComposedLayout>>,
}

/// What the composed form needs on the device.
#[derive(Debug)]
struct ComposedLayout {
    cos: Tensor<4>,
    sin: Tensor<4>,
    mask: Tensor<4, Bool>,
}

impl Layout {
    /// A layout of `[B, T]` tokens; `positions` and `starts` are row-major, columns counted in the row.
    ///
    /// # Panics
    /// When their lengths are not B·T, or a start lies after its token.
    pub fn new(
        [batch, tokens]: [usize; 2],
        positions: &[u32],
        starts: &[u32],
        rope: &Rope,
    ) -> Self {
        assert!(
            positions.len() == batch * tokens && starts.len() == batch * tokens,
            "one entry a token"
        );
        assert!(
            starts
                .iter()
                .enumerate()
                .all(|(i, &s)| s as usize <= i % tokens),
            "a document starts before its tokens"
        );
        let (cos, sin) = rope.table(positions);
        Self {
            batch,
            tokens,
            starts: starts.into(),
            cos: cos.into(),
            sin: sin.into(),
            composed: Arc::default(),
        }
    }

    /// Rows B.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens a row, T.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    fn composed(&self, device: &Device) -> &ComposedLayout {
        self.composed.get_or_init(|| {
            let shape = [self.batch, self.tokens];
            let hidden: Vec<bool> = self
                .starts
                .iter()
                .enumerate()
                .flat_map(|(i, &start)| {
                    let own = i % self.tokens;
                    (0..self.tokens).map(move |key| key > own || key < start as usize)
                })
                .collect();
            ComposedLayout {
                cos: table_tensor(&self.cos, shape, device),
                sin: table_tensor(&self.sin, shape, device),
                mask: Tensor::from_data(
                    TensorData::new(hidden, [self.batch, 1, self.tokens, self.tokens]),
                    device,
                ),
            }
        })
    }
}

/// Rotates queries and keys and attends: `q: [N, H·D]`, `k, v: [N, K·D]`, result `[N, H·D]`.
///
/// `softmax(Q Kᵀ / √D) V` (Vaswani et al. 2017, eq. 1), softmax in f32. On `cpu` neither pass holds more than one block of scores;
/// elsewhere the scores `[B, H, T, T]` are kept for the backward pass.
pub fn attention(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    heads: Heads,
    layout: &Layout,
) -> Tensor<2> {
    let views = (HostView::view(&q), HostView::view(&k), HostView::view(&v));
    if let (Some(q_values), Some(k_values), Some(v_values)) = views {
        return host_attention::attention([q, k, v], [q_values, k_values, v_values], heads, layout);
    }
    composed(q, k, v, heads, layout)
}

/// Attention with every key, `q: [B, T, H·D]`, `k, v: [B, S, H·D]` to `[B, T, H·D]`; with `causal`, over keys `0 ..= t` only.
///
/// `softmax(scale · Q Kᵀ) V`, softmax in f32. On `cpu` neither pass holds more than one block of scores a thread, and only the
/// result and one number a query are kept besides the inputs; elsewhere the scores `[B, H, T, S]` are kept.
///
/// # Panics
/// When the heads do not divide the width, or `causal` is asked for with T ≠ S.
pub fn attend_full(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    heads: usize,
    scale: f64,
    causal: bool,
) -> Tensor<3> {
    let ([_, queries, width], [_, keys, _]) = (q.dims(), k.dims());
    assert!(width.is_multiple_of(heads), "{heads} heads of {width}");
    assert!(!causal || queries == keys, "one key a query");
    let views = (HostView::view(&q), HostView::view(&k), HostView::view(&v));
    if let (Some(q_values), Some(k_values), Some(v_values)) = views {
        let values = [q_values, k_values, v_values];
        return host_attention::attend_full([q, k, v], values, heads, scale, causal);
    }
    full_composed([q, k, v], heads, scale, causal)
}

fn full_composed(inputs: [Tensor<3>; 3], heads: usize, scale: f64, causal: bool) -> Tensor<3> {
    let [batch, queries, width] = inputs[0].dims();
    let dtype = inputs[0].dtype();
    let device = super::plain(&inputs[0]).device();
    let [q, k, v] = inputs.map(|x| {
        let [_, tokens, _] = x.dims();
        x.reshape([batch, tokens, heads, width / heads])
            .swap_dims(1, 2)
    });
    let scores = q
        .matmul(k.transpose())
        .mul_scalar(scale)
        .cast(FloatDType::F32);
    let scores = if causal {
        let hidden: Vec<bool> = (0..queries)
            .flat_map(|t| (0..queries).map(move |key| key > t))
            .collect();
        let hidden = TensorData::new(hidden, [1, 1, queries, queries]);
        let hidden = Tensor::<4, Bool>::from_data(hidden, &device);
        let shape = scores.dims();
        scores.mask_fill(hidden.expand(shape), f32::NEG_INFINITY)
    } else {
        scores
    };
    let weights = softmax(scores, 3).cast(dtype);
    weights
        .matmul(v)
        .swap_dims(1, 2)
        .reshape([batch, queries, width])
}

fn composed(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: Heads, layout: &Layout) -> Tensor<2> {
    let device = super::plain(&q).device();
    let tables = layout.composed(&device);
    let [batch, tokens] = [layout.batch, layout.tokens];
    let split = |x: Tensor<2>, count: usize| {
        x.reshape([batch, tokens, count, heads.width])
            .swap_dims(1, 2)
    };
    let q = rotate_half(split(q, heads.query), &tables.cos, &tables.sin);
    let k = rotate_half(split(k, heads.key_value), &tables.cos, &tables.sin);
    let v = split(v, heads.key_value);
    let output = attend(q, k, v, tables.mask.clone());
    output
        .swap_dims(1, 2)
        .reshape([batch * tokens, heads.query * heads.width])
}

/// Attention of rotated queries over keys: `q: [B, H, T, D]`, `k, v: [B, K, S, D]`, `hidden: [B, 1, T, S]` (true = not attended).
pub fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, hidden: Tensor<4, Bool>) -> Tensor<4> {
    let [batch, query_heads, tokens, width] = q.dims();
    let [_, key_heads, keys, _] = k.dims();
    let group = query_heads / key_heads;
    // The queries of one group stand below each other: no key is repeated.
    let q = q.reshape([batch, key_heads, group * tokens, width]);
    let hidden = if group == 1 {
        hidden
    } else {
        hidden.repeat_dim(2, group)
    };
    let dtype = q.dtype();
    let scores = q
        .matmul(k.transpose())
        .mul_scalar((width as f64).powf(-0.5));
    let scores = scores.cast(FloatDType::F32).mask_fill(
        hidden.expand([batch, key_heads, group * tokens, keys]),
        f32::NEG_INFINITY,
    );
    let weights = softmax(scores, 3).cast(dtype);
    weights
        .matmul(v)
        .reshape([batch, query_heads, tokens, width])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::super::check::{compare, differences, flat};
    use super::*;

    fn check(heads: Heads, tokens: usize, starts: &[u32]) {
        let device = Device::flex().autodiff();
        device.seed(9);
        let batch = starts.len() / tokens;
        let random = |count: usize| {
            let shape = [batch * tokens, count * heads.width];
            Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device)
        };
        let [q, k, v] =
            [heads.query, heads.key_value, heads.key_value].map(|n| random(n).require_grad());
        let upstream = random(heads.query);
        let positions: Vec<u32> = starts
            .iter()
            .enumerate()
            .map(|(i, start)| (i % tokens) as u32 - start)
            .collect();
        let layout = Layout::new(
            [batch, tokens],
            &positions,
            starts,
            &Rope::new(heads.width, 1e4, None),
        );
        let ours = attention(q.clone(), k.clone(), v.clone(), heads, &layout);
        let reference = composed(q.clone(), k.clone(), v.clone(), heads, &layout);
        let tolerance = Tolerance::<f32>::rel_abs(1e-4, 2e-5);
        ours.clone()
            .inner()
            .into_data()
            .assert_approx_eq(&reference.clone().inner().into_data(), tolerance);
        let grads = (ours * upstream.clone()).sum().backward();
        let expected = (reference * upstream).sum().backward();
        for input in [&q, &k, &v] {
            let got = input.grad(&grads).expect("gradient").into_data();
            got.assert_approx_eq(
                &input.grad(&expected).expect("gradient").into_data(),
                Tolerance::<f32>::rel_abs(1e-3, 1e-4),
            );
        }
    }

    #[test]
    fn host_loop_equals_the_composed_form_and_its_gradients() {
        check(
            Heads {
                query: 3,
                key_value: 3,
                width: 8,
            },
            5,
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        );
    }

    #[test]
    fn grouped_keys_and_packed_documents_agree_with_the_composed_form() {
        let starts: Vec<u32> = (0..2)
            .flat_map(|row| {
                (0..150_u32).map(move |t| {
                    if t < 70 {
                        0
                    } else if t < 100 + row {
                        70
                    } else {
                        100 + row
                    }
                })
            })
            .collect();
        check(
            Heads {
                query: 4,
                key_value: 2,
                width: 6,
            },
            150,
            &starts,
        );
    }

    #[test]
    fn padding_sees_only_itself() {
        check(
            Heads {
                query: 2,
                key_value: 1,
                width: 4,
            },
            6,
            &[0, 0, 0, 3, 4, 5, 0, 1, 2, 2, 2, 2],
        );
    }

    #[test]
    fn full_attention_equals_the_composed_form_and_its_gradients() {
        // Self attention, cross attention with fewer keys than queries, a causal text; more than one block of queries.
        for (queries, keys, causal) in [(5, 5, false), (130, 7, false), (70, 70, true)] {
            let shaped = |x: &[Tensor<1>]| {
                let tokens = [queries, keys, keys];
                std::array::from_fn(|i| x[i].clone().reshape([2, tokens[i], 12]))
            };
            compare(
                &[2 * queries * 12, 2 * keys * 12, 2 * keys * 12],
                &|x| {
                    let [q, k, v] = shaped(x);
                    flat(attend_full(q, k, v, 3, 0.4, causal))
                },
                &|x| flat(full_composed(shaped(x), 3, 0.4, causal)),
            );
        }
    }

    #[test]
    fn full_attention_has_the_slopes_of_its_value() {
        for causal in [false, true] {
            differences(&[48, 48, 48], &|x| {
                let [q, k, v] = std::array::from_fn(|i| x[i].clone().reshape([2, 3, 8]));
                flat(attend_full(q, k, v, 2, 0.5, causal))
            });
        }
    }
}
