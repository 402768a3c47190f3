//! Typed access to the keys of a configuration, one error for each wrong value.

use std::path::Path;

use serde_json::{Map, Value};

use super::PeftError;

/// The keys of a configuration that have not been taken yet.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    file: &'a Path,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(file: &'a Path, map: Map<String, Value>) -> Self {
        Self { file, map }
    }

    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }

    /// The keys nobody took, in file order.
    pub(crate) fn rest(self) -> Vec<String> {
        self.map.into_iter().map(|(key, _)| key).collect()
    }

    /// The raw value; `None` when absent or null.
    pub(crate) fn value(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(crate) fn bool(&mut self, key: &str, default: bool) -> Result<bool, PeftError> {
        Ok(self
            .read(key, "true or false", Value::as_bool)?
            .unwrap_or(default))
    }

    pub(crate) fn usize(&mut self, key: &str, default: usize) -> Result<usize, PeftError> {
        Ok(self
            .read(key, "a whole number from 0", as_usize)?
            .unwrap_or(default))
    }

    pub(crate) fn f64(&mut self, key: &str, default: f64) -> Result<f64, PeftError> {
        Ok(self
            .read(key, "a number", Value::as_f64)?
            .unwrap_or(default))
    }

    pub(crate) fn string(&mut self, key: &str) -> Result<Option<String>, PeftError> {
        self.read(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    pub(crate) fn strings(&mut self, key: &str) -> Result<Option<Vec<String>>, PeftError> {
        self.read(key, "a list of texts", as_strings)
    }

    /// A table from text to `T`, in file order; empty when absent.
    pub(crate) fn table<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        item: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<(String, T)>, PeftError> {
        let table = self.read(key, expected, |value| {
            let map = value.as_object()?;
            map.iter()
                .map(|(name, value)| Some((name.clone(), item(value)?)))
                .collect()
        });
        Ok(table?.unwrap_or_default())
    }

    /// The value as `convert` sees it; `None` when absent or null.
    pub(crate) fn read<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, PeftError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match convert(&value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(PeftError::Field {
                file: self.file.to_owned(),
                key: key.to_owned(),
                expected,
                found: shortened(&value),
            }),
        }
    }
}

pub(crate) fn as_usize(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
}

pub(crate) fn as_strings(value: &Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect()
}

/// `value` as JSON, cut after 60 characters.
pub(crate) fn shortened(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    let start: String = text.chars().take(57).collect();
    format!("{start}...")
}
