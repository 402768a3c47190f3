//! Typed access to the keys of a scheduler's configuration, and Python's dialect of JSON.

use serde_json::{Map, Value};

use super::kind::Named;
use crate::ModelError;

/// The keys of a configuration.
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn new(value: &'a Value) -> Result<Self, ModelError> {
        value.as_object().map(Self).ok_or_else(|| {
            ModelError::key(
                "scheduler_config.json",
                shortened(value),
                "an object of keys and values",
            )
        })
    }

    pub(super) fn map(&self) -> &'a Map<String, Value> {
        self.0
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.read(key, "a text", Value::as_str)
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        Ok(self
            .read(key, "true or false", Value::as_bool)?
            .unwrap_or(default))
    }

    pub(super) fn size(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self
            .read(key, "a whole number from 0", size)?
            .unwrap_or(default))
    }

    pub(super) fn sizes(&self, key: &str) -> Result<Vec<usize>, ModelError> {
        let list = |value: &Value| value.as_array()?.iter().map(size).collect::<Option<_>>();
        Ok(self
            .read(key, "a list of whole numbers", list)?
            .unwrap_or_default())
    }

    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    pub(super) fn optional(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.read(key, "a number", number)
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.read(key, "a list of numbers", |value| {
            value.as_array()?.iter().map(number).collect()
        })
    }

    pub(super) fn named<T: Named>(&self, key: &str, default: T) -> Result<T, ModelError> {
        match self.text(key)? {
            None => Ok(default),
            Some(name) => T::from_name(name).ok_or_else(|| ModelError::Unsupported {
                what: format!("`{key}` `{name}`"),
                hint: T::KNOWN,
            }),
        }
    }

    /// The value as `convert` sees it; `None` when absent or null.
    fn read<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => convert(value)
                .map(Some)
                .ok_or_else(|| ModelError::key(key, shortened(value), expected)),
        }
    }
}

fn size(value: &Value) -> Option<usize> {
    // As in Python, a whole number may be written as 1.0.
    let whole = value.as_f64().filter(|number| number.fract() == 0.0);
    whole
        // What is too large for a key is said with the key's own bounds; beyond this, numbers of JSON are not exact.
        .filter(|number| (0.0..=9e15).contains(number))
        .map(|number| number as usize)
}

fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// JSON as Python writes it: bare `Infinity`, `-Infinity` and `NaN` become texts.
pub(super) fn parse_python(text: &str) -> Result<Value, serde_json::Error> {
    let mut plain = String::with_capacity(text.len() + 16);
    let (mut rest, mut quoted) = (text, false);
    while let Some(first) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|word| !quoted && rest.starts_with(word));
        let length = if let Some(word) = word {
            plain.extend(["\"", word, "\""]);
            word.len()
        } else {
            // An escaped character never ends a text.
            let escaped = rest.chars().nth(1).filter(|_| quoted && first == '\\');
            let length = first.len_utf8() + escaped.map_or(0, char::len_utf8);
            quoted ^= first == '"';
            plain.push_str(&rest[..length]);
            length
        };
        rest = &rest[length..];
    }
    serde_json::from_str(&plain)
}

/// Sorted keys, two spaces, infinities as Python reads them.
pub(super) fn to_python(value: &Value) -> String {
    let mut sorted: Vec<_> = value.as_object().into_iter().flatten().collect();
    sorted.sort_by_key(|(key, _)| *key);
    let sorted: Map<String, Value> = sorted
        .into_iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut text = format!("{:#}\n", Value::Object(sorted));
    for word in ["-Infinity", "Infinity", "NaN"] {
        text = text.replace(&format!(": \"{word}\""), &format!(": {word}"));
    }
    text
}
