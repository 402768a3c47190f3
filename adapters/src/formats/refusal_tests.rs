use std::collections::BTreeMap;

use super::fixtures::{linears, lora, oft, text_encoder, unet};
use super::*;
use crate::peft::{AdapterConfig, AdapterFile, AdapterTensor, Bias, Slot};
use crate::weights::{Dtype, HostTensor, save_safetensors};

fn value(shape: &[usize]) -> HostTensor {
    let n = shape.iter().product();
    HostTensor::from_f32(Dtype::F32, shape.to_vec(), &vec![0.5; n]).unwrap()
}

const DOWN: &str =
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight";
const UP: &str = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight";

/// What is said about a file of these tensors.
fn refusal(tensors: &[(&str, &[usize])], metadata: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("subject.safetensors");
    let tensors: Vec<(String, HostTensor)> = tensors
        .iter()
        .map(|(key, shape)| ((*key).to_owned(), value(shape)))
        .collect();
    let metadata: BTreeMap<String, String> = metadata
        .iter()
        .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
        .collect();
    save_safetensors(&file, &tensors, &metadata).unwrap();
    let (unet, text) = (unet(), text_encoder(""));
    let modules = Modules {
        unet: &unet,
        text_encoder: &text,
        ..Modules::default()
    };
    read(&file, &modules).unwrap_err().to_string()
}

#[test]
fn other_methods_are_named() {
    let good: [(&str, &[usize]); 2] = [(DOWN, &[2, 8]), (UP, &[12, 2])];
    let with = |key: &'static str, shape: &'static [usize]| {
        refusal(&[good[0], good[1], (key, shape)], &[])
    };
    let module = "lora_unet_conv_in";
    for (tail, word) in [
        ("lora_mid.weight", "Tucker"),
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("dora_scale", "DoRA"),
        ("diff", "difference"),
        ("oft_diag", "LyCORIS"),
        ("oft_R.scaled_oft", "scaled"),
        ("surprise", "no known parameter"),
    ] {
        let key: &'static str = Box::leak(format!("{module}.{tail}").into_boxed_str());
        let message = with(key, &[2, 2]);
        assert!(
            message.contains(word) && message.contains(module),
            "{tail}: {message}"
        );
    }
    let legacy = refusal(
        &[(
            "oft_unet_mid_block_attentions_0_proj_in.oft_blocks",
            &[2, 4, 4],
        )],
        &[],
    );
    assert!(legacy.contains("first OFT"), "{legacy}");
    let peft = refusal(&[("base_model.model.fc.oft_r.default", &[2, 4, 4])], &[]);
    assert!(peft.contains("adapter_config.json"), "{peft}");
    let ancient = refusal(
        &[("unet.mid_block.attentions.0.proj_in.oft_r", &[2, 4, 4])],
        &[],
    );
    assert!(ancient.contains("before 0.16"), "{ancient}");
    let flux = refusal(&[("transformer.blocks.0.to_q.lora_A.weight", &[2, 4])], &[]);
    assert!(flux.contains("transformer"), "{flux}");
    let nothing = refusal(&[("model.weight", &[2, 4])], &[]);
    assert!(nothing.contains("model.weight"), "{nothing}");
}

#[test]
fn no_tensor_is_left_over() {
    let stranger = refusal(
        &[
            (DOWN, &[2, 8]),
            (UP, &[12, 2]),
            ("lora_unet_conv_inn.alpha", &[]),
        ],
        &[],
    );
    assert!(
        stranger.contains("conv_inn") && stranger.contains("`conv_in`"),
        "{stranger}"
    );
    let second = refusal(
        &[("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", &[])],
        &[],
    );
    assert!(second.contains("text_encoder_2"), "{second}");
    let half = refusal(&[(DOWN, &[2, 8])], &[]);
    assert!(half.contains("up (B)"), "{half}");
    let alone = refusal(&[("lora_unet_conv_in.alpha", &[])], &[]);
    assert!(alone.contains("alpha but no weights"), "{alone}");
    let twice = refusal(
        &[
            (DOWN, &[2, 8]),
            (UP, &[12, 2]),
            (
                "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_up.weight",
                &[12, 2],
            ),
        ],
        &[],
    );
    assert!(twice.contains("second time"), "{twice}");
    let mixed = refusal(
        &[
            (DOWN, &[2, 8]),
            (UP, &[12, 2]),
            (
                "lora_unet_mid_block_resnets_0_time_emb_proj.oft_R.weight",
                &[4, 6],
            ),
        ],
        &[],
    );
    assert!(mixed.contains("others LoRA"), "{mixed}");
    let shape = refusal(&[(DOWN, &[2, 9]), (UP, &[12, 2])], &[]);
    assert!(shape.contains("[2, 9]"), "{shape}");
    let many = refusal(
        &[
            (DOWN, &[2, 8]),
            (UP, &[12, 2]),
            ("lora_unet_conv_in.alpha", &[2]),
        ],
        &[],
    );
    assert!(many.contains("2 values"), "{many}");
}

#[test]
fn rotated_convolutions_under_these_keys_are_refused_both_ways() {
    let message = refusal(
        &[(
            "lora_unet_mid_block_attentions_0_proj_in.oft_R.weight",
            &[2, 6],
        )],
        &[],
    );
    assert!(message.contains("convolution"), "{message}");
    let unet = unet();
    let modules = Modules {
        unet: &unet,
        ..Modules::default()
    };
    let all = oft(&unet, |_| {});
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("oft.safetensors");
    let error =
        write_kohya(&file, &[(Component::Unet, &all)], KohyaModel::Sd1, &modules).unwrap_err();
    assert!(error.to_string().contains("convolution"), "{error}");
    assert!(!file.exists());
}

#[test]
fn what_a_layout_cannot_hold_is_refused_before_anything_is_written() {
    let unet = unet();
    let modules = Modules {
        unet: &unet,
        ..Modules::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("subject.safetensors");
    let kohya = |adapters: &[(Component, &AdapterFile)]| {
        write_kohya(&file, adapters, KohyaModel::Sd1, &modules)
            .unwrap_err()
            .to_string()
    };
    let rotations = oft(&linears(unet.clone()), |_| {});
    assert!(kohya(&[(Component::Unet, &lora(&unet, false, true))]).contains("DoRA"));
    let both = [
        (Component::Unet, &lora(&unet, false, false)),
        (Component::TextEncoder, &rotations),
    ];
    assert!(kohya(&both).contains("together"));
    let error = write_diffusers_lora(&file, &[(Component::Unet, &rotations)]).unwrap_err();
    assert!(error.to_string().contains("OFT"), "{error}");
    let plain = lora(&unet, false, false);
    let mut config = plain.config().clone();
    config.common_mut().bias = Bias::Adapted;
    let mut tensors = plain.tensors().to_vec();
    let tensor = value(&[8]);
    tensors.push(AdapterTensor {
        module: "conv_in".into(),
        slot: Slot::Bias,
        tensor,
    });
    let biased = AdapterFile::new(config, tensors).unwrap();
    assert!(kohya(&[(Component::Unet, &biased)]).contains("conv_in.bias"));
    assert!(!file.exists());
}

#[test]
fn metadata_is_taken_at_its_word_or_refused() {
    let pair: [(&str, &[usize]); 2] = [
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
            &[2, 8],
        ),
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight",
            &[12, 2],
        ),
    ];
    let with = |text: &str| refusal(&pair, &[("lora_adapter_metadata", text)]);
    assert!(with("not json").contains("lora_adapter_metadata"));
    assert!(with(r#"{"unet.r": "two"}"#).contains("`r`"));
    assert!(
        with(r#"{"unet.r": 2, "unet.lora_bias": true, "unet.target_modules": ["to_q"]}"#)
            .contains("lora_bias")
    );
    // The metadata calls for more than the file has.
    let more = with(r#"{"unet.r": 2, "unet.target_modules": ["attn1.to_q", "conv_in"]}"#);
    assert!(more.contains("conv_in"), "{more}");
}

#[test]
fn an_assumption_about_rotations_is_said() {
    let unet = linears(unet());
    let modules = Modules {
        unet: &unet,
        ..Modules::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("oft.safetensors");
    let key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.oft_R.weight";
    let series = |metadata: &[(&str, &str)]| {
        let metadata = metadata
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
            .collect();
        save_safetensors(&file, &[(key.to_owned(), value(&[2, 6]))], &metadata).unwrap();
        let read = read(&file, &modules).unwrap();
        let AdapterConfig::Oft(config) = read.adapters[0].1.config() else {
            panic!("OFT")
        };
        (config.use_cayley_neumann, read.remarks.len())
    };
    assert_eq!(series(&[]), (true, 1));
    assert_eq!(
        series(&[("ss_network_args", r#"{"use_cayley_neumann": "False"}"#)]),
        (false, 0)
    );
}

#[test]
fn places_without_an_adapter_say_what_was_expected() {
    let directory = tempfile::tempdir().unwrap();
    let message = |path: &std::path::Path| detect(path).unwrap_err().to_string();
    assert!(message(directory.path()).contains("pytorch_lora_weights"));
    let missing = message(&directory.path().join("missing.safetensors"));
    assert!(missing.contains("nothing at"), "{missing}");
    let pickled = directory.path().join("pytorch_lora_weights.bin");
    std::fs::write(&pickled, b"pickle").unwrap();
    assert!(message(directory.path()).contains("pickled"));
}

#[test]
fn an_alpha_of_zero_and_values_that_are_not_finite_are_refused_by_name() {
    let unet = unet();
    let modules = Modules {
        unet: &unet,
        ..Modules::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("subject.safetensors");
    let message = |alpha: f32, up: f32| {
        let filled = |shape: &[usize], value: f32| {
            let values = vec![value; shape.iter().product()];
            HostTensor::from_f32(Dtype::F32, shape.to_vec(), &values).unwrap()
        };
        let base = DOWN.trim_end_matches(".lora_down.weight");
        let tensors = [
            (DOWN.to_owned(), filled(&[2, 8], 0.5)),
            (UP.to_owned(), filled(&[12, 2], up)),
            (format!("{base}.alpha"), filled(&[], alpha)),
        ];
        save_safetensors(&file, &tensors, &BTreeMap::new()).unwrap();
        read(&file, &modules).map_err(|error| error.to_string())
    };
    assert!(message(1.0, 0.5).is_ok());
    let zero = message(0.0, 0.5).unwrap_err();
    assert!(
        zero.contains("alpha of `mid_block.attentions.0.transformer_blocks.0.attn1.to_q` is 0"),
        "{zero}"
    );
    let infinite = message(1.0, f32::INFINITY).unwrap_err();
    assert!(
        infinite.contains(UP) && infinite.contains("not finite"),
        "{infinite}"
    );
}
