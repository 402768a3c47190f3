//! Tiny models renamed to single files by tables written here, and taken apart again: the same tensors, the same outputs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "single_file/names.rs"]
mod names;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor};
use common::{case, io, tensor, values};
use names::{Tensors, open_clip, prefixed, unet, vae};
use serde_json::{Value, json};
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};
use temper_models::single_file::{self, Family, Part, SingleFile};
use temper_models::{ClipText, ClipTextConfig, Unet, UnetConfig, Vae, VaeConfig};

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(case(name)).unwrap()
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
    unet(&open("diffusion/unet_sd15"), &mut tensors);
    vae(&open("diffusion/vae"), "first_stage_model.", &mut tensors);
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
    unet(&open("diffusion/unet_sd2"), &mut tensors);
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
    unet(&open("diffusion/unet_sdxl"), &mut tensors);
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
    vae(&open("diffusion/vae"), "", &mut tensors);
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
    unet(&open("diffusion/unet_sdxl"), &mut tensors);
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
    unet(&open("diffusion/unet_sd15"), &mut tensors);
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
