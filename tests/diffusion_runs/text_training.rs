//! Text encoders trained with the network, against PyTorch, diffusers and PEFT on the same noise.
//!
//! `scripts/golden_text_training.py` made the curves from what [`write_what_the_steps_see`] writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::Tensor;
use temper_adapters::weights::{Dtype, HostTensor, save_safetensors};
use temper_datasets::images::{Photo, write_png};

use super::replay::{Replay, Seen, noise_photo};
use super::support::{Bench, Run, assert_relative, golden, json, tensors};

const PROMPT: &str = "a photo of sks dog";
const SIDE: usize = 16;
const STEPS: u64 = 6;
const SEED: u64 = 11;

const OFT: &str = "kind = \"oft\"\noft_block_size = 2\nuse_cayley_neumann = false\ntarget_modules = [\"to_q\", \"to_k\", \"to_v\", \"to_out.0\"]";

fn photo() -> Photo {
    noise_photo(5, SIDE, SIDE)
}

fn run(bench: &Bench, name: &str, model: &str, adapter: &str) -> Run {
    let folder = bench.path("photos");
    if !folder.exists() {
        std::fs::create_dir(&folder).unwrap();
        write_png(folder.join("0.png"), &photo(), &[]).unwrap();
    }
    let model = golden(model);
    bench.run(
        name,
        &format!(
            "device = \"cpu\"\nseed = {SEED}\n[model]\npath = {model:?}\n[adapter]\n{adapter}\n[precision]\ncompute = \"f32\"\n\
             [images]\npath = {folder:?}\ninstance_prompt = {PROMPT:?}\nresolution = {SIDE}\n\
             [diffusion]\ntrain_text_encoder = true\ntext_encoder_lr = 2e-3\n\
             [train]\nsteps = {STEPS}\nbatch_size = 1\nlr = 2e-3\n[validation]\nimages = 0\n[sample]\ncount = 0\n"
        ),
    )
}

/// Runs after a plan that must count what is trained.
fn assert_planned(run: &Run) {
    let plan = run.succeed(&["--dry-run"]);
    run.succeed(&["--quiet"]);
    let trained = run.summary()["trainable_parameters"].to_string();
    let planned = plan
        .lines()
        .find(|line| line.starts_with("trainable parameters"));
    let planned = planned
        .and_then(|line| line.split_whitespace().nth(2))
        .unwrap();
    assert_eq!(planned.replace(',', ""), trained, "{plan}");
}

fn assert_follows(model: &str, method: &str, adapter: &str) {
    let bench = Bench::new();
    let run = run(&bench, "run", model, adapter);
    assert_planned(&run);
    let curve = &json(&golden("text_training").join("curves.json"))[model][method];
    let metrics = run.metrics();
    assert_eq!(metrics.len() as u64, STEPS);
    for (step, metric) in metrics.iter().enumerate() {
        let what = |name: &str| format!("{model}, {method}, {name} of step {}", step + 1);
        let [loss, norm] =
            ["losses", "grad_norms_before_clip"].map(|name| curve[name][step].as_f64().unwrap());
        assert_relative(
            &what("loss"),
            metric.loss,
            loss,
            if step == 0 { 1e-5 } else { 1e-4 },
        );
        assert_relative(&what("norm"), metric.grad_norm, norm, 1e-3);
    }
}

#[test]
fn rotations_of_the_text_encoder_are_learned_as_by_peft() {
    assert_follows("pipeline", "oft", OFT);
}

#[test]
fn all_weights_of_the_text_encoder_are_learned_as_by_pytorch() {
    assert_follows("pipeline", "full", "kind = \"full\"");
}

#[test]
fn rotations_of_both_text_encoders_of_xl_are_learned_as_by_peft() {
    assert_follows("pipeline_sdxl", "oft", OFT);
}

#[test]
fn all_weights_of_both_text_encoders_of_xl_are_learned_as_by_pytorch() {
    assert_follows("pipeline_sdxl", "full", "kind = \"full\"");
}

#[test]
fn biases_and_whole_modules_trained_beside_adapters_are_planned() {
    let bench = Bench::new();
    for (number, beside) in [
        "bias = \"all\"",
        "bias = \"lora_only\"",
        "modules_to_save = [\"conv_in\", \"conv_norm_out\"]",
    ]
    .iter()
    .enumerate()
    {
        let adapter =
            format!("kind = \"lora\"\nr = 2\ntarget_modules = [\"to_q\", \"proj_in\"]\n{beside}");
        assert_planned(&run(&bench, &number.to_string(), "pipeline_sdxl", &adapter));
    }
}

#[test]
fn adapters_of_text_encoders_have_the_names_of_transformers_and_are_read_back() {
    let bench = Bench::new();
    let run = run(&bench, "run", "pipeline_sdxl", OFT);
    run.succeed(&["--quiet"]);
    for (folder, begin) in [
        ("adapter_text_encoder", "base_model.model.encoder.layers."),
        (
            "adapter_text_encoder_2",
            "base_model.model.text_model.encoder.layers.",
        ),
    ] {
        let file = run.dir.join(folder).join("adapter_model.safetensors");
        let wrong: Vec<_> = tensors(&file)
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| !name.starts_with(begin))
            .collect();
        assert!(wrong.is_empty(), "{folder}: {wrong:?}");
        let config = json(&run.dir.join(folder).join("adapter_config.json"));
        let base = config["base_model_name_or_path"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(base.ends_with("pipeline_sdxl"), "{base}");
    }
    let convert = Command::new(env!("CARGO_BIN_EXE_temper"))
        .args(["convert", "--to", "peft", "--adapter"])
        .arg(&run.dir)
        .arg("--model")
        .arg(golden("pipeline_sdxl"))
        .arg("--output")
        .arg(bench.path("peft"))
        .output()
        .unwrap();
    assert!(convert.status.success(), "{convert:?}");
    for (from, to) in [
        ("adapter_text_encoder", "text_encoder"),
        ("adapter_text_encoder_2", "text_encoder_2"),
    ] {
        let file = |folder: &Path| tensors(&folder.join("adapter_model.safetensors"));
        assert_eq!(
            file(&run.dir.join(from)),
            file(&bench.path("peft").join(to))
        );
    }
}

#[test]
fn text_encoders_go_on_from_the_run_of_the_adapter_to_begin_with() {
    let bench = Bench::new();
    let first = run(&bench, "first", "pipeline", OFT);
    first.succeed(&["--quiet"]);
    let go_on = |name: &str, from: &Path| {
        run(
            &bench,
            name,
            "pipeline",
            &format!("{OFT}\ninit_from = {from:?}"),
        )
        .set("train.steps=1")
        .set("train.lr=1e-12")
        .set("diffusion.text_encoder_lr=1e-12")
    };
    let second = go_on("second", &first.dir.join("adapter"));
    second.succeed(&["--quiet"]);
    let file = |run: &Run| {
        tensors(
            &run.dir
                .join("adapter_text_encoder/adapter_model.safetensors"),
        )
    };
    for ((name, old), (_, new)) in file(&first).iter().zip(&file(&second)) {
        let apart = old
            .iter()
            .zip(new)
            .map(|(old, new)| (old - new).abs())
            .fold(0.0, f32::max);
        assert!(apart < 1e-9, "{name} moved by {apart}");
        assert!(old.iter().any(|value| *value != 0.0), "{name} was trained");
    }
    let alone = bench.path("alone");
    std::fs::create_dir(&alone).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(first.dir.join("adapter").join(name), alone.join(name)).unwrap();
    }
    let said = go_on("third", &alone).remarks();
    assert!(said.contains("starts anew"), "{said}");
}

#[test]
fn adapters_that_no_gradient_would_reach_are_refused_before_they_are_planned_or_trained() {
    let bench = Bench::new();
    let run = run(&bench, "run", "pipeline", OFT).set("diffusion.clip_skip=2");
    for how in [&["--dry-run"][..], &[]] {
        let said = run.fail(2, how);
        assert!(said.contains("passed none of its layers"), "{said}");
    }
}

#[test]
fn text_encoders_beside_random_weights_are_planned() {
    let bench = Bench::new();
    let config = golden("pipeline").join("unet/config.json");
    let run = run(&bench, "run", "pipeline", "kind = \"full\"")
        .set("model.init=random")
        .set(&format!("model.config={config:?}"));
    assert_planned(&run);
}

#[test]
fn a_plan_refuses_what_training_would() {
    let bench = Bench::new();
    let adapter = "kind = \"lora\"\nmodules_to_save = [\"nowhere\"]";
    let saved = run(&bench, "saved", "pipeline", adapter);
    let skipped = run(&bench, "skipped", "pipeline", "kind = \"full\"");
    let skipped = skipped.set("diffusion.clip_skip=3");
    for (run, part) in [(saved, "nowhere"), (skipped, "clip_skip")] {
        for how in [&["--dry-run"][..], &[]] {
            let said = run.fail(2, how);
            assert!(said.contains(part), "{said}");
        }
    }
}

/// For each model `NAME.safetensors`: `sample` and `noise` `[S, C, h, w]`, `timesteps` `[S]`, `time_ids` `[S, 6]`.
#[test]
#[ignore = "writes the input of scripts/golden_text_training.py to TEMPER_DRAWS"]
fn write_what_the_steps_see() {
    let output = PathBuf::from(std::env::var("TEMPER_DRAWS").unwrap());
    for model in ["pipeline", "pipeline_sdxl"] {
        write_draws(
            &golden(model),
            &output.join(model).with_extension("safetensors"),
        );
    }
}

fn write_draws(model: &Path, file: &Path) {
    let (replay, photo) = (Replay::new(model, SEED), photo());
    let side = SIDE as f32;
    let time_ids = [side, side, 0.0, 0.0, side, side];
    let seen = Seen {
        time_ids,
        ..Seen::new(&photo, PROMPT)
    };
    let mut draws: [(&str, Vec<f32>, Vec<usize>); 4] =
        ["sample", "noise", "timesteps", "time_ids"].map(|name| (name, Vec::new(), Vec::new()));
    for step in 0..STEPS {
        let (input, noise) = replay.input(step, 0, seen);
        let [_, channels, height, width] = noise.dims();
        let shape = vec![STEPS as usize, channels, height, width];
        let values: [(Vec<f32>, Vec<usize>); 4] = [
            (plain(input.sample), shape.clone()),
            (plain(noise), shape),
            (input.timesteps, vec![STEPS as usize]),
            (time_ids.to_vec(), vec![STEPS as usize, 6]),
        ];
        for ((_, all, dims), (new, shape)) in draws.iter_mut().zip(values) {
            all.extend(new);
            *dims = shape;
        }
    }
    let tensor = |(name, values, shape): (&str, Vec<f32>, Vec<usize>)| {
        let tensor = HostTensor::from_f32(Dtype::F32, shape, &values).unwrap();
        (name.to_owned(), tensor)
    };
    let tensors: Vec<_> = draws.into_iter().map(tensor).collect();
    save_safetensors(file, &tensors, &BTreeMap::new()).unwrap();
}

fn plain(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
