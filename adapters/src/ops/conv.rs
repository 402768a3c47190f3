//! Two-dimensional convolution with weights as checkpoints store them.

use burn::tensor::Tensor;
use burn::tensor::module::conv2d as burn_conv2d;
use burn::tensor::ops::ConvOptions;

/// `x: [B, in, H, W]`, `weight: [out, in, kh, kw]`, `bias: [out]` to `[B, out, H', W']` with `H' = (H + 2p − kh) / s + 1`.
/// One dtype for all.
pub fn conv2d(
    x: Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: [usize; 2],
    padding: [usize; 2],
) -> Tensor<4> {
    burn_conv2d(
        x,
        weight.clone(),
        bias,
        ConvOptions::new(stride, padding, [1, 1], 1),
    )
}
