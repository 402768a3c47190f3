//! Operations of diffusion models, composed of tensor operations.
//!
//! Shapes: B images, C channels, H × W pixels, T queries, S keys, F feed-forward width.

use burn::tensor::activation::{gelu, silu, softmax};
use burn::tensor::{DType, FloatDType, Tensor};

/// Group normalisation of `x: [B, C, H, W]` in f32, rounded to the dtype of `x`; with `activate` followed by SiLU.
pub(crate) fn group_norm(
    x: Tensor<4>,
    groups: usize,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    eps: f64,
    activate: bool,
) -> Tensor<4> {
    let (shape, dtype) = (x.dims(), x.dtype());
    let [batch, channels, height, width] = shape;
    let x = wide(x).reshape([batch, groups, channels / groups * height * width]);
    let normal = normalise(x, eps).reshape(shape);
    let per_channel = |v: &Tensor<1>| v.clone().reshape([1, channels, 1, 1]);
    let y = normal * per_channel(weight) + per_channel(bias);
    let y = if activate { silu(y) } else { y };
    y.cast(dtype)
}

/// Layer normalisation of `x: [B, T, C]` over the last axis, in f32, rounded to the dtype of `x`.
pub(crate) fn layer_norm(
    x: Tensor<3>,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    eps: f64,
) -> Tensor<3> {
    let dtype = x.dtype();
    let channels = weight.dims()[0];
    let all = |v: &Tensor<1>| v.clone().reshape([1, 1, channels]);
    (normalise(wide(x), eps) * all(weight) + all(bias)).cast(dtype)
}

/// `h · gelu(g)` of the halves `[h | g]` of `x: [B, T, 2F]`, with the exact (erf) gelu.
pub(crate) fn geglu(x: Tensor<3>) -> Tensor<3> {
    let width = x.dims()[2] / 2;
    let [h, g] = [0, width].map(|start| x.clone().narrow(2, start, width));
    h * gelu(g)
}

/// `softmax(Q Kᵀ / √D) V` for each head: `q: [B, T, C]`, `k, v: [B, S, C]`, result `[B, T, C]`; softmax in f32.
pub(crate) fn attend_full(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, channels] = q.dims();
    let (width, dtype) = (channels / heads, q.dtype());
    let split = |x: Tensor<3>| {
        let length = x.dims()[1];
        x.reshape([batch, length, heads, width]).swap_dims(1, 2)
    };
    let [q, k, v] = [q, k, v].map(split);
    let scores = q
        .matmul(k.transpose())
        .mul_scalar((width as f64).powf(-0.5));
    let weights = softmax(scores.cast(FloatDType::F32), 3).cast(dtype);
    let output = weights.matmul(v);
    output.swap_dims(1, 2).reshape([batch, tokens, channels])
}

/// `x: [B, C, H, W]` doubled by repeating pixels, cut to `[height, width]` (at most 2H × 2W).
pub(crate) fn upsample_nearest(x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    let doubled = x
        .reshape([b, c, h, 1, w, 1])
        .expand([b, c, h, 2, w, 2])
        .reshape([b, c, 2 * h, 2 * w]);
    doubled.narrow(2, 0, height).narrow(3, 0, width)
}

fn normalise(x: Tensor<3>, eps: f64) -> Tensor<3> {
    let x = x.clone() - x.mean_dim(2);
    let scale = (x.clone().square().mean_dim(2) + eps).sqrt().recip();
    x * scale
}

fn wide<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::F32 {
        x
    } else {
        x.cast(FloatDType::F32)
    }
}
