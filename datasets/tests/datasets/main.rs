//! The crate from outside: files in, ids and batches out.

#![expect(
    clippy::unwrap_used,
    reason = "in a helper of a test, too, a failure is a failed test"
)]

mod arithmetic;
mod hostile;
mod loader;
mod mathematics;
mod prepare;
mod prompts;
mod readers;
mod tokenizer;

use std::path::{Path, PathBuf};

use serde_json::Value;
use temper_datasets::Tokenizer;

/// A path inside the repository.
fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn stories() -> Tokenizer {
    Tokenizer::load(repo("assets/stories260k")).unwrap()
}

fn jsonl(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(repo(path)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A new file with these contents.
fn write(directory: &Path, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, contents).unwrap();
    path
}
