//! Every method trains, and what it leaves gives the same model when it is loaded again.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};

use super::support::{Bench, Run, assert_relative, golden_rows, path};

const TARGETS: &str = "target_modules=[\"q_proj\", \"down_proj\"]";

/// Name and adapter of each run.
const METHODS: [(&str, &str); 11] = [
    ("full", "kind=\"full\""),
    ("oft", "kind=\"oft\", oft_block_size=8"),
    (
        "oft_cn",
        "kind=\"oft\", oft_block_size=8, use_cayley_neumann=true",
    ),
    ("oft_shared", "kind=\"oft\", r=4, block_share=true"),
    (
        "coft_peft",
        "kind=\"oft\", oft_block_size=8, coft=true, eps=0.5, eps_scaling=\"peft\"",
    ),
    (
        "coft_official",
        "kind=\"oft\", oft_block_size=8, coft=true, eps=1e-3, eps_scaling=\"official\"",
    ),
    ("lora", "kind=\"lora\", r=4, lora_alpha=8"),
    (
        "rslora",
        "kind=\"lora\", r=4, lora_alpha=8, use_rslora=true",
    ),
    ("dora", "kind=\"lora\", r=4, lora_alpha=8, use_dora=true"),
    (
        "dropout",
        "kind=\"lora\", r=4, lora_alpha=8, lora_dropout=0.3",
    ),
    (
        "saved",
        "kind=\"oft\", oft_block_size=8, modules_to_save=[\"lm_head\"]",
    ),
];

fn prepare(bench: &Bench, name: &str, adapter: &str) -> Run {
    let held_out = bench.rows("held-out.jsonl", &golden_rows("gqa")[..4]);
    let targets = if name == "full" { "" } else { TARGETS };
    let comma = if targets.is_empty() { "" } else { ", " };
    bench
        .golden(name, "gqa")
        .set(&format!("adapter={{{adapter}{comma}{targets}}}"))
        .set(&format!("data.eval.path={held_out:?}"))
        .set("train.steps=3")
        .set("train.warmup_steps=0")
        .set("train.lr=5e-3")
}

/// Loss of the held-out rows by `temper forward`.
fn forward(bench: &Bench, model: &Path, more: &[&str]) -> f64 {
    let (input, output) = (bench.path("in.safetensors"), bench.path("out.safetensors"));
    let rows = golden_rows("gqa")[..4].concat();
    let bytes = rows.iter().flat_map(|id| i64::from(*id).to_le_bytes());
    let ids = HostTensor::new(Dtype::I64, vec![4, 16], bytes.collect()).unwrap();
    let tensors = ["input_ids", "labels"].map(|name| (name.to_owned(), ids.clone()));
    save_safetensors(&input, &tensors, &[].into()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
    command
        .args(["forward", "--device", "cpu", "--model"])
        .arg(model);
    command
        .arg("--input")
        .arg(&input)
        .arg("--output")
        .arg(&output);
    let done = command.args(more).output().unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let loss = Checkpoint::open(&output).unwrap().read_f32("loss").unwrap();
    f64::from(loss[0])
}

#[test]
fn every_method_lowers_the_held_out_loss_and_loads_again() {
    let bench = Bench::new();
    let base = path("tests/golden/llama/gqa/model");
    for (name, adapter) in METHODS {
        let run = prepare(&bench, name, adapter);
        run.train();
        let summary = run.summary();
        let number = |key: &str| summary[key].as_f64().unwrap();
        let (before, after) = (number("eval_loss_before"), number("eval_loss"));
        assert!(after < before - 1e-4, "{name}: {before} -> {after}");
        let directory = run.dir.join("adapter");
        let adapter = ["--adapter", directory.to_str().unwrap()];
        let again = if name == "full" {
            forward(&bench, &run.dir.join("model"), &[])
        } else {
            forward(&bench, &base, &adapter)
        };
        assert_relative(name, again, after, 1e-5);
        if name != "full" {
            let merged = forward(&bench, &base, &[&adapter[..], &["--merge"]].concat());
            assert_relative(&format!("{name}, merged"), merged, after, 1e-4);
        }
        let start = forward(&bench, &base, &[]);
        assert_relative(&format!("{name}, at the start"), before, start, 1e-5);
    }
}

#[test]
fn dropout_is_the_same_each_time_and_acts() {
    let bench = Bench::new();
    let run = |name: &str, dropout: f64| {
        let adapter = format!("kind=\"lora\", r=4, lora_dropout={dropout:?}");
        prepare(&bench, name, &adapter).set("train.steps=6").train()
    };
    let first = run("first", 0.3);
    assert_eq!(first, run("again", 0.3));
    assert_ne!(first, run("without", 0.0));
}

#[test]
fn dropout_goes_on_where_it_was() {
    let bench = Bench::new();
    let run = |name: &str| {
        let run = prepare(&bench, name, "kind=\"lora\", r=4, lora_dropout=0.3");
        run.set("train.steps=6").set("train.save_every=3")
    };
    let (whole, again) = (run("whole"), run("again"));
    whole.train();
    again.train();
    std::fs::remove_dir_all(again.checkpoint_file(6, "")).unwrap();
    again.succeed(&["--resume"]);
    assert_eq!(again.losses(), whole.losses());
    assert_eq!(again.adapter(), whole.adapter());
}

#[test]
fn official_coft_writes_the_bound_that_peft_reads() {
    let bench = Bench::new();
    let eps = |name: &str| {
        let (name, adapter) = METHODS.iter().find(|(n, _)| *n == name).unwrap();
        let run = prepare(&bench, name, adapter);
        run.train();
        let text = std::fs::read_to_string(run.dir.join("adapter/adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        config["eps"].as_f64().unwrap()
    };
    assert_relative("peft", eps("coft_peft"), 0.5, 1e-12);
    assert_relative("official", eps("coft_official"), 1e-3 * 64.0, 1e-12);
}
