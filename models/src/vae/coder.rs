//! Encoder and decoder. Shapes: B images, Z latent channels, f = 2^(levels − 1).

use burn::tensor::Tensor;
use temper_adapters::AdaptedConv2d;

use super::VaeConfig;
use super::blocks::{EPS, Level, LevelPlan, Mid, Resize, resnet};
use crate::ModelError;
use crate::layers::{Norm, ResnetPlan, walked_by_parts};
use crate::names::Names;
use crate::weights::{ParamSource, Tensors};

/// Values that decoding one image of `pixels` latent pixels holds at its fullest, about.
pub(super) fn decode_values(config: &VaeConfig, mut pixels: u64) -> u64 {
    // Attention: the input, its norm, queries, keys and values.
    let mut most = 5 * pixels * config.inner_width() as u64;
    for level in up(config) {
        let widest = level.resnets.iter().map(ResnetPlan::values).max();
        most = most.max(pixels * widest.unwrap_or(0) as u64);
        if level.resize == Resize::Double {
            pixels *= 4;
            let width = level.resnets.last().map_or(0, |plan| plan.outputs);
            most = most.max(2 * pixels * width as u64);
        }
    }
    most
}

/// The levels of one side: `widths` outermost first in the encoder, innermost first in the decoder.
fn levels(
    config: &VaeConfig,
    side: &str,
    widths: &[usize],
    layers: usize,
    resize: Resize,
) -> Vec<LevelPlan> {
    let mut width = widths[0];
    let mut plans = Vec::with_capacity(widths.len());
    for (level, &next) in widths.iter().enumerate() {
        let name = format!("{side}.{level}");
        let mut block = |layer: usize| {
            let plan = resnet(config, format!("{name}.resnets.{layer}"), [width, next]);
            width = next;
            plan
        };
        let resnets = (0..layers).map(&mut block).collect();
        let last = level + 1 == widths.len();
        let resize = if last { Resize::Keep } else { resize };
        plans.push(LevelPlan {
            name,
            resnets,
            resize,
        });
    }
    plans
}

fn down(config: &VaeConfig) -> Vec<LevelPlan> {
    let widths = &config.block_out_channels;
    levels(
        config,
        "encoder.down_blocks",
        widths,
        config.layers_per_block,
        Resize::Half,
    )
}

fn up(config: &VaeConfig) -> Vec<LevelPlan> {
    let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
    levels(
        config,
        "decoder.up_blocks",
        &widths,
        config.layers_per_block + 1,
        Resize::Double,
    )
}

/// Every tensor, in the order of the forward pass.
pub(super) fn tensors(config: &VaeConfig) -> Tensors {
    let mut names = Names::default();
    let (first, inner) = (config.first_width(), config.inner_width());
    let z = config.latent_channels;
    names.conv("encoder.conv_in", [first, config.in_channels], 3);
    for plan in down(config) {
        plan.tensors(&mut names);
    }
    Mid::tensors(config, "encoder.mid_block", inner, &mut names);
    names.norm("encoder.conv_norm_out", inner);
    names.conv("encoder.conv_out", [2 * z, inner], 3);
    if config.use_quant_conv {
        names.conv("quant_conv", [2 * z; 2], 1);
    }
    if config.use_post_quant_conv {
        names.conv("post_quant_conv", [z; 2], 1);
    }
    names.conv("decoder.conv_in", [inner, z], 3);
    Mid::tensors(config, "decoder.mid_block", inner, &mut names);
    for plan in up(config) {
        plan.tensors(&mut names);
    }
    names.norm("decoder.conv_norm_out", first);
    names.conv("decoder.conv_out", [config.out_channels, first], 3);
    names.into_tensors()
}

/// Images to the mean and log-variance of their latents.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    conv_in: AdaptedConv2d,
    down_blocks: Vec<Level>,
    mid_block: Mid,
    conv_norm_out: Norm,
    conv_out: AdaptedConv2d,
    quant_conv: Option<AdaptedConv2d>,
    groups: usize,
}

impl Encoder {
    pub(super) fn build(source: &ParamSource<'_>, config: &VaeConfig) -> Result<Self, ModelError> {
        let levels = down(config);
        let levels = levels.iter().map(|plan| Level::build(source, plan));
        let quant_conv = config
            .use_quant_conv
            .then(|| source.conv("quant_conv", 1, 0));
        Ok(Self {
            conv_in: source.conv("encoder.conv_in", 1, 1)?,
            down_blocks: levels.collect::<Result<_, _>>()?,
            mid_block: Mid::build(source, config, "encoder.mid_block", config.inner_width())?,
            conv_norm_out: Norm::build(source, "encoder.conv_norm_out", EPS)?,
            conv_out: source.conv("encoder.conv_out", 1, 1)?,
            quant_conv: quant_conv.transpose()?,
            groups: config.norm_num_groups,
        })
    }

    /// `[B, 3, H, W]` to `[B, 2Z, H/f, W/f]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self.conv_in.forward(x);
        let h = self.down_blocks.iter().fold(h, |h, level| level.forward(h));
        let h = self.mid_block.forward(h);
        let h = self
            .conv_out
            .forward(self.conv_norm_out.group(h, self.groups, true));
        match &self.quant_conv {
            Some(conv) => conv.forward(h),
            None => h,
        }
    }
}

walked_by_parts!(Encoder {
    conv_in,
    down_blocks,
    mid_block,
    conv_norm_out,
    conv_out,
    quant_conv
});

/// Latents to images.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    post_quant_conv: Option<AdaptedConv2d>,
    conv_in: AdaptedConv2d,
    mid_block: Mid,
    up_blocks: Vec<Level>,
    conv_norm_out: Norm,
    conv_out: AdaptedConv2d,
    groups: usize,
}

impl Decoder {
    pub(super) fn build(source: &ParamSource<'_>, config: &VaeConfig) -> Result<Self, ModelError> {
        let levels = up(config);
        let levels = levels.iter().map(|plan| Level::build(source, plan));
        let post = config.use_post_quant_conv;
        let post_quant_conv = post.then(|| source.conv("post_quant_conv", 1, 0));
        Ok(Self {
            post_quant_conv: post_quant_conv.transpose()?,
            conv_in: source.conv("decoder.conv_in", 1, 1)?,
            mid_block: Mid::build(source, config, "decoder.mid_block", config.inner_width())?,
            up_blocks: levels.collect::<Result<_, _>>()?,
            conv_norm_out: Norm::build(source, "decoder.conv_norm_out", EPS)?,
            conv_out: source.conv("decoder.conv_out", 1, 1)?,
            groups: config.norm_num_groups,
        })
    }

    /// `[B, Z, h, w]` to `[B, 3, h·f, w·f]`.
    pub(super) fn forward(&self, z: Tensor<4>) -> Tensor<4> {
        let h = match &self.post_quant_conv {
            Some(conv) => conv.forward(z),
            None => z,
        };
        let h = self.mid_block.forward(self.conv_in.forward(h));
        let h = self.up_blocks.iter().fold(h, |h, level| level.forward(h));
        self.conv_out
            .forward(self.conv_norm_out.group(h, self.groups, true))
    }
}

walked_by_parts!(Decoder {
    post_quant_conv,
    conv_in,
    mid_block,
    up_blocks,
    conv_norm_out,
    conv_out
});
