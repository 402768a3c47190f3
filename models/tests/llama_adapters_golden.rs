//! LLaMA with OFT, COFT and LoRA against PEFT: logits, gradients, merged weights (`tests/golden/oft/llama_*`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use common::{assert_close, values};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use temper_adapters::peft::{AdapterConfig, AdapterFile, LoraConfig, ModulePattern, OftConfig};
use temper_adapters::weights::Checkpoint;
use temper_adapters::{Adaptable, Parameters, RandomSource, attach, attach_trained};
use temper_models::{Llama, LlamaConfig};

fn case(name: &str) -> PathBuf {
    common::case("oft").join(name)
}

fn random() -> RandomSource {
    RandomSource::new(|purpose| ChaCha8Rng::seed_from_u64(purpose.len() as u64))
}

fn load(name: &str) -> Llama {
    let directory = case(name);
    let config = LlamaConfig::load(&directory).unwrap();
    let base = Checkpoint::open(directory.join("base.safetensors")).unwrap();
    Llama::from_checkpoint(config, &base, FloatDType::F32, &Device::flex()).unwrap()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one case read from top to bottom")]
fn logits_gradients_and_merged_weights_match_peft() {
    for name in [
        "llama_oft_all_cn",
        "llama_oft_qkvo_exact",
        "llama_coft_share",
        "llama_lora_all",
    ] {
        let io = Checkpoint::open(case(name).join("io.safetensors")).unwrap();
        let mut model = load(name);
        let shape = io.info("in.input_ids").unwrap().shape.clone();
        let raw = io.read("in.input_ids").unwrap();
        let ids: Vec<u32> = raw
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect();
        let logits = |model: &Llama| model.logits(&ids, [shape[0], shape[1]]).unwrap();
        assert_close(
            name,
            &values(logits(&model)),
            &io.read_f32("y_base").unwrap(),
            1e-4,
            1e-5,
        );
        let (file, _) = AdapterFile::load(&case(name).join("adapter")).unwrap();
        attach_trained(&mut model, &file, &random()).unwrap();
        let y = logits(&model);
        let expected = io.read_f32("y_adapter").unwrap();
        assert_close(
            &format!("{name} y_adapter"),
            &values(y.clone()),
            &expected,
            1e-4,
            1e-5,
        );
        let weights = io.read_f32("loss_w").unwrap();
        let weights = Tensor::<2>::from_data(TensorData::new(weights, y.dims()), &Device::flex());
        let loss = (y * Tensor::from_inner(weights))
            .sum()
            .div_scalar(expected.len() as f64);
        let mut gradients = loss.backward();
        let mut seen = 0;
        model.visit(&mut |param| {
            if let Some(gradient) = param.grad(&mut gradients) {
                let golden = io.read_f32(&format!("grad.{}", param.name())).unwrap();
                assert_close(
                    &format!("{name} {}", param.name()),
                    &values(gradient),
                    &golden,
                    1e-3,
                    1e-6,
                );
                seen += 1;
            }
        });
        assert_eq!(
            seen,
            io.names().filter(|key| key.starts_with("grad.")).count(),
            "{name}"
        );
        model.merge();
        assert_close(
            &format!("{name} y_merged"),
            &values(logits(&model)),
            &io.read_f32("y_merged").unwrap(),
            1e-4,
            1e-5,
        );
        let mut merged = BTreeMap::new();
        model.visit(&mut |param| {
            merged.insert(format!("merged.{}", param.name()), values(param.plain()));
        });
        for key in io.names().filter(|key| key.starts_with("merged.")) {
            assert_close(
                &format!("{name} {key}"),
                &merged[key],
                &io.read_f32(key).unwrap(),
                1e-4,
                1e-5,
            );
        }
    }
}

/// Number of trained parameters that a configuration gives a preset, counted without weights.
fn count(preset: &str, config: &AdapterConfig) -> usize {
    let sizes = LlamaConfig::preset(preset).unwrap();
    let targets = temper_adapters::peft::resolve(config, &sizes.modules())
        .unwrap()
        .targets;
    targets
        .iter()
        .map(|target| match target.rule {
            temper_adapters::peft::TargetRule::Oft {
                block_size: b,
                blocks,
            } => blocks * b * (b - 1) / 2,
            temper_adapters::peft::TargetRule::Lora { rank, .. } => {
                rank * (target.kind.rotated_inputs().unwrap() + target.kind.outputs().unwrap())
            }
            _ => unreachable!(),
        })
        .sum()
}

#[test]
fn adapters_have_the_published_numbers_of_parameters() {
    let oft = |b, r, targets| {
        let mut config = OftConfig {
            oft_block_size: b,
            r,
            ..OftConfig::default()
        };
        config.common.target_modules = Some(targets);
        AdapterConfig::Oft(config)
    };
    let names = |list: &[&str]| ModulePattern::Names(list.iter().map(|&s| s.to_owned()).collect());
    // OFTv2 (arXiv 2506.19847): 17.65 M on Llama-2-7B, 27.62 M on 13B, b = 32 on all linear layers; LoRA r = 16: 39.98 M.
    assert_eq!(
        count("llama2-7b", &oft(32, 0, ModulePattern::AllLinear)),
        17_649_664
    );
    assert_eq!(
        count("llama2-13b", &oft(32, 0, ModulePattern::AllLinear)),
        27_617_280
    );
    let mut lora = LoraConfig {
        r: 16,
        ..LoraConfig::default()
    };
    lora.common.target_modules = Some(ModulePattern::AllLinear);
    assert_eq!(count("llama2-7b", &AdapterConfig::Lora(lora)), 39_976_960);
    // PEFT's method comparison: Llama-3.2-3B, r = 32 blocks (b = 96) on q_proj and v_proj.
    assert_eq!(
        count("llama3.2-3b", &oft(0, 32, names(&["q_proj", "v_proj"]))),
        8_171_520
    );
}

#[test]
fn a_target_that_matches_nothing_is_an_error_that_names_it() {
    let mut model = load("llama_oft_qkvo_exact");
    let mut config = OftConfig::default();
    config.common.target_modules = Some(ModulePattern::Names(vec![
        "q_proj".into(),
        "qkv_proj".into(),
    ]));
    let error = attach(&mut model, &AdapterConfig::Oft(config), &random())
        .unwrap_err()
        .to_string();
    assert!(error.contains("qkv_proj"), "{error}");
}
