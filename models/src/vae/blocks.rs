//! Parts of encoder and decoder. Shapes: B images, C channels, H × W positions.

use burn::tensor::Tensor;
use burn::tensor::ops::PadMode;
use temper_adapters::{AdaptedConv2d, AdaptedLinear};

use super::VaeConfig;
use crate::ModelError;
use crate::layers::{Norm, Resnet, ResnetPlan, walked_by_parts};
use crate::names::Names;
use crate::ops::{attend_full, upsample_nearest};
use crate::weights::ParamSource;

/// Every norm of the autoencoder adds this to the variance.
pub(super) const EPS: f64 = 1e-6;

/// The plan of the residual block `name`, which has no time embedding.
pub(super) fn resnet(
    config: &VaeConfig,
    name: String,
    [inputs, outputs]: [usize; 2],
) -> ResnetPlan {
    ResnetPlan {
        name,
        inputs,
        outputs,
        time: None,
        groups: config.norm_num_groups,
        eps: EPS,
    }
}

/// Attention of every position over all positions, with one head: `x + to_out(softmax(Q Kᵀ / √C) V)` of the normalised `x`.
#[derive(Clone, Debug)]
struct Attention {
    group_norm: Norm,
    to_q: AdaptedLinear,
    to_k: AdaptedLinear,
    to_v: AdaptedLinear,
    to_out: AdaptedLinear,
    groups: usize,
}

impl Attention {
    fn build(source: &ParamSource<'_>, at: &str, groups: usize) -> Result<Self, ModelError> {
        let linear = |name: &str| source.linear(&format!("{at}.{name}"));
        Ok(Self {
            group_norm: Norm::build(source, &format!("{at}.group_norm"), EPS)?,
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            to_out: linear("to_out.0")?,
            groups,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, width, height, columns] = x.dims();
        let h = self
            .group_norm
            .group(x.clone(), self.groups, false)
            .reshape([batch, width, height * columns])
            .swap_dims(1, 2);
        let [q, k, v] =
            [&self.to_q, &self.to_k, &self.to_v].map(|linear| linear.forward(h.clone()));
        let scale = (width as f64).powf(-0.5);
        let h = self.to_out.forward(attend_full(q, k, v, 1, scale, false));
        x + h.swap_dims(1, 2).reshape([batch, width, height, columns])
    }
}

walked_by_parts!(Attention {
    group_norm,
    to_q,
    to_k,
    to_v,
    to_out
});

/// The middle: residual block, attention, residual block.
#[derive(Clone, Debug)]
pub(super) struct Mid {
    before: Resnet,
    attention: Option<Attention>,
    after: Resnet,
}

impl Mid {
    pub(super) fn tensors(config: &VaeConfig, at: &str, width: usize, names: &mut Names) {
        resnet(config, format!("{at}.resnets.0"), [width; 2]).tensors(names);
        if config.mid_block_add_attention {
            let at = |part: &str| format!("{at}.attentions.0.{part}");
            names.norm(&at("group_norm"), width);
            for part in ["to_q", "to_k", "to_v", "to_out.0"] {
                names.linear(&at(part), [width; 2]);
            }
        }
        resnet(config, format!("{at}.resnets.1"), [width; 2]).tensors(names);
    }

    pub(super) fn build(
        source: &ParamSource<'_>,
        config: &VaeConfig,
        at: &str,
        width: usize,
    ) -> Result<Self, ModelError> {
        let block = |i: usize| {
            let plan = resnet(config, format!("{at}.resnets.{i}"), [width; 2]);
            Resnet::build(source, &plan)
        };
        let attention = config.mid_block_add_attention.then(|| {
            Attention::build(
                source,
                &format!("{at}.attentions.0"),
                config.norm_num_groups,
            )
        });
        Ok(Self {
            before: block(0)?,
            attention: attention.transpose()?,
            after: block(1)?,
        })
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self.before.forward(x, None);
        let h = match &self.attention {
            Some(attention) => attention.forward(h),
            None => h,
        };
        self.after.forward(h, None)
    }
}

walked_by_parts!(Mid {
    before,
    attention,
    after
});

/// The sizes of one level.
#[derive(Clone, Debug)]
pub(super) struct LevelPlan {
    /// Its path in the model.
    pub(super) name: String,
    /// Its residual blocks.
    pub(super) resnets: Vec<ResnetPlan>,
    /// What follows them.
    pub(super) resize: Resize,
}

/// How a level changes the resolution after its residual blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resize {
    /// Not at all.
    Keep,
    /// A convolution of stride 2 over an image padded by one to the right and below.
    Half,
    /// Every pixel becomes 2 × 2, then a convolution.
    Double,
}

impl LevelPlan {
    fn width(&self) -> usize {
        self.resnets.last().map_or(0, |plan| plan.outputs)
    }

    fn conv(&self) -> Option<String> {
        match self.resize {
            Resize::Keep => None,
            Resize::Half => Some(format!("{}.downsamplers.0.conv", self.name)),
            Resize::Double => Some(format!("{}.upsamplers.0.conv", self.name)),
        }
    }

    /// Its tensors.
    pub(super) fn tensors(&self, names: &mut Names) {
        self.resnets.iter().for_each(|plan| plan.tensors(names));
        if let Some(conv) = self.conv() {
            names.conv(&conv, [self.width(); 2], 3);
        }
    }
}

/// One level: residual blocks, and on every level but the last a change of resolution.
#[derive(Clone, Debug)]
pub(super) struct Level {
    resnets: Vec<Resnet>,
    resize: Resize,
    conv: Option<AdaptedConv2d>,
}

impl Level {
    pub(super) fn build(source: &ParamSource<'_>, plan: &LevelPlan) -> Result<Self, ModelError> {
        let [stride, padding] = if plan.resize == Resize::Half {
            [2, 0]
        } else {
            [1, 1]
        };
        let conv = plan.conv().map(|conv| source.conv(&conv, stride, padding));
        let resnets = plan.resnets.iter().map(|plan| Resnet::build(source, plan));
        Ok(Self {
            resnets: resnets.collect::<Result<_, _>>()?,
            resize: plan.resize,
            conv: conv.transpose()?,
        })
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self
            .resnets
            .iter()
            .fold(x, |h, resnet| resnet.forward(h, None));
        let Some(conv) = &self.conv else {
            return h;
        };
        if self.resize == Resize::Half {
            return conv.forward(h.pad((0, 1, 0, 1), PadMode::Constant(0.0)));
        }
        let [_, _, height, width] = h.dims();
        conv.forward(upsample_nearest(h, [2 * height, 2 * width]))
    }
}

walked_by_parts!(Level { resnets, conv });
