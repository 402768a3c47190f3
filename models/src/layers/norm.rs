//! Normalisation with a weight and a bias.

use burn::tensor::Tensor;
use temper_adapters::Param;

use super::walked_by_parts;
use crate::weights::ParamSource;
use crate::{ModelError, group_norm, layer_norm};

/// Weight and bias `[C]` of a group or layer normalisation, in f32.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    weight: Param,
    bias: Param,
    eps: f64,
}

impl Norm {
    /// The parameters `module.weight` and `module.bias`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(crate) fn build(source: &ParamSource, module: &str, eps: f64) -> Result<Self, ModelError> {
        Ok(Self {
            weight: source.param(&format!("{module}.weight"))?,
            bias: source.param(&format!("{module}.bias"))?,
            eps,
        })
    }

    /// Over `groups` groups of the channels of `x: [B, C, H, W]`; with `activate` followed by `SiLU`.
    pub(crate) fn group(&self, x: Tensor<4>, groups: usize, activate: bool) -> Tensor<4> {
        let (weight, bias) = (self.weight.get(), self.bias.get());
        group_norm(x, groups, self.eps, &weight, &bias, activate)
    }

    /// Over the last axis of `x: [B, T, C]`.
    pub(crate) fn layer(&self, x: Tensor<3>) -> Tensor<3> {
        layer_norm(x, &self.weight.get(), &self.bias.get(), self.eps)
    }
}

walked_by_parts!(Norm { weight, bias });
