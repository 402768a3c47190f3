//! The UNet against diffusers: prediction, outputs of main modules, loss, gradients.
//! Tolerances are those of `tests/golden/diffusion/README.md`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod support;

use std::collections::BTreeMap;

use burn::tensor::{Device, FloatDType, Tensor};
use common::{assert_close, case as golden, io};
use support::{assert_same_gradient, tensor, unet_input, values};
use temper_adapters::Parameters;
use temper_adapters::weights::{Checkpoint, Dtype};
use temper_models::{Gradients, Unet};

const CASES: [&str; 3] = [
    "diffusion/unet_sd15",
    "diffusion/unet_sd2",
    "diffusion/unet_sdxl",
];

fn load(case: &str) -> Unet {
    Unet::load(&golden(case), FloatDType::F32, &Device::flex()).unwrap()
}

#[test]
fn predictions_and_outputs_of_main_modules_match_diffusers() {
    for case in CASES {
        let file = io(case);
        let (y, hidden) = load(case).forward_with_hidden(&unet_input(&file)).unwrap();
        assert_close(case, &values(y), &file.read_f32("y").unwrap(), 1e-4, 1e-5);
        let expected: Vec<&str> = file
            .names()
            .filter(|name| name.starts_with("act."))
            .collect();
        assert_eq!(
            hidden.len(),
            expected.len(),
            "{case}: one output for each main module"
        );
        for module in hidden {
            let key = format!("act.{}", module.name);
            assert_eq!(module.shape, file.info(&key).unwrap().shape, "{case} {key}");
            let theirs = file.read_f32(&key).unwrap();
            assert_close(
                &format!("{case} {key}"),
                &values(module.values),
                &theirs,
                1e-4,
                1e-5,
            );
        }
    }
}

#[test]
fn loss_and_gradients_match_pytorch_with_and_without_recomputation() {
    for case in CASES {
        let file = io(case);
        let input = unet_input(&file);
        let target: Tensor<4> = tensor(&file, "target");
        let loss = |y: Tensor<4>| (y - Tensor::from_inner(target.clone())).square().mean();
        let mut model = load(case);
        model.visit_mut(&mut |param| param.set_trainable(true));
        let expected_loss = file.read_f32("loss").unwrap()[0];
        let mut both: Vec<Gradients> = Vec::new();
        for recompute in [false, true] {
            let mut sums = BTreeMap::new();
            let step = model
                .accumulate(&input, &loss, recompute, &mut sums)
                .unwrap();
            let found = step.loss.into_scalar::<f32>();
            assert!(
                (found - expected_loss).abs() < 1e-5 * expected_loss,
                "{case}: {found} vs {expected_loss}"
            );
            for key in file.names().filter(|name| name.starts_with("grad.")) {
                let ours = values(sums[&key["grad.".len()..]].clone());
                let what = format!("{case} {key}");
                assert_close(&what, &ours, &file.read_f32(key).unwrap(), 1e-3, 1e-5);
            }
            both.push(sums);
        }
        assert_eq!(
            both[0].len(),
            model.config().tensors().len(),
            "{case}: every gradient"
        );
        for (name, whole) in &both[0] {
            let by_segments = values(both[1][name].clone());
            let whole = values(whole.clone());
            assert_same_gradient(&format!("{case} {name}"), &by_segments, &whole);
        }
    }
}

#[test]
fn saving_writes_the_layout_of_diffusers_and_loading_gives_the_same_prediction() {
    let case = "diffusion/unet_sdxl";
    let directory = tempfile::tempdir().unwrap();
    let first = load(case);
    first.save(directory.path(), Dtype::F32, 1 << 30).unwrap();
    let theirs = Checkpoint::open(golden(case)).unwrap();
    let ours = directory.path().join("diffusion_pytorch_model.safetensors");
    let ours = Checkpoint::open(ours).unwrap();
    assert!(ours.names().eq(theirs.names()));
    for name in ours.names() {
        assert_eq!(
            ours.bytes(name).unwrap(),
            theirs.bytes(name).unwrap(),
            "{name}"
        );
    }
    let json = |path: std::path::PathBuf| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let config = json(directory.path().join("config.json"));
    assert_eq!(
        config,
        json(golden(case).join("config.json")),
        "unknown keys are kept"
    );
    // Shards: the index and several files under diffusers' stem; nothing is left of the single file.
    first.save(directory.path(), Dtype::F32, 65_536).unwrap();
    let index = "diffusion_pytorch_model.safetensors.index.json";
    assert!(directory.path().join(index).exists());
    assert!(
        !directory
            .path()
            .join("diffusion_pytorch_model.safetensors")
            .exists()
    );
    let second = Unet::load(directory.path(), FloatDType::F32, &Device::flex()).unwrap();
    let input = unet_input(&io(case));
    let run = |model: &Unet| values(model.forward(&input).unwrap());
    assert_eq!(run(&first), run(&second));
    // The name that the index of a half-precision variant has.
    let variant = "diffusion_pytorch_model.safetensors.index.fp16.json";
    let path = |name: &str| directory.path().join(name);
    std::fs::rename(path(index), path(variant)).unwrap();
    let third = Unet::load(directory.path(), FloatDType::F32, &Device::flex()).unwrap();
    assert_eq!(run(&first), run(&third));
}
