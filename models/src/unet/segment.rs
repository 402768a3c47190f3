//! The steps of the forward pass over one hidden state and a stack of skips.
//!
//! Shapes: B images, C channels, H × W pixels, T width of the time embedding, S text tokens, D text width.

use burn::tensor::Tensor;
use temper_adapters::AdaptedConv2d;

use super::UnetConfig;
use super::plan::{LayerPlan, SegmentPlan};
use super::transformer::Transformer;
use crate::layers::{Norm, Part, PartMut, Parts, Resnet};
use crate::weights::ParamSource;
use crate::{ModelError, upsample_nearest};

/// What every segment may look at besides its input.
#[derive(Clone, Debug)]
pub(super) struct Conditions {
    /// The time embedding after `SiLU`, `[B, T]`.
    pub(super) emb: Tensor<2>,
    /// Text embeddings, `[B, S, D]`.
    pub(super) text: Tensor<3>,
    /// Added to the output of `conv_in`, `[B, C₀, H, W]`.
    pub(super) control: Option<Tensor<4>>,
}

/// What a segment computes.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "some dozens a model, and moved only while it is built"
)]
enum Layer {
    Input(AdaptedConv2d),
    Pair(Resnet, Option<Transformer>),
    Downsample(AdaptedConv2d),
    Upsample(AdaptedConv2d),
    Output(Norm, AdaptedConv2d),
}

/// One step: the unit of recomputation.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    layer: Layer,
    groups: usize,
    /// Its input is the hidden state and the skip on top of the stack, side by side.
    pub(super) pops: bool,
    /// Its output becomes a skip.
    pub(super) pushes: bool,
    /// The main module that is complete after it.
    pub(super) ends: Option<String>,
}

impl Segment {
    pub(super) fn build(
        source: &ParamSource,
        config: &UnetConfig,
        plan: SegmentPlan,
    ) -> Result<Self, ModelError> {
        let layer = match &plan.layer {
            LayerPlan::Input => Layer::Input(source.conv("conv_in", 1, 1)?),
            LayerPlan::Pair(resnet, attention) => {
                let attention = attention.as_ref();
                let attention = attention.map(|plan| Transformer::build(source, plan));
                Layer::Pair(Resnet::build(source, resnet)?, attention.transpose()?)
            }
            LayerPlan::Downsample(name, _) => Layer::Downsample(source.conv(name, 2, 1)?),
            LayerPlan::Upsample(name, _) => Layer::Upsample(source.conv(name, 1, 1)?),
            LayerPlan::Output => {
                let norm = Norm::build(source, "conv_norm_out", config.norm_eps)?;
                Layer::Output(norm, source.conv("conv_out", 1, 1)?)
            }
        };
        Ok(Self {
            layer,
            groups: config.norm_num_groups,
            pops: plan.pops,
            pushes: plan.pushes,
            ends: plan.ends,
        })
    }

    /// The output for `h: [B, C, H, W]`; `skip` is there when [`Self::pops`]; `size` is that of the next skip, to which an
    /// up-sampler goes.
    pub(super) fn forward(
        &self,
        h: Tensor<4>,
        skip: Option<Tensor<4>>,
        size: [usize; 2],
        conditions: &Conditions,
    ) -> Tensor<4> {
        match &self.layer {
            Layer::Input(conv) => match &conditions.control {
                Some(control) => conv.forward(h) + control.clone(),
                None => conv.forward(h),
            },
            Layer::Pair(resnet, attention) => {
                let x = match skip {
                    Some(skip) => Tensor::cat(vec![h, skip], 1),
                    None => h,
                };
                let h = resnet.forward(x, Some(&conditions.emb));
                match attention {
                    Some(attention) => attention.forward(h, &conditions.text),
                    None => h,
                }
            }
            Layer::Downsample(conv) => conv.forward(h),
            Layer::Upsample(conv) => conv.forward(upsample_nearest(h, size)),
            Layer::Output(norm, conv) => conv.forward(norm.group(h, self.groups, true)),
        }
    }

    /// Whether it looks at the time embedding.
    pub(super) fn sees_time(&self) -> bool {
        matches!(self.layer, Layer::Pair(..))
    }

    /// Whether it looks at the text.
    pub(super) fn sees_text(&self) -> bool {
        matches!(self.layer, Layer::Pair(_, Some(_)))
    }
}

impl Parts for Segment {
    fn parts(&self, visit: &mut dyn FnMut(Part<'_>)) {
        match &self.layer {
            Layer::Pair(resnet, attention) => {
                resnet.parts(visit);
                attention.parts(visit);
            }
            Layer::Output(norm, conv) => {
                norm.parts(visit);
                conv.parts(visit);
            }
            Layer::Input(conv) | Layer::Downsample(conv) | Layer::Upsample(conv) => {
                conv.parts(visit);
            }
        }
    }

    fn parts_mut(&mut self, visit: &mut dyn FnMut(PartMut<'_>)) {
        match &mut self.layer {
            Layer::Pair(resnet, attention) => {
                resnet.parts_mut(visit);
                attention.parts_mut(visit);
            }
            Layer::Output(norm, conv) => {
                norm.parts_mut(visit);
                conv.parts_mut(visit);
            }
            Layer::Input(conv) | Layer::Downsample(conv) | Layer::Upsample(conv) => {
                conv.parts_mut(visit);
            }
        }
    }
}
