//! Operations of transformers and image models, each with a host loop for `cpu` and a composed form for every other device.

mod activation;
mod attention;
mod cached;
#[cfg(test)]
pub(crate) mod check;
mod cross_entropy;
mod group_norm;
mod host_attention;
mod layer_norm;
mod norm;
mod rope;
mod swiglu;
mod upsample;

pub use activation::{geglu, gelu_erf, quick_gelu, silu};
pub use attention::{Heads, Layout, attend, attend_full, attention};
pub use cross_entropy::{IGNORE, cross_entropy_sum};
pub use group_norm::group_norm;
pub use layer_norm::layer_norm;
pub use norm::rms_norm;
pub use rope::{Rope, RopeScaling};
pub use swiglu::swiglu;
pub use upsample::upsample_nearest;

pub(crate) use cached::{CachedStep, Span, cached_attention};

use burn::tensor::Tensor;

/// The value of a tensor outside any graph (no copy).
pub(crate) fn plain<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() {
        tensor.clone().inner()
    } else {
        tensor.clone()
    }
}
