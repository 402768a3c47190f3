//! Recipes, runs of the binary, and what they leave behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use temper_adapters::weights::Checkpoint;
use temper_engine::run::{Metric, Row, read_metrics};

pub(super) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub(super) fn golden(case: &str) -> PathBuf {
    Path::new(ROOT).join("tests/golden/diffusion").join(case)
}

pub(super) fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// |a − b| <= tolerance·|b|.
pub(super) fn assert_relative(what: &str, ours: f64, theirs: f64, tolerance: f64) {
    let error = (ours - theirs).abs() / theirs.abs();
    assert!(
        error <= tolerance,
        "{what}: {ours}, expected {theirs}, relative error {error:e}"
    );
}

/// The tensors of a safetensors file, an adapter or a model by name.
pub(super) fn tensors(path: &Path) -> Vec<(String, Vec<f32>)> {
    let adapter = path.join("adapter_model.safetensors");
    let file = if adapter.is_file() {
        Checkpoint::open(adapter).unwrap()
    } else {
        Checkpoint::open(path).unwrap()
    };
    let mut all: Vec<(String, Vec<f32>)> = file
        .names()
        .map(|name| (name.to_owned(), file.read_f32(name).unwrap()))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// A directory for the files of one test.
pub(super) struct Bench(tempfile::TempDir);

impl Bench {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A run of a recipe whose `run.dir` is in this directory.
    pub(super) fn run(&self, name: &str, recipe: &str) -> Run {
        let (file, dir) = (self.path(&format!("{name}.toml")), self.path(name));
        std::fs::write(&file, format!("{recipe}\n[run]\ndir = {dir:?}\n")).unwrap();
        Run {
            recipe: file,
            dir,
            settings: Vec::new(),
        }
    }
}

/// A recipe with settings, and the directory it writes to.
#[derive(Clone)]
pub(super) struct Run {
    recipe: PathBuf,
    pub(super) dir: PathBuf,
    settings: Vec<String>,
}

impl Run {
    /// A run of a recipe of the repository.
    pub(super) fn shipped(recipe: &str, dir: PathBuf) -> Self {
        let run = Self {
            recipe: Path::new(ROOT).join("recipes").join(recipe),
            settings: Vec::new(),
            dir: dir.clone(),
        };
        run.set(&format!("run.dir={dir:?}"))
    }

    /// Adds `--set` to every command.
    pub(super) fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    pub(super) fn output(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
        command.arg("train").arg(&self.recipe).args(more);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.current_dir(ROOT).output().unwrap()
    }

    /// Runs to the end and returns stdout.
    pub(super) fn succeed(&self, more: &[&str]) -> String {
        self.both(more).0
    }

    /// Runs to the end and returns what was said beside the results.
    pub(super) fn remarks(&self) -> String {
        self.both(&[]).1
    }

    fn both(&self, more: &[&str]) -> (String, String) {
        let output = self.output(more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{:?}: {said}", self.settings);
        (String::from_utf8(output.stdout).unwrap(), said)
    }

    /// The message of a run that must fail with this code, and without a panic.
    pub(super) fn fail(&self, code: i32, more: &[&str]) -> String {
        let output = self.output(more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        read_metrics(&self.dir.join("metrics.jsonl")).unwrap()
    }

    pub(super) fn metrics(&self) -> Vec<Metric> {
        let train = |row| match row {
            Row::Train(metric) => Some(metric),
            Row::Eval(_) | Row::Task(_) => None,
        };
        self.rows().into_iter().filter_map(train).collect()
    }

    pub(super) fn losses(&self) -> Vec<f64> {
        self.metrics().iter().map(|metric| metric.loss).collect()
    }

    pub(super) fn summary(&self) -> Value {
        json(&self.dir.join("summary.json"))
    }
}

/// `whole` runs to its end at once; `parts`, the same recipe, as if it had been killed after step `killed` and begun again.
pub(super) fn assert_resumes(whole: &Run, parts: Run, results: &[&str], [killed, last]: [u64; 2]) {
    whole.succeed(&["--quiet"]);
    let parts = parts.set("train.keep_last=9");
    parts.succeed(&["--quiet"]);
    // What a kill leaves.
    std::fs::remove_dir_all(parts.dir.join(format!("checkpoints/step-{last:08}"))).unwrap();
    for result in results {
        std::fs::remove_dir_all(parts.dir.join(result)).unwrap();
    }
    std::fs::remove_file(parts.dir.join("summary.json")).unwrap();
    parts.succeed(&["--quiet", "--resume"]);
    assert_eq!(parts.summary()["resumed_from"], killed);
    let bits = |run: &Run| -> Vec<(u64, u64)> {
        let row = |m: &Metric| (m.step, m.loss.to_bits());
        run.metrics().iter().map(row).collect()
    };
    assert_eq!(bits(&parts), bits(whole));
    for result in results {
        assert!(
            tensors(&parts.dir.join(result)) == tensors(&whole.dir.join(result)),
            "`{result}` differs"
        );
    }
}
