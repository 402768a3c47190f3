//! Sums of gradients over micro-batches and segments.

use std::collections::BTreeMap;

use burn::tensor::{DType, FloatDType, Tensor};
use temper_adapters::Param;

/// Gradients by parameter name, flat, f32, plain.
pub type Gradients = BTreeMap<String, Tensor<1>>;

/// Back-propagates `upstream` (plain) from `output`, in f32: only the gradient of the product is used, and in f16 it may overflow.
pub(crate) fn backward_from<const D: usize>(
    output: Tensor<D>,
    upstream: Tensor<D>,
) -> burn::tensor::Gradients {
    pulled(output, upstream).backward()
}

/// A value whose gradients are those that `upstream` (plain) pulls back from `output`, in f32; the sum of several walks a graph that
/// they share once.
pub fn pulled<const D: usize>(output: Tensor<D>, upstream: Tensor<D>) -> Tensor<1> {
    (wide(output) * Tensor::from_inner(wide(upstream))).sum()
}

/// Adds the gradient of `param`, if there is one, to `sums`.
pub fn collect(param: &Param, gradients: &mut burn::tensor::Gradients, sums: &mut Gradients) {
    if let Some(gradient) = param.grad(gradients) {
        let sum = match sums.remove(param.name()) {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        sums.insert(param.name().to_owned(), sum);
    }
}

/// `tensor` in f32.
pub(crate) fn wide<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.dtype() == DType::F32 {
        tensor
    } else {
        tensor.cast(FloatDType::F32)
    }
}

/// `value` (plain) as a leaf of a new graph when its gradient is wanted, as a constant otherwise.
pub(crate) fn leaf<const D: usize>(value: Tensor<D>, wanted: bool) -> Tensor<D> {
    if wanted {
        Tensor::from_inner(value).require_grad()
    } else {
        value
    }
}

/// Whether a gradient flows into `tensor`.
pub(crate) fn tracked<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.is_autodiff() && tensor.is_tracked()
}

/// The sum of two gradients of which either may be missing.
pub(crate) fn add<const D: usize>(
    sum: Option<Tensor<D>>,
    gradient: Option<Tensor<D>>,
) -> Option<Tensor<D>> {
    match (sum, gradient) {
        (Some(sum), Some(gradient)) => Some(sum + gradient),
        (sum, gradient) => sum.or(gradient),
    }
}
