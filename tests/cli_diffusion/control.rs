//! Pictures that steer the layout, and where their encoder goes.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use temper_adapters::weights::Dtype;
use temper_adapters::{Parameters, RandomSource};
use temper_datasets::images::{Photo, read, write_png};
use temper_models::{ControlConfig, ControlEncoder, UnetConfig};

use super::adapters::{convert, lora};
use super::files::copy_all;
use super::pipelines::copy_of_pipeline;
use super::sample::{args, recipe};
use super::support::{fail, succeed, temper, text};

/// A run directory with an encoder and an adapter, and a picture with an edge.
pub(super) fn control_run(folder: &Path, model: &Path) -> (PathBuf, PathBuf) {
    // The published encoder makes eighths; the tiny autoencoder makes halves.
    let unet = UnetConfig::load(&model.join("unet")).unwrap();
    let mut json = ControlConfig::for_unet(&unet).to_json();
    json["block_out_channels"] = serde_json::json!([4, 8]);
    let config = ControlConfig::from_json(&json).unwrap();
    let random = RandomSource::new(|purpose| temper_datasets::random::rng(0, purpose, 0, 0));
    let device = Device::flex();
    let mut encoder = ControlEncoder::random(config, FloatDType::F32, &device, &random);
    encoder.visit_mut(&mut |param| {
        let values = random.normal(param.name(), param.numel(), 0.5);
        let data = TensorData::new(values, [param.numel()]);
        param.set(Tensor::from_data(data, &device));
    });
    let run = folder.join("run");
    encoder
        .save(&run.join("control"), Dtype::F32, 1 << 30)
        .unwrap();
    let adapter = lora(&model.join("unet"), &run);
    let mut photo = Photo::filled(40, 24, [10; 3]);
    for (at, byte) in photo.rgb.iter_mut().enumerate() {
        if at / 3 % 40 > 20 {
            *byte = 250;
        }
    }
    let picture = folder.join("edges.png");
    write_png(&picture, &photo, &[]).unwrap();
    (adapter, picture)
}

#[test]
fn a_control_picture_steers_what_is_drawn() {
    let (folder, model) = copy_of_pipeline();
    let (adapter, picture) = control_run(folder.path(), &model);
    let draw = |name: &str, more: &[&str]| {
        let file = folder.path().join(name).with_extension("png");
        let options = ["--prompt", "dog", "--adapter", text(&adapter)];
        succeed(&args(&model, &file, &[&options[..], more].concat()));
        (read(&file).unwrap(), file)
    };
    let (free, _) = draw("free", &[]);
    let control = ["--control", text(&picture)];
    let (steered, file) = draw("steered", &control);
    assert_ne!(steered, free);
    assert_eq!(recipe(&file)["control"]["image"], text(&picture));
    let edges = ["--control", text(&picture), "--canny", "50,100"];
    assert_ne!(draw("edges-found", &edges).0, steered);
    let file = folder.path().join("x.png");
    let alone = ["--prompt", "dog", "--control", text(&picture)];
    assert!(fail(2, &args(&model, &file, &alone)).contains("--control-model"));
}

#[test]
fn a_photograph_where_edges_were_learned_and_a_choice_among_encoders_are_named() {
    let (folder, model) = copy_of_pipeline();
    let (adapter, map) = control_run(folder.path(), &model);
    let run = folder.path().join("run");
    let recipe = "[diffusion]\ncontrol = \"canny\"\ncanny_low = 50\ncanny_high = 90\n";
    std::fs::write(run.join("recipe.toml"), recipe).unwrap();
    let photo = folder.path().join("photo.png");
    write_png(&photo, &Photo::filled(40, 24, [120; 3]), &[]).unwrap();
    let other = folder.path().join("other");
    copy_all(&run, &other);
    let other = other.join(adapter.file_name().unwrap());
    let said = |name: &str, more: &[&str]| {
        let file = folder.path().join(name).with_extension("png");
        let options = ["--prompt", "dog", "--adapter", text(&adapter)];
        let output = temper(&args(&model, &file, &[&options[..], more].concat()));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let photograph = said("photograph", &["--control", text(&photo)]);
    assert!(photograph.contains("add --canny 50,90"), "{photograph}");
    let edges = said("followed", &["--control", text(&map)]);
    assert!(!edges.contains("--canny"), "{edges}");
    let second = ["--control", text(&map), "--adapter", text(&other)];
    let two = said("two", &second);
    assert!(two.contains("choose with --control-model"), "{two}");
    assert!(!edges.contains("--control-model"), "{edges}");
}

#[test]
fn a_merged_pipeline_keeps_the_encoder_and_follows_the_picture() {
    let (folder, model) = copy_of_pipeline();
    let (adapter, picture) = control_run(folder.path(), &model);
    let merged = folder.path().join("merged");
    let into = |model: &Path, output: &Path| {
        temper(&[
            "merge",
            "--model",
            text(model),
            "--adapter",
            text(&adapter),
            "--output",
            text(output),
        ])
    };
    assert!(into(&model, &merged).status.success());
    let draw = |model: &Path, name: &str, more: &[&str]| {
        let file = folder.path().join(name).with_extension("png");
        let options = ["--prompt", "dog", "--control", text(&picture)];
        succeed(&args(model, &file, &[&options[..], more].concat()));
        read(&file).unwrap().rgb
    };
    let beside = draw(&model, "beside", &["--adapter", text(&adapter)]);
    let inside = draw(&merged, "inside", &[]);
    let pairs = beside.iter().zip(&inside);
    assert!(pairs.map(|(a, b)| a.abs_diff(*b)).max() <= Some(1));
    // A UNet alone has no place for it.
    let said = into(&model.join("unet"), &folder.path().join("unet"));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("run/control") && said.contains("--control-model"));
}

#[test]
fn a_converted_adapter_keeps_the_encoder_where_there_is_a_directory() {
    let (folder, model) = copy_of_pipeline();
    let (adapter, _) = control_run(folder.path(), &model);
    for (to, name) in [("peft", "peft"), ("diffusers", "diffusers")] {
        let output = folder.path().join(name);
        let (said, error, _) = convert(&adapter, &model, to, &output);
        assert!(
            output.join("control/config.json").is_file(),
            "{said}{error}"
        );
    }
    for (to, name) in [("kohya", "a.safetensors"), ("diffusers", "b.safetensors")] {
        let (said, error, code) = convert(&adapter, &model, to, &folder.path().join(name));
        assert_eq!(code, Some(0), "{said}{error}");
        assert!(error.contains("run/control") && error.contains("--control-model"));
    }
}
