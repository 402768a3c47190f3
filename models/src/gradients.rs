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
    (wide(output) * Tensor::from_inner(wide(upstream)))
        .sum()
        .backward()
}

/// Adds the gradient of `param`, if there is one, to `sums`.
pub(crate) fn collect(
    param: &Param,
    gradients: &mut burn::tensor::Gradients,
    sums: &mut Gradients,
) {
    if let Some(gradient) = param.grad(gradients) {
        let sum = match sums.remove(param.name()) {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        sums.insert(param.name().to_owned(), sum);
    }
}

fn wide<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.dtype() == DType::F32 {
        tensor
    } else {
        tensor.cast(FloatDType::F32)
    }
}
