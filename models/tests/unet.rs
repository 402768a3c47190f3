//! What must hold for every UNet: odd sizes, identity at initialisation, strict loading, refusals, control, half precision.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor};
use serde_json::json;
use support::{assert_close, assert_same_gradient, golden, normal, random, values};
use temper_adapters::peft::{AdapterConfig, ModulePattern, OftConfig};
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};
use temper_adapters::{Adaptable, Parameters, attach};
use temper_models::{
    AddedConditions, ControlConfig, ControlEncoder, Gradients, Unet, UnetConfig, UnetInput,
};

/// Three levels, transformers on two of them, two heads.
fn config() -> UnetConfig {
    UnetConfig::from_json(&json!({
        "block_out_channels": [8, 16, 24], "layers_per_block": [1, 2, 1], "norm_num_groups": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": 2, "cross_attention_dim": 12, "only_cross_attention": [false, false, true],
    }))
    .unwrap()
}

fn unet(compute: FloatDType) -> Unet {
    Unet::random(config(), compute, &Device::flex(), &random())
}

fn input(size: [usize; 2]) -> UnetInput {
    UnetInput {
        sample: normal("sample", [2, 4, size[0], size[1]]),
        timesteps: vec![17.5, 900.0],
        encoder_hidden_states: normal("text", [2, 5, 12]),
        added: None,
        control: None,
    }
}

fn mean_square(y: Tensor<4>) -> Tensor<1> {
    y.square().mean()
}

/// OFT on every linear layer and convolution below the blocks.
fn oft(init_weights: bool) -> AdapterConfig {
    let names = [
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "proj",
        "conv1",
        "proj_in",
        "conv_shortcut",
    ];
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let mut config = OftConfig {
        oft_block_size: 4,
        use_cayley_neumann: false,
        init_weights,
        ..OftConfig::default()
    };
    config.common.target_modules = Some(ModulePattern::Names(names));
    AdapterConfig::Oft(config)
}

#[test]
fn every_size_of_latents_works_and_gives_a_prediction_of_the_same_size() {
    let model = unet(FloatDType::F32);
    for size in [[12, 20], [7, 5], [1, 1], [9, 16]] {
        let y = model.forward(&input(size)).unwrap();
        assert_eq!(y.dims(), [2, 4, size[0], size[1]]);
        assert!(values(y).iter().all(|value| value.is_finite()));
    }
}

#[test]
fn one_image_of_a_batch_does_not_see_the_others() {
    let model = unet(FloatDType::F32);
    let both = input([6, 10]);
    let y = model.forward(&both).unwrap();
    let second = UnetInput {
        sample: both.sample.narrow(0, 1, 1),
        timesteps: vec![900.0],
        encoder_hidden_states: both.encoder_hidden_states.narrow(0, 1, 1),
        added: None,
        control: None,
    };
    let alone = values(model.forward(&second).unwrap());
    assert_close(
        "second image",
        &alone,
        &values(y.narrow(0, 1, 1)),
        1e-5,
        1e-6,
    );
}

#[test]
fn fractional_time_steps_lie_between_whole_ones() {
    let model = unet(FloatDType::F32);
    let at = |step: f32| {
        let mut input = input([4, 4]);
        input.timesteps = vec![step; 2];
        values(model.forward(&input).unwrap())
    };
    let (low, middle, high) = (at(10.0), at(10.001), at(11.0));
    let distance = |a: &[f32], b: &[f32]| -> f32 {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f32>()
            .sqrt()
    };
    assert!(distance(&low, &middle) > 0.0);
    assert!(distance(&low, &middle) < 0.01 * distance(&low, &high));
}

#[test]
fn oft_at_initialisation_changes_no_bit_of_the_prediction() {
    let mut model = unet(FloatDType::F32);
    let input = input([8, 8]);
    let base = values(model.forward(&input).unwrap());
    attach(&mut model, &oft(true), &random()).unwrap();
    // Outside a graph, as the base was: products of trained layers sum in another order.
    assert_eq!(values(model.frozen().forward(&input).unwrap()), base);
}

#[test]
fn merged_adapters_of_linear_layers_and_convolutions_predict_the_same() {
    let mut model = unet(FloatDType::F32);
    let input = input([8, 6]);
    let base = values(model.forward(&input).unwrap());
    attach(&mut model, &oft(false), &random()).unwrap();
    let adapted = values(model.forward(&input).unwrap());
    assert!(adapted.iter().zip(&base).any(|(a, b)| (a - b).abs() > 1e-3));
    model.merge();
    let mut adapters = 0;
    model.visit(&mut |param| adapters += usize::from(param.name().starts_with("base_model")));
    assert_eq!(adapters, 0, "merging leaves no adapter");
    assert_close(
        "merged",
        &values(model.forward(&input).unwrap()),
        &adapted,
        1e-4,
        1e-5,
    );
}

#[test]
fn adapter_training_gives_gradients_of_adapters_alone_and_recomputation_changes_none() {
    let mut model = unet(FloatDType::F32);
    attach(&mut model, &oft(false), &random()).unwrap();
    let input = input([7, 10]);
    let [whole, segments] = [false, true].map(|recompute| {
        let mut sums = Gradients::new();
        model
            .accumulate(&input, &mean_square, recompute, &mut sums)
            .unwrap();
        sums
    });
    assert!(!whole.is_empty() && whole.keys().all(|name| name.starts_with("base_model")));
    assert!(whole.keys().eq(segments.keys()));
    for (name, gradient) in whole {
        let ours = values(segments[&name].clone());
        assert_same_gradient(&name, &ours, &values(gradient));
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let mut model = unet(FloatDType::F32);
    let name = "down_blocks.1.resnets.0.norm1.weight";
    model.visit_mut(&mut |param| param.set_trainable(param.name() == name));
    let input = input([6, 5]);
    let mut sums = Gradients::new();
    model
        .accumulate(&input, &mean_square, true, &mut sums)
        .unwrap();
    assert_eq!(sums.len(), 1, "one trained parameter, one gradient");
    let gradient = values(sums[name].clone());
    let loss_at = |index: usize, change: f32| {
        let mut changed = model.clone();
        changed.visit_mut(&mut |param| {
            if param.name() == name {
                let mut values = values(param.plain());
                values[index] += change;
                param.set(Tensor::from_data(values.as_slice(), &Device::flex()));
            }
        });
        let y = values(changed.frozen().forward(&input).unwrap());
        y.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>() / y.len() as f64
    };
    for index in [0, 3, 7] {
        let difference = (loss_at(index, 1e-2) - loss_at(index, -1e-2)) / 2e-2;
        let error = (difference - f64::from(gradient[index])).abs();
        assert!(
            error < 1e-2 * difference.abs() + 1e-5,
            "{index}: {difference} vs {}",
            gradient[index]
        );
    }
}

#[test]
fn tracked_text_and_control_get_their_gradients_with_and_without_recomputation() {
    let model = unet(FloatDType::F32);
    let mut input = input([7, 10]);
    input.control = Some(normal::<4>("control", [2, 8, 7, 10]));
    let leaf = |value: Tensor<3>| Tensor::from_inner(value).require_grad();
    let run = |input: &UnetInput, recompute| {
        model
            .accumulate(input, &mean_square, recompute, &mut BTreeMap::new())
            .unwrap()
    };
    let plain = run(&input, true);
    assert!(plain.d_control.is_none() && plain.d_encoder_hidden_states.is_none());
    input.encoder_hidden_states = leaf(input.encoder_hidden_states);
    input.control = input.control.map(|c| Tensor::from_inner(c).require_grad());
    let [whole, segments] = [false, true].map(|recompute| run(&input, recompute));
    let text =
        |step: &temper_models::UnetStep| values(step.d_encoder_hidden_states.clone().unwrap());
    let control = |step: &temper_models::UnetStep| values(step.d_control.clone().unwrap());
    assert!(text(&whole).iter().any(|g| *g != 0.0) && control(&whole).iter().any(|g| *g != 0.0));
    assert_same_gradient("text", &text(&segments), &text(&whole));
    assert_same_gradient("control", &control(&segments), &control(&whole));
}

#[test]
fn half_precision_bases_give_nearby_predictions_and_f32_gradients_of_adapters() {
    let input = input([8, 8]);
    let mut reference = unet(FloatDType::F32);
    let base = values(reference.forward(&input).unwrap());
    let scale = base.iter().fold(0.0_f32, |m, y| m.max(y.abs()));
    attach(&mut reference, &oft(false), &random()).unwrap();
    let mut exact = Gradients::new();
    reference
        .accumulate(&input, &mean_square, false, &mut exact)
        .unwrap();
    for (compute, tolerance) in [(FloatDType::BF16, 0.05), (FloatDType::F16, 0.01)] {
        let mut model = unet(compute);
        let y = values(model.forward(&input).unwrap());
        assert_close(&format!("{compute:?}"), &y, &base, 0.0, tolerance * scale);
        attach(&mut model, &oft(false), &random()).unwrap();
        for recompute in [false, true] {
            let mut sums = Gradients::new();
            model
                .accumulate(&input, &mean_square, recompute, &mut sums)
                .unwrap();
            let (mut dot, mut ours, mut theirs) = (0.0, 0.0, 0.0);
            for (name, gradient) in &exact {
                assert_eq!(sums[name].dtype(), burn::tensor::DType::F32, "{name}");
                for (a, b) in values(sums[name].clone())
                    .iter()
                    .zip(values(gradient.clone()))
                {
                    (dot, ours, theirs) = (dot + a * b, ours + a * a, theirs + b * b);
                }
            }
            let cosine = dot / (ours * theirs).sqrt();
            assert!(
                cosine > 0.98,
                "{compute:?} recompute {recompute}: cosine {cosine}"
            );
        }
    }
}

#[test]
fn the_control_encoder_starts_silent_learns_through_the_unet_and_survives_saving() {
    let model = unet(FloatDType::F32);
    let device = Device::flex();
    let control = ControlConfig::for_unet(model.config());
    let mut encoder = ControlEncoder::random(control, FloatDType::F32, &device, &random());
    let hint: Tensor<4> = normal::<4>("hint", [2, 3, 48, 32]).clamp(0.0, 1.0);
    let mut input = input([6, 4]);
    let without = values(model.forward(&input).unwrap());
    input.control = Some(encoder.forward(&hint).unwrap());
    assert_eq!(
        values(model.forward(&input).unwrap()),
        without,
        "zero-initialised"
    );

    encoder.visit_mut(&mut |param| param.set_trainable(true));
    // One step away from zero, so that gradients reach the first convolution.
    encoder.visit_mut(&mut |param| {
        if param.name().contains("conv_out") {
            let n = param.numel();
            param.set(normal::<1>("conv_out", [n]) * 0.1);
        }
    });
    let gradients = |encoder: &ControlEncoder, recompute| {
        let mut input = input.clone();
        let control = encoder.frozen().forward(&hint).unwrap();
        input.control = Some(Tensor::from_inner(control).require_grad());
        let mut sums = Gradients::new();
        let step = model
            .accumulate(&input, &mean_square, recompute, &mut sums)
            .unwrap();
        encoder
            .accumulate(&hint, step.d_control.unwrap(), &mut sums)
            .unwrap();
        sums
    };
    let sums = gradients(&encoder, true);
    assert_eq!(sums.len(), 16, "a gradient for each of eight convolutions");
    let mut undivided = input.clone();
    undivided.control = Some(encoder.forward(&hint).unwrap());
    let mut direct = mean_square(model.forward(&undivided).unwrap()).backward();
    encoder.visit(&mut |param| {
        let theirs = values(param.grad(&mut direct).unwrap());
        assert_same_gradient(param.name(), &values(sums[param.name()].clone()), &theirs);
    });

    let directory = tempfile::tempdir().unwrap();
    encoder.save(directory.path(), Dtype::F32, 1 << 30).unwrap();
    let again = ControlEncoder::load(directory.path(), FloatDType::F32, &device).unwrap();
    let run = |encoder: &ControlEncoder| values(encoder.forward(&hint).unwrap());
    assert_eq!(run(&again), run(&encoder));
    let wrong = encoder
        .forward(&normal("hint", [1, 1, 8, 8]))
        .unwrap_err()
        .to_string();
    assert!(
        wrong.contains("1 channels") && wrong.contains("takes 3"),
        "{wrong}"
    );
    let wrong = encoder
        .forward(&normal("hint", [1, 3, 12, 8]))
        .unwrap_err()
        .to_string();
    assert!(
        wrong.contains("12 x 8") && wrong.contains("multiples of 8"),
        "{wrong}"
    );
}

#[test]
fn inputs_that_do_not_fit_are_refused_with_both_numbers() {
    let model = unet(FloatDType::F32);
    let refusal = |change: &dyn Fn(&mut UnetInput)| {
        let mut input = input([4, 4]);
        change(&mut input);
        model.forward(&input).unwrap_err().to_string()
    };
    let cases: [(&dyn Fn(&mut UnetInput), [&str; 3]); 7] = [
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
                })
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
    let case = "diffusion/unet_sdxl";
    let model = Unet::load(&golden(case), FloatDType::F32, &Device::flex()).unwrap();
    let mut input = support::unet_input(&support::io(case));
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
    let original = golden("diffusion/unet_sd15");
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
    use temper_adapters::peft::{LoraConfig, TargetRule, resolve};
    let attention = ["to_q", "to_k", "to_v", "to_out.0"].map(str::to_owned);
    let modules = UnetConfig::preset("sd15").unwrap().modules();
    let count = |config: &AdapterConfig| -> usize {
        let targets = resolve(config, &modules).unwrap().targets;
        let size = |target: &temper_adapters::peft::Target| match target.rule {
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
