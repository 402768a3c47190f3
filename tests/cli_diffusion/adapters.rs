//! Adapters of pipelines: made for tests, folded in, converted.

use std::path::{Path, PathBuf};

use temper_adapters::peft::{
    AdapterConfig, AdapterFile, AdapterTensor, Common, LoraConfig, Module, ModuleKind,
    ModulePattern, OftConfig, Slot,
};
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor};
use temper_models::UnetConfig;

use super::pipelines::copy_of_pipeline;
use super::support::{assert_close, fail, path, succeed, text};

/// Names of the layers that the paper adapts.
const ATTENTION: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];

/// Numbers between −scale and scale, different ones for each name.
fn numbers(name: &str, count: usize, scale: f32) -> Vec<f32> {
    let start: u32 = name
        .bytes()
        .fold(17, |sum, byte| sum.wrapping_mul(31) + u32::from(byte));
    let number = |i: u32| (start.wrapping_add(i).wrapping_mul(2_654_435_761) >> 8) as f32;
    let unit = |i| number(i) / (1 << 23) as f32 - 1.0;
    (0..count as u32).map(|i| unit(i) * scale).collect()
}

fn attention(unet: &Path) -> Vec<(Module, usize, usize)> {
    let modules = UnetConfig::load(unet).unwrap().modules().into_iter();
    let linear = |module: Module| match module.kind {
        ModuleKind::Linear { inputs, outputs } => Some((module, inputs, outputs)),
        _ => None,
    };
    let is_attention = |name: &str| {
        ATTENTION
            .iter()
            .any(|end| name.ends_with(&format!(".{end}")))
    };
    modules
        .filter(|module| is_attention(&module.name))
        .filter_map(linear)
        .collect()
}

fn common() -> Common {
    Common {
        target_modules: Some(ModulePattern::Names(ATTENTION.map(str::to_owned).to_vec())),
        ..Common::default()
    }
}

fn save(config: AdapterConfig, tensors: Vec<AdapterTensor>, directory: &Path) -> PathBuf {
    AdapterFile::new(config, tensors)
        .unwrap()
        .save(directory)
        .unwrap();
    directory.to_owned()
}

/// An OFT adapter for the attention of a UNet, far from the identity.
pub(super) fn oft(unet: &Path, folder: &Path) -> PathBuf {
    let config = OftConfig {
        common: common(),
        oft_block_size: 4,
        use_cayley_neumann: false,
        ..OftConfig::default()
    };
    let tensors = attention(unet).into_iter().map(|(module, inputs, _)| {
        let shape = vec![inputs / 4, 6];
        let values = numbers(&module.name, shape.iter().product(), 0.6);
        AdapterTensor {
            module: module.name,
            slot: Slot::OftR,
            tensor: HostTensor::from_f32(Dtype::F32, shape, &values).unwrap(),
        }
    });
    save(
        AdapterConfig::Oft(config),
        tensors.collect(),
        &folder.join("oft"),
    )
}

/// A `LoRA` for the same layers.
pub(super) fn lora(unet: &Path, folder: &Path) -> PathBuf {
    lora_of(unet, folder, "lora", 0.5)
}

/// The same with values of this size.
pub(super) fn lora_of(unet: &Path, folder: &Path, name: &str, scale: f32) -> PathBuf {
    let config = LoraConfig {
        common: common(),
        r: 2,
        lora_alpha: 2.0,
        ..LoraConfig::default()
    };
    let tensors = attention(unet)
        .into_iter()
        .flat_map(|(module, inputs, outputs)| {
            let part = |slot: Slot, shape: Vec<usize>| {
                let key = format!("{}.{}", module.name, slot.name());
                let values = numbers(&key, shape.iter().product(), scale);
                AdapterTensor {
                    module: module.name.clone(),
                    slot,
                    tensor: HostTensor::from_f32(Dtype::F32, shape, &values).unwrap(),
                }
            };
            [
                part(Slot::LoraA, vec![2, inputs]),
                part(Slot::LoraB, vec![outputs, 2]),
            ]
        });
    save(
        AdapterConfig::Lora(config),
        tensors.collect(),
        &folder.join(name),
    )
}

/// The UNet directory of a case of `tests/golden/oft`.
pub(super) fn golden_unet(name: &str, folder: &Path) -> (PathBuf, PathBuf, Checkpoint) {
    let case = path("tests/golden/oft").join(name);
    let unet = folder.join("base");
    std::fs::create_dir_all(&unet).unwrap();
    let weights = unet.join("diffusion_pytorch_model.safetensors");
    std::fs::copy(case.join("config.json"), unet.join("config.json")).unwrap();
    std::fs::copy(case.join("base.safetensors"), weights).unwrap();
    let io = Checkpoint::open(case.join("io.safetensors")).unwrap();
    (unet, case.join("adapter"), io)
}

/// The difference that `temper merge` prints.
fn difference(said: &str) -> f32 {
    let after = said.split("merged: ").nth(1).unwrap();
    after.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn merging_a_unet_gives_the_weights_of_peft_in_the_layout_of_diffusers() {
    for name in ["unet_oft_attn", "unet_coft_attn_cn", "unet_lora_attn"] {
        let folder = tempfile::tempdir().unwrap();
        let (unet, adapter, io) = golden_unet(name, folder.path());
        let merged = folder.path().join("merged");
        let places = [
            "--model",
            text(&unet),
            "--adapter",
            text(&adapter),
            "--output",
            text(&merged),
        ];
        let said = succeed(&[&["merge"], &places[..]].concat());
        assert!(difference(&said) <= 1e-5, "{name}: {said}");
        let ours = Checkpoint::open(&merged).unwrap();
        let expected = io.names().filter_map(|key| key.strip_prefix("merged."));
        let mut compared = 0;
        for key in expected {
            let theirs = io.read_f32(&format!("merged.{key}")).unwrap();
            let ours = ours.read_f32(key).unwrap();
            assert_close(&format!("{name} {key}"), &ours, &theirs, (1e-4, 1e-5));
            compared += 1;
        }
        assert!(compared > 10, "{name}: {compared} merged weights");
    }
}

#[test]
fn merging_into_a_pipeline_rewrites_the_unet_and_draws_the_same() {
    let (folder, pipeline) = copy_of_pipeline();
    let oft = oft(&pipeline.join("unet"), folder.path());
    let lora = lora(&pipeline.join("unet"), folder.path());
    let weak = format!("{}:0.3", lora.display());
    let merged = folder.path().join("merged");
    let adapters = ["--adapter", text(&oft), "--adapter", &weak];
    let places = ["--model", text(&pipeline), "--output", text(&merged)];
    let said = succeed(&[&["merge"], &places[..], &adapters[..]].concat());
    // Each fold is compared with the adapter beside the weights, which rounds differently.
    let folds: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("merged: "))
        .collect();
    assert_eq!(folds.len(), 2, "{said}");
    assert!(folds[0].contains("lora` at strength 0.3") && folds[1].contains("oft` at strength 1"));
    for fold in folds {
        assert!(0.0 < difference(fold) && difference(fold) <= 1e-5, "{said}");
    }
    let same = |file: &str| {
        let [old, new] = [&pipeline, &merged].map(|root| std::fs::read(root.join(file)).unwrap());
        old == new
    };
    assert!(same("text_encoder/model.safetensors") && same("model_index.json"));
    assert!(!same("unet/diffusion_pytorch_model.safetensors"));
    let draw = |model: &Path, more: &[&str]| {
        let file = folder.path().join("x.png");
        let size = [
            "--width",
            "16",
            "--height",
            "16",
            "--steps",
            "2",
            "--overwrite",
        ];
        let places = [
            "sample",
            "--model",
            text(model),
            "--output",
            text(&file),
            "--prompt",
            "dog",
        ];
        succeed(&[&places[..], &size[..], more].concat());
        temper_datasets::images::read(&file).unwrap().rgb
    };
    let (beside, inside) = (draw(&pipeline, &adapters), draw(&merged, &[]));
    let apart = beside
        .iter()
        .zip(&inside)
        .map(|(a, b)| a.abs_diff(*b))
        .max();
    assert!(apart <= Some(1), "{apart:?}");
    let again = [&["merge"], &places[..], &adapters[..]].concat();
    assert!(fail(1, &again).contains("not empty"));
}

/// What `temper convert` says on stdout and stderr, and its code. It computes nothing, and takes no device.
pub(super) fn convert(
    from: &Path,
    model: &Path,
    to: &str,
    output: &Path,
) -> (String, String, Option<i32>) {
    let from = ["--adapter", text(from), "--model", text(model)];
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_temper"))
        .arg("convert")
        .args(from)
        .args(["--to", to, "--output", text(output)])
        .output()
        .unwrap();
    let [said, error] = [run.stdout, run.stderr].map(|text| String::from_utf8(text).unwrap());
    (said, error, run.status.code())
}

#[test]
fn adapters_go_to_other_layouts_and_back_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = path("tests/golden/diffusion/pipeline");
    let unet = pipeline.join("unet");
    let convert = |from: &Path, to: &str, name: &str| {
        let output = folder.path().join(name);
        let (said, error, code) = convert(from, &pipeline, to, &output);
        (output, said, error, code)
    };
    let lora = lora(&unet, folder.path());
    let (diffusers, said, error, _) =
        convert(&lora, "diffusers", "pytorch_lora_weights.safetensors");
    assert!(
        said.contains("32 layers, largest difference of a value 0"),
        "{said}{error}"
    );
    let keys = Checkpoint::open(&diffusers).unwrap();
    assert!(
        keys.names()
            .all(|key| key.starts_with("unet.") && key.contains(".lora_"))
    );
    let (kohya, said, error, _) = convert(&diffusers, "kohya", "kohya.safetensors");
    assert!(
        said.contains("32 layers, largest difference of a value 0"),
        "{said}{error}"
    );
    let keys = Checkpoint::open(&kohya).unwrap();
    assert!(keys.names().all(|key| key.starts_with("lora_unet_")));
    let (back, said, error, _) = convert(&kohya, "peft", "back");
    assert!(said.contains("32 layers"), "{said}{error}");
    let [ours, theirs] = [&lora, &back].map(|path| AdapterFile::load(path).unwrap().0);
    assert_eq!(ours.tensors(), theirs.tensors());
    let common = theirs.config().common();
    let targets = ["to_k", "to_out.0", "to_q", "to_v"].map(str::to_owned);
    assert_eq!(
        common.target_modules,
        Some(ModulePattern::Names(targets.to_vec()))
    );
    assert_eq!(
        common.base_model_name_or_path.as_deref(),
        Some(text(&pipeline))
    );

    let oft = oft(&unet, folder.path());
    let (_, said, error, _) = convert(&oft, "kohya", "oft.safetensors");
    assert!(
        said.contains(
            "32 layers, largest difference of a value 0.000e0; rotations, computed another way"
        ),
        "{said}{error}"
    );
    let (_, _, error, code) = convert(&oft, "diffusers", "oft-diffusers.safetensors");
    assert!(code == Some(1) && error.contains("OFT"), "{error}");
    let (_, _, error, code) = convert(&oft, "kohya", "oft.safetensors");
    assert!(code == Some(1) && error.contains("--overwrite"), "{error}");
}

#[test]
fn a_run_is_converted_like_its_adapters_and_files_get_the_names_that_tools_look_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = path("tests/golden/diffusion/pipeline");
    let run = folder.path().join("run");
    lora_of(&pipeline.join("unet"), &run, "adapter", 0.5);
    std::fs::write(run.join("recipe.toml"), "").unwrap();
    let expected = [
        ("diffusers", "d", "d/pytorch_lora_weights.safetensors"),
        ("kohya", "k", "k.safetensors"),
        ("kohya", "v1.5", "v1.5.safetensors"),
        ("peft", "p", "p/adapter_model.safetensors"),
    ];
    for (to, name, file) in expected {
        let (said, error, code) = convert(&run, &pipeline, to, &folder.path().join(name));
        assert_eq!(code, Some(0), "{said}{error}");
        assert!(folder.path().join(file).is_file(), "{file}: {said}{error}");
        assert!(!folder.path().join(name).is_file(), "{said}");
        let (_, error, code) = convert(&run, &pipeline, to, &folder.path().join(name));
        assert!(code == Some(1) && error.contains("already"), "{error}");
    }
}

#[test]
fn converting_names_how_the_run_saw_its_model_and_never_writes_over_what_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = path("tests/golden/diffusion/pipeline");
    let run = folder.path().join("run");
    lora_of(&pipeline.join("unet"), &run, "adapter", 0.5);
    let recipe = "[diffusion]\nprediction_type = \"v_prediction\"\nclip_skip = 1\n";
    std::fs::write(run.join("recipe.toml"), recipe).unwrap();
    let (said, error, code) = convert(&run, &pipeline, "kohya", &folder.path().join("k"));
    assert_eq!(code, Some(0), "{said}{error}");
    assert!(
        error.contains("--prediction v_prediction and --clip-skip 1"),
        "{error}"
    );
    let own = run.join("adapter/adapter_model.safetensors");
    let kept = std::fs::read(&own).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_temper"))
        .args(["convert", "--to", "kohya", "--overwrite", "--adapter"])
        .arg(&run)
        .arg("--model")
        .arg(&pipeline)
        .arg("--output")
        .arg(&own)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(std::fs::read(&own).unwrap(), kept);
}

#[test]
fn adapters_with_values_that_are_not_finite_are_refused_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = path("tests/golden/diffusion/pipeline");
    let nan = lora_of(&pipeline.join("unet"), folder.path(), "nan", f32::NAN);
    let output = folder.path().join("x.png");
    let (model, adapter, output) = (text(&pipeline), text(&nan), text(&output));
    let places = ["--model", model, "--adapter", adapter];
    let check = |message: &str| {
        for word in ["not finite", "nan/adapter_model.safetensors", "to_q.lora_A"] {
            assert!(message.contains(word), "{word}: {message}");
        }
    };
    check(&fail(1, &[&["energy"], &places[..]].concat()));
    let merge = [&["merge"], &places[..], &["--output", output]].concat();
    check(&fail(1, &merge));
    let sample = ["--prompt", "dog", "--output", output, "--steps", "1"];
    let message = fail(1, &[&["sample"], &places[..], &sample[..]].concat());
    check(&message);
    assert!(message.contains("train.lr"), "{message}");
    let (_, error, code) = convert(&nan, &pipeline, "kohya", Path::new(output));
    assert_eq!(code, Some(1));
    check(&error);
}
