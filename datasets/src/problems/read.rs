//! Test files to problems.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Problem, Task};
use crate::bytes::excerpt;
use crate::error::{DataError, Result};
use crate::grade::{ANSWER_IS, gold};

/// A row that is not among the problems.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its line, or its number in a JSON array, counted from 1.
    pub line: u64,
    /// Why it cannot be used.
    pub reason: String,
}

/// Where a row may keep its question, in order of preference.
const QUESTION: [&str; 4] = ["question", "problem", "query", "instruction"];

/// Where a row may keep its answer or the solution that ends in it.
const ANSWER: [&str; 4] = ["solution", "answer", "response", "output"];

/// Whether a text may hold a gold answer: of LaTeX, only a field of answers is one as a whole.
fn may_be_gold(task: Task, field: &str, text: &str) -> bool {
    let marked = text.contains(r"\boxed") || text.contains(ANSWER_IS);
    task != Task::Math || field == "answer" || marked
}

/// Reads the problems of a file: JSON lines, or one JSON array.
///
/// | Data | Fields |
/// |---|---|
/// | GSM8K | `question`, `answer` with `#### N` |
/// | GSM8K-Backward | `query`, `answer`, `type` |
/// | MATH | `problem`, `solution` with `\boxed{}`, `level`, `type` |
/// | `MetaMath`'s own files | `query` and `response`, or `instruction` and `output` |
///
/// A row that is broken, is not UTF-8, or has no question or no gold answer is skipped and named: it can be
/// neither right nor wrong.
///
/// # Errors
/// If the file cannot be read, or is a JSON array that does not parse.
pub fn read_problems(task: Task, path: &Path) -> Result<(Vec<Problem>, Vec<Skipped>)> {
    let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        let rows: Vec<Value> =
            serde_json::from_slice(bytes).map_err(|source| DataError::BadJson {
                path: path.into(),
                source,
            })?;
        return Ok(collect(task, (1..).zip(rows.into_iter().map(Ok))));
    }
    let lines = (1..).zip(bytes.split(|byte| *byte == b'\n'));
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    Ok(collect(
        task,
        lines.map(|(number, line)| (number, parse(line))),
    ))
}

fn parse(line: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(line).map_err(|error| {
        let valid = error.valid_up_to();
        format!("invalid UTF-8 after {valid} bytes of the line")
    })?;
    serde_json::from_str(text)
        .map_err(|error| format!("{error}; the line begins `{}`", excerpt(text)))
}

fn collect(
    task: Task,
    rows: impl Iterator<Item = (u64, Result<Value, String>)>,
) -> (Vec<Problem>, Vec<Skipped>) {
    let mut problems = Vec::new();
    let mut skipped = Vec::new();
    for (index, (line, row)) in (0..).zip(rows) {
        match row.and_then(|row| problem(task, index, &row)) {
            Ok(problem) => problems.push(problem),
            Err(reason) => skipped.push(Skipped { line, reason }),
        }
    }
    (problems, skipped)
}

fn problem(task: Task, index: u64, row: &Value) -> Result<Problem, String> {
    let row = row.as_object().ok_or("expected a JSON object")?;
    let mut question = QUESTION
        .iter()
        .find_map(|field| text(row, field))
        .ok_or_else(|| format!("no question: expected one of {}", listed(&QUESTION)))?;
    if let Some(input) = text(row, "input").filter(|input| !input.is_empty()) {
        question = format!("{question}\n{input}");
    }
    let given: Vec<String> = ANSWER.iter().filter_map(|field| text(row, field)).collect();
    let answer = first_gold(task, row)?;
    Ok(Problem {
        index,
        question,
        solution: given
            .into_iter()
            .next()
            .filter(|solution| *solution != answer),
        answer,
        level: text(row, "level").map(level),
        subject: text(row, "subject").or_else(|| text(row, "type")),
    })
}

/// The gold answer of the first field that has one, else what is wrong with the last.
fn first_gold(task: Task, row: &Map<String, Value>) -> Result<String, String> {
    let mut wrong = format!("no gold answer: expected one of {}", listed(&ANSWER));
    for field in ANSWER {
        let Some(text) = text(row, field) else {
            continue;
        };
        if !may_be_gold(task, field, &text) {
            wrong = format!(r"no gold answer: `{field}` has no `\boxed{{}}`");
            continue;
        }
        match gold(task, &text) {
            Ok(answer) => return Ok(answer),
            Err(error) => wrong = error.to_string(),
        }
    }
    Err(wrong)
}

/// A field that is text, or a number as text.
fn text(row: &Map<String, Value>, field: &str) -> Option<String> {
    match row.get(field)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn level(text: String) -> String {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("Level {text}")
    } else {
        text
    }
}

fn listed(fields: &[&str]) -> String {
    let names: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
    names.join(", ")
}
