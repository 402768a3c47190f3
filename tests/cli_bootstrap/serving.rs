//! The whole way through HTTP: `temper bootstrap` asks `temper serve`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::own_engine::{engine_run, long_model};
use super::support::{Bench, KEY, Run};

/// A server with the model of the engine's tests, ended when it is dropped.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    fn start(model: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_temper"))
            .args(["serve", "--device", "cpu", "--port", "0"])
            .args(["--name", "test-writer", "--api-key-env", "TEMPER_TEST_KEY"])
            .args(arguments)
            .arg("--model")
            .arg(model)
            .env("TEMPER_TEST_KEY", KEY)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        Self {
            url: format!("{address}/v1"),
            child,
        }
    }

    fn run(&self, bench: &Bench, name: &str) -> Run {
        bench
            .run(name, &self.url)
            .set("samples={answer_augmentation=2, fobar=1}")
            .set("text_model.mode=completion")
            .set("text_model.max_new_tokens=6")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn replies(run: &Run) -> Vec<Value> {
    let lines = run.lines("provenance.jsonl");
    lines.iter().map(|line| line["reply"].clone()).collect()
}

#[test]
fn a_served_model_writes_what_it_writes_in_our_own_process() {
    let bench = Bench::new(1);
    let local = engine_run(&bench, "local");
    local.output().ok();
    let served = Served::start(&long_model(&bench), &["--max-sequences", "4"]);
    let remote = served.run(&bench, "remote");
    remote.output().ok();
    assert_eq!(replies(&remote), replies(&local));
    let (here, there) = (local.summary(), remote.summary());
    for count in ["requests", "prompt_tokens", "reply_tokens", "estimated"] {
        assert_eq!(here[count], there[count], "{count}");
    }
}

#[test]
fn a_server_that_is_full_is_asked_again() {
    let bench = Bench::new(3);
    let arguments = ["--max-sequences", "1", "--max-queue", "1"];
    let served = Served::start(&long_model(&bench), &arguments);
    let run = served.run(&bench, "full").set("text_model.concurrency=12");
    run.clone().set("text_model.attempts=50").output().ok();
    let summary = run.summary();
    assert!(
        summary["failed_attempts"]["status 429"].as_u64() > Some(0),
        "{summary}"
    );
    assert_eq!(summary["finished"], true, "{summary}");
    assert_eq!(replies(&run).len(), 12);
}

#[test]
fn a_server_without_a_chat_template_says_so() {
    let bench = Bench::new(1);
    let served = Served::start(&long_model(&bench), &[]);
    let run = served.run(&bench, "chat").set("text_model.mode=chat");
    run.set("text_model.max_consecutive_failures=2")
        .output()
        .fails(1, &["status 400"]);
    let served = Served::start(&long_model(&bench), &["--template", "alpaca"]);
    let run = served.run(&bench, "framed").set("text_model.mode=chat");
    run.output().ok();
    assert_eq!(replies(&run).len(), 4);
}
