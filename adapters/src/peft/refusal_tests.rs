//! Adapters that must be refused, and what the refusal says.

use std::collections::BTreeMap;
use std::path::Path;

use super::{
    AdapterConfig, AdapterFile, AdapterTensor, ConfigWarning, KeyProblem, Module, ModuleKind, Slot,
};
use super::{ModulePattern, PeftError, resolve};
use crate::weights::{Dtype, HostTensor, save_safetensors};

fn parse(text: &str) -> Result<(AdapterConfig, Vec<ConfigWarning>), PeftError> {
    AdapterConfig::parse(text.as_bytes(), Path::new("adapter_config.json"))
}

fn refused(text: &str) -> PeftError {
    let error = parse(text).unwrap_err();
    assert!(error.to_string().len() > 20, "{error}");
    error
}

#[test]
fn malformed_configurations_name_file_and_key() {
    assert!(matches!(refused("[1]"), PeftError::ConfigJson { .. }));
    assert!(matches!(refused("{"), PeftError::ConfigJson { .. }));
    assert!(matches!(refused("{}"), PeftError::UnsupportedMethod { .. }));
    let message = refused(r#"{"peft_type": "OFT", "oft_block_size": -3}"#).to_string();
    assert_eq!(
        message,
        "`oft_block_size` in `adapter_config.json` is -3, expected a whole number from 0"
    );
    for wrong in [
        r#""coft": 1"#,
        r#""target_modules": [1]"#,
        r#""bias": "lora_only""#,
    ] {
        let text = format!(r#"{{"peft_type": "OFT", "oft_block_size": 8, {wrong}}}"#);
        assert!(matches!(refused(&text), PeftError::Field { .. }), "{wrong}");
    }
}

#[test]
fn old_and_contradictory_oft_is_refused() {
    assert!(matches!(
        refused(r#"{"peft_type": "OFT", "r": 8}"#),
        PeftError::OldOft { .. }
    ));
    let both = r#"{"peft_type": "OFT", "r": 8, "oft_block_size": 8}"#;
    assert!(matches!(
        refused(both),
        PeftError::BlockRule {
            r: 8,
            oft_block_size: 8
        }
    ));
    let none = r#"{"peft_type": "OFT", "r": 0, "oft_block_size": 0}"#;
    assert!(matches!(refused(none), PeftError::BlockRule { .. }));
    let one = r#"{"peft_type": "OFT", "oft_block_size": 1}"#;
    assert!(matches!(refused(one), PeftError::BlockOfOne { .. }));
    for terms in [0, 101, 1_000_000_000] {
        let text = format!(
            r#"{{"peft_type": "OFT", "oft_block_size": 8, "num_cayley_neumann_terms": {terms}}}"#
        );
        let message = refused(&text).to_string();
        assert!(message.contains("num_cayley_neumann_terms"), "{message}");
    }
    let alone = r#"{"peft_type": "OFT", "oft_block_size": 8, "layers_pattern": "layers"}"#;
    assert!(matches!(refused(alone), PeftError::Conflict { .. }));
}

#[test]
fn lora_variants_that_change_the_meaning_are_refused() {
    for option in [
        r#""layer_replication": [[0, 2]]"#,
        r#""megatron_config": {"a": 1}"#,
        r#""lora_bias": true"#,
        r#""init_lora_weights": "pissa_niter_4""#,
        r#""target_parameters": ["experts.w1"]"#,
        r#""trainable_token_indices": [3]"#,
    ] {
        let text = format!(r#"{{"peft_type": "LORA", {option}}}"#);
        assert!(
            matches!(refused(&text), PeftError::UnsupportedOption { .. }),
            "{option}"
        );
    }
    let off = r#"{"peft_type": "LORA", "layer_replication": null, "loftq_config": {}, "lora_bias": false}"#;
    assert!(parse(off).is_ok());
    assert!(matches!(
        refused(r#"{"peft_type": "LORA", "r": 0}"#),
        PeftError::OutOfRange { .. }
    ));
}

#[test]
fn harmless_oddities_are_warnings() {
    let text = r#"{"peft_type": "OFT", "oft_block_size": 8, "module_dropout": 0.5, "shiny": 1,
                   "alpha_pattern": {}, "use_cayley_neumann": true}"#;
    let (_, warnings) = parse(text).unwrap();
    assert_eq!(
        warnings,
        [
            ConfigWarning::OldSeries { version: None },
            ConfigWarning::NoEffect {
                key: "module_dropout".to_owned()
            },
            ConfigWarning::UnknownKey {
                key: "shiny".to_owned()
            },
        ]
    );
    let exact = r#"{"peft_type": "OFT", "oft_block_size": 8, "use_cayley_neumann": false}"#;
    assert!(parse(exact).unwrap().1.is_empty());
}

#[test]
fn one_and_many_survive_a_round_trip() {
    let text = r#"{"peft_type": "OFT", "oft_block_size": 8, "layers_to_transform": 3,
        "layers_pattern": "h", "exclude_modules": ".*x", "target_modules": "all-linear",
        "peft_version": "0.21.2", "auto_mapping": {"é": [1.5e-7, {}]}}"#;
    let (config, _) = parse(text).unwrap();
    assert_eq!(
        config.common().target_modules,
        Some(ModulePattern::AllLinear)
    );
    let (again, _) = parse(&config.to_text()).unwrap();
    assert_eq!(again, config);
    let value: serde_json::Value = serde_json::from_str(&config.to_text()).unwrap();
    assert_eq!(value["layers_to_transform"], 3);
    assert_eq!(value["layers_pattern"], "h");
}

#[test]
fn numbers_survive_to_the_last_digit() {
    for eps in [
        "0.30000000000000004",
        "7.038531e-26",
        "1.2345678901234568e-05",
        "100.0",
    ] {
        let text = format!(r#"{{"peft_type": "OFT", "oft_block_size": 8, "eps": {eps}}}"#);
        let written = parse(&text).unwrap().0.to_text();
        assert!(
            written.contains(&format!("\"eps\": {eps},")),
            "{eps} became {written}"
        );
    }
}

/// Loads an adapter with this configuration and these F32 tensors (key, shape).
fn load(config: &str, tensors: &[(&str, &[usize])]) -> Result<AdapterFile, PeftError> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("adapter_config.json"), config).unwrap();
    let tensors: Vec<(String, HostTensor)> = tensors
        .iter()
        .map(|(key, shape)| {
            let values = vec![0.5; shape.iter().product()];
            let tensor = HostTensor::from_f32(Dtype::F32, shape.to_vec(), &values).unwrap();
            ((*key).to_owned(), tensor)
        })
        .collect();
    let file = directory.path().join("adapter_model.safetensors");
    save_safetensors(&file, &tensors, &BTreeMap::new()).unwrap();
    AdapterFile::load(directory.path()).map(|(file, _)| file)
}

const OFT: &str = r#"{"peft_type": "OFT", "oft_block_size": 8, "use_cayley_neumann": false}"#;
const LORA: &str = r#"{"peft_type": "LORA", "r": 4}"#;

fn key_problems(config: &str, tensors: &[(&str, &[usize])]) -> Vec<KeyProblem> {
    match load(config, tensors) {
        Err(PeftError::Keys { problems, .. }) => problems,
        other => panic!("expected key problems, got {other:?}"),
    }
}

#[test]
fn tensors_that_are_not_the_layout_are_all_listed() {
    let found = key_problems(
        OFT,
        &[
            ("base_model.model.a.oft_r.default", &[4, 8, 8]),
            ("base_model.model.a.oft_R.weight", &[4, 28]),
            ("base_model.model.b.lora_A.weight", &[4, 28]),
            ("base_model.model.c.weight", &[4, 28]),
            ("base_model.model.d.bias", &[4]),
            ("unet.a.oft_R.weight", &[4, 28]),
            ("base_model.model.e.oft_R.weight", &[4, 27]),
            ("base_model.model.f.oft_R.weight", &[4, 6]),
        ],
    );
    let message = found
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(found.len(), 7, "{message}");
    for part in [
        "from PEFT before 0.16",
        "another method",
        "`base_model.model.c.weight`",
        "`base_model.model.d.bias`",
        "`unet.a.oft_R.weight`",
        "[4, 27]",
        "blocks of 8 for 16 inputs",
    ] {
        assert!(message.contains(part), "{part} not in\n{message}");
    }
}

#[test]
fn low_rank_pairs_must_be_complete_and_of_one_rank() {
    let found = key_problems(
        LORA,
        &[
            ("base_model.model.a.lora_A.weight", &[4, 6]),
            ("base_model.model.b.lora_A.weight", &[2, 6]),
            ("base_model.model.b.lora_B.weight", &[6, 4]),
            ("base_model.model.b.lora_magnitude_vector", &[6]),
        ],
    );
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        matches!(&found[0], KeyProblem::Incomplete { module, missing: "lora_B" } if module == "a")
    );
}

#[test]
fn adapter_name_left_in_the_keys_is_stripped() {
    let pair: [(&str, &[usize]); 2] = [
        ("base_model.model.a.lora_A.default.weight", &[4, 6]),
        ("base_model.model.a.lora_B.default.weight", &[6, 4]),
    ];
    let file = load(LORA, &pair).unwrap();
    let keys: Vec<String> = file.keyed().map(|(key, _)| key).collect();
    assert_eq!(
        keys,
        [
            "base_model.model.a.lora_A.weight",
            "base_model.model.a.lora_B.weight"
        ]
    );
    let mixed = [
        pair[0],
        ("base_model.model.a.lora_B.other.weight", &[6_usize, 4][..]),
    ];
    assert!(matches!(
        key_problems(LORA, &mixed)[..],
        [KeyProblem::TwoAdapters { .. }]
    ));
    let twice = [
        pair[0],
        pair[1],
        ("base_model.model.a.lora_A.weight", &[4_usize, 6][..]),
    ];
    assert!(matches!(
        key_problems(LORA, &twice)[..],
        [KeyProblem::Duplicate { .. }]
    ));
}

#[test]
fn adapter_that_could_not_be_read_back_is_not_built() {
    let tensor = HostTensor::from_f32(Dtype::F32, vec![2], &[0.0, 1.0]).unwrap();
    let (config, _) = parse(OFT).unwrap();
    for slot in [
        Slot::Bias,
        Slot::Saved("weight".to_owned()),
        Slot::LoraMagnitude,
    ] {
        let tensors = vec![AdapterTensor {
            module: "a".into(),
            slot,
            tensor: tensor.clone(),
        }];
        let error = AdapterFile::new(config.clone(), tensors).unwrap_err();
        assert!(matches!(error, PeftError::Keys { .. }), "{error}");
    }
}

#[test]
fn directory_without_an_adapter_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let error = AdapterFile::load(directory.path()).unwrap_err();
    assert!(matches!(
        error,
        PeftError::NoAdapter {
            missing: "adapter_config.json",
            ..
        }
    ));
    std::fs::write(directory.path().join("adapter_config.json"), OFT).unwrap();
    std::fs::write(directory.path().join("adapter_model.bin"), "").unwrap();
    let message = AdapterFile::load(directory.path()).unwrap_err().to_string();
    assert!(message.contains("convert it to safetensors"), "{message}");
}

#[test]
fn values_that_are_not_finite_are_refused_by_file_and_tensor() {
    for wrong in [f32::NAN, f32::INFINITY] {
        let (config, _) = parse(r#"{"peft_type": "OFT", "oft_block_size": 2}"#).unwrap();
        let tensor = HostTensor::from_f32(Dtype::F16, vec![2, 1], &[0.5, wrong]).unwrap();
        let tensors = vec![AdapterTensor {
            module: "fc".to_owned(),
            slot: Slot::OftR,
            tensor,
        }];
        let directory = tempfile::tempdir().unwrap();
        let file = AdapterFile::new(config, tensors).unwrap();
        file.save_as(directory.path(), Dtype::F16).unwrap();
        let message = AdapterFile::load(directory.path()).unwrap_err().to_string();
        for word in ["adapter_model.safetensors", "fc.oft_R.weight", "not finite"] {
            assert!(message.contains(word), "{message}");
        }
    }
}

#[test]
fn layers_whose_blocks_are_adjusted_alike_share_one_remark() {
    let modules = ["a", "b", "c"].map(|name| Module::linear(name, 12, 4));
    let config = targeting(r#"["a", "b", "c"]"#);
    let remarks = resolve(&config, &modules).unwrap().warnings;
    let said = "`a` and 2 more layers: oft_block_size 8 does not divide, 6 is used";
    assert_eq!(remarks, [said]);
}

fn targeting(targets: &str) -> AdapterConfig {
    let text =
        format!(r#"{{"peft_type": "OFT", "oft_block_size": 8, "target_modules": {targets}}}"#);
    parse(&text).unwrap().0
}

#[test]
fn targets_that_match_nothing_are_named_with_their_likes() {
    let modules = [
        Module::linear("layers.0.q_proj", 16, 16),
        Module::linear("layers.0.v_proj", 16, 16),
    ];
    let message = resolve(&targeting(r#"["q_porj"]"#), &modules)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("q_porj") && message.contains("`layers.0.q_proj`"),
        "{message}"
    );
    let resolution = resolve(&targeting(r#"["q_proj", "o_proj"]"#), &modules).unwrap();
    assert_eq!(resolution.targets.len(), 1);
    let error = resolution.require_all().unwrap_err();
    assert!(
        matches!(&error, PeftError::UnmatchedTargets { entries, .. } if entries == &["o_proj"])
    );
    let text = r#"{"peft_type": "OFT", "oft_block_size": 8, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["v_proj"]}"#;
    let resolution = resolve(&parse(text).unwrap().0, &modules).unwrap();
    let said = resolution.require_all().unwrap_err().to_string();
    assert!(
        said.contains("`v_proj`") && said.contains("`modules_to_save`"),
        "{said}"
    );
    assert!(matches!(
        resolve(&targeting("\"none.*\""), &modules),
        Err(PeftError::NoTarget { .. })
    ));
    assert!(matches!(
        resolve(&targeting("null"), &modules),
        Err(PeftError::NoTarget { .. })
    ));
}

#[test]
fn targets_that_cannot_be_adapted_are_named() {
    let modules = [
        Module::new("norm", ModuleKind::Other),
        Module::linear("fc", 7, 3),
    ];
    let error = resolve(&targeting(r#"["norm"]"#), &modules).unwrap_err();
    assert!(matches!(&error, PeftError::UnsupportedTarget { module, .. } if module == "norm"));
    let config = parse(r#"{"peft_type": "OFT", "oft_block_size": 3, "target_modules": ["fc"]}"#);
    let message = resolve(&config.unwrap().0, &modules)
        .unwrap_err()
        .to_string();
    assert!(message.contains("module `fc` with 7 inputs"), "{message}");
}

#[test]
fn expressions_that_explode_elsewhere_end_quickly_here() {
    let modules = [Module::linear("a".repeat(5000), 16, 16)];
    assert!(resolve(&targeting(r#""(a*)*b""#), &modules).is_err());
    assert!(resolve(&targeting(r#""(((a{100}){100}){100}){100}""#), &modules).is_err());
}
