//! Attention over pixels and text (`Transformer2DModel` of diffusers).
//!
//! Shapes: B images, C channels, T = H·W pixels, S text tokens, D text width.

use burn::tensor::{FloatDType, Tensor};
use temper_adapters::{AdaptedConv2d, AdaptedLinear};

use super::plan::TransformerPlan;
use crate::layers::{Norm, Part, PartMut, Parts, walked_by_parts};
use crate::weights::ParamSource;
use crate::{ModelError, attend_full, geglu};

/// Epsilon of the norm before the projection, which no configuration changes.
const GROUP_EPS: f64 = 1e-6;
/// Epsilon of the norms inside a block.
const LAYER_EPS: f64 = 1e-5;

/// Attention of pixels to pixels or to text.
#[derive(Clone, Debug)]
struct Attention {
    to_q: AdaptedLinear,
    to_k: AdaptedLinear,
    to_v: AdaptedLinear,
    to_out: AdaptedLinear,
    heads: usize,
    upcast: bool,
}

impl Attention {
    fn build(source: &ParamSource, name: &str, plan: &TransformerPlan) -> Result<Self, ModelError> {
        let linear = |part: &str| source.linear(&format!("{name}.{part}"));
        Ok(Self {
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            to_out: linear("to_out.0")?,
            heads: plan.heads,
            upcast: plan.upcast,
        })
    }

    /// `x: [B, T, C]` looks at `context: [B, S, D]`.
    fn forward(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let dtype = x.dtype();
        let q = self.to_q.forward(x);
        let k = self.to_k.forward(context.clone());
        let v = self.to_v.forward(context);
        let [q, k, v] = if self.upcast {
            [q, k, v].map(|x| x.cast(FloatDType::F32))
        } else {
            [q, k, v]
        };
        let width = q.dims()[2] / self.heads;
        let scale = (width as f64).powf(-0.5);
        let output = attend_full(q, k, v, self.heads, scale, false);
        self.to_out.forward(output.cast(dtype))
    }
}

walked_by_parts!(Attention {
    to_q,
    to_k,
    to_v,
    to_out
});

/// Attention to the picture, attention to the text, feed-forward, each on a normalised copy of the residual stream.
#[derive(Clone, Debug)]
struct TransformerBlock {
    norm1: Norm,
    attn1: Attention,
    norm2: Norm,
    attn2: Attention,
    norm3: Norm,
    proj: AdaptedLinear,
    out: AdaptedLinear,
    only_cross: bool,
}

impl TransformerBlock {
    fn build(source: &ParamSource, name: &str, plan: &TransformerPlan) -> Result<Self, ModelError> {
        let at = |part: &str| format!("{name}.{part}");
        let norm = |part: &str| Norm::build(source, &at(part), LAYER_EPS);
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: Attention::build(source, &at("attn1"), plan)?,
            norm2: norm("norm2")?,
            attn2: Attention::build(source, &at("attn2"), plan)?,
            norm3: norm("norm3")?,
            proj: source.linear(&at("ff.net.0.proj"))?,
            out: source.linear(&at("ff.net.2"))?,
            only_cross: plan.only_cross,
        })
    }

    fn forward(&self, x: Tensor<3>, text: &Tensor<3>) -> Tensor<3> {
        let h = self.norm1.layer(x.clone());
        let seen = if self.only_cross {
            text.clone()
        } else {
            h.clone()
        };
        let x = x + self.attn1.forward(h, seen);
        let h = self.norm2.layer(x.clone());
        let x = x + self.attn2.forward(h, text.clone());
        let h = self.norm3.layer(x.clone());
        x + self.out.forward(geglu(self.proj.forward(h)))
    }
}

walked_by_parts!(TransformerBlock {
    norm1,
    attn1,
    norm2,
    attn2,
    norm3,
    proj,
    out
});

/// `proj_in` or `proj_out`: a 1 × 1 convolution before flattening (SD 1.x), or a linear layer after it.
#[derive(Clone, Debug)]
enum Projection {
    Conv(AdaptedConv2d),
    Linear(AdaptedLinear),
}

impl Projection {
    fn build(source: &ParamSource, name: &str, linear: bool) -> Result<Self, ModelError> {
        Ok(if linear {
            Self::Linear(source.linear(name)?)
        } else {
            Self::Conv(source.conv(name, 1, 0)?)
        })
    }
}

impl Parts for Projection {
    fn parts(&self, visit: &mut dyn FnMut(Part<'_>)) {
        match self {
            Self::Conv(conv) => conv.parts(visit),
            Self::Linear(linear) => linear.parts(visit),
        }
    }

    fn parts_mut(&mut self, visit: &mut dyn FnMut(PartMut<'_>)) {
        match self {
            Self::Conv(conv) => conv.parts_mut(visit),
            Self::Linear(linear) => linear.parts_mut(visit),
        }
    }
}

/// Transformer blocks over the pixels of a picture, added to it.
#[derive(Clone, Debug)]
pub(super) struct Transformer {
    norm: Norm,
    proj_in: Projection,
    blocks: Vec<TransformerBlock>,
    proj_out: Projection,
    groups: usize,
}

impl Transformer {
    pub(super) fn build(source: &ParamSource, plan: &TransformerPlan) -> Result<Self, ModelError> {
        let at = |part: &str| format!("{}.{part}", plan.name);
        let block = |k: usize| {
            let name = at(&format!("transformer_blocks.{k}"));
            TransformerBlock::build(source, &name, plan)
        };
        Ok(Self {
            norm: Norm::build(source, &at("norm"), GROUP_EPS)?,
            proj_in: Projection::build(source, &at("proj_in"), plan.linear)?,
            blocks: (0..plan.depth).map(block).collect::<Result<_, _>>()?,
            proj_out: Projection::build(source, &at("proj_out"), plan.linear)?,
            groups: plan.groups,
        })
    }

    /// `x: [B, C, H, W]` with `text: [B, S, D]` to `[B, C, H, W]`.
    pub(super) fn forward(&self, x: Tensor<4>, text: &Tensor<3>) -> Tensor<4> {
        let shape = x.dims();
        let h = self.norm.group(x.clone(), self.groups, false);
        let mut h = match &self.proj_in {
            Projection::Conv(conv) => to_tokens(conv.forward(h)),
            Projection::Linear(linear) => linear.forward(to_tokens(h)),
        };
        for block in &self.blocks {
            h = block.forward(h, text);
        }
        let h = match &self.proj_out {
            Projection::Conv(conv) => conv.forward(to_picture(h, shape)),
            Projection::Linear(linear) => to_picture(linear.forward(h), shape),
        };
        x + h
    }
}

/// `[B, C, H, W]` to `[B, H·W, C]`.
fn to_tokens(x: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height * width]).swap_dims(1, 2)
}

/// `[B, H·W, C]` to `[B, C, H, W]`.
fn to_picture(x: Tensor<3>, shape: [usize; 4]) -> Tensor<4> {
    x.swap_dims(1, 2).reshape(shape)
}

walked_by_parts!(Transformer {
    norm,
    proj_in,
    blocks,
    proj_out
});
