//! What a run leaves, and what a dry run says without leaving anything.

use std::process::Command;

use serde_json::Value;

use super::support::{Bench, OFT, ROOT, path};

fn temper(args: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
    let output = command.args(args).current_dir(ROOT).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_run_directory_holds_everything_and_can_be_read_by_the_tool() {
    let bench = Bench::new();
    let rows = path("assets/gsm8k/train-1000.jsonl");
    let run = bench
        .run("run", &path("assets/stories260k"), &rows)
        .set(OFT)
        .set("data.kind=gsm8k")
        .set("data.max_length=512")
        .set("data.limit=20")
        .set("data.eval.fraction=0.2")
        .set("train.steps=4")
        .set("train.batch_size=2")
        .set("train.eval_every=2")
        .set("sample.count=2")
        .set("sample.max_new_tokens=4");
    let output = run.output(&[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("before") && said.contains("after"), "{said}");

    let summary = run.summary();
    for key in ["first_loss", "last_loss", "eval_loss", "tokens_per_second"] {
        assert!(summary[key].as_f64().unwrap() > 0.0, "{key}: {summary}");
    }
    assert!(summary["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(summary["steps"], 4);
    let trained = summary["trainable_parameters"].as_u64().unwrap();
    let adapter = run.dir.join("adapter");
    let (ok, report) = temper(&["inspect", adapter.to_str().unwrap()]);
    assert!(ok && report.contains(&format!("{trained}")), "{report}");
    assert_eq!(run.metrics().len(), 4);
    assert_eq!(summary["last_loss"].as_f64(), run.losses().last().copied());

    let curve = std::fs::read_to_string(run.dir.join("curve.svg")).unwrap();
    assert!(curve.starts_with("<svg") && curve.trim_end().ends_with("</svg>"));
    let events: Vec<_> = std::fs::read_dir(run.dir.join("events")).unwrap().collect();
    let event = events[0].as_ref().unwrap();
    let name = event.file_name().into_string().unwrap();
    assert!(name.contains("tfevents") && event.metadata().unwrap().len() > 100);
    let samples: Value =
        serde_json::from_slice(&std::fs::read(run.dir.join("samples.json")).unwrap()).unwrap();
    assert_eq!(samples.as_array().unwrap().len(), 2);
    let environment = std::fs::read_to_string(run.dir.join("environment.json")).unwrap();
    assert!(environment.contains("cpu"), "{environment}");
    let recipe = run.dir.join("recipe.toml");
    let (ok, report) = temper(&["recipe", "check", recipe.to_str().unwrap()]);
    assert!(ok, "{report}");
    let (ok, report) = temper(&["inspect", run.dir.to_str().unwrap()]);
    assert!(
        ok && report.contains("yes") && report.contains("verified"),
        "{report}"
    );
}

#[test]
fn evaluations_are_rows_of_their_own_and_count_their_targets() {
    use temper_engine::run::{Row, read_metrics};

    let bench = Bench::new();
    let held_out = bench.rows("held-out.jsonl", &[vec![1, 2, 3], vec![4, 5]]);
    let run = bench
        .golden("run", "gqa")
        .set(OFT)
        .set(&format!("data.eval.path={held_out:?}"))
        .set("train.steps=5")
        .set("train.eval_every=2");
    run.train();
    let evaluations = || -> Vec<(u64, u64)> {
        let rows = read_metrics(&run.dir.join("metrics.jsonl")).unwrap();
        let eval = rows.iter().filter_map(|row| match row {
            Row::Eval(eval) => Some((eval.step, eval.eval_tokens)),
            Row::Train(_) | Row::Task(_) => None,
        });
        eval.collect()
    };
    let expected = [(0, 3), (2, 3), (4, 3), (5, 3)];
    assert_eq!(evaluations(), expected, "(step, targets)");
    run.succeed(&["--resume"]);
    assert_eq!(
        evaluations(),
        expected,
        "resuming a finished run adds nothing"
    );
}

#[test]
fn an_overwritten_run_shows_its_own_samples() {
    let bench = Bench::new();
    let rows = path("assets/gsm8k/test-100.jsonl");
    let run = bench
        .run("run", &path("assets/stories260k"), &rows)
        .set(OFT)
        .set("data.kind=gsm8k")
        .set("data.max_length=512")
        .set("data.limit=4")
        .set("train.steps=1")
        .set("train.batch_size=1")
        .set("sample.max_new_tokens=2")
        .set("run.overwrite=true");
    for prompt in ["Once upon a time", "The end"] {
        run.clone()
            .set(&format!("sample.prompts=[{prompt:?}]"))
            .train();
        let samples = std::fs::read_to_string(run.dir.join("samples.json")).unwrap();
        assert!(samples.contains(prompt), "{samples}");
    }
}

#[test]
fn a_dry_run_of_the_paper_needs_neither_weights_nor_network() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_temper"))
        .args(["train", "recipes/metamath-7b-oft.toml", "--dry-run"])
        .current_dir(ROOT)
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", empty.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let line = |start: &str| said.lines().find(|line| line.starts_with(start)).unwrap();
    assert!(
        line("trainable parameters").contains(" 17,649,664 "),
        "{said}"
    );
    // 6,738,415,616 of the model and those of the adapter.
    assert!(line("parameters").ends_with(" 6,756,065,280"), "{said}");
    assert!(line("optimizer steps").contains(" 9,258 "), "{said}");
    assert!(line("  peak").contains("GB"), "{said}");
}

#[test]
fn a_dry_run_writes_nothing_and_counts_what_a_run_trains() {
    let bench = Bench::new();
    let run = bench.golden("run", "gqa").set(OFT);
    let output = run.output(&["--dry-run"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !run.dir.exists(), "{said}");
    run.train();
    assert_eq!(run.summary()["trainable_parameters"], 3584);
    assert_eq!(run.summary()["total_parameters"], 110_400);
    assert!(
        said.contains(" 3,584 ") && said.contains(" 110,400"),
        "{said}"
    );
}
