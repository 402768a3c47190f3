//! Tiny models under the names of single files, by tables that are the inverse of the ones tested.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; within a test module that needs no saying"
)]

use temper_adapters::weights::{Checkpoint, Dtype, HostTensor};

/// Modules of a UNet of two levels with one layer each; the upsampler stands behind attention where there is any.
const UNET: [(&str, &str); 17] = [
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("down_blocks.0.resnets.0", "input_blocks.1.0"),
    ("down_blocks.0.attentions.0", "input_blocks.1.1"),
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
    ("down_blocks.1.resnets.0", "input_blocks.3.0"),
    ("down_blocks.1.attentions.0", "input_blocks.3.1"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
    ("up_blocks.0.resnets.0", "output_blocks.0.0"),
    ("up_blocks.0.resnets.1", "output_blocks.1.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];
const UNET_UP: [(&str, &str); 6] = [
    ("up_blocks.0.attentions.0", "output_blocks.0.1"),
    ("up_blocks.0.attentions.1", "output_blocks.1.1"),
    ("up_blocks.1.resnets.0", "output_blocks.2.0"),
    ("up_blocks.1.attentions.0", "output_blocks.2.1"),
    ("up_blocks.1.resnets.1", "output_blocks.3.0"),
    ("up_blocks.1.attentions.1", "output_blocks.3.1"),
];
const RESNET: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];
/// Modules of an autoencoder of two levels with one layer each.
const VAE: [(&str, &str); 22] = [
    ("encoder.conv_in", "encoder.conv_in"),
    ("encoder.down_blocks.0.resnets.0", "encoder.down.0.block.0"),
    (
        "encoder.down_blocks.0.downsamplers.0.conv",
        "encoder.down.0.downsample.conv",
    ),
    ("encoder.down_blocks.1.resnets.0", "encoder.down.1.block.0"),
    ("encoder.mid_block.resnets.0", "encoder.mid.block_1"),
    ("encoder.mid_block.attentions.0", "encoder.mid.attn_1"),
    ("encoder.mid_block.resnets.1", "encoder.mid.block_2"),
    ("encoder.conv_norm_out", "encoder.norm_out"),
    ("encoder.conv_out", "encoder.conv_out"),
    ("quant_conv", "quant_conv"),
    ("post_quant_conv", "post_quant_conv"),
    ("decoder.conv_in", "decoder.conv_in"),
    ("decoder.mid_block.resnets.0", "decoder.mid.block_1"),
    ("decoder.mid_block.attentions.0", "decoder.mid.attn_1"),
    ("decoder.mid_block.resnets.1", "decoder.mid.block_2"),
    ("decoder.up_blocks.0.resnets.0", "decoder.up.1.block.0"),
    ("decoder.up_blocks.0.resnets.1", "decoder.up.1.block.1"),
    (
        "decoder.up_blocks.0.upsamplers.0.conv",
        "decoder.up.1.upsample.conv",
    ),
    ("decoder.up_blocks.1.resnets.0", "decoder.up.0.block.0"),
    ("decoder.up_blocks.1.resnets.1", "decoder.up.0.block.1"),
    ("decoder.conv_norm_out", "decoder.norm_out"),
    ("decoder.conv_out", "decoder.conv_out"),
];
const ATTENTION: [(&str, &str); 5] = [
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
];
const LAYER: [(&str, &str); 5] = [
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
];

pub(crate) type Tensors = Vec<(String, HostTensor)>;

/// `module` at the beginning of `name` replaced by the table's, and what follows it.
fn replace<'a>(name: &'a str, table: &[(&str, &str)]) -> Option<(String, &'a str)> {
    table.iter().find_map(|(module, old)| {
        let rest = name.strip_prefix(module)?.strip_prefix('.')?;
        Some(((*old).to_owned(), rest))
    })
}

/// A UNet under its names in a single file.
pub(crate) fn unet(source: &Checkpoint, out: &mut Tensors) {
    let attends = source
        .names()
        .any(|name| name.starts_with("up_blocks.0.attentions"));
    let upsampler = if attends {
        "output_blocks.1.2.conv"
    } else {
        "output_blocks.1.1.conv"
    };
    let upsampler = [("up_blocks.0.upsamplers.0.conv", upsampler)];
    for name in source.names() {
        let (module, rest) = replace(name, &UNET)
            .or_else(|| replace(name, &UNET_UP))
            .or_else(|| replace(name, &upsampler))
            .unwrap();
        let rest = match replace(rest, &RESNET).filter(|_| name.contains(".resnets.")) {
            Some((layer, part)) => format!("{layer}.{part}"),
            None => rest.to_owned(),
        };
        let name_there = format!("model.diffusion_model.{module}.{rest}");
        out.push((name_there, source.read(name).unwrap()));
    }
}

/// An autoencoder under its names in a single file, with a part that belongs to its training.
pub(crate) fn vae(source: &Checkpoint, prefix: &str, out: &mut Tensors) {
    for name in source.names() {
        let (module, rest) = replace(name, &VAE).unwrap();
        let tensor = source.read(name).unwrap();
        let (rest, tensor) = match replace(rest, &ATTENTION).filter(|_| module.ends_with("attn_1"))
        {
            Some((layer, part)) => (format!("{layer}.{part}"), as_kernel(tensor)),
            None => (rest.replace("conv_shortcut", "nin_shortcut"), tensor),
        };
        out.push((format!("{prefix}{module}.{rest}"), tensor));
    }
    let discriminator = HostTensor::from_f32(Dtype::F32, vec![1], &[0.0]).unwrap();
    out.push((format!("{prefix}loss.discriminator.weight"), discriminator));
}

/// A matrix as a 1×1 convolution's kernel.
fn as_kernel(tensor: HostTensor) -> HostTensor {
    match *tensor.shape() {
        [outputs, inputs] => HostTensor::new(
            tensor.dtype(),
            vec![outputs, inputs, 1, 1],
            tensor.into_data(),
        )
        .unwrap(),
        _ => tensor,
    }
}

/// The text side of a CLIP model under OpenCLIP's names, with fused projections.
pub(crate) fn open_clip(source: &Checkpoint, prefix: &str, layers: usize, out: &mut Tensors) {
    let read = |name: &str| source.read(&format!("text_model.{name}")).unwrap();
    let mut put = |name: String, tensor| out.push((format!("{prefix}{name}"), tensor));
    put(
        "token_embedding.weight".to_owned(),
        read("embeddings.token_embedding.weight"),
    );
    put(
        "positional_embedding".to_owned(),
        read("embeddings.position_embedding.weight"),
    );
    for part in ["weight", "bias"] {
        put(
            format!("ln_final.{part}"),
            read(&format!("final_layer_norm.{part}")),
        );
        for layer in 0..layers {
            let (from, to) = (
                format!("encoder.layers.{layer}"),
                format!("transformer.resblocks.{layer}"),
            );
            for (module, old) in LAYER {
                put(
                    format!("{to}.{old}.{part}"),
                    read(&format!("{from}.{module}.{part}")),
                );
            }
            let parts = ["q", "k", "v"].map(|p| read(&format!("{from}.self_attn.{p}_proj.{part}")));
            let (dtype, mut shape) = (parts[0].dtype(), parts[0].shape().to_vec());
            shape[0] *= 3;
            let data = parts.into_iter().flat_map(HostTensor::into_data).collect();
            let fused = HostTensor::new(dtype, shape, data).unwrap();
            put(format!("{to}.attn.in_proj_{part}"), fused);
        }
    }
    let projection = source.read("text_projection.weight").unwrap();
    let values = projection.to_f32().unwrap();
    let (rows, columns) = (projection.shape()[0], projection.shape()[1]);
    let turned: Vec<f32> = (0..rows * columns)
        .map(|i| values[i % rows * columns + i / rows])
        .collect();
    let turned = HostTensor::from_f32(Dtype::F32, vec![columns, rows], &turned).unwrap();
    put("text_projection".to_owned(), turned);
    put(
        "logit_scale".to_owned(),
        HostTensor::from_f32(Dtype::F32, vec![], &[1.0]).unwrap(),
    );
}

/// All tensors behind a prefix.
pub(crate) fn prefixed(source: &Checkpoint, prefix: &str, out: &mut Tensors) {
    for name in source.names() {
        out.push((format!("{prefix}{name}"), source.read(name).unwrap()));
    }
}
