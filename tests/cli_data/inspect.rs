//! `temper inspect`.

use std::fs;
use std::path::Path;

use serde_json::Value;
use temper_engine::run::{
    Items, Metric, MetricsWriter, Row, RunDir, RunError, RunMode, Summary, Unit,
};

use super::support::{ROOT, TOKENIZER_GOLDEN, err, fails, ok, out, temper, text_of};

/// What `inspect --json` says.
fn inspected(path: &str) -> Value {
    serde_json::from_str(&ok(&["inspect", "--json", path])).unwrap()
}

#[test]
fn models_are_described() {
    let model = inspected("assets/stories260k");
    assert_eq!(
        (&model["kind"], &model["parameters"]),
        (&"model".into(), &260_032.into())
    );
    assert_eq!(
        (&model["vocabulary"], &model["context"]),
        (&512.into(), &512.into())
    );
    assert_eq!(
        (&model["tied_embeddings"], &model["dtype"]),
        (&true.into(), &"F32".into())
    );
    assert_eq!(inspected("assets/stories260k/config.json")["kind"], "model");
    let text = ok(&["inspect", "tests/golden/llama/gqa/model"]);
    assert!(
        text.contains("key value heads    2\n") && text.ends_with("fit the architecture\n"),
        "{text}"
    );
}

#[test]
fn weights_that_do_not_fit_their_configuration_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = Path::new(ROOT).join("assets/stories260k");
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["num_hidden_layers"] = 6.into();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    fs::copy(
        model.join("model.safetensors"),
        dir.path().join("model.safetensors"),
    )
    .unwrap();
    let output = temper(&["inspect", text_of(dir.path())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        out(&output).contains("model.layers.5.mlp.up_proj.weight"),
        "{}",
        out(&output)
    );
}

#[test]
fn adapters_are_described_and_checked_against_a_model() {
    let case = "tests/golden/oft/llama_oft_all_cn";
    let adapter = format!("{case}/adapter");
    let found = inspected(&adapter);
    assert_eq!(
        (&found["kind"], &found["method"]),
        (&"adapter".into(), &"oft".into())
    );
    assert_eq!(
        (&found["block_size"], &found["modules"]),
        (&16.into(), &14.into())
    );
    let says = |text: &str, fact: &[&str]| {
        let mut lines = text.lines();
        lines.any(|line| line.split_whitespace().eq(fact.iter().copied()))
    };
    let text = ok(&["inspect", &adapter, "--model", case]);
    assert!(says(&text, &["fits", "yes"]), "{text}");
    let lora = "tests/golden/oft/lora_conv3x3";
    let base = format!("{lora}/base.safetensors");
    let text = ok(&["inspect", &format!("{lora}/adapter"), "--model", &base]);
    assert!(says(&text, &["matched", "2"]), "{text}");
}

#[test]
fn an_adapter_of_another_model_does_not_fit() {
    let adapter = "tests/golden/llama/mha/oft_adapter_final";
    let output = temper(&[
        "inspect",
        adapter,
        "--model",
        "tests/golden/llama/gqa/model",
        "--json",
    ]);
    let fitting = temper(&[
        "inspect",
        adapter,
        "--model",
        "tests/golden/llama/mha/model",
        "--json",
    ]);
    assert!(fitting.status.success(), "{}", err(&fitting));
    let report: Value = serde_json::from_str(&out(&output)).unwrap_or_default();
    // Another width or another number of layers: either way it must not pass.
    assert_eq!(output.status.code(), Some(1), "{report}");
    let message = fails(
        &["inspect", "assets/gsm8k", "--model", "assets/stories260k"],
        2,
    );
    assert!(message.contains("is a dataset"), "{message}");
}

#[test]
fn runs_and_their_checkpoints_are_described_without_being_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my-run");
    finished_run(&path);
    let torn = path.join("checkpoints/step-00000002/state.bin");
    fs::write(&torn, b"torn").unwrap();
    let before = listing(&path);
    let run = inspected(text_of(&path));
    assert_eq!(listing(&path), before);
    assert_eq!(
        (&run["kind"], &run["name"]),
        (&"run".into(), &"quick".into())
    );
    assert_eq!((&run["steps"], &run["last_loss"]), (&2.into(), &0.5.into()));
    assert_eq!(
        (&run["method"], &run["finished"]),
        (&"oft".into(), &true.into())
    );
    let checkpoints = run["checkpoint_directories"].as_array().unwrap();
    assert_eq!(checkpoints[1]["state"], "verified");
    assert!(
        checkpoints[0]["state"]
            .as_str()
            .unwrap()
            .starts_with("skipped: "),
        "{checkpoints:?}"
    );

    let good = path.join("checkpoints/step-00000001");
    let checkpoint = inspected(text_of(&good));
    assert_eq!(
        (&checkpoint["step"], &checkpoint["state"]),
        (&1.into(), &"verified".into())
    );
    let message = fails(
        &["inspect", text_of(&path.join("checkpoints/step-00000002"))],
        1,
    );
    assert!(message.contains("state.bin"), "{message}");
}

/// A run of two steps with a checkpoint after each.
fn finished_run(path: &Path) {
    let run = RunDir::create(path, RunMode::Fresh).unwrap();
    let recipe = ok(&[
        "recipe",
        "show",
        "recipes/quickstart.toml",
        "--set",
        "run.name=quick",
    ]);
    // The data may be gone when the run is looked at.
    fs::write(
        run.recipe(),
        recipe.replace("train-1000.jsonl", "gone.jsonl"),
    )
    .unwrap();
    let mut metrics = MetricsWriter::create(&run.metrics()).unwrap();
    let mut store = run.checkpoint_store().unwrap();
    for step in 1..=2 {
        let loss = 1.0 / step as f64;
        let metric = Metric {
            step,
            loss,
            lr: 0.1,
            grad_norm: 1.0,
            items: Items::new(Unit::Tokens, 10, 5.0),
            memory_bytes: 1,
            seconds: 1.0,
        };
        metrics.write(&Row::Train(metric)).unwrap();
        store
            .save::<RunError>(step, 5, |writer| writer.write("state.bin", b"state"))
            .unwrap();
    }
    run.write_json(
        &run.summary(),
        &Summary {
            last_loss: 0.5,
            steps: 2,
            ..Summary::default()
        },
    )
    .unwrap();
}

/// Names and contents below a directory.
fn listing(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(listing(&path));
        } else {
            found.push((text_of(&path).to_owned(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn data_tokenizers_weights_and_recipes_are_described() {
    let data = inspected("assets/gsm8k");
    assert_eq!(
        (&data["kind"], &data["rows"]),
        (&"dataset".into(), &1100.into())
    );
    assert_eq!(data["files"][0]["data_kind"], "gsm8k");
    assert_eq!(inspected(TOKENIZER_GOLDEN)["files"][0]["data_kind"], "text");
    let tokenizer = inspected("tests/golden/llama_tokenizer/tokenizer.model");
    assert_eq!(
        (&tokenizer["ids"], &tokenizer["end_token"]),
        (&32000.into(), &"2 `</s>`".into())
    );
    assert_eq!(
        inspected("assets/stories260k/tokenizer.json")["kind"],
        "tokenizer"
    );
    let weights = inspected("tests/golden/oft/mlp_b8_exact/base.safetensors");
    assert_eq!(
        weights["tensors_by_name"][1]["shape"],
        serde_json::json!([32, 16])
    );
    assert_eq!(inspected("recipes/quickstart.toml")["steps"], 80);
}

#[test]
fn anything_else_is_an_error_that_lists_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let notes = dir.path().join("notes.md");
    fs::write(&notes, "hello").unwrap();
    for path in [
        text_of(dir.path()),
        text_of(&notes),
        "Cargo.toml",
        "assets/stories260k/generation_config.json",
    ] {
        let message = fails(&["inspect", path], 1);
        assert!(
            message.contains("nothing that") && message.contains("adapter_config.json"),
            "{message}"
        );
    }
    assert!(fails(&["inspect", "no/such/path"], 1).contains("no/such/path"));
    let garbage = dir.path().join("garbage.safetensors");
    fs::write(&garbage, [255; 64]).unwrap();
    assert!(fails(&["inspect", text_of(&garbage)], 1).contains("garbage.safetensors"));
    fails(&["inspect"], 2);
}
