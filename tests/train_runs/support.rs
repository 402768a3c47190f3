//! Recipes, runs of the binary, and what they leave behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use temper_adapters::weights::Checkpoint;
use temper_engine::run::{Metric, Row, read_metrics};

pub(super) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Setting of the golden OFT runs.
pub(super) const OFT: &str = "adapter={kind=\"oft\", oft_block_size=8, use_cayley_neumann=false, \
     target_modules=[\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\", \"gate_proj\", \"up_proj\", \"down_proj\"]}";

pub(super) fn path(relative: &str) -> PathBuf {
    Path::new(ROOT).join(relative)
}

pub(super) fn golden_json(relative: &str) -> Value {
    let text = std::fs::read_to_string(path("tests/golden").join(relative)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Numbers of a JSON list.
pub(super) fn numbers(list: &Value) -> Vec<f64> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_f64().unwrap())
        .collect()
}

/// The 80 training rows of a golden LLaMA, 16 ids each.
pub(super) fn golden_rows(case: &str) -> Vec<Vec<u32>> {
    let file = path("tests/golden/llama")
        .join(case)
        .join("train_batches.safetensors");
    let tensor = Checkpoint::open(file).unwrap().read("batches").unwrap();
    let id = |bytes: &[u8]| u32::try_from(i64::from_le_bytes(bytes.try_into().unwrap())).unwrap();
    let ids: Vec<u32> = tensor.data().chunks_exact(8).map(id).collect();
    ids.chunks(16).map(<[u32]>::to_vec).collect()
}

/// |a − b| <= tolerance·|b|.
pub(super) fn assert_relative(what: &str, ours: f64, theirs: f64, tolerance: f64) {
    let error = (ours - theirs).abs() / theirs.abs();
    assert!(
        error <= tolerance,
        "{what}: {ours}, expected {theirs}, relative error {error:e}"
    );
}

/// |a − b| <= tolerance for every value.
pub(super) fn assert_absolute(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}: number of values");
    assert!(!ours.is_empty(), "{what}: nothing to compare");
    let errors = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    let worst = errors.fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: worst error {worst:e}");
}

/// Polls until `condition` holds; a test that waits longer than a minute has failed.
pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "waited too long for {what}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A temporary directory with rows, recipes and runs.
pub(super) struct Bench(tempfile::TempDir);

impl Bench {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A JSONL file with rows of ids.
    pub(super) fn rows(&self, name: &str, rows: &[Vec<u32>]) -> PathBuf {
        let lines: Vec<String> = rows
            .iter()
            .map(|ids| json!({ "input_ids": ids }).to_string())
            .collect();
        let file = self.path(name);
        std::fs::write(&file, lines.join("\n")).unwrap();
        file
    }

    /// A run of a golden LLaMA on its golden rows.
    pub(super) fn golden(&self, name: &str, case: &str) -> Run {
        let rows = self.rows(&format!("{name}.jsonl"), &golden_rows(case));
        let model = path("tests/golden/llama").join(case).join("model");
        self.run(name, &model, &rows)
    }

    /// A run of 20 steps over rows of ids in their order.
    pub(super) fn run(&self, name: &str, model: &Path, rows: &Path) -> Run {
        let (recipe, dir) = (self.path(&format!("{name}.toml")), self.path(name));
        let text = format!(
            "device = \"cpu\"\n[model]\npath = {model:?}\n\
             [data]\nkind = \"tokens\"\npath = {rows:?}\nmax_length = 16\nshuffle = false\ncache = false\n\
             [train]\nsteps = 20\nbatch_size = 4\nlr = 1e-2\n\
             [sample]\ncount = 0\n[run]\ndir = {dir:?}\n"
        );
        std::fs::write(&recipe, text).unwrap();
        Run {
            recipe,
            dir,
            settings: Vec::new(),
        }
    }

    /// A directory with a golden model in which `change` was applied to the values of one tensor.
    pub(super) fn changed_model(&self, tensor: &str, change: impl Fn(&mut [f32])) -> PathBuf {
        use temper_adapters::weights::{Dtype, HostTensor, save_safetensors};

        let (source, target) = (path("tests/golden/llama/gqa/model"), self.path("changed"));
        std::fs::create_dir_all(&target).unwrap();
        std::fs::copy(source.join("config.json"), target.join("config.json")).unwrap();
        let file = Checkpoint::open(&source).unwrap();
        let mut tensors = Vec::new();
        for name in file.names() {
            let mut values = file.read_f32(name).unwrap();
            if name == tensor {
                change(&mut values);
            }
            let shape = file.info(name).unwrap().shape.clone();
            let tensor = HostTensor::from_f32(Dtype::F32, shape, &values).unwrap();
            tensors.push((name.to_owned(), tensor));
        }
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        save_safetensors(&target.join("model.safetensors"), &tensors, &metadata).unwrap();
        target
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
    /// Adds `--set` to every command.
    pub(super) fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
        command.arg("train").arg(&self.recipe).args(more);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command
    }

    pub(super) fn output(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }

    /// Runs to the end and returns what was said on stderr.
    pub(super) fn succeed(&self, more: &[&str]) -> String {
        let output = self.output(more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{:?}: {said}", self.settings);
        said
    }

    /// The message of a run that must fail with this code, and without a panic.
    pub(super) fn fail(&self, code: i32, more: &[&str]) -> String {
        let output = self.output(more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(
            said.contains("error: ") && !said.contains("panicked"),
            "{said}"
        );
        said
    }

    /// Starts the run beside this test.
    pub(super) fn start(&self, more: &[&str]) -> Running {
        let mut command = self.command(more);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    pub(super) fn metrics(&self) -> Vec<Metric> {
        let rows = read_metrics(&self.dir.join("metrics.jsonl")).unwrap_or_default();
        let train = rows.into_iter().filter_map(|row| match row {
            Row::Train(metric) => Some(metric),
            Row::Eval(_) | Row::Task(_) => None,
        });
        train.collect()
    }

    pub(super) fn losses(&self) -> Vec<f64> {
        self.metrics().iter().map(|metric| metric.loss).collect()
    }

    /// Runs to the end and returns the losses.
    pub(super) fn train(&self) -> Vec<f64> {
        self.succeed(&["--quiet"]);
        self.losses()
    }

    pub(super) fn summary(&self) -> Value {
        let text = std::fs::read_to_string(self.dir.join("summary.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(super) fn adapter(&self) -> Vec<u8> {
        std::fs::read(self.dir.join("adapter/adapter_model.safetensors")).unwrap()
    }

    /// Steps of the finished checkpoints, rising.
    pub(super) fn checkpoints(&self) -> Vec<u64> {
        let Ok(entries) = std::fs::read_dir(self.dir.join("checkpoints")) else {
            return Vec::new();
        };
        let step = |name: &str| name.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<u64> = entries
            .filter_map(|entry| step(entry.ok()?.file_name().to_str()?))
            .collect();
        steps.sort_unstable();
        steps
    }

    pub(super) fn newest(&self) -> u64 {
        self.checkpoints().last().copied().unwrap_or(0)
    }

    /// A file of one checkpoint.
    pub(super) fn checkpoint_file(&self, step: u64, name: &str) -> PathBuf {
        let folder = format!("checkpoints/step-{step:08}");
        self.dir.join(folder).join(name)
    }
}

/// A run in progress; killed when dropped.
pub(super) struct Running(Child);

impl Running {
    pub(super) fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL, where there are signals.
    pub(super) fn kill(mut self) -> ExitStatus {
        self.0.kill().unwrap();
        self.0.wait().unwrap()
    }

    /// Waits for the end and returns what was said on stderr.
    pub(super) fn finish(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        let mut pipe = self.0.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut pipe, &mut said).unwrap();
        (self.0.wait().unwrap(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when the process has ended, which is what it is for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
