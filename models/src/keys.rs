//! Typed access to the keys of a `config.json`.

use std::path::Path;

use serde_json::{Map, Value};

use crate::ModelError;

/// What `read` makes of a JSON file. Every error names the file.
///
/// # Errors
/// [`ModelError::Read`], [`ModelError::Json`], and those of `read` as [`ModelError::Config`].
pub(crate) fn load_json<T>(
    file: &Path,
    read: impl FnOnce(&Value) -> Result<T, ModelError>,
) -> Result<T, ModelError> {
    load_json_by(file, |text| serde_json::from_str(text), read)
}

/// The same for other dialects of JSON.
pub(crate) fn load_json_by<T>(
    file: &Path,
    parse: impl FnOnce(&str) -> serde_json::Result<Value>,
    read: impl FnOnce(&Value) -> Result<T, ModelError>,
) -> Result<T, ModelError> {
    let text = std::fs::read_to_string(file).map_err(|source| ModelError::Read {
        file: file.to_owned(),
        source,
    })?;
    let value = parse(&text).map_err(|source| ModelError::Json {
        file: file.to_owned(),
        source,
    })?;
    read(&value).map_err(|source| ModelError::Config {
        file: file.to_owned(),
        source: Box::new(source),
    })
}

/// The keys of a `config.json`; null counts as absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys<'a>(pub(crate) &'a Value);

impl<'a> Keys<'a> {
    /// The value of `key` unless it is absent or null.
    pub(crate) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A size that must be there.
    pub(crate) fn size(self, key: &str) -> Result<usize, ModelError> {
        self.optional_size(key)?
            .ok_or_else(|| self.wrong(key, "a positive integer"))
    }

    /// A size that may be absent.
    pub(crate) fn optional_size(self, key: &str) -> Result<Option<usize>, ModelError> {
        let wrong = || self.wrong(key, "a positive integer below 2^31");
        self.get(key)
            .map(|value| size(value).ok_or_else(wrong))
            .transpose()
    }

    /// A size; `default` when it is absent.
    pub(crate) fn size_or(self, key: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    /// A number that may be absent.
    pub(crate) fn number(self, key: &str) -> Result<Option<f64>, ModelError> {
        let wrong = || self.wrong(key, "a number");
        self.get(key)
            .map(|value| value.as_f64().ok_or_else(wrong))
            .transpose()
    }

    /// Whether `key` is true.
    pub(crate) fn flag(self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether `key` is true; `default` when it is absent.
    pub(crate) fn flag_or(self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// A list of sizes, not empty, that may be absent.
    pub(crate) fn sizes(self, key: &str) -> Result<Option<Vec<usize>>, ModelError> {
        let wrong = || self.wrong(key, "a list of positive integers below 2^31");
        let sizes = |value: &Value| -> Option<Vec<usize>> {
            let list = value.as_array().filter(|list| !list.is_empty())?;
            list.iter().map(size).collect()
        };
        self.get(key)
            .map(|value| sizes(value).ok_or_else(wrong))
            .transpose()
    }

    /// A text that may be absent.
    pub(crate) fn text(self, key: &str) -> Result<Option<&'a str>, ModelError> {
        let wrong = || self.wrong(key, "a text");
        self.get(key)
            .map(|value| value.as_str().ok_or_else(wrong))
            .transpose()
    }

    /// A list of texts that may be absent.
    pub(crate) fn texts(self, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        let wrong = || self.wrong(key, "a list of texts");
        let texts = |value: &'a Value| -> Option<Vec<&'a str>> {
            value.as_array()?.iter().map(Value::as_str).collect()
        };
        self.get(key)
            .map(|value| texts(value).ok_or_else(wrong))
            .transpose()
    }

    /// The error that `key` holds something other than `expected`.
    pub(crate) fn wrong(self, key: &str, expected: &'static str) -> ModelError {
        let found = self
            .0
            .get(key)
            .map_or_else(|| "missing".to_owned(), |value| format!("`{value}`"));
        ModelError::key(key, found, expected)
    }
}

/// A size: sizes are multiplied with each other, and 2^31 leaves room in 64 bits.
pub(crate) fn size(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .filter(|&size| size > 0 && size < 1 << 31)
        .map(|size| size as usize)
}

/// `source`, a file as it was read, with every key of `ours` set; those in `kept` stay as the file has them.
pub(crate) fn merged(source: &Map<String, Value>, ours: Value, kept: &[&str]) -> Value {
    let mut merged = source.clone();
    if let Value::Object(ours) = ours {
        for (key, value) in ours {
            if !(kept.contains(&key.as_str()) && merged.contains_key(&key)) {
                merged.insert(key, value);
            }
        }
    }
    Value::Object(merged)
}
