//! Typed access to the keys of a `config.json`.

use std::path::Path;

use serde_json::Value;

use crate::ModelError;

/// Reads a JSON file.
///
/// # Errors
/// [`ModelError::Read`], [`ModelError::Json`].
pub(crate) fn read_json(file: &Path) -> Result<Value, ModelError> {
    let text = std::fs::read_to_string(file).map_err(|source| ModelError::Read {
        file: file.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| ModelError::Json {
        file: file.to_owned(),
        source,
    })
}

/// The keys of a `config.json`; null counts as absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys<'a>(pub(crate) &'a Value);

impl<'a> Keys<'a> {
    /// The value of `key` unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A size that must be there.
    pub(crate) fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.optional_size(key)?
            .ok_or_else(|| self.wrong(key, "a positive integer"))
    }

    /// A size that may be absent.
    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let wrong = || self.wrong(key, "a positive integer below 2^31");
        self.get(key)
            .map(|value| size(value).ok_or_else(wrong))
            .transpose()
    }

    /// A number that may be absent.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let wrong = || self.wrong(key, "a number");
        self.get(key)
            .map(|value| value.as_f64().ok_or_else(wrong))
            .transpose()
    }

    /// Whether `key` is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The error that `key` holds something other than `expected`.
    pub(crate) fn wrong(&self, key: &str, expected: &'static str) -> ModelError {
        let found = self
            .0
            .get(key)
            .map_or_else(|| "missing".to_owned(), |value| format!("`{value}`"));
        ModelError::Key {
            key: key.to_owned(),
            found,
            expected,
        }
    }
}

/// A size: sizes are multiplied with each other, and 2^31 leaves room in 64 bits.
pub(crate) fn size(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .filter(|&size| size > 0 && size < 1 << 31)
        .map(|size| size as usize)
}
