//! The residual block of diffusion `UNets` and autoencoders (`ResnetBlock2D` of diffusers).

use burn::tensor::Tensor;
use temper_adapters::{AdaptedConv2d, AdaptedLinear};

use super::{Norm, walked_by_parts};
use crate::ModelError;
use crate::names::Names;
use crate::weights::ParamSource;

/// `shortcut(x) + conv2(SiLU(GN(conv1(SiLU(GN(x))) + time_emb_proj(emb))))`.
#[derive(Clone, Debug)]
pub(crate) struct Resnet {
    norm1: Norm,
    conv1: AdaptedConv2d,
    time_emb_proj: Option<AdaptedLinear>,
    norm2: Norm,
    conv2: AdaptedConv2d,
    conv_shortcut: Option<AdaptedConv2d>,
    groups: usize,
}

/// The sizes of a residual block.
#[derive(Clone, Debug)]
pub(crate) struct ResnetPlan {
    /// Its path in the model.
    pub(crate) name: String,
    /// Channels that come in.
    pub(crate) inputs: usize,
    /// Channels that go out.
    pub(crate) outputs: usize,
    /// Width of the time embedding; `None` without one.
    pub(crate) time: Option<usize>,
    /// Groups of the norms.
    pub(crate) groups: usize,
    /// Added to the variance.
    pub(crate) eps: f64,
}

impl ResnetPlan {
    /// Its tensors.
    pub(crate) fn tensors(&self, names: &mut Names) {
        let (c, d) = (self.inputs, self.outputs);
        let at = |part: &str| format!("{}.{part}", self.name);
        names.norm(&at("norm1"), c);
        names.conv(&at("conv1"), [d, c], 3);
        if let Some(time) = self.time {
            names.linear(&at("time_emb_proj"), [d, time]);
        }
        names.norm(&at("norm2"), d);
        names.conv(&at("conv2"), [d, d], 3);
        if c != d {
            names.conv(&at("conv_shortcut"), [d, c], 1);
        }
    }

    /// Values a pixel that the forward pass holds at its fullest: the input, and what a convolution reads and writes.
    pub(crate) fn values(&self) -> usize {
        self.inputs + self.outputs + self.inputs.max(self.outputs)
    }
}

impl Resnet {
    /// The block of `plan`.
    ///
    /// # Errors
    /// When a parameter cannot be read.
    pub(crate) fn build(source: &ParamSource, plan: &ResnetPlan) -> Result<Self, ModelError> {
        let at = |part: &str| format!("{}.{part}", plan.name);
        let time = plan.time.map(|_| source.linear(&at("time_emb_proj")));
        let shortcut = plan.inputs != plan.outputs;
        let shortcut = shortcut.then(|| source.conv(&at("conv_shortcut"), 1, 0));
        Ok(Self {
            norm1: Norm::build(source, &at("norm1"), plan.eps)?,
            conv1: source.conv(&at("conv1"), 1, 1)?,
            time_emb_proj: time.transpose()?,
            norm2: Norm::build(source, &at("norm2"), plan.eps)?,
            conv2: source.conv(&at("conv2"), 1, 1)?,
            conv_shortcut: shortcut.transpose()?,
            groups: plan.groups,
        })
    }

    /// `x: [B, C, H, W]` to `[B, D, H, W]`; `emb: [B, T]` is the time embedding after `SiLU`.
    pub(crate) fn forward(&self, x: Tensor<4>, emb: Option<&Tensor<2>>) -> Tensor<4> {
        let mut h = self
            .conv1
            .forward(self.norm1.group(x.clone(), self.groups, true));
        if let (Some(project), Some(emb)) = (&self.time_emb_proj, emb) {
            let shift = project.forward(emb.clone());
            let [batch, channels] = shift.dims();
            h = h + shift.reshape([batch, channels, 1, 1]);
        }
        let h = self.conv2.forward(self.norm2.group(h, self.groups, true));
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x) + h,
            None => x + h,
        }
    }
}

walked_by_parts!(Resnet {
    norm1,
    conv1,
    time_emb_proj,
    norm2,
    conv2,
    conv_shortcut
});
