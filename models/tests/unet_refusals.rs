//! What a UNet refuses, and how: inputs, weights and configurations that do not fit. Its sizes besides.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, FloatDType};
use common::{case, io, random};
use serde_json::json;
use support::{normal, small_input, small_unet};
use temper_adapters::peft::{
    AdapterConfig, LoraConfig, ModulePattern, OftConfig, Target, TargetRule, resolve,
};
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};
use temper_models::{AddedConditions, ControlConfig, ControlEncoder, Unet, UnetConfig, UnetInput};

/// What is done to an input that would fit.
type Change<'a> = &'a dyn Fn(&mut UnetInput);

#[test]
fn inputs_that_do_not_fit_are_refused_with_both_numbers() {
    let model = small_unet(FloatDType::F32);
    let refusal = |change: &dyn Fn(&mut UnetInput)| {
        let mut input = small_input([4, 4]);
        change(&mut input);
        model.forward(&input).unwrap_err().to_string()
    };
    let cases: [(Change, [&str; 3]); 7] = [
        (
            &|i| i.sample = normal("s", [2, 16, 4, 4]),
            ["`sample`", "16 channels", "VAE"],
        ),
        (
            &|i| i.timesteps = vec![1.0],
            ["`timestep`", "1 values", "takes 2"],
        ),
        (
            &|i| i.timesteps[0] = f32::NAN,
            ["`timestep`", "NaN", "finite"],
        ),
        (
            &|i| i.encoder_hidden_states = normal("t", [2, 5, 768]),
            ["`encoder_hidden_states`", "768", "takes 12"],
        ),
        (
            &|i| i.encoder_hidden_states = normal("t", [1, 5, 12]),
            ["`encoder_hidden_states`", "1 rows", "takes 2"],
        ),
        (
            &|i| i.control = Some(normal("c", [2, 8, 4, 5])),
            ["`control`", "[2, 8, 4, 5]", "[2, 8, 4, 4]"],
        ),
        (
            &|i| {
                i.added = Some(AddedConditions {
                    text_embeds: normal("e", [2, 10]),
                    time_ids: normal("i", [2, 6]),
                });
            },
            ["`text_embeds`", "none", "addition_embed_type"],
        ),
    ];
    for (change, parts) in cases {
        let message = refusal(change);
        for part in parts {
            assert!(message.contains(part), "`{part}` in: {message}");
        }
    }
}

#[test]
fn missing_and_misfitting_conditions_of_sdxl_are_refused() {
    let name = "diffusion/unet_sdxl";
    let model = Unet::load(&case(name), FloatDType::F32, &Device::flex()).unwrap();
    let mut input = support::unet_input(&io(name));
    let added = input.added.take();
    let message = model.forward(&input).unwrap_err().to_string();
    assert!(
        message.contains("`text_embeds`") && message.contains("`time_ids`"),
        "{message}"
    );
    let time_ids = added.unwrap().time_ids;
    input.added = Some(AddedConditions {
        text_embeds: normal("e", [2, 12]),
        time_ids,
    });
    let message = model.forward(&input).unwrap_err().to_string();
    assert!(
        message.contains("60 values") && message.contains("takes 58"),
        "{message}"
    );
}

/// A copy of a golden UNet with its tensors changed.
fn changed(directory: &Path, change: impl FnOnce(&mut BTreeMap<String, HostTensor>)) -> String {
    let original = case("diffusion/unet_sd15");
    let file = Checkpoint::open(&original).unwrap();
    let mut tensors: BTreeMap<String, HostTensor> = file
        .names()
        .map(|name| (name.to_owned(), file.read(name).unwrap()))
        .collect();
    change(&mut tensors);
    std::fs::copy(original.join("config.json"), directory.join("config.json")).unwrap();
    let tensors: Vec<_> = tensors.into_iter().collect();
    let path = directory.join("diffusion_pytorch_model.fp16.safetensors");
    save_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    match Unet::load(directory, FloatDType::F32, &Device::flex()) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn weights_must_be_exactly_those_of_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let name = "mid_block.resnets.0.conv1.weight";
    let zeros = |shape: &[usize]| {
        let n: usize = shape.iter().product();
        HostTensor::from_f32(Dtype::F32, shape.to_vec(), &vec![0.0; n]).unwrap()
    };
    assert_eq!(
        changed(directory.path(), |_| {}),
        "",
        "the fp16 variant's name is known"
    );
    let missing = changed(directory.path(), |tensors| drop(tensors.remove(name)));
    assert!(missing.contains(name), "{missing}");
    let shape = changed(directory.path(), |tensors| {
        tensors.insert(name.to_owned(), zeros(&[16, 16, 1, 1]));
    });
    assert!(
        shape.contains(name) && shape.contains("[16, 16, 3, 3]"),
        "{shape}"
    );
    let surplus = changed(directory.path(), |tensors| {
        for extra in [
            "mid_block.resnets.2.conv1.weight",
            "mid_block.resnets.2.conv1.bias",
        ] {
            tensors.insert(extra.to_owned(), zeros(&[16]));
        }
    });
    assert!(
        surplus.contains("resnets.2.conv1.bias") && surplus.contains("1 more"),
        "{surplus}"
    );
}

#[test]
fn unsupported_and_broken_configurations_name_the_key() {
    let base = UnetConfig::preset("sd15").unwrap().to_json();
    let message = |key: &str, value: serde_json::Value| {
        let mut changed = base.clone();
        changed[key] = value;
        UnetConfig::from_json(&changed).unwrap_err().to_string()
    };
    for (key, value) in [
        ("_class_name", json!("AutoencoderKL")),
        ("act_fn", json!("gelu")),
        ("class_embed_type", json!("timestep")),
        ("time_cond_proj_dim", json!(256)),
        ("resnet_time_scale_shift", json!("scale_shift")),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("encoder_hid_dim_type", json!("text_proj")),
        ("addition_embed_type", json!("image")),
        ("conv_in_kernel", json!(5)),
        ("dropout", json!(0.1)),
        (
            "down_block_types",
            json!([
                "AttnDownBlock2D",
                "DownBlock2D",
                "DownBlock2D",
                "DownBlock2D"
            ]),
        ),
        ("up_block_types", json!(["UpBlock2D"])),
        ("block_out_channels", json!([320, 640])),
        ("block_out_channels", json!([])),
        ("layers_per_block", json!([2, 2])),
        ("layers_per_block", json!(4_000_000)),
        ("norm_num_groups", json!(33)),
        ("attention_head_dim", json!(7)),
        ("cross_attention_dim", json!([768, 768, 768, 1024])),
        ("cross_attention_dim", json!("wide")),
        ("transformer_layers_per_block", json!([[1, 2], 1, 1, 1])),
        ("norm_eps", json!(0)),
        ("in_channels", json!(-4)),
    ] {
        let message = message(key, value.clone());
        // A list of the wrong length is found at whichever key is read first.
        let named = message.contains(key) || message.contains("block_types");
        assert!(named, "{key} = {value}: {message}");
    }
    assert!(UnetConfig::from_json(&json!([])).is_err());
}

#[test]
fn head_counts_come_from_either_name_and_absent_keys_have_the_defaults_of_diffusers() {
    let mut file = UnetConfig::preset("sd21").unwrap().to_json();
    let named = file["attention_head_dim"].clone();
    file["num_attention_heads"] = named;
    file["attention_head_dim"] = json!(64);
    let config = UnetConfig::from_json(&file).unwrap();
    assert_eq!(config.parameter_count(), 865_910_724);
    // The earliest published files lack most keys.
    let config = UnetConfig::from_json(&json!({"cross_attention_dim": 768})).unwrap();
    assert_eq!(config.parameter_count(), 859_520_964);
}

#[test]
fn adapters_have_the_published_numbers_of_parameters() {
    let attention = ["to_q", "to_k", "to_v", "to_out.0"].map(str::to_owned);
    let modules = UnetConfig::preset("sd15").unwrap().modules();
    let count = |config: &AdapterConfig| -> usize {
        let targets = resolve(config, &modules).unwrap().targets;
        let size = |target: &Target| match target.rule {
            TargetRule::Oft { block_size, blocks } => blocks * block_size * (block_size - 1) / 2,
            TargetRule::Lora { rank, .. } => {
                rank * (target.kind.rotated_inputs().unwrap() + target.kind.outputs().unwrap())
            }
            _ => unreachable!(),
        };
        targets.iter().map(size).sum()
    };
    let oft = |r, block, more: Option<&str>| {
        let mut config = OftConfig {
            r,
            oft_block_size: block,
            ..OftConfig::default()
        };
        let names = attention.iter().cloned().chain(more.map(str::to_owned));
        config.common.target_modules = Some(ModulePattern::Names(names.collect()));
        AdapterConfig::Oft(config)
    };
    // Recomputed from the paper's layers: r = 4 blocks on attention, then with the GEGLU projections; b = 32.
    assert_eq!(count(&oft(4, 0, None)), 11_602_368);
    assert_eq!(count(&oft(4, 0, Some("ff.net.0.proj"))), 13_144_928);
    assert_eq!(count(&oft(0, 32, None)), 1_541_568);
    let mut lora = LoraConfig {
        r: 4,
        ..LoraConfig::default()
    };
    lora.common.target_modules = Some(ModulePattern::Names(attention.to_vec()));
    assert_eq!(count(&AdapterConfig::Lora(lora)), 797_184);
}

#[test]
fn hints_that_do_not_fit_the_control_encoder_are_refused_with_both_numbers() {
    let unet = UnetConfig::preset("sd15").unwrap();
    let config = ControlConfig::for_unet(&unet);
    let encoder = ControlEncoder::random(config, FloatDType::F32, &Device::flex(), &random(7));
    let refusal = |shape| {
        encoder
            .forward(&normal("hint", shape))
            .unwrap_err()
            .to_string()
    };
    let channels = refusal([1, 1, 8, 8]);
    assert!(
        channels.contains("1 channels") && channels.contains("takes 3"),
        "{channels}"
    );
    let size = refusal([1, 3, 12, 8]);
    assert!(
        size.contains("12 x 8") && size.contains("multiples of 8"),
        "{size}"
    );
}
