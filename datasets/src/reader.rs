//! Rows from files.
//!
//! | Extension | Contents |
//! |---|---|
//! | `.json`, `.jsonl`, `.ndjson` | one JSON array of objects, or one object per line; told apart by the first character |
//! | `.txt` | [`DataKind::Text`] only: every line that is not blank is a document |
//! | `.parquet` | one row per record; columns have the names of the fields |
//!
//! A directory stands for the files with these extensions in it, in order of name. Blank lines are skipped,
//! a byte-order mark and carriage returns at line ends are ignored. Anything else that is not a row is an
//! error that names the file and the line, because a skipped row is a silent change of the data.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::bytes::excerpt;
use crate::error::{DataError, Result};
use crate::parquet_rows;
use crate::record::{Record, Row, to_row};

/// What the rows of a data set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// `query` and `response`, or `instruction`, `input` and `output` (`MetaMathQA`, arXiv 2309.12284).
    #[default]
    Metamathqa,
    /// `question` and `answer` (GSM8K, arXiv 2110.14168). Calculator marks `<<…>>` are removed and the
    /// response ends with a line `The answer is: N`, as in `MetaMathQA`.
    Gsm8k,
    /// `text`: documents to continue.
    Text,
    /// `input_ids` and optionally `labels`: ids made elsewhere.
    Tokens,
    /// `messages`, a list of `role` and `content`.
    Chat,
}

impl DataKind {
    /// The name used in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metamathqa => "metamathqa",
            Self::Gsm8k => "gsm8k",
            Self::Text => "text",
            Self::Tokens => "tokens",
            Self::Chat => "chat",
        }
    }
}

/// Where a row is: a file and a line, or a file and the number of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowLocation {
    /// The file.
    pub file: Arc<Path>,
    /// What `number` counts: `line` or `row`.
    pub unit: &'static str,
    /// Counted from 1.
    pub number: usize,
}

impl fmt::Display for RowLocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "`{}` {} {}",
            self.file.display(),
            self.unit,
            self.number
        )
    }
}

/// The files that `paths` stand for, in reading order.
///
/// # Errors
/// If a path does not exist or a directory has no data files.
pub fn data_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let info = std::fs::metadata(path).map_err(DataError::io("open", path))?;
        if info.is_dir() {
            files.extend(files_in(path)?);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).map_err(DataError::io("list", directory))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(DataError::io("list", directory))?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.is_file() && Format::of(&path).is_some() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(DataError::NoDataFiles {
            path: directory.into(),
        });
    }
    files.sort();
    Ok(files)
}

/// Reads the rows of `files`, at most `limit` of them.
///
/// # Errors
/// If a file cannot be read or any row is broken; the message names the file and the line.
///
/// ```
/// use temper_datasets::{DataKind, Row, read_rows};
///
/// let file = std::env::temp_dir().join(format!("temper-doc-{}.jsonl", std::process::id()));
/// std::fs::write(&file, "{\"text\": \"one\"}\n\n{\"text\": \"two\"}\n").unwrap();
/// let rows = read_rows(&[file.clone()], DataKind::Text, None).unwrap();
/// assert_eq!(rows[1].1, Row::Text("two".into()));
/// assert_eq!(rows[1].0.number, 3);
/// # std::fs::remove_file(file).unwrap();
/// ```
pub fn read_rows(
    files: &[PathBuf],
    kind: DataKind,
    limit: Option<usize>,
) -> Result<Vec<(RowLocation, Row)>> {
    let mut sink = RowSink::new(kind, limit.unwrap_or(usize::MAX));
    for path in files {
        if sink.is_full() {
            break;
        }
        read_file(path, &mut sink)?;
    }
    Ok(sink.rows)
}

/// Collects rows up to a limit.
pub(crate) struct RowSink {
    kind: DataKind,
    limit: usize,
    rows: Vec<(RowLocation, Row)>,
    /// The fields of the first record, also if it is no row of this kind.
    first_fields: Option<Vec<String>>,
}

impl RowSink {
    pub(crate) fn new(kind: DataKind, limit: usize) -> Self {
        Self {
            kind,
            limit,
            rows: Vec::new(),
            first_fields: None,
        }
    }

    pub(crate) fn into_first_fields(self) -> Option<Vec<String>> {
        self.first_fields
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() >= self.limit
    }

    pub(crate) fn push(&mut self, record: Record, location: RowLocation) -> Result<()> {
        self.first_fields
            .get_or_insert_with(|| record.0.keys().cloned().collect());
        let row = to_row(record, self.kind, &location)?;
        self.rows.push((location, row));
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Text,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "txt" => Some(Self::Text),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

pub(crate) fn read_file(path: &Path, sink: &mut RowSink) -> Result<()> {
    let bad = |reason: &str| DataError::BadFormat {
        path: path.into(),
        kind: sink.kind.name(),
        reason: reason.into(),
    };
    let format = Format::of(path)
        .ok_or_else(|| bad("the extension is none of .json, .jsonl, .ndjson, .txt and .parquet"))?;
    if format == Format::Text && sink.kind != DataKind::Text {
        return Err(bad("a .txt file holds only text"));
    }
    let file: Arc<Path> = path.into();
    if format == Format::Parquet {
        return parquet_rows::read(&file, sink);
    }
    let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    match format {
        Format::Text => read_lines(&file, bytes, &mut |line, location| {
            sink.rows.push((location, Row::Text(line.to_owned())));
            Ok(!sink.is_full())
        }),
        _ if first == Some(&b'[') => read_array(&file, bytes, sink),
        _ => read_lines(&file, bytes, &mut |line, location| {
            let record = parse_record(line, &location)?;
            sink.push(record, location)?;
            Ok(!sink.is_full())
        }),
    }
}

/// Parses one line of JSONL.
pub(crate) fn parse_record(line: &str, location: &RowLocation) -> Result<Record> {
    serde_json::from_str(line).map_err(|error| {
        DataError::broken(
            location,
            format!("{error}; the line begins `{}`", excerpt(line)),
        )
    })
}

/// Calls `each` for every line that is not blank, until it returns `false`.
fn read_lines(
    file: &Arc<Path>,
    bytes: &[u8],
    each: &mut dyn FnMut(&str, RowLocation) -> Result<bool>,
) -> Result<()> {
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let location = RowLocation {
            file: file.clone(),
            unit: "line",
            number: index + 1,
        };
        let line = utf8(line, &location)?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        if !line.trim().is_empty() && !each(line, location)? {
            break;
        }
    }
    Ok(())
}

pub(crate) fn utf8<'a>(line: &'a [u8], location: &RowLocation) -> Result<&'a str> {
    std::str::from_utf8(line).map_err(|error| {
        let reason = format!(
            "invalid UTF-8 after {} bytes of the line",
            error.valid_up_to()
        );
        DataError::broken(location, reason)
    })
}

fn read_array(file: &Arc<Path>, bytes: &[u8], sink: &mut RowSink) -> Result<()> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let number = before.split(|byte| *byte == b'\n').count();
        let location = RowLocation {
            file: file.clone(),
            unit: "line",
            number,
        };
        DataError::broken(&location, "invalid UTF-8")
    })?;
    let mut failure = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let rows = ArrayRows {
        file,
        sink,
        failure: &mut failure,
    };
    let outcome = rows
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    if let Some(error) = failure {
        return Err(error);
    }
    outcome.map_err(|error| {
        let location = RowLocation {
            file: file.clone(),
            unit: "line",
            number: error.line().max(1),
        };
        DataError::broken(&location, error.to_string())
    })
}

/// Reads the elements of an array one at a time, so that the file is never held as a tree of values.
struct ArrayRows<'a> {
    file: &'a Arc<Path>,
    sink: &'a mut RowSink,
    failure: &'a mut Option<DataError>,
}

impl<'de> DeserializeSeed<'de> for ArrayRows<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ArrayRows<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let mut number = 0;
        while !self.sink.is_full() {
            let Some(record) = access.next_element::<Record>()? else {
                return Ok(());
            };
            number += 1;
            let location = RowLocation {
                file: self.file.clone(),
                unit: "row",
                number,
            };
            if let Err(error) = self.sink.push(record, location) {
                *self.failure = Some(error);
                return Err(serde::de::Error::custom("broken row"));
            }
        }
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
