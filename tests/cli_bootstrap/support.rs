//! Questions, recipes, and runs of the binary.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// In the environment of every run; nothing may repeat it.
pub(super) const KEY: &str = "sk-very-secret-0123456789";

/// A temporary directory with questions and runs.
pub(super) struct Bench(tempfile::TempDir);

impl Bench {
    /// With so many questions, of two numbers each.
    pub(super) fn new(questions: u64) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let rows: Vec<String> = (0..questions)
            .map(|row| {
                let (a, b) = (row + 3, 2 * row + 5);
                let question = format!(
                    "Ann has {a} red pens and {b} blue pens. How many pens does she have in all?"
                );
                json!({"question": question, "answer": format!("{a} + {b}.\n#### {}", a + b)})
                    .to_string()
            })
            .collect();
        std::fs::write(bench.path("questions.jsonl"), rows.join("\n") + "\n").unwrap();
        bench
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A run against an endpoint, with one row of each kind and each number.
    pub(super) fn run(&self, name: &str, url: &str) -> Run {
        // As JSON text, which is a TOML string too.
        let [questions, dir] =
            [self.path("questions.jsonl"), self.path(name)].map(|path| json!(path));
        let text = format!(
            "[questions]\ntask = \"gsm8k\"\npath = {questions}\n\
             [samples]\nanswer_augmentation = 1\nrephrasing = 1\nself_verification = 1\nfobar = 1\n\
             [text_model]\nkind = \"endpoint\"\nbase_url = \"{url}\"\nmodel = \"test-writer\"\n\
             api_key_env = \"TEMPER_TEST_KEY\"\nfirst_pause = 0.01\nconcurrency = 4\n\
             [run]\ndir = {dir}\n"
        );
        self.recipe(name, &text)
    }

    pub(super) fn recipe(&self, name: &str, text: &str) -> Run {
        let recipe = self.path(&format!("{name}.toml"));
        std::fs::write(&recipe, text).unwrap();
        Run {
            recipe,
            dir: self.path(name),
            arguments: Vec::new(),
        }
    }
}

/// A recipe and how it is run.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) recipe: PathBuf,
    pub(super) dir: PathBuf,
    arguments: Vec<String>,
}

impl Run {
    pub(super) fn set(mut self, setting: &str) -> Self {
        self.arguments
            .extend(["--set".to_owned(), setting.to_owned()]);
        self
    }

    pub(super) fn with(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
        command
            .arg("bootstrap")
            .arg(&self.recipe)
            .args(&self.arguments)
            .env("TEMPER_TEST_KEY", KEY)
            .stdin(Stdio::null());
        command
    }

    pub(super) fn output(&self) -> Ran {
        Ran(self.command().output().unwrap())
    }

    pub(super) fn start(&self) -> Child {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    pub(super) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    pub(super) fn lines(&self, name: &str) -> Vec<Value> {
        let text = self.file(name);
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(super) fn summary(&self) -> Value {
        serde_json::from_str(&self.file("summary.json")).unwrap()
    }

    /// The results of one kind.
    pub(super) fn kind(&self, name: &str) -> Value {
        let summary = self.summary();
        let kinds = summary["kinds"].as_array().unwrap();
        kinds
            .iter()
            .find(|kind| kind["type"] == name)
            .unwrap()
            .clone()
    }

    /// Rows of the data set.
    pub(super) fn rows(&self) -> Vec<Value> {
        serde_json::from_str(&self.file("data.json")).unwrap()
    }
}

/// How a run ended.
pub(super) struct Ran(pub(super) Output);

impl Ran {
    pub(super) fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub(super) fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(super) fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// The run succeeded.
    pub(super) fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "{}{}", self.stdout(), self.stderr());
        self
    }

    /// The run failed with a code, and says these things.
    pub(super) fn fails(self, code: i32, words: &[&str]) -> Self {
        let text = self.stderr();
        assert_eq!(self.code(), code, "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is missing in:\n{text}");
        }
        self
    }
}

/// Every file of a run, for what must not be in it.
pub(super) fn all_text(dir: &Path) -> String {
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect()
}

/// Polls until `condition` holds; a test that waits longer than a minute has failed.
pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "waited too long for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
