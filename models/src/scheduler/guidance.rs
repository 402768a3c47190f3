//! Classifier-free guidance.

use burn::tensor::{DType, Tensor};

/// `uncond + scale · (cond − uncond)` (arXiv 2207.12598, eq. 6 with w = scale − 1), in f32. All `[B, C, H, W]`.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
///
/// let [uncond, cond] = [1.0, 3.0].map(|value| Tensor::<4>::full([1, 1, 1, 1], value, &Device::flex()));
/// assert_eq!(temper_models::guide(uncond, cond, 7.5).into_scalar::<f32>(), 16.0);
/// ```
pub fn guide(uncond: Tensor<4>, cond: Tensor<4>, scale: f64) -> Tensor<4> {
    let uncond = uncond.cast(DType::F32);
    uncond.clone() + (cond.cast(DType::F32) - uncond).mul_scalar(scale)
}

/// Guidance without overexposure (arXiv 2305.08891, eq. 15 and 16): `guided` with each sample's standard deviation moved to that
/// of `cond` by the share `phi` (0: unchanged, 0.7 is the paper's). All `[B, C, H, W]`, f32.
pub fn rescale_guidance(guided: Tensor<4>, cond: Tensor<4>, phi: f64) -> Tensor<4> {
    if phi == 0.0 {
        return guided;
    }
    let ratio = deviation(cond.cast(DType::F32)) / deviation(guided.clone());
    guided * (ratio.mul_scalar(phi) + (1.0 - phi))
}

/// Standard deviation over everything but the batch, with the divisor n − 1 of the reference: `[B, 1, 1, 1]`.
fn deviation(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let flat = x.reshape([batch, channels * height * width]);
    flat.var(1).sqrt().reshape([batch, 1, 1, 1])
}
