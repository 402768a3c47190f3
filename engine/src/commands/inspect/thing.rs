//! Telling things apart.

use std::path::{Path, PathBuf};

use temper_datasets::images::list;

use super::foreign::layout;
use crate::Failure;
use crate::data_source::has_tokenizer;
use crate::diffusion::ModelIndex;

/// Something that can be inspected.
#[derive(Debug)]
pub(super) struct Thing {
    pub(super) kind: Kind,
    /// Where it is; for a file that stands for its directory, the directory.
    pub(super) path: PathBuf,
}

/// What a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Adapter,
    /// Of another tool than PEFT.
    AdapterFile,
    Run,
    Checkpoint,
    Model,
    Weights,
    Tokenizer,
    Data,
    Recipe,
    Pipeline,
    Scheduler,
    ClipTokenizer,
    Picture,
    Pictures,
}

impl Kind {
    /// With its article.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Adapter | Self::AdapterFile => "an adapter",
            Self::Run => "a run",
            Self::Checkpoint => "a checkpoint",
            Self::Model => "a model",
            Self::Weights => "a file of weights",
            Self::Tokenizer | Self::ClipTokenizer => "a tokenizer",
            Self::Data => "a dataset",
            Self::Recipe => "a recipe",
            Self::Pipeline => "a pipeline",
            Self::Scheduler => "a scheduler",
            Self::Picture => "a picture",
            Self::Pictures => "a folder of pictures",
        }
    }
}

impl Thing {
    /// Looks at names and, where they do not tell, into files.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        let about = std::fs::metadata(path).map_err(|error| {
            Failure::run(format!("cannot open `{}`: {error}", path.display()))
                .with_hint("`temper inspect` looks at files and directories of this machine")
        })?;
        let found = if about.is_dir() {
            directory(path).map(|kind| (kind, path))
        } else {
            file(path)
        };
        let (kind, path) = found.ok_or_else(|| unknown(path))?;
        let inside = foreign_adapter(path).filter(|_| kind == Kind::AdapterFile);
        Ok(Self {
            kind,
            path: inside.unwrap_or_else(|| path.to_owned()),
        })
    }
}

/// The file of an adapter in the directory that diffusers writes for it.
fn foreign_adapter(directory: &Path) -> Option<PathBuf> {
    let file = directory.join("pytorch_lora_weights.safetensors");
    let is_peft = directory.join("adapter_config.json").is_file();
    (file.is_file() && !is_peft).then_some(file)
}

fn directory(path: &Path) -> Option<Kind> {
    let has = |name: &str| path.join(name).is_file();
    if has("recipe.toml") || (has("metrics.jsonl") && path.join("checkpoints").is_dir()) {
        Some(Kind::Run)
    } else if has("adapter_config.json") {
        Some(Kind::Adapter)
    } else if has("manifest.json") {
        Some(Kind::Checkpoint)
    } else if ModelIndex::is_pipeline(path) {
        Some(Kind::Pipeline)
    } else if has("config.json") {
        Some(Kind::Model)
    } else if has("scheduler_config.json") {
        Some(Kind::Scheduler)
    } else if has("model.safetensors") || has("model.safetensors.index.json") {
        Some(Kind::Weights)
    } else if foreign_adapter(path).is_some() {
        Some(Kind::AdapterFile)
    } else if has_tokenizer(path) {
        Some(Kind::Tokenizer)
    } else if has("vocab.json") && has("merges.txt") {
        Some(Kind::ClipTokenizer)
    } else if list(path, false).is_ok() {
        Some(Kind::Pictures)
    } else {
        temper_datasets::reader::data_files(&[path.to_owned()])
            .ok()
            .map(|_| Kind::Data)
    }
}

fn file(path: &Path) -> Option<(Kind, &Path)> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let directory = path.parent().map(|parent| {
        if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        }
    })?;
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    Some(match (name.as_str(), extension) {
        ("adapter_config.json" | "adapter_model.safetensors", _)
            if directory.join("adapter_config.json").is_file() =>
        {
            (Kind::Adapter, directory)
        }
        ("config.json", _) => (Kind::Model, directory),
        ("model_index.json", _) => (Kind::Pipeline, directory),
        ("scheduler_config.json", _) => (Kind::Scheduler, directory),
        (_, "png" | "jpg" | "jpeg" | "webp" | "bmp" | "gif" | "tif" | "tiff") => {
            (Kind::Picture, path)
        }
        ("manifest.json", _) => (Kind::Checkpoint, directory),
        (name, _) if name.ends_with(".safetensors.index.json") => (Kind::Weights, directory),
        (_, "safetensors") if layout(path).is_some() => (Kind::AdapterFile, path),
        (_, "safetensors") => (Kind::Weights, path),
        (_, "toml") if looks_like_recipe(path) => (Kind::Recipe, path),
        ("tokenizer.json", _) | (_, "model") => (Kind::Tokenizer, path),
        (_, "json") => (json_kind(path)?, path),
        (_, "jsonl" | "ndjson" | "txt" | "parquet") => (Kind::Data, path),
        _ => return None,
    })
}

/// Any of the sections that every recipe has; a misspelt one is reported when it is read as a recipe.
fn looks_like_recipe(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let sections = ["model", "data", "train", "adapter"];
    let starts = |line: &str, section: &str| line.trim_start().starts_with(&format!("[{section}]"));
    text.lines()
        .any(|line| sections.iter().any(|section| starts(line, section)))
}

/// Tokenizer files have their vocabulary below `model`; data files are arrays, or one object a line. Any other
/// JSON is nothing we know.
fn json_kind(path: &Path) -> Option<Kind> {
    let bytes = std::fs::read(path).ok()?;
    let text = bytes.trim_ascii_start();
    let first_line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let parsed = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes);
    if !text.starts_with(b"{") {
        return Some(Kind::Data);
    }
    let is_tokenizer = |value: &serde_json::Value| value.pointer("/model/vocab").is_some();
    match parsed(first_line) {
        Ok(value) if is_tokenizer(&value) => Some(Kind::Tokenizer),
        Ok(_) => Some(Kind::Data),
        Err(_) => match parsed(text) {
            Ok(value) => is_tokenizer(&value).then_some(Kind::Tokenizer),
            // Broken rows are reported when they are read.
            Err(_) => Some(Kind::Data),
        },
    }
}

fn unknown(path: &Path) -> Failure {
    Failure::run(format!("`{}` is nothing that `temper inspect` knows", path.display())).with_hint(
        "it looks at model directories (`config.json`), pipelines (`model_index.json`), adapters (`adapter_config.json`), run directories \
         (`recipe.toml`), checkpoints (`manifest.json`), weights (`.safetensors`), tokenizers \
         (`tokenizer.json`, `tokenizer.model`), datasets (`.json`, `.jsonl`, `.txt`, `.parquet`), recipes (`.toml`) \
         and pictures",
    )
}
