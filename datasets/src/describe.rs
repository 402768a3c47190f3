//! What a data file holds, found out from the file alone.

use std::path::Path;

use crate::error::Result;
use crate::reader::{DataKind, RowSink, read_file, read_rows};

/// What a data file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The kind that the fields of its first row suggest.
    pub kind: Option<DataKind>,
    /// The fields of its first row, in order; none for plain text.
    pub fields: Vec<String>,
    /// Number of rows, each of which was read as `kind`. Unknown if the kind is.
    pub rows: Option<usize>,
}

/// Describes one data file. Every row of it is read.
///
/// # Errors
/// If the file cannot be read or a row is broken; the message names the file and the line.
///
/// ```
/// use temper_datasets::{DataKind, describe};
///
/// let file = std::env::temp_dir().join(format!("temper-describe-{}.jsonl", std::process::id()));
/// std::fs::write(&file, "{\"text\": \"one\", \"id\": 1}\n{\"text\": \"two\"}\n").unwrap();
/// let found = describe(&file).unwrap();
/// assert_eq!((found.kind, found.rows), (Some(DataKind::Text), Some(2)));
/// assert_eq!(found.fields, ["text", "id"]);
/// # std::fs::remove_file(file).unwrap();
/// ```
pub fn describe(file: &Path) -> Result<Description> {
    let is_plain = file
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
    let fields = if is_plain { Vec::new() } else { fields(file)? };
    let kind = if is_plain {
        Some(DataKind::Text)
    } else {
        suggested(&fields)
    };
    let count = |kind| read_rows(&[file.to_path_buf()], kind, None).map(|rows| Some(rows.len()));
    let rows = match kind {
        Some(kind) => count(kind)?,
        None if fields.is_empty() => Some(0),
        None => None,
    };
    Ok(Description { kind, fields, rows })
}

/// The fields of the first row.
fn fields(file: &Path) -> Result<Vec<String>> {
    let mut sink = RowSink::new(DataKind::Tokens, 1);
    let outcome = read_file(file, &mut sink);
    // Most rows are no rows of ids. Their fields have been seen nevertheless.
    match (sink.into_first_fields(), outcome) {
        (Some(fields), _) => Ok(fields),
        (None, Ok(())) => Ok(Vec::new()),
        (None, Err(error)) => Err(error),
    }
}

fn suggested(fields: &[String]) -> Option<DataKind> {
    let has = |names: &[&str]| names.iter().all(|name| fields.iter().any(|f| f == name));
    let rules: [(&[&str], DataKind); 7] = [
        (&["input_ids"], DataKind::Tokens),
        (&["messages"], DataKind::Chat),
        (&["query", "response"], DataKind::Metamathqa),
        (&["instruction", "output"], DataKind::Metamathqa),
        (&["instruction", "response"], DataKind::Metamathqa),
        (&["question", "answer"], DataKind::Gsm8k),
        (&["text"], DataKind::Text),
    ];
    let rule = rules.into_iter().find(|(names, _)| has(names));
    rule.map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(name: &str, text: &str) -> Result<Description> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        describe(&file)
    }

    #[test]
    fn fields_of_the_first_row_suggest_the_kind() {
        let kind = |text: &str| described("rows.json", text).unwrap().kind;
        assert_eq!(
            kind(r#"[{"query": "a", "response": "b", "type": "c"}]"#),
            Some(DataKind::Metamathqa)
        );
        assert_eq!(
            kind(r#"{"question": "a", "answer": "b\n#### 1"}"#),
            Some(DataKind::Gsm8k)
        );
        assert_eq!(kind(r#"{"input_ids": [1, 2]}"#), Some(DataKind::Tokens));
        assert_eq!(
            kind(r#"{"messages": [{"role": "user", "content": "x"}]}"#),
            Some(DataKind::Chat)
        );
        assert_eq!(kind(r#"{"a": 1}"#), None);
    }

    #[test]
    fn rows_are_counted_only_when_they_could_be_read() {
        let found = described("rows.txt", "one\n\ntwo\n").unwrap();
        assert_eq!((found.kind, found.rows), (Some(DataKind::Text), Some(2)));
        let found = described("rows.jsonl", "{\"a\": 1}\n{\"a\": 2}\n").unwrap();
        assert_eq!((found.rows, found.fields), (None, vec!["a".to_owned()]));
        assert_eq!(described("rows.jsonl", "").unwrap().rows, Some(0));
    }

    #[test]
    fn a_broken_row_is_named() {
        let error = described("rows.jsonl", "{\"text\": \"a\"}\n{\"text\": 3}\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        let error = described("rows.jsonl", "{\"text\": \"a\"\n").unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
