//! Image encoders against transformers, and the perceptual distance against its formula in PyTorch.

mod common;

use std::collections::BTreeMap;

use burn::tensor::{Device, FloatDType, Tensor};
use common::{assert_close, case, ids, io, tensor, values};
use serde_json::json;
use temper_adapters::weights::{Checkpoint, HostTensor, View, save_safetensors};
use temper_models::{Clip, ClipVision, DinoVit, DinoVitConfig, Lpips};

const F32: FloatDType = FloatDType::F32;

#[test]
fn clip_states_and_embeddings_of_images_and_texts_match_transformers() {
    let (device, file) = (Device::flex(), io("vision/clip"));
    let clip = Clip::load(&case("vision/clip"), F32, &device).unwrap();
    let check = |name: &str, ours: Vec<f32>| {
        assert_close(name, &ours, &file.read_f32(name).unwrap(), 1e-4, 1e-5);
    };
    let pixels: Tensor<4> = tensor(&file, "pixel_values", &device);
    let output = clip.vision.forward(pixels.clone()).unwrap();
    check("image_state", values(output.last_hidden_state));
    check("image_pooled", values(output.pooler_output));
    check("image_embeds", values(output.image_embeds));
    check("image_unit", values(clip.image_embeds(pixels).unwrap()));
    let shape = file.info("input_ids").unwrap().shape.clone();
    let texts = clip.text_embeds(&ids(&file, "input_ids"), [shape[0], shape[1]]);
    check("text_unit", values(texts.unwrap()));
}

#[test]
fn dino_states_match_transformers_at_the_trained_and_at_another_size() {
    let (device, file) = (Device::flex(), io("vision/dino"));
    let dino = DinoVit::load(&case("vision/dino"), F32, &device).unwrap();
    for [pixels, state] in [
        ["pixel_values", "last_hidden_state"],
        ["other_pixel_values", "other_last_hidden_state"],
    ] {
        let pixels: Tensor<4> = tensor(&file, pixels, &device);
        let expected = file.read_f32(state).unwrap();
        let states = values(dino.forward(pixels.clone()).unwrap());
        assert_close(state, &states, &expected, 1e-4, 1e-4);
        let tokens = expected.len() / 32 / pixels.dims()[0];
        let embeddings = values(dino.embed(pixels).unwrap());
        for (row, embedding) in embeddings.chunks(32).enumerate() {
            assert_eq!(
                *embedding,
                states[row * tokens * 32..][..32],
                "the class token is the embedding"
            );
        }
    }
}

#[test]
fn dino_vits16_has_the_published_number_of_parameters() {
    assert_eq!(
        DinoVitConfig::dino_vits16().unwrap().parameter_count(),
        21_665_664
    );
    let message = |value| DinoVitConfig::from_json(&value).unwrap_err().to_string();
    assert!(message(json!({"model_type": "dinov2"})).contains("dinov2"));
    assert!(message(json!({"qkv_bias": false})).contains("qkv_bias"));
}

#[test]
fn perceptual_distances_match_their_formula_for_both_networks() {
    let device = Device::flex();
    for name in ["vision/lpips_alex", "vision/lpips_vgg"] {
        let file = io(name);
        let lpips = Lpips::load(&case(name).join("model.safetensors"), &device).unwrap();
        let [a, b]: [Tensor<4>; 2] = ["a", "b"].map(|image| tensor(&file, image, &device));
        let ours = values(lpips.forward(a.clone(), b.clone()).unwrap());
        assert_close(name, &ours, &file.read_f32("distance").unwrap(), 1e-4, 1e-6);
        let back = values(lpips.forward(b, a.clone()).unwrap());
        assert_close("symmetric", &back, &ours, 1e-6, 1e-7);
        let same = values(lpips.forward(a.clone(), a).unwrap());
        assert!(same.iter().all(|distance| *distance == 0.0), "{same:?}");
    }
}

#[test]
fn images_seen_one_by_one_have_the_distances_of_pairs_seen_together() {
    let (device, name) = (Device::flex(), "vision/lpips_alex");
    let file = io(name);
    let lpips = Lpips::load(&case(name).join("model.safetensors"), &device).unwrap();
    let see = |image: &str, row: usize| {
        let images: Tensor<4> = tensor(&file, image, &device);
        lpips.look(images.narrow(0, row, 1)).unwrap()
    };
    let expected = file.read_f32("distance").unwrap();
    for (row, expected) in expected.iter().enumerate() {
        let ours = values(lpips.distance(&see("a", row), &see("b", row)).unwrap());
        assert_close(name, &ours, &[*expected], 1e-4, 1e-6);
    }
    let floats: u64 = [8 * 9 * 11, 12 * 4 * 5, 16 * 2, 12 * 2, 12 * 2]
        .iter()
        .sum();
    assert_eq!(see("a", 0).bytes(), 4 * floats);
    let other = lpips.look(Tensor::zeros([1, 3, 64, 64], &device)).unwrap();
    assert!(lpips.distance(&see("a", 0), &other).is_err());
}

#[test]
fn the_published_package_s_own_names_of_the_network_load_too() {
    let (device, name) = (Device::flex(), "vision/lpips_alex");
    let file = io(name);
    let plain = Checkpoint::open(case(name).join("model.safetensors")).unwrap();
    let slices = BTreeMap::from([("0", 1), ("3", 2), ("6", 3), ("8", 4), ("10", 5)]);
    let mut views = Vec::new();
    for from in plain.names() {
        let Some((number, part)) = from
            .strip_prefix("features.")
            .and_then(|rest| rest.split_once('.'))
        else {
            views.push(View::new(from, from));
            views.push(View::new(from, from.replacen("lin", "lins.", 1)));
            continue;
        };
        views.push(View::new(
            from,
            format!("net.slice{}.{number}.{part}", slices[number]),
        ));
    }
    let packaged = plain.views(views).unwrap();
    let lpips = Lpips::from_checkpoint(&packaged, &device).unwrap();
    let [a, b]: [Tensor<4>; 2] = ["a", "b"].map(|image| tensor(&file, image, &device));
    let ours = values(lpips.forward(a, b).unwrap());
    assert_close(
        "distance",
        &ours,
        &file.read_f32("distance").unwrap(),
        1e-4,
        1e-6,
    );
}

#[test]
fn images_of_a_size_that_does_not_fit_are_refused() {
    let device = Device::flex();
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
    let clip = ClipVision::load(&case("vision/clip"), F32, &device).unwrap();
    let error = clip.forward(zeros([1, 3, 20, 25])).unwrap_err().to_string();
    assert!(
        error.contains("[3, 20, 25]") && error.contains("[3, 20, 20]"),
        "{error}"
    );
    let dino = DinoVit::load(&case("vision/dino"), F32, &device).unwrap();
    assert!(dino.forward(zeros([1, 3, 4, 20])).is_err());
    assert!(dino.forward(zeros([1, 1, 20, 20])).is_err());
    let lpips = Lpips::load(&case("vision/lpips_alex/model.safetensors"), &device).unwrap();
    assert!(
        lpips
            .forward(zeros([1, 3, 40, 40]), zeros([1, 3, 40, 41]))
            .is_err()
    );
    assert!(
        lpips
            .forward(zeros([1, 3, 30, 40]), zeros([1, 3, 30, 40]))
            .is_err()
    );
    assert!(
        lpips
            .forward(zeros([1, 3, 31, 31]), zeros([1, 3, 31, 31]))
            .is_ok()
    );
}

#[test]
fn heads_that_are_missing_from_a_network_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let plain = Checkpoint::open(case("vision/lpips_alex/model.safetensors")).unwrap();
    let tensors: Vec<(String, HostTensor)> = plain
        .names()
        .filter(|name| *name != "lin3.model.1.weight")
        .map(|name| (name.to_owned(), plain.read(name).unwrap()))
        .collect();
    let file = directory.path().join("model.safetensors");
    save_safetensors(&file, &tensors, &BTreeMap::new()).unwrap();
    let error = Lpips::load(directory.path(), &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(error.contains("lin3.model.1.weight"), "{error}");
}
