//! Tiny models renamed to single files by tables written here, and taken apart again: the same tensors, the same outputs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor};
use common::{case, io, tensor, values};
use serde_json::{Value, json};
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};
use temper_models::single_file::{self, Family, Part, SingleFile};
use temper_models::{ClipText, ClipTextConfig, Unet, UnetConfig, Vae, VaeConfig};

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

type Tensors = Vec<(String, HostTensor)>;

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(case(name)).unwrap()
}

/// `module` at the beginning of `name` replaced by the table's, and what follows it.
fn replace<'a>(name: &'a str, table: &[(&str, &str)]) -> Option<(String, &'a str)> {
    table.iter().find_map(|(module, old)| {
        let rest = name.strip_prefix(module)?.strip_prefix('.')?;
        Some(((*old).to_owned(), rest))
    })
}

fn unet(case: &str, out: &mut Tensors) {
    let source = open(case);
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

fn vae(prefix: &str, out: &mut Tensors) {
    let source = open("diffusion/vae");
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
fn open_clip(source: &Checkpoint, prefix: &str, layers: usize, out: &mut Tensors) {
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
            let mut shape = parts[0].shape().to_vec();
            shape[0] *= 3;
            let data = parts.into_iter().flat_map(HostTensor::into_data).collect();
            let fused = HostTensor::new(Dtype::F32, shape, data).unwrap();
            put(format!("{to}.attn.in_proj_{part}"), fused);
        }
    }
    let projection = source.read("text_projection.weight").unwrap();
    let ([rows, columns], values) = ([24, 32], projection.to_f32().unwrap());
    assert_eq!(projection.shape(), [rows, columns]);
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

fn prefixed(source: &Checkpoint, prefix: &str, out: &mut Tensors) {
    for name in source.names() {
        out.push((format!("{prefix}{name}"), source.read(name).unwrap()));
    }
}

fn write(directory: &Path, tensors: &Tensors) -> Checkpoint {
    let file = directory.join("model.safetensors");
    save_safetensors(&file, tensors, &BTreeMap::new()).unwrap();
    Checkpoint::open(file).unwrap()
}

/// Every tensor of `directory` is in the part, with the same values, and nothing else.
fn assert_same(part: &Checkpoint, directory: &Checkpoint) {
    let names = |file: &Checkpoint| file.names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(part), names(directory));
    for name in directory.names() {
        assert_eq!(
            part.read(name).unwrap(),
            directory.read(name).unwrap(),
            "{name}"
        );
    }
}

/// The inferred configuration agrees with the true one in everything that shapes tell.
fn assert_config(inferred: &Value, case_name: &str, keys: &[&str]) {
    let text = std::fs::read(case(case_name).join("config.json")).unwrap();
    let truth: Value = serde_json::from_slice(&text).unwrap();
    for key in keys {
        let list = |value: &Value| match value {
            // One number for all levels, or one a level.
            Value::Number(number) => vec![json!(number); 2],
            Value::Array(list) => list.clone(),
            other => vec![other.clone()],
        };
        let (ours, theirs) = (&inferred[key], &truth[key]);
        assert!(
            ours == theirs || list(ours) == list(theirs),
            "{key}: {ours} instead of {theirs}"
        );
    }
}

const UNET_KEYS: [&str; 10] = [
    "in_channels",
    "out_channels",
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "mid_block_type",
    "layers_per_block",
    "transformer_layers_per_block",
    "cross_attention_dim",
    "use_linear_projection",
];

fn check_unet(parts: &SingleFile, name: &str) {
    assert_same(&parts.unet.weights, &open(name));
    assert_config(&parts.unet.config, name, &UNET_KEYS);
    // Heads and groups of these tiny models cannot be seen: the model is built with the true configuration.
    let config = UnetConfig::load(&case(name)).unwrap();
    let device = Device::flex();
    Unet::from_checkpoint(config, &parts.unet.weights, FloatDType::F32, &device).unwrap();
    if parts.family != Family::Sdxl {
        // SDXL's time ids are 256 wide each, more than all conditions of the tiny model together.
        UnetConfig::from_json(&parts.unet.config).unwrap();
    }
}

fn file_of_1x(directory: &Path) -> SingleFile {
    let mut tensors = Tensors::new();
    unet("diffusion/unet_sd15", &mut tensors);
    vae("first_stage_model.", &mut tensors);
    let text = open(TEXT);
    prefixed(&text, "cond_stage_model.transformer.", &mut tensors);
    let schedule = HostTensor::from_f32(Dtype::F32, vec![1], &[1.0]).unwrap();
    tensors.push(("alphas_cumprod".to_owned(), schedule));
    single_file::split(&write(directory, &tensors)).unwrap()
}

const TEXT: &str = "diffusion/pipeline/text_encoder";

#[test]
fn a_1x_file_gives_the_unet_and_names_what_it_ignores() {
    let directory = tempfile::tempdir().unwrap();
    let parts = file_of_1x(directory.path());
    assert_eq!(parts.family, Family::Sd1);
    assert_eq!(parts.ignored, ["alphas_cumprod"]);
    check_unet(&parts, "diffusion/unet_sd15");
}

#[test]
fn a_1x_file_gives_an_autoencoder_with_the_same_latents() {
    let directory = tempfile::tempdir().unwrap();
    let part = file_of_1x(directory.path()).vae.unwrap();
    let keys = [
        "block_out_channels",
        "layers_per_block",
        "latent_channels",
        "in_channels",
        "out_channels",
        "down_block_types",
        "up_block_types",
        "use_quant_conv",
        "mid_block_add_attention",
        "scaling_factor",
    ];
    assert_config(&part.config, "diffusion/vae", &keys);
    let (device, config) = (
        Device::flex(),
        VaeConfig::load(&case("diffusion/vae")).unwrap(),
    );
    let x: Tensor<4> = tensor(&io("diffusion/vae"), "x", &device);
    let mean = |weights: &Checkpoint| {
        let vae = Vae::from_checkpoint(config.clone(), weights, FloatDType::F32, &device).unwrap();
        values(vae.encode(x.clone()).mean)
    };
    assert_eq!(mean(&part.weights), mean(&open("diffusion/vae")));
}

#[test]
fn a_1x_file_gives_a_text_encoder_with_the_same_states() {
    let directory = tempfile::tempdir().unwrap();
    let encoders = file_of_1x(directory.path()).text_encoders;
    let [part]: [Part; 1] = encoders.try_into().ok().unwrap();
    let keys = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "max_position_embeddings",
        "hidden_act",
    ];
    assert_config(&part.config, TEXT, &keys);
    let (device, config) = (Device::flex(), ClipTextConfig::load(&case(TEXT)).unwrap());
    let last = |weights: &Checkpoint| {
        let config = config.clone();
        let model = ClipText::from_checkpoint(config, weights, FloatDType::F32, &device).unwrap();
        values(
            model
                .forward(&[97, 5, 98], [1, 3])
                .unwrap()
                .last_hidden_state,
        )
    };
    assert_eq!(last(&part.weights), last(&open(TEXT)));
}

#[test]
fn a_2x_file_loses_the_last_layer_of_its_text_encoder() {
    let directory = tempfile::tempdir().unwrap();
    let mut tensors = Tensors::new();
    unet("diffusion/unet_sd2", &mut tensors);
    let clip = open("vision/clip");
    open_clip(&clip, "cond_stage_model.model.", 2, &mut tensors);
    let parts = single_file::split(&write(directory.path(), &tensors)).unwrap();
    assert_eq!(parts.family, Family::Sd2);
    assert!(parts.vae.is_none());
    check_unet(&parts, "diffusion/unet_sd2");
    let [part]: [Part; 1] = parts.text_encoders.try_into().ok().unwrap();
    assert_eq!(part.config["num_hidden_layers"], 1);
    assert_eq!(part.config["hidden_act"], "gelu");
    let first = clip.renamed(|name| {
        let ours = name.starts_with("text_model.") && !name.contains("layers.1.");
        ours.then(|| name.to_owned())
    });
    assert_same(&part.weights, &first.unwrap());
}

#[test]
fn an_sdxl_file_gives_two_text_encoders_the_second_with_its_projection() {
    let directory = tempfile::tempdir().unwrap();
    let (device, mut tensors) = (Device::flex(), Tensors::new());
    unet("diffusion/unet_sdxl", &mut tensors);
    prefixed(
        &open(TEXT),
        "conditioner.embedders.0.transformer.",
        &mut tensors,
    );
    let clip = open("vision/clip");
    open_clip(&clip, "conditioner.embedders.1.model.", 2, &mut tensors);
    let parts = single_file::split(&write(directory.path(), &tensors)).unwrap();
    assert_eq!(parts.family, Family::Sdxl);
    check_unet(&parts, "diffusion/unet_sdxl");
    assert_config(
        &parts.unet.config,
        "diffusion/unet_sdxl",
        &[
            "projection_class_embeddings_input_dim",
            "addition_embed_type",
        ],
    );
    let [first, second]: [Part; 2] = parts.text_encoders.try_into().ok().unwrap();
    assert_eq!(first.config["architectures"], json!(["CLIPTextModel"]));
    let text = clip
        .renamed(|name| name.starts_with("text_").then(|| name.to_owned()))
        .unwrap();
    assert_same(&second.weights, &text);
    let config = ClipTextConfig::from_json(&second.config).unwrap();
    assert_eq!(config.projection, Some(24));
    ClipText::from_checkpoint(config, &second.weights, FloatDType::F32, &device).unwrap();
}

#[test]
fn an_autoencoder_alone_loads_without_its_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let mut tensors = Tensors::new();
    vae("", &mut tensors);
    let checkpoint = write(directory.path(), &tensors);
    assert!(!single_file::is_single_file(&checkpoint));
    let part = single_file::vae(&checkpoint, Family::Sdxl)
        .unwrap()
        .unwrap();
    assert_same(&part.weights, &open("diffusion/vae"));
    assert_eq!(part.config["scaling_factor"], 0.13025);
}

#[test]
fn files_that_are_something_else_are_refused_and_foreign_tensors_are_named() {
    let error = single_file::split(&open("diffusion/vae"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("input_blocks.0.0.weight"), "{error}");
    let directory = tempfile::tempdir().unwrap();
    let mut tensors = Tensors::new();
    unet("diffusion/unet_sdxl", &mut tensors);
    let scalar = || HostTensor::from_f32(Dtype::F32, vec![1], &[0.0]).unwrap();
    tensors.push((
        "conditioner.embedders.0.model.ln_final.weight".to_owned(),
        scalar(),
    ));
    let error = single_file::split(&write(directory.path(), &tensors))
        .unwrap_err()
        .to_string();
    assert!(error.contains("refiner"), "{error}");
    let mut tensors = Tensors::new();
    unet("diffusion/unet_sd15", &mut tensors);
    let odd = "model.diffusion_model.input_blocks.1.0.in_layers.9.weight";
    tensors.push((odd.to_owned(), scalar()));
    let parts = single_file::split(&write(directory.path(), &tensors)).unwrap();
    let config = UnetConfig::load(&case("diffusion/unet_sd15")).unwrap();
    let loaded = Unet::from_checkpoint(
        config,
        &parts.unet.weights,
        FloatDType::F32,
        &Device::flex(),
    );
    assert!(loaded.unwrap_err().to_string().contains(odd));
}
