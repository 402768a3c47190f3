//! The autoencoder, whose decoder counts its levels from the finest on.

use serde_json::{Value, json};
use temper_adapters::weights::{Checkpoint, View};

use super::unet::groups;
use super::{Family, MOST, Part, dimension};
use crate::ModelError;

/// The autoencoder below `prefix`. Names that are not understood keep their own: loading then refuses them by it.
pub(super) fn part(
    checkpoint: &Checkpoint,
    prefix: &str,
    family: Family,
) -> Result<Part, ModelError> {
    let block = |level: usize| format!("{prefix}encoder.down.{level}.block.0.conv1.weight");
    let levels = (0..MOST)
        .take_while(|level| checkpoint.info(&block(*level)).is_some())
        .count();
    let view = |from: &str| {
        let name = from.strip_prefix(prefix)?;
        // The discriminator that it was trained against.
        if name.starts_with("loss.") || name.starts_with("model_ema.") {
            return None;
        }
        let view = View::new(
            from,
            renamed(name, levels).unwrap_or_else(|| from.to_owned()),
        );
        let shape = checkpoint.info(from).map(|info| info.shape.as_slice());
        Some(match shape {
            Some(&[outputs, inputs, 1, 1]) if name.contains(".mid.attn_1.") => {
                view.shaped(&[outputs, inputs])
            }
            _ => view,
        })
    };
    let weights = checkpoint.views(checkpoint.names().filter_map(view).collect::<Vec<_>>())?;
    let config = config(&weights, levels, family)?;
    Ok(Part { config, weights })
}

fn renamed(name: &str, levels: usize) -> Option<String> {
    if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
        return Some(name.to_owned());
    }
    let (side, rest) = name.split_once('.')?;
    let (part, tail) = rest.split_once('.')?;
    let new = match part {
        "conv_in" | "conv_out" => rest.to_owned(),
        "norm_out" => format!("conv_norm_out.{tail}"),
        "mid" => middle(tail)?,
        "down" | "up" => {
            let (level, tail) = tail.split_once('.')?;
            let level: usize = level.parse().ok()?;
            let place = if part == "down" {
                format!("down_blocks.{level}")
            } else {
                format!("up_blocks.{}", levels.checked_sub(level + 1)?)
            };
            format!("{place}.{}", level_part(tail)?)
        }
        _ => return None,
    };
    Some(format!("{side}.{new}"))
}

fn level_part(tail: &str) -> Option<String> {
    if let Some(conv) = tail.strip_prefix("downsample.conv.") {
        return Some(format!("downsamplers.0.conv.{conv}"));
    }
    if let Some(conv) = tail.strip_prefix("upsample.conv.") {
        return Some(format!("upsamplers.0.conv.{conv}"));
    }
    let (layer, part) = tail.strip_prefix("block.")?.split_once('.')?;
    Some(format!(
        "resnets.{layer}.{}",
        part.replace("nin_shortcut", "conv_shortcut")
    ))
}

fn middle(tail: &str) -> Option<String> {
    let (block, part) = tail.split_once('.')?;
    match block {
        "block_1" => Some(format!("mid_block.resnets.0.{part}")),
        "block_2" => Some(format!("mid_block.resnets.1.{part}")),
        "attn_1" => {
            let (layer, tensor) = part.split_once('.')?;
            let layer = match layer {
                "norm" => "group_norm",
                "q" => "to_q",
                "k" => "to_k",
                "v" => "to_v",
                "proj_out" => "to_out.0",
                _ => return None,
            };
            Some(format!("mid_block.attentions.0.{layer}.{tensor}"))
        }
        _ => None,
    }
}

fn config(weights: &Checkpoint, levels: usize, family: Family) -> Result<Value, ModelError> {
    let mut widths = Vec::new();
    for level in 0..levels {
        let conv = format!("encoder.down_blocks.{level}.resnets.0.conv1.weight");
        widths.push(dimension(weights, &conv, 0)?);
    }
    let block = |layer: usize| format!("encoder.down_blocks.0.resnets.{layer}.conv1.weight");
    let layers = (0..MOST)
        .take_while(|layer| weights.info(&block(*layer)).is_some())
        .count();
    let has = |name: &str| weights.info(name).is_some();
    Ok(json!({
        "_class_name": "AutoencoderKL", "_diffusers_version": "0.42.1", "act_fn": "silu",
        "in_channels": dimension(weights, "encoder.conv_in.weight", 1)?,
        "out_channels": dimension(weights, "decoder.conv_out.weight", 0)?,
        "latent_channels": dimension(weights, "decoder.conv_in.weight", 1)?,
        "block_out_channels": widths, "layers_per_block": layers, "norm_num_groups": groups(&widths),
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "mid_block_add_attention": has("encoder.mid_block.attentions.0.to_q.weight"),
        "use_quant_conv": has("quant_conv.weight"), "use_post_quant_conv": has("post_quant_conv.weight"),
        "sample_size": if family == Family::Sdxl { 1024 } else { 512 },
        "scaling_factor": if family == Family::Sdxl { 0.13025 } else { 0.18215 },
        "force_upcast": true,
    }))
}
