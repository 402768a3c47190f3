//! `traces.jsonl`: one row a problem, appended as it is finished, so that a killed evaluation loses the row it was writing and no more.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use temper_datasets::grade::Grades;

use super::EvalError;
use crate::generate::Finish;
use crate::run::{RunError, write_atomic};

/// A row of a trace file.
pub(crate) trait Indexed: Serialize + DeserializeOwned {
    /// Number of the problem in its data file.
    fn index(&self) -> u64;
}

/// One problem, what the model wrote, and every grader's verdict.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// Number of the problem in its data file.
    pub index: u64,
    /// The question as the file has it.
    pub question: String,
    /// MATH's level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// MATH's subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Everything the model read.
    pub prompt: String,
    /// What it wrote, without end token and stop string.
    pub completion: String,
    /// Why it ended.
    pub finish: Ended,
    /// The true answer.
    pub answer: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the completion, end token included.
    pub tokens: u64,
    /// The verdicts.
    pub graders: Grades,
    /// Why there is no completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// The model ended it.
    Eos,
    /// A stop string came.
    Stop,
    /// `max_new_tokens` or the model's context was reached.
    Length,
    /// It never began: the prompt does not fit the model.
    Error,
}

impl Ended {
    /// The word in `traces.jsonl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Error => "error",
        }
    }
}

impl From<Finish> for Ended {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::Stop => Self::Stop,
            Finish::Length => Self::Length,
            Finish::Eos => Self::Eos,
        }
    }
}

impl Indexed for Trace {
    fn index(&self) -> u64 {
        self.index
    }
}

/// A trace file that grows.
#[derive(Debug)]
pub(crate) struct TraceFile<T> {
    path: PathBuf,
    file: File,
    rows: BTreeMap<u64, T>,
}

impl<T: Indexed> TraceFile<T> {
    /// Opens or begins the file. A last line that a kill cut short is removed.
    pub(crate) fn open(path: &Path) -> Result<Self, EvalError> {
        let io = |source| RunError::io("open", path, source);
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(path).map_err(io)?;
        let (rows, whole) = parse(path)?;
        file.set_len(whole).map_err(io)?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            rows,
        })
    }

    /// Whether the problem is done.
    pub(crate) fn has(&self, index: u64) -> bool {
        self.rows.contains_key(&index)
    }

    /// Rows so far.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &T> {
        self.rows.values()
    }

    /// Hands one row to the system in one write.
    pub(crate) fn append(&mut self, row: T) -> Result<(), EvalError> {
        let written = self.file.write_all(&line(&row, &self.path)?);
        written.map_err(|source| RunError::io("write", &self.path, source))?;
        self.rows.insert(row.index(), row);
        Ok(())
    }

    /// Puts the rows into the order of the problems, whatever order they were finished in.
    pub(crate) fn finish(self) -> Result<Vec<T>, EvalError> {
        let rows: Vec<T> = self.rows.into_values().collect();
        write_traces(&self.path, &rows)?;
        Ok(rows)
    }
}

/// Replaces a trace file.
pub(crate) fn write_traces<T: Indexed>(path: &Path, rows: &[T]) -> Result<(), EvalError> {
    let mut bytes = Vec::new();
    for row in rows {
        bytes.extend(line(row, path)?);
    }
    Ok(write_atomic(path, &bytes)?)
}

/// The rows of a finished file by their index.
pub(crate) fn read_traces<T: Indexed>(path: &Path) -> Result<BTreeMap<u64, T>, EvalError> {
    Ok(parse(path)?.0)
}

fn line<T: Serialize>(row: &T, path: &Path) -> Result<Vec<u8>, RunError> {
    let mut line = serde_json::to_vec(row).map_err(|source| RunError::Encode {
        path: path.to_path_buf(),
        source,
    })?;
    line.push(b'\n');
    Ok(line)
}

/// The whole rows, and how many bytes they take.
fn parse<T: Indexed>(path: &Path) -> Result<(BTreeMap<u64, T>, u64), EvalError> {
    let bytes = std::fs::read(path).map_err(|source| RunError::io("read", path, source))?;
    let whole = bytes
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1);
    let mut rows = BTreeMap::new();
    let lines = bytes[..whole].split_inclusive(|&byte| byte == b'\n');
    for (number, text) in (1..).zip(lines) {
        let bad = |reason: String| EvalError::BadTrace {
            path: path.to_path_buf(),
            line: number,
            reason,
        };
        let row: T = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        let index = row.index();
        if rows.insert(index, row).is_some() {
            return Err(bad(format!("problem {index} is there twice")));
        }
    }
    Ok((rows, whole as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        index: u64,
        text: String,
    }

    impl Indexed for Row {
        fn index(&self) -> u64 {
            self.index
        }
    }

    fn row(index: u64) -> Row {
        Row {
            index,
            text: format!("row {index}\né"),
        }
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("traces.jsonl");
        (dir, path)
    }

    #[test]
    fn every_cut_of_the_file_keeps_the_whole_rows_and_goes_on_after_them() {
        let (_dir, path) = file();
        write_traces(&path, &[row(2), row(0)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let first = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut traces: TraceFile<Row> = TraceFile::open(&path).unwrap();
            assert_eq!(traces.has(2), cut >= first, "{cut}");
            assert_eq!(traces.has(0), cut == bytes.len(), "{cut}");
            for index in [0, 2] {
                if !traces.has(index) {
                    traces.append(row(index)).unwrap();
                }
            }
            let killed_again = read_traces::<Row>(&path).unwrap();
            assert_eq!(killed_again.len(), 2, "{cut}");
            assert_eq!(traces.finish().unwrap(), [row(0), row(2)]);
            assert_eq!(read_traces::<Row>(&path).unwrap().len(), 2);
        }
    }

    #[test]
    fn a_broken_line_in_the_middle_and_a_row_twice_are_named() {
        let (_dir, path) = file();
        let line = serde_json::to_string(&row(7)).unwrap();
        for (text, number, part) in [
            (format!("{line}\nnonsense\n{line}\n"), 2, "expected"),
            (format!("{line}\n{line}\n"), 2, "problem 7 is there twice"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = TraceFile::<Row>::open(&path).unwrap_err();
            let said = error.to_string();
            assert!(
                matches!(error, EvalError::BadTrace { line, .. } if line == number),
                "{said}"
            );
            assert!(said.contains(part), "{said}");
            assert_eq!(
                std::fs::read_to_string(&path).unwrap(),
                text,
                "nothing is lost"
            );
        }
    }
}
