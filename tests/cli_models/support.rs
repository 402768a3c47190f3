//! The binary, files for it, and comparisons.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};

pub(super) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub(super) fn path(relative: &str) -> PathBuf {
    Path::new(ROOT).join(relative)
}

pub(super) fn temper(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_temper"))
        .args(args)
        .args(["--device", "cpu"])
        .output()
        .unwrap()
}

pub(super) fn succeed(args: &[&str]) -> String {
    let output = temper(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a command that must fail with this code, and without a panic.
pub(super) fn fail(code: i32, args: &[&str]) -> String {
    let output = temper(args);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(
        message.starts_with("error: ") && !message.contains("panicked"),
        "{message}"
    );
    message
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// |a − b| <= atol + rtol·|b|.
pub(super) fn assert_close(what: &str, ours: &[f32], theirs: &[f32], (rtol, atol): (f32, f32)) {
    assert_eq!(ours.len(), theirs.len(), "{what}: number of values");
    assert!(!ours.is_empty(), "{what}: nothing to compare");
    let worst = ours
        .iter()
        .zip(theirs)
        .map(|(a, b)| (a - b).abs() / (atol + rtol * b.abs()))
        .fold(0.0, f32::max);
    assert!(
        worst <= 1.0,
        "{what}: worst error is {worst} times the tolerance"
    );
}

pub(super) fn tensor(shape: &[usize], values: &[i64]) -> HostTensor {
    let bytes = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    HostTensor::new(Dtype::I64, shape.to_vec(), bytes).unwrap()
}

pub(super) fn integers(file: &Checkpoint, name: &str) -> Vec<i64> {
    let tensor = file.read(name).unwrap();
    tensor
        .data()
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

pub(super) fn write(file: &Path, tensors: &[(&str, HostTensor)]) {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), tensor.clone()))
        .collect();
    save_safetensors(file, &tensors, &BTreeMap::new()).unwrap();
}

/// A model directory of an adapter's golden case, and its input.
pub(super) fn oft_case(name: &str, files: &Files) -> (PathBuf, PathBuf, Checkpoint) {
    let case = path("tests/golden/oft").join(name);
    let model = files.directory().join("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::copy(case.join("config.json"), model.join("config.json")).unwrap();
    std::fs::copy(
        case.join("base.safetensors"),
        model.join("model.safetensors"),
    )
    .unwrap();
    let io = Checkpoint::open(case.join("io.safetensors")).unwrap();
    write(
        &files.input,
        &[("input_ids", io.read("in.input_ids").unwrap())],
    );
    (model, case.join("adapter"), io)
}

pub(super) fn stories() -> PathBuf {
    path("assets/stories260k")
}

/// Where `temper forward` reads and writes.
pub(super) struct Files {
    directory: tempfile::TempDir,
    pub(super) input: PathBuf,
    pub(super) output: PathBuf,
}

impl Files {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name| directory.path().join(name);
        let (input, output) = (file("in.safetensors"), file("out.safetensors"));
        Self {
            directory,
            input,
            output,
        }
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The arguments of `temper forward`.
    pub(super) fn args<'a>(&'a self, model: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let files = ["--input", text(&self.input), "--output", text(&self.output)];
        [&["forward", "--model", text(model)], &files[..], more].concat()
    }

    /// Runs it and opens what it wrote.
    pub(super) fn forward(&self, model: &Path, more: &[&str]) -> Checkpoint {
        succeed(&self.args(model, more));
        Checkpoint::open(&self.output).unwrap()
    }

    /// The same, logits alone.
    pub(super) fn logits(&self, model: &Path, more: &[&str]) -> Vec<f32> {
        self.forward(model, more).read_f32("logits").unwrap()
    }
}
