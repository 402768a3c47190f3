//! Everything that should not happen, and what is said when it does.

use std::path::Path;

use serde_json::Value;

use super::support::{Bench, OFT, golden_rows, path, wait_until};

#[test]
fn a_used_run_directory_is_refused_with_a_hint() {
    let bench = Bench::new();
    let run = bench.golden("run", "gqa").set(OFT).set("train.steps=2");
    run.train();
    let (adapter, message) = (run.adapter(), run.fail(1, &[]));
    assert!(
        message.contains("not empty") && message.contains("--resume"),
        "{message}"
    );
    assert_eq!(run.adapter(), adapter);
    let other = run.set("run.overwrite=true").set("seed=9");
    assert_eq!(other.train().len(), 2);
}

#[test]
fn a_recipe_that_trains_something_else_does_not_resume() {
    let bench = Bench::new();
    let run = bench.golden("run", "gqa").set(OFT).set("train.steps=2");
    run.train();
    let curve = std::fs::read(run.dir.join("metrics.jsonl")).unwrap();
    for (setting, key) in [
        ("train.lr=1e-3", "lr = 0.001"),
        ("train.steps=4", "steps = 4"),
        ("adapter.oft_block_size=16", "oft_block_size = 16"),
        ("seed=5", "seed = 5"),
    ] {
        let message = run.clone().set(setting).fail(2, &["--resume"]);
        assert!(
            message.contains(key) && message.contains("recipe.toml"),
            "{message}"
        );
    }
    assert_eq!(
        std::fs::read(run.dir.join("metrics.jsonl")).unwrap(),
        curve,
        "a refusal changes nothing"
    );
    run.set("train.log_every=5").succeed(&["--resume"]);
}

#[test]
fn changed_data_does_not_resume() {
    let bench = Bench::new();
    let run = bench.golden("run", "gqa").set(OFT).set("train.steps=2");
    run.train();
    bench.rows("run.jsonl", &[vec![1, 2, 3]]);
    let message = run.fail(1, &["--resume"]);
    assert!(message.contains("training data changed"), "{message}");
}

#[test]
fn another_base_does_not_resume() {
    let bench = Bench::new();
    let model = bench.changed_model("", |_| {});
    let rows = bench.rows("rows.jsonl", &golden_rows("gqa"));
    let run = bench
        .run("run", &model, &rows)
        .set(OFT)
        .set("train.steps=2");
    run.train();
    run.succeed(&["--resume"]);
    bench.changed_model("model.layers.1.mlp.up_proj.weight", |values| {
        for value in values {
            *value *= 1.001;
        }
    });
    let message = run.fail(1, &["--resume"]);
    assert!(
        message.contains("base model changed") && message.contains("model.path"),
        "{message}"
    );
}

#[test]
fn nothing_to_resume_is_said() {
    let bench = Bench::new();
    let run = bench.golden("run", "gqa").set(OFT);
    let message = run.fail(1, &["--resume"]);
    assert!(message.contains("no run to resume"), "{message}");
    assert!(!run.dir.exists());
}

#[test]
fn a_torn_checkpoint_is_named_and_the_one_before_is_used() {
    let bench = Bench::new();
    let run = bench
        .golden("run", "gqa")
        .set(OFT)
        .set("train.steps=12")
        .set("train.save_every=4")
        .set("train.keep_last=3");
    run.train();
    let (adapter, losses) = (run.adapter(), run.losses());
    assert_eq!(run.checkpoints(), [4, 8, 12]);

    let shorten = |file: &Path| {
        let bytes = std::fs::read(file).unwrap();
        std::fs::write(file, &bytes[..bytes.len() - 10]).unwrap();
    };
    shorten(&run.checkpoint_file(12, "trained.safetensors"));
    let said = run.succeed(&["--resume"]);
    for part in [
        "step-00000012` is not used",
        "its manifest says",
        "resumed after step 8",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(
        (run.adapter(), run.losses()),
        (adapter.clone(), losses.clone())
    );

    let optimizer = run.checkpoint_file(12, "optimizer.safetensors");
    let mut bytes = std::fs::read(&optimizer).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&optimizer, bytes).unwrap();
    std::fs::remove_file(run.checkpoint_file(8, "manifest.json")).unwrap();
    let said = run.succeed(&["--resume"]);
    for part in [
        "does not match the hash",
        "its save did not finish",
        "resumed after step 4",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!((run.adapter(), run.losses()), (adapter, losses));
}

#[test]
fn without_a_sound_checkpoint_the_run_starts_again() {
    let bench = Bench::new();
    let run = bench.golden("run", "gqa").set(OFT).set("train.steps=3");
    run.train();
    let adapter = run.adapter();
    std::fs::write(run.checkpoint_file(3, "state.json"), "{}").unwrap();
    let said = run.succeed(&["--resume"]);
    for part in ["state.json", "starts from its first step"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(run.adapter(), adapter);
    assert_eq!(run.checkpoints(), [3]);
}

fn report(dir: &Path) -> Value {
    let text = std::fs::read_to_string(dir.join("not_finite.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_weight_that_is_not_a_number_is_named() {
    let bench = Bench::new();
    let name = "model.layers.1.mlp.up_proj.weight";
    let model = bench.changed_model(name, |values| values[5] = f32::NAN);
    let rows = bench.rows("rows.jsonl", &[vec![1, 2, 3], vec![4, 5, 6]]);
    let run = bench.run("run", &model, &rows).set("train.lr=1e-4");
    let message = run.fail(1, &[]);
    assert!(
        message.contains(name) && message.contains("the model to begin with is broken"),
        "{message}"
    );
    assert!(!run.dir.exists());
    // The same weight, frozen under an adapter, where a finished run lies: nothing of it is lost.
    let whole = bench.golden("frozen", "gqa").set(OFT).set("train.steps=1");
    whole.succeed(&["--quiet"]);
    let adapter = whole.adapter();
    let run = bench
        .run("frozen", &model, &rows)
        .set(OFT)
        .set("run.overwrite=true");
    let message = run.fail(1, &["--quiet"]);
    assert!(message.contains(name), "{message}");
    assert_eq!(run.adapter(), adapter);
}

#[test]
fn a_run_that_diverges_stops_before_the_bad_update() {
    let bench = Bench::new();
    let run = bench
        .golden("run", "gqa")
        .set("train.lr=1.0")
        .set("train.weight_decay=1e30")
        .set("train.warmup_steps=0");
    let message = run.fail(1, &[]);
    assert!(message.contains("step 2 is not finite"), "{message}");
    assert!(message.contains("examples [4, 5, 6, 7]"), "{message}");
    assert_eq!(run.checkpoints(), [1], "{message}");
    assert_eq!(run.losses().len(), 1);
    assert_eq!(report(&run.dir)["step"], 2);
    assert_eq!(report(&run.dir)["examples"], "[4, 5, 6, 7]");
}

#[test]
fn a_second_process_on_the_same_run_is_refused() {
    let bench = Bench::new();
    let run = bench
        .golden("run", "gqa")
        .set(OFT)
        .set("train.steps=100000");
    let mut first = run.start(&["--quiet"]);
    wait_until("a step", || !run.metrics().is_empty());
    let message = run.fail(1, &["--resume"]);
    let holder = format!("in use by process {}", first.id());
    assert!(message.contains(&holder), "{message}");
    let message = run.set("run.overwrite=true").fail(1, &[]);
    assert!(message.contains(&holder), "{message}");
    assert!(first.is_running(), "the first is not disturbed");
    first.kill();
}

#[test]
fn data_that_does_not_fit_the_model_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    let run = bench.golden("run", "gqa").set(OFT);
    let rows = bench.rows("outside.jsonl", &[vec![1, 2, 3], vec![1, 256, 3]]);
    let message = run.clone().set(&format!("data.path={rows:?}")).fail(1, &[]);
    assert!(
        message.contains("id 256") && message.contains("line 2"),
        "{message}"
    );
    let message = run.clone().set("data.max_length=65").fail(2, &[]);
    assert!(
        message.contains("65 tokens exceed 64") && message.contains("data.max_length"),
        "{message}"
    );
    let message = run.clone().set("data.max_length=8").fail(1, &[]);
    assert!(
        message.contains("no row is left to train on") && message.contains("too long 80"),
        "{message}"
    );
    assert!(!run.dir.exists());
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let bench = Bench::new();
    let rows = bench.path("rows.jsonl");
    std::fs::write(
        &rows,
        "{\"text\": \"Once upon a time there was a zebra\"}\n",
    )
    .unwrap();
    // 512 pieces for a model of 256.
    let run = bench
        .run("run", &path("tests/golden/llama/gqa/model"), &rows)
        .set("data.kind=text")
        .set(&format!("model.tokenizer={:?}", path("assets/stories260k")));
    let message = run.fail(1, &[]);
    assert!(
        message.contains("the model has 256 embeddings") && message.contains("hint: "),
        "{message}"
    );
    assert!(!run.dir.exists());
}
