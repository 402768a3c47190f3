//! Operations of transformers, each with a host loop for `cpu` and a composed form for every other device.

mod attention;
mod cached;
mod cross_entropy;
mod host_attention;
mod norm;
mod rope;
mod swiglu;

pub use attention::{Heads, Layout, attend, attention};
pub use cross_entropy::{IGNORE, cross_entropy_sum};
pub use norm::rms_norm;
pub use rope::{Rope, RopeScaling};
pub use swiglu::swiglu;

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
