//! What the schema cannot say: keys that contradict each other, and files that are not there.

mod ablation;
mod adapter;
mod bootstrap;
mod data;
mod diffusion;
mod eval;
mod latents;
mod model;
mod train;

use std::path::{Path, PathBuf};

pub(crate) use ablation::directory_name;

use super::problem::Report;
use super::tree::{Node, Origin};
use super::{Recipe, Run};

/// Checks recipes whose values have the right types.
pub(super) struct Checker<'a> {
    tree: &'a Node,
    base: &'a Path,
    report: &'a mut Report,
}

/// What a run measures its progress on.
pub(super) struct HeldOut {
    /// The section or key that gives it.
    key: &'static str,
    /// Its name.
    what: &'static str,
    /// Whether there is some.
    present: bool,
    /// How to get some.
    add: &'static str,
}

impl<'a> Checker<'a> {
    /// Relative paths start at `base`.
    pub(super) fn new(tree: &'a Node, base: &'a Path, report: &'a mut Report) -> Self {
        Self { tree, base, report }
    }
}

impl Checker<'_> {
    /// Checks a recipe for training.
    pub(super) fn training(&mut self, recipe: &Recipe) {
        self.device("device", &recipe.device);
        self.model(recipe);
        if let Some(adapter) = &recipe.adapter {
            self.adapter(adapter);
        }
        self.data(&recipe.data);
        let add_eval = "add `[data.eval]` with `path = ...` or `fraction = 0.02`";
        let held_out = HeldOut {
            key: "data.eval",
            what: "held-out rows",
            present: recipe.data.eval.is_some(),
            add: add_eval,
        };
        self.train(&recipe.train, &held_out);
        if let Some(eval) = &recipe.eval {
            self.evaluation_of_tasks(eval);
        }
        if let Some(ablation) = &recipe.ablation {
            self.ablation(ablation);
        }
    }

    /// Checks where results go.
    pub(super) fn run(&mut self, run: &Run) {
        if run.dir.as_os_str().is_empty() {
            self.problem(
                &["run.dir"],
                "`run.dir` is empty",
                "for example `dir = \"runs/first\"`",
            );
        }
    }

    /// Records a contradiction between `keys`, shown at the first of them that was written, unless
    /// something is already known to be wrong with one of them.
    fn problem(&mut self, keys: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        if keys.iter().any(|key| self.report.is_bad(key)) {
            return;
        }
        let Some(first) = keys.iter().find(|key| self.written(key)).or(keys.first()) else {
            return;
        };
        self.report
            .add(self.place(first), first, message.into(), Some(hint.into()));
    }

    /// Whether the recipe or an override gives the key.
    fn written(&self, key: &str) -> bool {
        self.tree.find(key).is_some()
    }

    /// The place of a key, else of the nearest table around it.
    fn place(&self, key: &str) -> Option<Origin> {
        if let Some(node) = self.tree.find(key) {
            return Some(node.origin.clone());
        }
        key.rsplit_once('.')
            .and_then(|(table, _)| self.place(table))
    }

    fn device(&mut self, key: &str, device: &str) {
        let (name, index) = match device.split_once(':') {
            Some((name, index)) => (name, Some(index)),
            None => (device, None),
        };
        let hint = "one of `auto`, `cpu`, `cuda`, `vulkan`, `wgpu`, `metal`; the last four take \
        an index, as in `cuda:0`";
        let counted = matches!(name, "cuda" | "vulkan" | "wgpu" | "metal");
        if !counted && !matches!(name, "auto" | "cpu") {
            self.problem(&[key], format!("unknown device `{device}`"), hint);
        } else if let Some(index) = index
            && (!counted || !is_index(index))
        {
            self.problem(&[key], format!("`{device}` has no valid index"), hint);
        }
    }

    /// Checks something that is either here or on the hub.
    fn local_or_hub(&mut self, key: &str, name: &str, with_file: bool) {
        if !name.is_empty() && self.path(name).exists() {
            return;
        }
        match hub_refusal(name, with_file) {
            None => {}
            Some(hint) => {
                self.problem(&[key], format!("`{key}`: `{name}` does not exist"), hint);
            }
        }
    }

    /// Checks a file that must be here.
    fn local_file(&mut self, key: &str, path: &Path) {
        if !self.path(path).is_file() {
            let message = format!("`{key}`: no file `{}`", path.display());
            self.problem(&[key], message, RELATIVE);
        }
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.base.join(path)
    }
}

fn is_index(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

const RELATIVE: &str = "relative paths start at the directory in which `temper` is run";

/// Why a name cannot be a hub name `org/name[@revision][:file]`; `None` if it can.
fn hub_refusal(name: &str, with_file: bool) -> Option<String> {
    if name.trim().is_empty() {
        return Some("give a path or a hub name `org/name`".into());
    }
    if name.starts_with('~') {
        return Some("`~` is not expanded here; write the whole path".into());
    }
    if name.starts_with("https://") || name.starts_with("http://") {
        return Some("give the hub name `org/name` instead of an address".into());
    }
    let (repository, file) = match name.split_once(':') {
        Some((repository, file)) => (repository, Some(file)),
        None => (name, None),
    };
    if file.is_some_and(|file| !with_file || file.is_empty()) {
        return Some(RELATIVE.into());
    }
    let (id, revision) = match repository.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (repository, None),
    };
    let parts: Vec<&str> = id.split('/').collect();
    let well_formed = parts.len() == 2
        && parts.iter().all(|part| is_hub_word(part))
        && revision.is_none_or(|revision| !revision.is_empty());
    if well_formed && !looks_like_file(id) {
        None
    } else {
        Some(RELATIVE.into())
    }
}

fn is_hub_word(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(allowed)
}

/// Whether the name ends like a file that people train on.
fn looks_like_file(name: &str) -> bool {
    let extension = Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        let extension = extension.to_ascii_lowercase();
        matches!(
            extension.as_str(),
            "json"
                | "jsonl"
                | "txt"
                | "md"
                | "csv"
                | "tsv"
                | "parquet"
                | "arrow"
                | "bin"
                | "npy"
                | "gz"
                | "zst"
                | "zip"
                | "safetensors"
                | "model"
                | "toml"
                | "yaml"
                | "jinja"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::hub_refusal;

    #[test]
    fn hub_names_are_told_from_paths() {
        for name in [
            "org/name",
            "org/name@v1.0",
            "meta-llama/Llama-2-7b-hf",
            "o/n@refs/pr/1",
        ] {
            assert_eq!(hub_refusal(name, false), None, "{name}");
        }
        assert_eq!(hub_refusal("org/name@main:data/train.jsonl", true), None);
        for name in [
            "",
            " ",
            "name",
            "a/b/c",
            "./a/b",
            "/a/b",
            "../a",
            "data/train.jsonl",
            "org/name@",
            "~/m",
            "org/name:file",
            "https://hub/a",
            "org/na me",
            "C:\\model",
        ] {
            assert!(hub_refusal(name, false).is_some(), "{name}");
        }
    }
}
