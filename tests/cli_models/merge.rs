//! `temper merge`, and adapters that do not fit.

use std::path::{Path, PathBuf};

use temper_adapters::weights::{Checkpoint, Dtype, HostTensor};

use super::support::{
    Files, assert_close, fail, oft_case, path, stories, succeed, temper, text, write,
};

/// `temper merge` of a golden case.
struct Case {
    files: Files,
    model: PathBuf,
    adapter: PathBuf,
    io: Checkpoint,
    merged: PathBuf,
}

impl Case {
    fn new(name: &str) -> Self {
        let files = Files::new();
        let (model, adapter, io) = oft_case(name, &files);
        std::fs::write(model.join("tokenizer_config.json"), "{}").unwrap();
        let merged = files.directory().join("merged");
        Self {
            files,
            model,
            adapter,
            io,
            merged,
        }
    }

    fn args<'a>(&'a self, output: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let from = [
            "--model",
            text(&self.model),
            "--adapter",
            text(&self.adapter),
        ];
        [&["merge"], &from[..], &["--output", text(output)], more].concat()
    }
}

#[test]
fn merging_writes_a_plain_model_that_computes_the_same() {
    for name in ["llama_oft_all_cn", "llama_lora_all"] {
        let case = Case::new(name);
        let said = succeed(&case.args(&case.merged, &["--max-shard-size", "100KB"]));
        let worst = said
            .split("merged: ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        assert!(worst.unwrap().parse::<f32>().unwrap() <= 1e-5, "{said}");
        let has = |file: &str| case.merged.join(file).is_file();
        assert!(has("model.safetensors.index.json"), "several files");
        assert!(has("tokenizer_config.json") && !has("adapter_config.json"));

        let ours = case.files.logits(&case.merged, &[]);
        assert_close(
            name,
            &ours,
            &case.io.read_f32("y_adapter").unwrap(),
            (1e-4, 1e-5),
        );
        let weights = Checkpoint::open(&case.merged).unwrap();
        for key in case
            .io
            .names()
            .filter_map(|key| key.strip_prefix("merged."))
        {
            let expected = case.io.read_f32(&format!("merged.{key}")).unwrap();
            let ours = weights.read_f32(key).unwrap();
            assert_close(&format!("{name} {key}"), &ours, &expected, (1e-4, 1e-5));
        }
    }
}

#[test]
fn merging_replaces_a_directory_only_when_told_and_never_its_own_inputs() {
    let case = Case::new("llama_oft_all_cn");
    succeed(&case.args(&case.merged, &[]));
    let message = fail(1, &case.args(&case.merged, &[]));
    assert!(
        message.contains("not empty") && message.contains("--overwrite"),
        "{message}"
    );
    succeed(&case.args(&case.merged, &["--overwrite", "--dtype", "bf16"]));
    let weights = Checkpoint::open(&case.merged).unwrap();
    assert_eq!(
        weights
            .info("model.layers.0.mlp.up_proj.weight")
            .unwrap()
            .dtype,
        Dtype::BF16
    );
    for input in [&case.model, &case.adapter] {
        assert!(fail(1, &case.args(input, &["--overwrite"])).contains("also an input"));
    }
    assert!(fail(2, &case.args(&case.merged, &["--max-shard-size", "big"])).contains("5GB"));
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let adapter = path("tests/golden/oft/llama_oft_all_cn/adapter");
    let model = stories();
    let args = [
        "generate",
        "--model",
        text(&model),
        "--adapter",
        text(&adapter),
        "--prompt",
        "One",
    ];
    let message = fail(1, &args);
    assert!(
        message.contains("hint: ") && message.contains("another model"),
        "{message}"
    );
}

#[test]
fn an_adapter_that_does_nothing_is_noticed() {
    let case = Case::new("llama_oft_all_cn");
    let trained = Checkpoint::open(case.adapter.join("adapter_model.safetensors")).unwrap();
    let zero = |name| {
        let shape = trained.info(name).unwrap().shape.clone();
        let values = vec![0.0; shape.iter().product()];
        (
            name,
            HostTensor::from_f32(Dtype::F32, shape, &values).unwrap(),
        )
    };
    let zeros: Vec<(&str, HostTensor)> = trained.names().map(zero).collect();
    let idle = case.files.directory().join("idle");
    std::fs::create_dir(&idle).unwrap();
    let config = "adapter_config.json";
    std::fs::copy(case.adapter.join(config), idle.join(config)).unwrap();
    write(&idle.join("adapter_model.safetensors"), &zeros);
    let run = temper(&case.files.args(&case.model, &["--adapter", text(&idle)]));
    assert!(run.status.success());
    assert!(String::from_utf8_lossy(&run.stderr).contains("changes nothing"));
}
