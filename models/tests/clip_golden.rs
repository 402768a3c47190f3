//! CLIP text encoders against transformers: hidden states, pooled states, projections; layouts on disk, gradients.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use common::{assert_close, case, ids, io, random, tensor, values};
use serde_json::{Value, json};
use temper_adapters::peft::AdapterConfig;
use temper_adapters::weights::{Checkpoint, Dtype};
use temper_adapters::{Adaptable, Parameters, attach};
use temper_models::{ClipLayout, ClipText, ClipTextConfig, Gradients};

fn load(name: &str, device: &Device) -> ClipText {
    ClipText::load(&case(name), FloatDType::F32, device).unwrap()
}

#[test]
fn hidden_and_pooled_states_match_transformers_with_both_activations_and_both_pooling_rules() {
    for name in ["diffusion/clip_quickgelu", "diffusion/clip_gelu_eos2"] {
        let (file, model) = (io(name), load(name, &Device::flex()));
        let shape = file.info("input_ids").unwrap().shape.clone();
        let output = model
            .forward(&ids(&file, "input_ids"), [shape[0], shape[1]])
            .unwrap();
        let check = |what: &str, ours: Vec<f32>| {
            let expected = file.read_f32(what).unwrap();
            assert_close(&format!("{name} {what}"), &ours, &expected, 1e-4, 1e-5);
        };
        for (i, state) in output.hidden_states.iter().enumerate() {
            check(&format!("hidden_states.{i}"), values(state.clone()));
        }
        let count = output.hidden_states.len();
        assert!(file.info(&format!("hidden_states.{count}")).is_none());
        check(
            "last_hidden_state",
            values(output.last_hidden_state.clone()),
        );
        check("pooler_output", values(output.pooler_output.clone()));
        assert!(output.text_embeds.is_none());
    }
}

#[test]
fn a_projection_matches_transformers() {
    let name = "vision/clip";
    let (file, model) = (io(name), load(name, &Device::flex()));
    let shape = file.info("input_ids").unwrap().shape.clone();
    let output = model
        .forward(&ids(&file, "input_ids"), [shape[0], shape[1]])
        .unwrap();
    let expected = file.read_f32("text_embeds").unwrap();
    assert_close(
        "text_embeds",
        &values(output.text_embeds.unwrap()),
        &expected,
        1e-4,
        1e-5,
    );
}

#[test]
fn skipping_layers_applies_the_final_norm_for_sd_and_none_for_sdxl() {
    let name = "diffusion/clip_quickgelu";
    let (file, model) = (io(name), load(name, &Device::flex()));
    let shape = file.info("input_ids").unwrap().shape.clone();
    let output = model
        .forward(&ids(&file, "input_ids"), [shape[0], shape[1]])
        .unwrap();
    assert_eq!(
        values(model.skip(&output, 0).unwrap()),
        values(output.last_hidden_state.clone())
    );
    let penultimate = file.read_f32("hidden_states.1").unwrap();
    let plain = values(output.penultimate(0).unwrap());
    assert_close("penultimate", &plain, &penultimate, 1e-4, 1e-5);
    let skipped = values(model.skip(&output, 1).unwrap());
    // The final norm by hand.
    let weights = Checkpoint::open(case(name)).unwrap();
    let scale = weights.read_f32("final_layer_norm.weight").unwrap();
    let shift = weights.read_f32("final_layer_norm.bias").unwrap();
    let normed: Vec<f32> = penultimate
        .chunks(32)
        .flat_map(|row| {
            let mean = row.iter().sum::<f32>() / 32.0;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 32.0;
            let values: Vec<f32> = row
                .iter()
                .zip(scale.iter().zip(&shift))
                .map(|(x, (scale, shift))| (x - mean) / (variance + 1e-5).sqrt() * scale + shift)
                .collect();
            values
        })
        .collect();
    assert_close("skip 1", &skipped, &normed, 1e-4, 1e-5);
    let error = model.skip(&output, 3).unwrap_err().to_string();
    assert!(
        error.contains("clip_skip of 3") && error.contains('2'),
        "{error}"
    );
}

#[test]
fn both_layouts_load_and_are_saved_as_they_were_read() {
    let cases = [
        ("diffusion/clip_quickgelu", ClipLayout::Bare),
        ("diffusion/pipeline/text_encoder", ClipLayout::Prefixed),
    ];
    for (name, layout) in cases {
        let directory = tempfile::tempdir().unwrap();
        let model = load(name, &Device::flex());
        assert_eq!(model.layout(), layout, "{name}");
        model.visit(&mut |param| {
            assert!(param.name().starts_with("text_model."), "{}", param.name());
        });
        model.save(directory.path(), Dtype::F32, 1 << 30).unwrap();
        let (first, again) = (
            Checkpoint::open(case(name)).unwrap(),
            Checkpoint::open(directory.path()).unwrap(),
        );
        let names: Vec<&str> = first
            .names()
            .filter(|name| !name.ends_with("position_ids"))
            .collect();
        assert_eq!(again.names().collect::<Vec<_>>(), names, "{name}");
        for tensor in names {
            assert_eq!(
                again.read(tensor).unwrap(),
                first.read(tensor).unwrap(),
                "{tensor}"
            );
        }
        let second = ClipText::load(directory.path(), FloatDType::F32, &Device::flex()).unwrap();
        let last = |model: &ClipText| {
            values(
                model
                    .forward(&[97, 5, 98], [1, 3])
                    .unwrap()
                    .last_hidden_state,
            )
        };
        assert_eq!(last(&model), last(&second));
    }
}

#[test]
fn a_later_token_changes_no_earlier_state() {
    let model = load("diffusion/clip_quickgelu", &Device::flex());
    let state = |ids: &[u32]| values(model.forward(ids, [1, 4]).unwrap().last_hidden_state);
    let (first, second) = (state(&[97, 5, 6, 98]), state(&[97, 5, 6, 11]));
    assert_eq!(first[..3 * 32], second[..3 * 32]);
    assert_ne!(first[3 * 32..], second[3 * 32..]);
}

fn tiny(device: &Device) -> ClipText {
    let config = ClipTextConfig::from_json(
        &json!({"architectures": ["CLIPTextModelWithProjection"],
        "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 5, "projection_dim": 6, "eos_token_id": 10}),
    );
    ClipText::random(config.unwrap(), FloatDType::F32, device, &random(7)).unwrap()
}

const IDS: [u32; 10] = [1, 3, 10, 4, 4, 2, 2, 9, 10, 10];

#[test]
fn gradients_of_a_loss_on_any_output_match_finite_differences() {
    let device = Device::flex();
    let mut model = tiny(&device);
    let d = |purpose: &str, n: usize| {
        Tensor::<1>::from_data(
            TensorData::new(random(1).normal(purpose, n, 1.0), [n]),
            &device,
        )
    };
    let (state, embeds) = (
        d("state", 80).reshape([2, 5, 8]),
        d("embeds", 12).reshape([2, 6]),
    );
    let loss = |output: &temper_models::ClipTextOutput| {
        let projected = output.text_embeds.clone().unwrap();
        Ok((output.penultimate(0)? * state.clone()).sum() + (projected * embeds.clone()).sum())
    };
    model.visit_mut(&mut |param| param.set_trainable(true));
    let mut sums = Gradients::new();
    model.accumulate(&IDS, [2, 5], &loss, &mut sums).unwrap();
    let mut parameters = Vec::new();
    model.visit(&mut |param| parameters.push(param.clone()));
    assert_eq!(
        sums.len(),
        parameters.len(),
        "one gradient for every parameter"
    );
    for param in parameters {
        let gradient = sums[param.name()].clone();
        let length = gradient.clone().square().sum().sqrt().into_scalar::<f32>();
        if length < 1e-3 {
            // The softmax does not see a shift of all keys: nothing to measure.
            assert!(param.name().ends_with("k_proj.bias"), "{}", param.name());
            continue;
        }
        let shifted = |by: f32| {
            let mut model = model.frozen();
            let value = param.plain() + gradient.clone().mul_scalar(by / length);
            model.visit_mut(&mut |other| {
                if other.name() == param.name() {
                    other.set(value.clone());
                }
            });
            let loss = model.accumulate(&IDS, [2, 5], &loss, &mut Gradients::new());
            loss.unwrap().into_scalar::<f32>()
        };
        let slope = (shifted(5e-3) - shifted(-5e-3)) / 1e-2;
        assert!(
            (slope - length).abs() < 2e-2 * length,
            "{}: {slope} against {length}",
            param.name()
        );
    }
}

#[test]
fn adapters_attach_to_the_projections_of_attention_alone() {
    let mut model = tiny(&Device::flex());
    let text = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 2,
        "target_modules": ["q_proj", "k_proj", "v_proj", "out_proj"]})
    .to_string();
    let (config, _) =
        AdapterConfig::parse(text.as_bytes(), std::path::Path::new("adapter_config.json")).unwrap();
    attach(&mut model, &config, &random(2)).unwrap();
    let mut trained = Vec::new();
    model.visit(&mut |param| {
        if param.is_trainable() {
            trained.push(param.name().to_owned());
        }
    });
    assert_eq!(
        trained.len(),
        2 * 4 * 2,
        "A and B of four layers in two blocks: {trained:?}"
    );
    assert!(
        trained
            .iter()
            .all(|name| name.starts_with("base_model.model.text_model.encoder.layers."))
    );
    let mut sums = Gradients::new();
    let loss = |output: &temper_models::ClipTextOutput| {
        Ok(output.last_hidden_state.clone().square().sum())
    };
    model.accumulate(&IDS, [2, 5], &loss, &mut sums).unwrap();
    assert_eq!(sums.len(), trained.len());
    let before = values(model.forward(&IDS, [2, 5]).unwrap().pooler_output.inner());
    model.merge();
    let after = values(model.forward(&IDS, [2, 5]).unwrap().pooler_output);
    assert_close("merged", &after, &before, 1e-5, 1e-6);
}

#[test]
fn ids_and_lengths_that_do_not_fit_are_refused() {
    let model = tiny(&Device::flex());
    let message = |ids: &[u32]| model.forward(ids, [1, ids.len()]).unwrap_err().to_string();
    assert!(message(&[1, 11]).contains("11"));
    assert!(message(&[1; 6]).contains("max_position_embeddings"));
}

#[test]
fn configs_that_are_not_built_are_refused_by_key() {
    let message = |value: Value| ClipTextConfig::from_json(&value).unwrap_err().to_string();
    assert!(message(json!({"hidden_act": "gelu_new"})).contains("gelu_new"));
    assert!(message(json!({"num_attention_heads": 7})).contains("num_attention_heads"));
    assert!(message(json!({"eos_token_id": -1})).contains("eos_token_id"));
    assert!(message(json!({"vocab_size": 9, "eos_token_id": 9})).contains("eos_token_id"));
    assert!(message(json!({"hidden_size": "wide"})).contains("hidden_size"));
}

#[test]
fn a_bf16_encoder_stays_near_the_f32_one() {
    let name = "diffusion/clip_quickgelu";
    let file = io(name);
    let model = ClipText::load(&case(name), FloatDType::BF16, &Device::flex()).unwrap();
    let shape = file.info("input_ids").unwrap().shape.clone();
    let output = model
        .forward(&ids(&file, "input_ids"), [shape[0], shape[1]])
        .unwrap();
    let expected: Tensor<3> = tensor(&file, "last_hidden_state", &Device::flex());
    assert_close(
        "bf16",
        &values(output.last_hidden_state),
        &values(expected),
        0.05,
        0.1,
    );
}
