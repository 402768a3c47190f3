//! What the files beside a tokenizer say about special tokens and chat templates.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{DataError, Result};

/// Names of begin tokens, tried when no configuration names one.
const USUAL_BOS: [&str; 3] = ["<s>", "<|begin_of_text|>", "<bos>"];
/// Names of end tokens, tried when no configuration names one.
const USUAL_EOS: [&str; 5] = [
    "</s>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<eos>",
    "<|im_end|>",
];

/// Finds the id of a token by its text.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<u32>;

/// The JSON files beside a tokenizer; an absent file is an empty object.
#[derive(Debug, Default)]
pub(crate) struct SideFiles {
    tokenizer_config: Map<String, Value>,
    generation_config: Map<String, Value>,
    config: Map<String, Value>,
    added_tokens: Map<String, Value>,
    chat_template: Option<String>,
}

impl SideFiles {
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let mut files = Self {
            tokenizer_config: read_object(&directory.join("tokenizer_config.json"))?,
            generation_config: read_object(&directory.join("generation_config.json"))?,
            config: read_object(&directory.join("config.json"))?,
            added_tokens: read_object(&directory.join("added_tokens.json"))?,
            chat_template: None,
        };
        files.chat_template = files.find_chat_template(directory)?;
        Ok(files)
    }

    /// The template file wins over the one in the configuration, as in the peer libraries.
    fn find_chat_template(&self, directory: &Path) -> Result<Option<String>> {
        let path = directory.join("chat_template.jinja");
        if path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(DataError::io("read", &path))?;
            return Ok(Some(text));
        }
        let in_json = read_object(&directory.join("chat_template.json"))?;
        let found = in_json.get("chat_template").and_then(template_text);
        Ok(found.or_else(|| {
            self.tokenizer_config
                .get("chat_template")
                .and_then(template_text)
        }))
    }

    pub(crate) fn take_chat_template(&mut self) -> Option<String> {
        self.chat_template.take()
    }

    /// Tokens added to the vocabulary after training, with their ids.
    pub(crate) fn added_tokens(&self) -> Vec<(String, u32)> {
        let by_name = self
            .added_tokens
            .iter()
            .map(|(text, id)| (text.clone(), id.as_u64()));
        let decoder = self
            .tokenizer_config
            .get("added_tokens_decoder")
            .and_then(Value::as_object);
        let by_id = decoder.into_iter().flatten().filter_map(|(id, token)| {
            token_text(token).map(|text| (text.to_owned(), id.parse().ok()))
        });
        let mut tokens: Vec<(String, u32)> = by_name
            .chain(by_id)
            .filter_map(|(text, id)| Some((text, u32::try_from(id?).ok()?)))
            .collect();
        tokens.sort_by(|a, b| a.1.cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
        tokens.dedup();
        tokens
    }

    /// Begin token: the tokenizer's configuration decides (`null` means none), then `own`, which is what
    /// the tokenizer file itself says, then `config.json`.
    pub(crate) fn bos(&self, own: Option<u32>, lookup: Lookup<'_>) -> Option<u32> {
        if let Some(value) = self.tokenizer_config.get("bos_token") {
            return token_text(value).and_then(lookup);
        }
        let id = |config: &Map<String, Value>| config.get("bos_token_id").and_then(id_value);
        own.or_else(|| id(&self.config))
            .or_else(|| id(&self.generation_config))
            .or_else(|| USUAL_BOS.iter().find_map(|name| lookup(name)))
    }

    /// End token: the tokenizer's configuration decides, then `own`, then `config.json`.
    pub(crate) fn eos(&self, own: Option<u32>, lookup: Lookup<'_>) -> Option<u32> {
        if let Some(value) = self
            .tokenizer_config
            .get("eos_token")
            .filter(|v| !v.is_null())
        {
            return token_text(value).and_then(lookup);
        }
        let first = |config: &Map<String, Value>| ids_in(config, "eos_token_id").first().copied();
        own.or_else(|| first(&self.config))
            .or_else(|| first(&self.generation_config))
            .or_else(|| USUAL_EOS.iter().find_map(|name| lookup(name)))
    }

    /// Every id that ends a generation besides the end token.
    pub(crate) fn stops(&self) -> Vec<u32> {
        let mut ids = ids_in(&self.generation_config, "eos_token_id");
        ids.extend(ids_in(&self.config, "eos_token_id"));
        ids
    }

    /// Whether the configuration says that texts begin with the begin token.
    pub(crate) fn add_bos(&self) -> Option<bool> {
        self.tokenizer_config
            .get("add_bos_token")
            .and_then(Value::as_bool)
    }
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|source| DataError::BadJson {
        path: path.into(),
        source,
    })
}

/// A token is written as its text or as an object with a `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A template is written as its text or as a list of named templates.
fn template_text(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let list = value.as_array()?;
    let named = |item: &&Value| item.get("name").and_then(Value::as_str) == Some("default");
    let item = list.iter().find(named).or_else(|| list.first())?;
    item.get("template")?.as_str().map(str::to_owned)
}

fn id_value(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn ids_in(config: &Map<String, Value>, key: &str) -> Vec<u32> {
    match config.get(key) {
        Some(Value::Array(list)) => list.iter().filter_map(id_value).collect(),
        Some(value) => id_value(value).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<u32> {
        ["<unk>", "<s>", "</s>", "<|im_end|>"]
            .iter()
            .position(|t| *t == name)
            .map(|id| id as u32)
    }

    fn with(tokenizer_config: &str, generation_config: &str) -> SideFiles {
        SideFiles {
            tokenizer_config: serde_json::from_str(tokenizer_config).unwrap(),
            generation_config: serde_json::from_str(generation_config).unwrap(),
            ..SideFiles::default()
        }
    }

    #[test]
    fn a_null_begin_token_means_none() {
        assert_eq!(
            with(r#"{"bos_token": null}"#, "{}").bos(None, &lookup),
            None
        );
        assert_eq!(with("{}", "{}").bos(None, &lookup), Some(1));
    }

    #[test]
    fn tokens_may_be_texts_or_objects_and_ids_may_be_lists() {
        let files = with(
            r#"{"eos_token": {"content": "<|im_end|>"}}"#,
            r#"{"eos_token_id": [2, 3]}"#,
        );
        assert_eq!(files.eos(None, &lookup), Some(3));
        assert_eq!(files.stops(), [2, 3]);
        assert_eq!(
            with("{}", r#"{"eos_token_id": [3, 2]}"#).eos(None, &lookup),
            Some(3)
        );
    }

    #[test]
    fn the_default_of_named_chat_templates_is_chosen() {
        let list = serde_json::json!([
            { "name": "tool_use", "template": "T" },
            { "name": "default", "template": "D" },
        ]);
        assert_eq!(template_text(&list).as_deref(), Some("D"));
    }
}
