//! What pictures were asked to show.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use temper_datasets::images::{caption_beside, read_png_text};

use super::files::{LeftOut, Unfit};
use crate::eval::EvalError;
use crate::run::RunError;

/// Name of the list that a folder of pictures may hold.
const LIST: &str = "metadata.jsonl";

/// Where prompts come from: the list that was named, then the metadata of the PNG, then a text beside the picture, then
/// `metadata.jsonl` in its folder, then the one prompt for the rest.
#[derive(Debug)]
pub(crate) struct Prompts {
    /// Pictures are named relative to this.
    root: PathBuf,
    named: Option<List>,
    rest: Option<String>,
    beside: BTreeMap<PathBuf, Option<List>>,
}

/// What a picture says about itself.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Prompt(String),
    /// It is one of several pictures side by side.
    Sheet,
    Nothing,
}

impl Prompts {
    /// Reads the list, if one is named.
    pub(crate) fn new(
        root: &Path,
        list: Option<&Path>,
        rest: Option<String>,
    ) -> Result<Self, EvalError> {
        Ok(Self {
            root: root.to_owned(),
            named: list.map(List::read).transpose()?,
            rest,
            beside: BTreeMap::new(),
        })
    }

    /// The prompt of a picture.
    pub(crate) fn of(&mut self, file: &Path) -> Result<Option<String>, EvalError> {
        let listed = self.named.as_ref().and_then(|list| {
            let below = file.strip_prefix(&self.root).unwrap_or(file);
            list.find(below)
        });
        if let Some(prompt) = listed {
            return Ok(Some(prompt.to_owned()));
        }
        if let Said::Prompt(prompt) = in_picture(file) {
            return Ok(Some(prompt));
        }
        if let Some(prompt) = caption_beside(file)? {
            return Ok(Some(prompt));
        }
        Ok(self.listed_beside(file)?.or_else(|| self.rest.clone()))
    }

    fn listed_beside(&mut self, file: &Path) -> Result<Option<String>, EvalError> {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        if !self.beside.contains_key(&folder) {
            let list = folder.join(LIST);
            let list = list.is_file().then(|| List::read(&list)).transpose()?;
            self.beside.insert(folder.clone(), list);
        }
        let list = self.beside.get(&folder).and_then(Option::as_ref);
        let below = file.strip_prefix(&folder).unwrap_or(file);
        Ok(list.and_then(|list| list.find(below)).map(str::to_owned))
    }
}

/// Several pictures side by side.
pub(crate) fn sheet(file: &Path) -> Option<LeftOut> {
    (in_picture(file) == Said::Sheet).then(|| LeftOut {
        file: file.to_owned(),
        why: Unfit::Sheet,
        reason: "it shows several pictures side by side".to_owned(),
    })
}

/// What `temper` wrote into a PNG. Whether the file is whole is judged when its pixels are read.
fn in_picture(file: &Path) -> Said {
    let texts = read_png_text(file).unwrap_or_default();
    let text = |key: &str| {
        let found = texts.iter().find(|(name, _)| name == key);
        found.map(|(_, text)| text.as_str())
    };
    // Sheets that a training run leaves.
    if text("prompts").is_some() && text("step").is_some() {
        return Said::Sheet;
    }
    let recipe: Option<Value> = text("temper").and_then(|text| serde_json::from_str(text).ok());
    match recipe.as_ref().and_then(|recipe| recipe.get("prompt")) {
        Some(Value::Array(_)) => Said::Sheet,
        Some(Value::String(prompt)) => Said::Prompt(prompt.clone()),
        _ => text("prompt").map_or(Said::Nothing, |prompt| Said::Prompt(prompt.to_owned())),
    }
}

/// The control picture that `temper sample` drew after.
pub(crate) fn control_of(file: &Path) -> Option<PathBuf> {
    let texts = read_png_text(file).ok()?;
    let (_, recipe) = texts.iter().find(|(name, _)| name == "temper")?;
    let recipe: Value = serde_json::from_str(recipe).ok()?;
    Some(PathBuf::from(recipe.pointer("/control/image")?.as_str()?))
}

/// A JSONL file of pictures and prompts.
#[derive(Debug)]
struct List(BTreeMap<PathBuf, String>);

/// A line; other fields are left alone.
#[derive(Deserialize)]
struct Row {
    #[serde(alias = "file")]
    file_name: PathBuf,
    #[serde(alias = "prompt")]
    text: String,
}

impl List {
    fn read(path: &Path) -> Result<Self, EvalError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| RunError::io("read", path, source))?;
        let mut rows = BTreeMap::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let bad = |reason: String| EvalError::BadPrompts {
                path: path.to_owned(),
                line: index + 1,
                reason,
            };
            let row: Row = serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
            let text = row.text.trim().to_owned();
            let file = row.file_name;
            let earlier = rows.insert(file.clone(), text.clone());
            if earlier.is_some_and(|earlier| earlier != text) {
                let name = file.display();
                return Err(bad(format!("`{name}` has another prompt above")));
            }
        }
        Ok(Self(rows))
    }

    /// By the path below the folder, or by the name alone.
    fn find(&self, below: &Path) -> Option<&str> {
        let name = || self.0.get(Path::new(below.file_name()?));
        self.0.get(below).or_else(name).map(String::as_str)
    }
}
