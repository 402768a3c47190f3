//! The binary, its evaluations and their files.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub(super) fn path(relative: &str) -> PathBuf {
    Path::new(ROOT).join(relative)
}

pub(super) fn temper(args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
    command.args(args);
    command
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(super) fn output(args: &[impl AsRef<OsStr>]) -> Output {
    temper(args).output().unwrap()
}

/// What a command that must succeed prints on stdout and says on stderr.
pub(super) fn succeed(args: &[impl AsRef<OsStr> + Debug]) -> (String, String) {
    let output = output(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {said}");
    (String::from_utf8(output.stdout).unwrap(), said)
}

/// The message of a command that must fail with this code, and without a panic.
pub(super) fn fail(code: i32, args: &[impl AsRef<OsStr> + Debug]) -> String {
    let output = output(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(
        said.contains("error: ") && !said.contains("panicked"),
        "{said}"
    );
    said
}

pub(super) fn rows(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Rows as the lines of a file.
pub(super) fn lines(rows: &[Value]) -> String {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    lines.join("\n") + "\n"
}

/// A temporary directory with evaluations of the small story model on its first problems.
pub(super) struct Bench(tempfile::TempDir);

impl Bench {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let file = self.path(name);
        std::fs::write(&file, bytes).unwrap();
        file
    }

    /// The arguments of an evaluation into the directory `name`.
    pub(super) fn args(&self, name: &str, more: &[&str]) -> Vec<String> {
        let (model, data) = (
            path("assets/stories260k"),
            path("assets/gsm8k/test-100.jsonl"),
        );
        let fixed = [
            "eval",
            "--task",
            "gsm8k",
            "--model",
            text(&model),
            "--data",
            text(&data),
            "--limit",
            "7",
            "--max-new-tokens",
            "12",
            "--device",
            "cpu",
            "--output",
            text(&self.path(name)),
        ]
        .map(str::to_owned);
        let more = more.iter().map(|&arg| arg.to_owned());
        // The last of two equal arguments counts for this test, so the fixed ones give way.
        let mut args = fixed.to_vec();
        for pair in more.collect::<Vec<_>>().chunks(2) {
            match args.iter().position(|arg| *arg == pair[0]) {
                Some(at) if pair.len() == 2 => args[at + 1].clone_from(&pair[1]),
                _ => args.extend_from_slice(pair),
            }
        }
        args
    }

    /// Evaluates, and returns what was printed.
    pub(super) fn eval(&self, name: &str, more: &[&str]) -> String {
        succeed(&self.args(name, more)).0
    }

    /// Evaluates, must fail, and returns the message.
    pub(super) fn refuse(&self, code: i32, name: &str, more: &[&str]) -> String {
        fail(code, &self.args(name, more))
    }

    pub(super) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub(super) fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    pub(super) fn traces(&self, name: &str) -> Vec<Value> {
        rows(&self.read(&format!("{name}/traces.jsonl")))
    }

    /// Both directories hold the same numbers, byte for byte.
    pub(super) fn assert_same(&self, ours: &str, theirs: &str) {
        for file in ["traces.jsonl", "summary.json"] {
            let read = |name: &str| self.read(&format!("{name}/{file}"));
            assert!(
                read(ours) == read(theirs),
                "{file} of {ours} and {theirs} differ"
            );
        }
    }
}
