//! Our own engine as the source of text.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::{Bench, Run};

/// The shipped model, told that its context is long enough for eight worked examples.
pub(super) fn long_model(bench: &Bench) -> PathBuf {
    let source = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../assets/stories260k"
    ));
    let target = bench.path("model");
    std::fs::create_dir_all(&target).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
    }
    let config = target.join("config.json");
    let mut fields: Value =
        serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    fields["max_position_embeddings"] = 4096.into();
    std::fs::write(&config, fields.to_string()).unwrap();
    target
}

pub(super) fn engine_run(bench: &Bench, name: &str) -> Run {
    // As JSON text, which is a TOML string too.
    let [questions, dir, model] = [
        bench.path("questions.jsonl"),
        bench.path(name),
        long_model(bench),
    ]
    .map(|path| serde_json::json!(path));
    let text = format!(
        "[questions]\ntask = \"gsm8k\"\npath = {questions}\n[samples]\nanswer_augmentation = 2\nfobar = 1\n\
         [text_model]\nkind = \"engine\"\npath = {model}\ndevice = \"cpu\"\nmax_new_tokens = 6\n\
         concurrency = 1\n[run]\ndir = {dir}\n"
    );
    bench.recipe(name, &text)
}

#[test]
fn our_engine_writes_the_same_in_any_company() {
    let bench = Bench::new(1);
    let alone = engine_run(&bench, "alone");
    alone.output().ok();
    let lines = alone.lines("provenance.jsonl");
    assert_eq!(lines.len(), 4);
    let replies: Vec<&str> = lines
        .iter()
        .map(|line| line["reply"].as_str().unwrap())
        .collect();
    assert!(replies.iter().all(|reply| !reply.is_empty()), "{replies:?}");
    assert_ne!(replies[0], replies[1], "each sample has a seed of its own");
    assert!(
        lines
            .iter()
            .all(|line| line["reply_tokens"] == 6 && line["outcome"] == "rejected")
    );
    let together = engine_run(&bench, "together").set("text_model.concurrency=4");
    together.output().ok();
    assert_eq!(
        together.file("provenance.jsonl"),
        alone.file("provenance.jsonl")
    );
}

#[test]
fn prompts_beyond_the_context_are_named() {
    let bench = Bench::new(1);
    let run = engine_run(&bench, "short").set("text_model.max_length=500");
    run.clone().set("text_model.concurrency=1").output().ok();
    assert_eq!(run.kind("GSM_AnsAug")["failed"]["prompt too long"], 2);
}

#[test]
fn a_conversation_needs_a_chat_template() {
    let bench = Bench::new(1);
    let run = engine_run(&bench, "chat").set("text_model.mode=chat");
    run.output()
        .fails(2, &["no chat template", "mode = \"completion\""]);
}
