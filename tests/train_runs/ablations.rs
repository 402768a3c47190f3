//! `temper ablate`: variants of a recipe side by side, on a model that is far too small to learn anything.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::support::{Bench, ROOT};

/// A recipe with a base, two variants, two seeds and two exams.
fn recipe(bench: &Bench) -> PathBuf {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 648,
        "max_position_embeddings": 160, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    let (sizes, file) = (bench.path("config.json"), bench.path("tiny.toml"));
    std::fs::write(&sizes, config.to_string()).unwrap();
    let exam = |name: &str, task: &str, data: &str| {
        format!(
            "[[ablation.exams]]\nname = \"{name}\"\ntask = \"{task}\"\npath = \"assets/arithmetic/{data}.jsonl\"\n\
             limit = 3\nmax_new_tokens = 3\n"
        )
    };
    let text = format!(
        "device = \"cpu\"\n[model]\ninit = \"random\"\nconfig = {sizes:?}\ntokenizer = \"assets/arithmetic\"\n\
         [data]\nkind = \"arithmetic\"\nsingle_field = true\nmax_length = 160\n[data.arithmetic]\nproblems = 20\n\
         [train]\nsteps = 3\nbatch_size = 2\nlr = 1e-3\n[sample]\ncount = 0\n[run]\ndir = {:?}\n\
         [ablation]\nseeds = [1, 2]\nbase = ['data.arithmetic.sets=[\"sum\"]', 'train.steps=2']\n\
         [[ablation.arms]]\nname = \"SFT\"\n\
         [[ablation.arms]]\nname = \"+ FOBAR\"\nset = ['data.arithmetic.sets=[\"original\", \"fobar\"]']\n{}{}",
        bench.path("out"),
        exam("forward", "gsm8k", "test"),
        exam("backward", "gsm8k-backward", "test-backward"),
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// Runs `temper ablate` in the root of the repository, where the problems are.
fn ablate(recipe: impl AsRef<Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
    command.arg("ablate").arg(recipe.as_ref()).current_dir(ROOT);
    command.output().unwrap()
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn variants_are_trained_alike_and_tried_on_the_same_problems() {
    let bench = Bench::new();
    let recipe = recipe(&bench);
    let output = ablate(&recipe);
    let (table, progress) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{progress}");
    assert!(
        table.contains("| + FOBAR") && table.contains("over 2 seeds"),
        "{table}"
    );
    assert!(
        progress.contains("run 5 of 5: + FOBAR, seed 2"),
        "{progress}"
    );
    let out = bench.path("out");
    assert_eq!(
        table.trim_end(),
        std::fs::read_to_string(out.join("table.md"))
            .unwrap()
            .trim_end()
    );
    assert!(
        std::fs::read_to_string(out.join("accuracy.svg"))
            .unwrap()
            .contains("backward")
    );
    let summary = read(out.join("summary.json"));
    assert_eq!(
        summary["arms"][1]["results"][1]["accuracies"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    for run in ["sft/seed-1", "sft/seed-2", "fobar/seed-1", "fobar/seed-2"] {
        let made = read(out.join(run).join("summary.json"));
        assert_eq!(made["steps"], 3, "{run}");
        let stored = std::fs::read_to_string(out.join(run).join("recipe.toml")).unwrap();
        assert!(stored.contains("base/model"), "{stored}");
        let exam = read(out.join(run).join("evals/backward/summary.json"));
        assert_eq!(exam["problems"], 3);
    }
}

#[test]
fn what_is_finished_is_not_done_again() {
    let bench = Bench::new();
    let recipe = recipe(&bench);
    let first = ablate(&recipe);
    assert!(
        first.status.success(),
        "{}",
        String::from_utf8_lossy(&first.stderr)
    );
    let run = bench.path("out/sft/seed-2");
    let written = || {
        std::fs::metadata(run.join("summary.json"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = written();
    std::fs::remove_dir_all(run.join("evals/forward")).unwrap();
    std::fs::remove_dir_all(bench.path("out/fobar/seed-1")).unwrap();
    let second = ablate(&recipe);
    assert_eq!(second.stdout, first.stdout);
    assert_eq!(written(), before);
    assert!(run.join("evals/forward/summary.json").exists());
    assert!(bench.path("out/fobar/seed-1/model").exists());
}

#[test]
fn problems_of_a_variant_are_named_before_anything_runs() {
    let bench = Bench::new();
    let recipe = recipe(&bench);
    let text = std::fs::read_to_string(&recipe).unwrap();
    std::fs::write(&recipe, text.replace("\"fobar\"]", "\"foobar\"]")).unwrap();
    let output = ablate(&recipe);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("foobar") && message.contains("`+ FOBAR`"),
        "{message}"
    );
    assert!(!bench.path("out").exists());
    let plain = ablate("recipes/quickstart.toml");
    assert_eq!(plain.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&plain.stderr).contains("no `[ablation]`"));
}
