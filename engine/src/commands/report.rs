//! What was found, printed as a table or as JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

/// Facts, tables and notes about one thing.
#[derive(Debug)]
pub(crate) struct Report {
    facts: Vec<Fact>,
    tables: Vec<Table>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Fact {
    key: &'static str,
    value: Value,
    shown: String,
}

#[derive(Debug)]
struct Table {
    key: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Report {
    /// An empty report on the `kind` of thing at `path`.
    pub(crate) fn new(kind: &'static str, path: &Path) -> Self {
        let mut report = Self {
            facts: Vec::new(),
            tables: Vec::new(),
            notes: Vec::new(),
        };
        report.fact("kind", kind);
        report.fact("path", path.display().to_string());
        report
    }

    /// Adds a fact. Keys are those of the JSON; in the table, `_` is a space.
    pub(crate) fn fact(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        let shown = plain(&value);
        self.facts.push(Fact { key, value, shown });
    }

    /// Adds a number of bytes.
    pub(crate) fn bytes(&mut self, key: &'static str, bytes: u64) {
        self.facts.push(Fact {
            key,
            value: bytes.into(),
            shown: size(bytes),
        });
    }

    /// Adds a large count.
    pub(crate) fn count(&mut self, key: &'static str, count: usize) {
        let shown = match count {
            0..1_000_000 => count.to_string(),
            1_000_000..1_000_000_000 => format!("{count} ({:.1} million)", count as f64 / 1e6),
            _ => format!("{count} ({:.2} billion)", count as f64 / 1e9),
        };
        self.facts.push(Fact {
            key,
            value: count.into(),
            shown,
        });
    }

    /// Adds a table.
    pub(crate) fn table(
        &mut self,
        key: &'static str,
        columns: &[&'static str],
        rows: Vec<Vec<Value>>,
    ) {
        self.tables.push(Table {
            key,
            columns: columns.to_vec(),
            rows,
        });
    }

    /// Adds a remark.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// One object: a key a fact, an array of objects a table.
    pub(crate) fn to_json(&self) -> Value {
        let mut object: Map<String, Value> = self
            .facts
            .iter()
            .map(|fact| (fact.key.to_owned(), fact.value.clone()))
            .collect();
        for table in &self.tables {
            let named = |row: &Vec<Value>| {
                let cells = table.columns.iter().zip(row);
                Value::Object(
                    cells
                        .map(|(column, cell)| ((*column).to_owned(), cell.clone()))
                        .collect(),
                )
            };
            object.insert(table.key.to_owned(), table.rows.iter().map(named).collect());
        }
        if !self.notes.is_empty() {
            object.insert("notes".to_owned(), json!(self.notes));
        }
        Value::Object(object)
    }

    /// The same for people.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let width = self
            .facts
            .iter()
            .map(|fact| fact.key.len())
            .max()
            .unwrap_or(0);
        // Writing to a string cannot fail.
        for fact in &self.facts {
            let _ = writeln!(
                text,
                "{:<width$}  {}",
                fact.key.replace('_', " "),
                fact.shown
            );
        }
        for table in self.tables.iter().filter(|table| !table.rows.is_empty()) {
            table.write(&mut text);
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        text.trim_end().to_owned()
    }
}

impl Table {
    fn write(&self, text: &mut String) {
        let header: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.replace('_', " "))
            .collect();
        let cells = self
            .rows
            .iter()
            .map(|row| row.iter().map(plain).collect::<Vec<_>>());
        let lines: Vec<Vec<String>> = std::iter::once(header).chain(cells).collect();
        let width = |column: usize| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| width(column).unwrap_or(0))
            .collect();
        let _ = writeln!(text, "\n{}", self.key.replace('_', " "));
        for line in lines {
            let padded = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"));
            let _ = writeln!(
                text,
                "  {}",
                padded.collect::<Vec<_>>().join("  ").trim_end()
            );
        }
    }
}

/// A value without JSON's decoration. Shapes keep their brackets.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() || !list.iter().all(Value::is_string) => {
            let items: Vec<String> = list.iter().map(plain).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// `1.5 GiB (1610612736 bytes)`.
fn size(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name} ({bytes} bytes)", bytes as f64 / unit as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        let mut report = Report::new("model", Path::new("m"));
        report.fact("tied_embeddings", true);
        report.bytes("size", 3 << 29);
        report.count("parameters", 6_738_415_616);
        report.table(
            "tensors",
            &["name", "shape"],
            vec![
                vec!["a".into(), json!([2, 3])],
                vec!["long name".into(), json!([])],
            ],
        );
        report.note("odd");
        report
    }

    #[test]
    fn text_is_aligned() {
        let expected = "kind             model\npath             m\ntied embeddings  yes\n\
            size             1.5 GiB (1610612736 bytes)\nparameters       6738415616 (6.74 billion)\n\n\
            tensors\n  name       shape\n  a          [2, 3]\n  long name  []\nnote: odd";
        assert_eq!(sample().to_text(), expected);
    }

    #[test]
    fn json_says_the_same_in_numbers() {
        let json = sample().to_json();
        assert_eq!(json["size"], 1_610_612_736_u64);
        assert_eq!(json["tensors"][0], json!({"name": "a", "shape": [2, 3]}));
        assert_eq!(json["notes"], json!(["odd"]));
    }
}
