//! Several adapters over one base.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};

use super::support::{MODEL, Server, path, stories, temper};

/// Trains an OFT adapter for a few steps and returns its directory.
fn train(directory: &Path, name: &str, seed: u64) -> PathBuf {
    let (recipe, run) = (directory.join(format!("{name}.toml")), directory.join(name));
    let text = format!(
        "device = \"cpu\"\nseed = {seed}\n[model]\npath = {:?}\n[adapter]\nkind = \"oft\"\noft_block_size = 8\n\
         [data]\nkind = \"gsm8k\"\npath = {:?}\nmax_length = 300\ncache = false\n\
         [train]\nsteps = 3\nbatch_size = 2\nlr = 3e-2\n[sample]\ncount = 0\n[run]\ndir = {run:?}\n",
        stories(),
        path("assets/gsm8k/train-1000.jsonl"),
    );
    std::fs::write(&recipe, text).unwrap();
    let output = temper().arg("train").arg(&recipe).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    run.join("adapter")
}

/// A copy of an adapter whose values are all `value`.
fn filled(adapter: &Path, target: &Path, value: f32) {
    std::fs::create_dir(target).unwrap();
    let config = "adapter_config.json";
    std::fs::copy(adapter.join(config), target.join(config)).unwrap();
    let file = Checkpoint::open(adapter.join("adapter_model.safetensors")).unwrap();
    let tensor = |name: &String| {
        let shape = file.info(name).unwrap().shape.clone();
        let values = vec![value; shape.iter().product()];
        let tensor = HostTensor::from_f32(Dtype::F32, shape, &values).unwrap();
        (name.clone(), tensor)
    };
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let tensors: Vec<_> = names.iter().map(tensor).collect();
    save_safetensors(
        &target.join("adapter_model.safetensors"),
        &tensors,
        &file.metadata(),
    )
    .unwrap();
}

fn generated(adapter: Option<&Path>) -> String {
    let mut command = temper();
    command.args([
        "generate",
        "--device",
        "cpu",
        "--model",
        &stories(),
        "--prompt",
        "Once upon a time",
    ]);
    command.args(["--max-new-tokens", "24"]);
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(adapter);
    }
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    text.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn each_name_answers_with_its_own_adapter_at_the_same_time() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = [
        train(directory.path(), "one", 1),
        train(directory.path(), "two", 2),
    ];
    let [first, second] = [
        format!("one={}", one.display()),
        format!("two={}", two.display()),
    ];
    let server = Server::start(&["--adapter", &first, "--adapter", &second]);

    let list = server.get("/v1/models", None).json();
    let entry = |model: &Value| (model["id"].clone(), model["parent"].clone());
    let listed: Vec<_> = list["data"].as_array().unwrap().iter().map(entry).collect();
    let base = |name: &str| (json!(name), json!(MODEL));
    assert_eq!(
        listed,
        [(json!(MODEL), Value::Null), base("one"), base("two")]
    );

    let expected = [
        (MODEL, generated(None)),
        ("one", generated(Some(&one))),
        ("two", generated(Some(&two))),
    ];
    assert!(
        expected[0].1 != expected[1].1 && expected[1].1 != expected[2].1,
        "{expected:?}"
    );
    std::thread::scope(|scope| {
        for (name, text) in expected.iter().cycle().take(12) {
            let server = &server;
            scope.spawn(move || {
                let reply = server.complete(&json!({"model": name, "max_tokens": 24}));
                assert_eq!(reply.completion(), *text, "{name}");
                assert_eq!(reply.json()["model"], *name);
            });
        }
    });
    let said = server.end();
    assert_eq!(said.matches("at a time").count(), 1, "{said}");
    assert!(said.contains("for each of 3 models"), "{said}");
}

#[test]
fn a_model_that_computes_nonsense_fails_alone() {
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("broken");
    filled(&train(directory.path(), "good", 1), &broken, f32::MAX);
    let server = Server::start(&["--adapter", &format!("broken={}", broken.display())]);
    let expected = server.complete(&json!({})).completion();
    for _ in 0..2 {
        let reply = server.complete(&json!({"model": "broken"}));
        assert_eq!(reply.refusal(500).1, "engine_failure");
        assert!(reply.text.contains("not finite"), "{}", reply.text);
        assert_eq!(server.complete(&json!({})).completion(), expected);
    }
    let metrics = server.get("/metrics", None).text;
    assert!(
        metrics.contains("temper_failed_sequences_total{model=\"broken\"} 2\n"),
        "{metrics}"
    );
}
