//! The binary, and what it says.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

pub(super) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Runs `temper` in the root of the repository.
pub(super) fn temper(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_temper"))
        .args(arguments)
        .current_dir(ROOT)
        .output()
        .unwrap()
}

pub(super) fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(super) fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Stdout of a command that must succeed.
pub(super) fn ok(arguments: &[&str]) -> String {
    let output = temper(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", err(&output));
    out(&output)
}

/// Stderr of a command that must end with `code`.
pub(super) fn fails(arguments: &[&str], code: i32) -> String {
    let output = temper(arguments);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {}{}",
        out(&output),
        err(&output)
    );
    err(&output)
}

pub(super) fn rows(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(super) fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(super) const TOKENIZER_GOLDEN: &str = "tests/golden/metamath/dev_tokenizer.jsonl";
