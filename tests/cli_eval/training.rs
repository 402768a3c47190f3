//! `[eval]` of a recipe: problems solved while the model is trained.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use temper_engine::run::{Row, TaskMetric, read_metrics};

use super::support::{Bench, fail, path, rows, succeed, temper, text};

/// A recipe that teaches the story model one answer to one question, and asks for it.
fn recipe(bench: &Bench, name: &str, eval: &str) -> PathBuf {
    let (model, dir) = (path("assets/stories260k"), bench.path(name));
    let train = json!({"query": "How many?", "response": " The answer is: 7"});
    let train = bench.write("train.jsonl", format!("{train}\n").repeat(4));
    let asked = json!({"question": "How many?", "answer": "#### 7"});
    let other = json!({"question": "How many?", "answer": "#### 8"});
    let test = bench.write("test.jsonl", format!("{asked}\n{other}\n"));
    let text = format!(
        "device = \"cpu\"\n[model]\npath = {model:?}\n[data]\nkind = \"metamathqa\"\npath = {train:?}\n\
         template = \"raw\"\ncache = false\n[train]\nsteps = 40\nbatch_size = 4\nlr = 3e-3\nwarmup_steps = 0\n\
         schedule = \"constant\"\nkeep_last = 1\nsave_every = 10\n[sample]\ncount = 0\n[run]\ndir = {dir:?}\n"
    );
    let eval = eval.replace("TEST", &format!("{test:?}"));
    bench.write(&format!("{name}.toml"), text + &eval)
}

const EVAL: &str = "[eval]\ntask = \"gsm8k\"\npath = TEST\nprompt_style = \"raw\"\nmax_new_tokens = 12\nevery = 10\nat_start = true\n";

fn train(recipe: &Path, more: &[&str]) -> String {
    succeed(&[&["train", text(recipe), "--quiet"][..], more].concat()).0
}

fn exams(bench: &Bench, name: &str) -> Vec<TaskMetric> {
    let all = read_metrics(&bench.path(&format!("{name}/metrics.jsonl"))).unwrap();
    let exam = |row| match row {
        Row::Task(exam) => Some(exam),
        _ => None,
    };
    all.into_iter().filter_map(exam).collect()
}

fn losses(bench: &Bench, name: &str) -> Vec<u64> {
    let all = read_metrics(&bench.path(&format!("{name}/metrics.jsonl"))).unwrap();
    let loss = |row| match row {
        Row::Train(step) => Some(step.loss.to_bits()),
        _ => None,
    };
    all.into_iter().filter_map(loss).collect()
}

fn weights(bench: &Bench, name: &str) -> Vec<u8> {
    std::fs::read(bench.path(&format!("{name}/model/model.safetensors"))).unwrap()
}

#[test]
fn problems_are_solved_between_steps_and_change_nothing() {
    let bench = Bench::new();
    train(&recipe(&bench, "without", ""), &[]);
    let shown = train(&recipe(&bench, "with", EVAL), &[]);
    assert_eq!(losses(&bench, "with"), losses(&bench, "without"));
    assert!(weights(&bench, "with") == weights(&bench, "without"));
    let exams = exams(&bench, "with");
    let steps: Vec<u64> = exams.iter().map(|exam| exam.step).collect();
    assert_eq!(steps, [0, 10, 20, 30, 40]);
    assert_eq!(exams[0].scores["metamath"], 0.0);
    assert_eq!(exams[0].scores["no_answer"], 1.0);
    assert_eq!(
        exams[4].scores["metamath"], 0.5,
        "one of two is learned: {exams:?}"
    );
    assert!(
        shown.contains("solved          gsm8k 50.0 % (metamath)"),
        "{shown}"
    );
    let traces = rows(&bench.read("with/evals/step-00000040/traces.jsonl"));
    assert_eq!(traces[0]["completion"], " The answer is: 7");
    assert_eq!(bench.json("with/summary.json")["task"]["step"], 40);
    // Evaluations of a run can be compared like any others.
    let (first, last) = (
        bench.path("with/evals/step-00000000"),
        bench.path("with/evals/step-00000040"),
    );
    let (shown, _) = succeed(&["eval", "diff", text(&first), text(&last)]);
    assert!(shown.contains("won under metamath"), "{shown}");
    // And the saved model solves what the run said it does.
    let (model, test) = (bench.path("with/model"), bench.path("test.jsonl"));
    let (shown, _) = succeed(&[
        "eval",
        "--task",
        "gsm8k",
        "--model",
        text(&model),
        "--data",
        text(&test),
        "--prompt-style",
        "raw",
        "--device",
        "cpu",
        "--max-new-tokens",
        "12",
        "--json",
        "--output",
        text(&bench.path("after")),
    ]);
    let summary: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(summary["graders"]["metamath"]["accuracy"], 0.5);
}

#[test]
fn the_best_checkpoint_is_kept_and_is_the_result() {
    let bench = Bench::new();
    let run = recipe(&bench, "best", &format!("{EVAL}choose_best = true\n"));
    train(&run, &[]);
    let exams = exams(&bench, "best");
    let best = exams
        .iter()
        .find(|exam| exam.scores["metamath"] == 0.5)
        .map(|exam| exam.step)
        .unwrap();
    assert!(best > 0 && best < 40, "{exams:?}");
    let summary = bench.json("best/summary.json");
    assert_eq!(summary["task"]["step"], best);
    assert_eq!(summary["steps"], 40, "all steps were made");
    let checkpoints: Vec<String> = std::fs::read_dir(bench.path("best/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("step-"))
        .collect();
    assert_eq!(
        checkpoints.len(),
        2,
        "the newest and the best: {checkpoints:?}"
    );
    // With a constant rate the state after that step is what a shorter run ends with.
    let short = recipe(&bench, "short", "");
    train(&short, &["--set", &format!("train.steps={best}")]);
    assert!(weights(&bench, "best") == weights(&bench, "short"));
    let before = weights(&bench, "best");
    train(&run, &["--resume"]);
    assert!(
        weights(&bench, "best") == before,
        "resuming a run that is over changes nothing"
    );
}

#[cfg(unix)]
#[test]
fn a_killed_run_goes_on_with_the_same_exams() {
    let bench = Bench::new();
    let eval = format!("{EVAL}choose_best = true\nbatch_size = 1\n");
    train(&recipe(&bench, "whole", &eval), &[]);
    let killed = recipe(&bench, "killed", &eval);
    for (kill_at, signal) in [
        ("step-00000010", "-KILL"),
        ("step-00000020", "-TERM"),
        ("step-00000030", "-KILL"),
    ] {
        let mut args = vec!["train", text(&killed), "--quiet"];
        if bench.path("killed").exists() {
            args.push("--resume");
        }
        let mut child = temper(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let traces = bench.path(&format!("killed/evals/{kill_at}"));
        while !traces.exists() && start.elapsed() < Duration::from_mins(1) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let id = child.id().to_string();
        assert!(
            std::process::Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
        assert!(
            !child.wait().unwrap().success(),
            "the signal must hit a run in progress"
        );
    }
    train(&killed, &["--resume"]);
    assert_eq!(losses(&bench, "killed"), losses(&bench, "whole"));
    assert!(weights(&bench, "killed") == weights(&bench, "whole"));
    let key = |exam: &TaskMetric| (exam.step, exam.scores.clone());
    let keys = |name| -> Vec<_> { exams(&bench, name).iter().map(key).collect() };
    assert_eq!(keys("killed"), keys("whole"));
    for step in [0, 10, 20, 30, 40] {
        let folder = format!("evals/step-{step:08}");
        bench.assert_same(&format!("killed/{folder}"), &format!("whole/{folder}"));
    }
}

#[test]
fn a_recipe_that_cannot_choose_or_ask_is_refused_before_the_first_step() {
    let bench = Bench::new();
    for (eval, part) in [
        (
            "[eval]\ntask = \"gsm8k\"\npath = TEST\nchoose_best = true\n",
            "nothing to choose from",
        ),
        (
            "[eval]\ntask = \"gsm8k\"\npath = \"gone.jsonl\"\n",
            "`gone.jsonl` does not exist",
        ),
        (
            "[eval]\ntask = \"gsm9k\"\npath = TEST\n",
            "must be one of `gsm8k`",
        ),
        ("[eval]\npath = TEST\n", "missing key `eval.task`"),
    ] {
        let said = fail(2, &["train", text(&recipe(&bench, "bad", eval)), "--quiet"]);
        assert!(said.contains(part), "{said}");
    }
    let chat = "[eval]\ntask = \"gsm8k\"\npath = TEST\nprompt_style = \"chat\"\n";
    let said = fail(
        2,
        &["train", text(&recipe(&bench, "chat", chat)), "--quiet"],
    );
    assert!(said.contains("no chat template"), "{said}");
    assert!(!bench.path("chat/metrics.jsonl").exists());
}
