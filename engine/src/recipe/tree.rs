//! A recipe as read: TOML values that remember where they were written.
//!
//! The text of the file is source 0 and each `--set` is a further source, so that a problem can
//! point into either.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A place in one of the sources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    /// 0 for the file, n for the n-th override.
    pub(super) source: usize,
    /// First byte.
    pub(super) start: usize,
    /// Byte after the last.
    pub(super) end: usize,
}

impl Origin {
    pub(super) fn new(source: usize, span: Range<usize>) -> Self {
        Self {
            source,
            start: span.start,
            end: span.end,
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Bool(bool),
    Integer(i64),
    /// An integer that does not fit 64 bits, as written.
    HugeInteger(String),
    Float(f64),
    String(String),
    Datetime(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table and its value, in the order of the source.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_origin: Origin,
    pub(super) node: Node,
}

/// Converts a parsed document; entries come in the order in which they were written.
pub(super) fn from_document(source: usize, document: &Spanned<DeTable<'_>>) -> Node {
    let origin = Origin::new(source, document.span());
    Node {
        value: Value::Table(table(source, document.get_ref())),
        origin,
    }
}

fn table(source: usize, table: &DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_origin: Origin::new(source, key.span()),
            node: node(source, value),
        })
        .collect();
    entries.sort_by(|a, b| a.key_origin.cmp(&b.key_origin));
    entries
}

fn node(source: usize, spanned: &Spanned<DeValue<'_>>) -> Node {
    let value = match spanned.get_ref() {
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::HugeInteger(integer.to_string()),
        },
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Datetime(time) => Value::Datetime(time.to_string()),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| node(source, item)).collect())
        }
        DeValue::Table(entries) => Value::Table(table(source, entries)),
    };
    Node {
        value,
        origin: Origin::new(source, spanned.span()),
    }
}

impl Node {
    /// The entries, if this is a table.
    pub(super) fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value under a dotted path of plain keys, whose last may have an index: `data.path[0]`.
    pub(super) fn find(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, step| {
            let (key, index) = match step.strip_suffix(']').and_then(|step| step.split_once('[')) {
                Some((key, index)) => (key, Some(index.parse::<usize>().ok()?)),
                None => (step, None),
            };
            let found = &node.entries()?.iter().find(|entry| entry.key == key)?.node;
            match (index, &found.value) {
                (None, _) => Some(found),
                (Some(index), Value::Array(items)) => items.get(index),
                (Some(_), _) => None,
            }
        })
    }

    /// Puts a value under `table.key` of a table that is there, unless the key is.
    pub(super) fn insert_default(&mut self, path: &str, value: &serde_json::Value) {
        let Some((table, key)) = path.split_once('.') else {
            return;
        };
        let Value::Table(entries) = &mut self.value else {
            return;
        };
        let Some(entry) = entries.iter_mut().find(|entry| entry.key == table) else {
            return;
        };
        let origin = entry.key_origin.clone();
        let value = match value {
            serde_json::Value::String(text) => Value::String(text.clone()),
            number => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Value::Integer(integer),
                (None, Some(float)) => Value::Float(float),
                (None, None) => return,
            },
        };
        if let Value::Table(entries) = &mut entry.node.value
            && !entries.iter().any(|entry| entry.key == key)
        {
            entries.push(Entry {
                key: key.to_owned(),
                key_origin: origin.clone(),
                node: Self { value, origin },
            });
        }
    }

    /// Removes the value under a dotted path of plain keys, if it is there.
    pub(super) fn remove(&mut self, path: &str) {
        let Value::Table(entries) = &mut self.value else {
            return;
        };
        match path.split_once('.') {
            None => entries.retain(|entry| entry.key != path),
            Some((key, rest)) => {
                if let Some(entry) = entries.iter_mut().find(|entry| entry.key == key) {
                    entry.node.remove(rest);
                }
            }
        }
    }

    /// The kind of value and the value itself, for a message.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Bool(flag) => format!("`{flag}`"),
            Value::Integer(number) => format!("`{number}`"),
            Value::HugeInteger(text) => format!("`{text}`"),
            Value::Float(number) => format!("`{number:?}`"),
            Value::String(text) => format!("the string `{}`", shorten(text)),
            Value::Datetime(text) => format!("the date or time `{text}`"),
            Value::Array(items) if items.is_empty() => "an empty array".into(),
            Value::Array(_) => "an array".into(),
            Value::Table(_) => "a table".into(),
        }
    }

    /// The plain TOML value.
    pub(super) fn to_toml(&self) -> toml::Value {
        match &self.value {
            Value::Bool(flag) => toml::Value::Boolean(*flag),
            Value::Integer(number) => toml::Value::Integer(*number),
            Value::Float(number) => toml::Value::Float(*number),
            Value::String(text) | Value::HugeInteger(text) | Value::Datetime(text) => {
                toml::Value::String(text.clone())
            }
            Value::Array(items) => toml::Value::Array(items.iter().map(Self::to_toml).collect()),
            Value::Table(entries) => toml::Value::Table(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.node.to_toml()))
                    .collect(),
            ),
        }
    }
}

/// At most 60 characters of a text on one line.
pub(crate) fn shorten(text: &str) -> String {
    let mut short = String::new();
    for letter in text.chars().take(60) {
        if letter.is_control() {
            short.extend(letter.escape_debug());
        } else {
            short.push(letter);
        }
    }
    if text.chars().count() > 60 {
        short.push('…');
    }
    short
}
