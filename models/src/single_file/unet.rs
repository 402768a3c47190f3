//! `input_blocks`, `middle_block` and `output_blocks` as levels of diffusers' UNet.

use serde_json::{Value, json};
use temper_adapters::weights::{Checkpoint, View};

use super::{Family, MOST, Part, UNET, dimension};
use crate::ModelError;

/// Where each numbered block of the file belongs.
struct Plan {
    /// Of `input_blocks.1` on: level, and its number among the residual blocks; `None` for a change of resolution.
    inputs: Vec<(usize, Option<usize>)>,
    levels: usize,
    layers: usize,
}

impl Plan {
    fn of(checkpoint: &Checkpoint) -> Self {
        let has = |name: String| checkpoint.info(&format!("{UNET}{name}")).is_some();
        let (mut level, mut layer, mut inputs) = (0, 0, Vec::new());
        for block in 1.. {
            if has(format!("input_blocks.{block}.0.op.weight")) {
                inputs.push((level, None));
                (level, layer) = (level + 1, 0);
            } else if has(format!("input_blocks.{block}.0.in_layers.2.weight")) {
                inputs.push((level, Some(layer)));
                layer += 1;
            } else {
                break;
            }
        }
        Self {
            inputs,
            levels: level + 1,
            layers: layer,
        }
    }

    /// `0.in_layers.0.weight` of `input_blocks.{block}`.
    fn input(&self, block: usize, rest: &str) -> Option<String> {
        if block == 0 {
            return Some(format!("conv_in.{}", rest.strip_prefix("0.")?));
        }
        let (level, layer) = self.inputs.get(block - 1)?;
        let Some(layer) = layer else {
            let part = rest.strip_prefix("0.op.")?;
            return Some(format!("down_blocks.{level}.downsamplers.0.conv.{part}"));
        };
        match rest.split_once('.')? {
            ("0", part) => Some(format!(
                "down_blocks.{level}.resnets.{layer}.{}",
                resnet(part)?
            )),
            ("1", part) => Some(format!("down_blocks.{level}.attentions.{layer}.{part}")),
            _ => None,
        }
    }

    /// `0.in_layers.0.weight` of `output_blocks.{block}`.
    fn output(&self, block: usize, rest: &str) -> Option<String> {
        let (level, layer) = (block / (self.layers + 1), block % (self.layers + 1));
        let (number, part) = rest.split_once('.')?;
        if let ("1" | "2", Some(part)) = (number, part.strip_prefix("conv.")) {
            return Some(format!("up_blocks.{level}.upsamplers.0.conv.{part}"));
        }
        match number {
            "0" => Some(format!(
                "up_blocks.{level}.resnets.{layer}.{}",
                resnet(part)?
            )),
            "1" => Some(format!("up_blocks.{level}.attentions.{layer}.{part}")),
            _ => None,
        }
    }

    /// The name in diffusers of a tensor whose prefix is taken off.
    fn name(&self, name: &str) -> Option<String> {
        const WHOLE: [(&str, &str); 6] = [
            ("time_embed.0.", "time_embedding.linear_1."),
            ("time_embed.2.", "time_embedding.linear_2."),
            ("label_emb.0.0.", "add_embedding.linear_1."),
            ("label_emb.0.2.", "add_embedding.linear_2."),
            ("out.0.", "conv_norm_out."),
            ("out.2.", "conv_out."),
        ];
        for (old, new) in WHOLE {
            if let Some(part) = name.strip_prefix(old) {
                return Some(format!("{new}{part}"));
            }
        }
        let (kind, rest) = name.split_once('.')?;
        let (number, rest) = rest.split_once('.')?;
        match (kind, number) {
            ("middle_block", "0") => Some(format!("mid_block.resnets.0.{}", resnet(rest)?)),
            ("middle_block", "1") => Some(format!("mid_block.attentions.0.{rest}")),
            ("middle_block", "2") => Some(format!("mid_block.resnets.1.{}", resnet(rest)?)),
            ("input_blocks", number) => self.input(number.parse().ok()?, rest),
            ("output_blocks", number) => self.output(number.parse().ok()?, rest),
            _ => None,
        }
    }
}

/// The parts of a residual block.
fn resnet(part: &str) -> Option<String> {
    let (layer, tensor) = part.rsplit_once('.')?;
    let layer = match layer {
        "in_layers.0" => "norm1",
        "in_layers.2" => "conv1",
        "emb_layers.1" => "time_emb_proj",
        "out_layers.0" => "norm2",
        "out_layers.3" => "conv2",
        "skip_connection" => "conv_shortcut",
        _ => return None,
    };
    Some(format!("{layer}.{tensor}"))
}

/// The UNet of a single file. Names that are not understood keep their own: loading then refuses them by it.
pub(super) fn part(checkpoint: &Checkpoint, family: Family) -> Result<Part, ModelError> {
    let plan = Plan::of(checkpoint);
    let view = |from: &str| {
        let name = from.strip_prefix(UNET)?;
        Some(View::new(
            from,
            plan.name(name).unwrap_or_else(|| from.to_owned()),
        ))
    };
    let weights = checkpoint.views(checkpoint.names().filter_map(view).collect::<Vec<_>>())?;
    let config = config(&weights, &plan, family)?;
    Ok(Part { config, weights })
}

fn config(weights: &Checkpoint, plan: &Plan, family: Family) -> Result<Value, ModelError> {
    let mut widths = Vec::new();
    for level in 0..plan.levels {
        let conv = format!("down_blocks.{level}.resnets.0.conv1.weight");
        widths.push(dimension(weights, &conv, 0)?);
    }
    let depth = |at: String| {
        let block = |k: usize| format!("{at}.transformer_blocks.{k}.norm1.weight");
        (0..MOST)
            .take_while(|k| weights.info(&block(*k)).is_some())
            .count()
    };
    let down: Vec<usize> = (0..plan.levels)
        .map(|level| depth(format!("down_blocks.{level}.attentions.0")))
        .collect();
    let middle = depth("mid_block.attentions.0".to_owned());
    let mut depths: Vec<usize> = down.iter().map(|depth| (*depth).max(1)).collect();
    if let Some(last) = depths.last_mut() {
        *last = middle.max(1);
    }
    let projection = weights.info("mid_block.attentions.0.proj_in.weight");
    let linear = projection.is_some_and(|info| info.shape.len() == 2);
    let heads: Vec<usize> = widths
        .iter()
        .map(|width| if linear { (width / 64).max(1) } else { 8 })
        .collect();
    let context = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    let mut config = json!({
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.42.1", "act_fn": "silu",
        "in_channels": dimension(weights, "conv_in.weight", 1)?,
        "out_channels": dimension(weights, "conv_out.weight", 0)?,
        "block_out_channels": widths, "layers_per_block": plan.layers,
        "down_block_types": kinds(["CrossAttnDownBlock2D", "DownBlock2D"], down.iter()),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": kinds(["CrossAttnUpBlock2D", "UpBlock2D"], down.iter().rev()),
        "transformer_layers_per_block": depths, "attention_head_dim": heads,
        "cross_attention_dim": dimension(weights, context, 1)?,
        "use_linear_projection": linear, "norm_num_groups": groups(&widths), "norm_eps": 1e-5,
        "center_input_sample": false, "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0,
        "mid_block_scale_factor": 1, "upcast_attention": family == Family::Sd2,
        "sample_size": match family { Family::Sd1 => 64, Family::Sd2 => 96, Family::Sdxl => 128 },
    });
    if family == Family::Sdxl {
        config["addition_embed_type"] = "text_time".into();
        config["addition_time_embed_dim"] = 256.into();
        let inputs = dimension(weights, "add_embedding.linear_1.weight", 1)?;
        config["projection_class_embeddings_input_dim"] = inputs.into();
    }
    Ok(config)
}

/// The kind of each level: with transformers or without.
fn kinds<'a>(
    [with, without]: [&'static str; 2],
    depths: impl Iterator<Item = &'a usize>,
) -> Vec<&'static str> {
    depths
        .map(|depth| if *depth > 0 { with } else { without })
        .collect()
}

/// 32, or in models narrower than any published one the largest power of two that divides every width.
pub(super) fn groups(widths: &[usize]) -> usize {
    let divides = |groups: &usize| widths.iter().all(|width| width.is_multiple_of(*groups));
    [32, 16, 8, 4, 2].into_iter().find(divides).unwrap_or(1)
}
