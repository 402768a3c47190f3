//! Ids of a JSONL file, row by row: how anyone compares this tokenizer with another.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::error::{DataError, Result};
use crate::reader::{RowLocation, parse_record, utf8};
use crate::record::Record;
use crate::tokenizer::Tokenizer;

/// How [`tokenize_jsonl`] works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenizeOptions {
    /// Put the begin token first.
    pub special: bool,
    /// From ids to text instead.
    pub decode: bool,
}

/// Adds `ids` to every row that has a `text`; with `decode`, adds `text` to every row that has `ids`.
///
/// Rows are written in order, one JSON object per line, with their other fields. Decoded text is without
/// special tokens. `name` is the input's name in messages.
///
/// # Errors
/// If a line is broken or lacks the field; the message names `name` and the line. Lines before it have
/// been written.
///
/// ```no_run
/// # use temper_datasets::{TokenizeOptions, Tokenizer, tokenize_jsonl};
/// # fn main() -> temper_datasets::Result<()> {
/// let tokenizer = Tokenizer::load("assets/stories260k")?;
/// let rows = "{\"text\": \"Once upon a time\"}\n".as_bytes();
/// let options = TokenizeOptions { special: true, decode: false };
/// tokenize_jsonl(rows, "stdin", &mut std::io::stdout(), &tokenizer, options)?;
/// # Ok(())
/// # }
/// ```
pub fn tokenize_jsonl(
    mut reader: impl BufRead,
    name: impl AsRef<Path>,
    writer: &mut impl Write,
    tokenizer: &Tokenizer,
    options: TokenizeOptions,
) -> Result<()> {
    let name = name.as_ref();
    let file: Arc<Path> = name.into();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let count = reader
            .read_until(b'\n', &mut line)
            .map_err(DataError::io("read", name))?;
        if count == 0 {
            break;
        }
        let location = RowLocation {
            file: file.clone(),
            unit: "line",
            number,
        };
        let text = utf8(&line, &location)?;
        let text = if number == 1 {
            text.strip_prefix('\u{feff}').unwrap_or(text)
        } else {
            text
        };
        if text.trim().is_empty() {
            continue;
        }
        let mut record = parse_record(text, &location)?;
        if options.decode {
            decode(&mut record, &location, tokenizer)?;
        } else {
            encode(&mut record, &location, tokenizer, options.special)?;
        }
        serde_json::to_writer(&mut *writer, &record.0)
            .map_err(std::io::Error::from)
            .and_then(|()| writer.write_all(b"\n"))
            .map_err(DataError::io("write the rows of", name))?;
    }
    writer
        .flush()
        .map_err(DataError::io("write the rows of", name))
}

fn encode(
    record: &mut Record,
    location: &RowLocation,
    tokenizer: &Tokenizer,
    special: bool,
) -> Result<()> {
    let Some(text) = record.0.get("text").and_then(Value::as_str) else {
        return Err(lacks(record, location, "a text `text`"));
    };
    let ids = tokenizer.encode(text, special)?;
    record.0.insert("ids".into(), ids.into());
    Ok(())
}

fn decode(record: &mut Record, location: &RowLocation, tokenizer: &Tokenizer) -> Result<()> {
    let list = record.0.get("ids").and_then(Value::as_array);
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let ids: Option<Vec<u32>> = list.and_then(|list| list.iter().map(id).collect());
    let Some(ids) = ids else {
        return Err(lacks(record, location, "a list of token ids `ids`"));
    };
    let text = tokenizer
        .decode(&ids, true)
        .map_err(|error| DataError::broken(location, error.to_string()))?;
    record.0.insert("text".into(), text.into());
    Ok(())
}

fn lacks(record: &Record, location: &RowLocation, expected: &'static str) -> DataError {
    let found = record.0.keys().cloned().collect();
    DataError::MissingField {
        location: location.clone(),
        expected,
        found,
    }
}
