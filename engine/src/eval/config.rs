//! `config.json`: everything that determines the numbers, so that rows of different evaluations are never mixed.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::EvalError;
use crate::recipe::PromptStyle;
use crate::run::{RunError, hash_file, hex};

/// Version of the layout of an evaluation directory.
const FORMAT: u32 = 1;

/// The content of `config.json`. Two evaluations with equal configurations, [`Info`] apart, have equal rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalConfig {
    /// Version of the layout.
    pub format: u32,
    /// Version of the program, and with it of the graders.
    pub temper: String,
    /// The task.
    pub task: String,
    /// The weights.
    pub model: ModelId,
    /// Fingerprint of the tokenizer.
    pub tokenizer: String,
    /// Precision of weights and products.
    pub dtype: String,
    /// The problems.
    pub data: DataId,
    /// How problems are asked and answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// How rows of a perplexity are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowSettings>,
    /// Which part of the problems.
    pub shard: Shard,
    /// What determines no number.
    pub info: Info,
}

/// The weights that are evaluated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelId {
    /// SHA-256 over `config.json` and all weights of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SHA-256 over the files of the adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_sha256: Option<String>,
    /// Within a training run: optimizer steps done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
}

/// The problems that are asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataId {
    /// SHA-256 of the file.
    pub sha256: String,
    /// Only the first so many rows; 0 for all.
    pub limit: u64,
    /// Problems of all shards together.
    pub problems: u64,
    /// Rows left out, for want of a true answer or a target.
    pub skipped: u64,
}

/// How problems are asked and answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Layout of the prompt.
    pub prompt_style: PromptStyle,
    /// Worked examples before each question.
    pub few_shot: usize,
    /// Text behind each question.
    pub suffix: String,
    /// SHA-256 over the bytes of all prompts.
    pub prompts_sha256: String,
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// Among the k likeliest tokens.
    pub top_k: Option<usize>,
    /// Among the likeliest tokens of this probability.
    pub top_p: Option<f64>,
    /// Seed of the random numbers; of no effect at temperature 0.
    pub seed: u64,
    /// Longest completion in tokens.
    pub max_new_tokens: usize,
    /// Texts that end a completion.
    pub stop: Vec<String>,
}

/// How the rows of a perplexity are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowSettings {
    /// As `data.kind` of a recipe.
    pub kind: String,
    /// As `data.template` of a recipe.
    pub template: String,
    /// As `data.loss_on` of a recipe.
    pub loss_on: String,
    /// Tokens a row; longer ones are cut.
    pub max_length: usize,
    /// Rows that were longer and lost their end.
    pub cut: u64,
}

/// One of several parts of the problems: those whose place, counted from 0, leaves `index` when divided by `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 0.
    pub index: u64,
    /// 1 for everything.
    pub count: u64,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

impl Shard {
    /// Whether the problem at `place` belongs to it.
    pub fn holds(self, place: usize) -> bool {
        place as u64 % self.count == self.index
    }

    /// How many of `problems` belong to it.
    pub fn size(self, problems: u64) -> u64 {
        (problems + self.count - 1 - self.index) / self.count
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no shard; write `i/n` with i from 0 to n − 1, as in `0/8`");
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let shard = Self {
            index: number(index)?,
            count: number(count)?,
        };
        if shard.index < shard.count {
            Ok(shard)
        } else {
            Err(wrong())
        }
    }
}

/// Where and with what an evaluation ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The model as it was named.
    pub model: String,
    /// The adapter as it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The data as it was named.
    pub data: String,
    /// The device.
    pub device: String,
}

impl EvalConfig {
    /// A configuration with everything that the kinds of evaluation have in common.
    pub(crate) fn new(task: &str, model: ModelId, tokenizer: &str, dtype: &str) -> Self {
        Self {
            format: FORMAT,
            temper: env!("CARGO_PKG_VERSION").to_owned(),
            task: task.to_owned(),
            model,
            tokenizer: tokenizer.to_owned(),
            dtype: dtype.to_owned(),
            data: DataId::default(),
            generation: None,
            rows: None,
            shard: Shard::default(),
            info: Info::default(),
        }
    }

    /// Each setting in which `self` differs from `old`: its name, the old value and the new one.
    pub(crate) fn changes_since(&self, old: &Self) -> Vec<String> {
        let value = |config: &Self| {
            let mut value = serde_json::to_value(config).unwrap_or_default();
            value.as_object_mut().map(|fields| fields.remove("info"));
            value
        };
        let mut changes = Vec::new();
        compare("", &value(old), &value(self), &mut changes);
        changes
    }
}

/// Reads the configuration of an evaluation directory, if it has one.
pub(crate) fn read_config(directory: &Path) -> Result<Option<EvalConfig>, EvalError> {
    let path = directory.join(CONFIG);
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(config) => Ok(Some(config)),
            Err(source) => Err(EvalError::BadFile { path, source }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RunError::io("read", &path, source).into()),
    }
}

/// The file of a configuration.
pub(crate) const CONFIG: &str = "config.json";

fn compare(name: &str, old: &Value, new: &Value, changes: &mut Vec<String>) {
    if let (Value::Object(before), Value::Object(after)) = (old, new) {
        let all: Vec<&String> = before
            .keys()
            .chain(after.keys().filter(|key| !before.contains_key(*key)))
            .collect();
        for key in all {
            let inner = if name.is_empty() {
                key.clone()
            } else {
                format!("{name}.{key}")
            };
            let at =
                |side: &serde_json::Map<String, Value>| side.get(key).cloned().unwrap_or_default();
            compare(&inner, &at(before), &at(after), changes);
        }
    } else if old != new {
        changes.push(format!("`{name}` was {}, is {}", short(old), short(new)));
    }
}

/// Hashes are long and say little.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 {
        return text;
    }
    let head: String = text.chars().take(12).collect();
    format!("{head}…")
}

/// SHA-256 over names, sizes and contents of all files of `directory` that `wanted` accepts, read in parallel.
pub(crate) fn fingerprint(
    directory: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<String, RunError> {
    let listing =
        std::fs::read_dir(directory).map_err(|source| RunError::io("list", directory, source))?;
    let mut files: Vec<(String, PathBuf)> = listing
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .filter(|(name, path)| wanted(name) && path.is_file())
        .collect();
    files.sort();
    let hashes: Vec<String> = files
        .par_iter()
        .map(|(name, path)| {
            let (bytes, hash) =
                hash_file(path).map_err(|source| RunError::io("read", path, source))?;
            Ok(format!("{name} {bytes} {hash}\n"))
        })
        .collect::<Result<_, RunError>>()?;
    Ok(hex(&Sha256::digest(hashes.concat().as_bytes())))
}

/// SHA-256 over texts, each with its length before it.
pub(crate) fn hash_texts<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hex(&hasher.finalize())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config() -> EvalConfig {
        EvalConfig::new("gsm8k", ModelId::default(), "tokenizer", "f32")
    }

    #[test]
    fn a_change_is_named_with_both_values_and_places_do_not_count() {
        let old = config();
        let mut new = old.clone();
        new.info.device = "cuda:3".to_owned();
        assert!(new.changes_since(&old).is_empty());
        new.data.limit = 20;
        new.model.step = Some(7);
        new.tokenizer = "x".repeat(64);
        assert_eq!(
            new.changes_since(&old),
            [
                "`model.step` was null, is 7",
                "`tokenizer` was \"tokenizer\", is \"xxxxxxxxxxx…",
                "`data.limit` was 0, is 20",
            ]
        );
    }

    #[test]
    fn shards_share_the_problems_out() {
        for (problems, count) in [(10, 3), (2, 8), (0, 2), (8, 8)] {
            let mut held = 0;
            for index in 0..count {
                let shard: Shard = format!("{index}/{count}").parse().unwrap();
                let size = (0..problems).filter(|&place| shard.holds(place)).count() as u64;
                assert_eq!(
                    shard.size(problems as u64),
                    size,
                    "{index}/{count} of {problems}"
                );
                held += size;
            }
            assert_eq!(held, problems as u64);
        }
        for text in ["", "1", "3/3", "0/0", "-1/2", "1/2/3", "a/b"] {
            let error = text.parse::<Shard>().unwrap_err();
            assert!(error.contains("0/8"), "{error}");
        }
    }

    #[test]
    fn a_fingerprint_depends_on_names_and_contents_alone() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&a, &b] {
            std::fs::write(dir.path().join("config.json"), "{}").unwrap();
            std::fs::write(dir.path().join("model.safetensors"), "weights").unwrap();
        }
        std::fs::write(b.path().join("README.md"), "other").unwrap();
        let of =
            |dir: &tempfile::TempDir| fingerprint(dir.path(), |name| name != "README.md").unwrap();
        assert_eq!(of(&a), of(&b));
        std::fs::write(b.path().join("model.safetensors"), "Weights").unwrap();
        assert_ne!(of(&a), of(&b));
    }

    #[test]
    fn texts_are_hashed_with_their_borders() {
        let hash = |texts: &[&str]| hash_texts(texts.iter().copied());
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["a"]), hash(&["a"]));
    }
}
