//! Grades completions that were made elsewhere, row by row: a file of any length takes the memory of its longest row.
//!
//! A row comes back byte for byte, with `graders` added behind its own fields. A row that cannot be graded comes back with `error`
//! instead, and one that is no JSON object as the field `raw` (`raw_escaped` when it is not UTF-8: bytes as `\xff`). Nothing is lost.

use std::io::{BufRead, ErrorKind, Read, Write};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use temper_datasets::grade::{Grades, grade};
use temper_datasets::problems::Task;

use super::summary::{ByGrader, Score, Tallies};

/// A longer row is no completion. It is reported without its content.
const LONGEST: usize = 256 << 20;

/// What the rows of a completions file add up to.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct CompletionsSummary {
    /// The task.
    pub task: String,
    /// Rows with a verdict.
    pub graded: u64,
    /// Rows without one.
    pub bad: u64,
    /// The first few of them: line and reason.
    pub first_bad: Vec<(u64, String)>,
    /// Accuracy over the graded rows.
    pub graders: ByGrader<Score>,
}

/// What the graders need of a row.
#[derive(Deserialize)]
struct Fields {
    completion: Option<Value>,
    answer: Option<Value>,
    graders: Option<serde::de::IgnoredAny>,
}

/// Grades every row of `input` and writes it to `output`, in order. Blank lines are passed over.
///
/// # Errors
/// If `input` cannot be read or `output` cannot be written; a reader of `output` that stops early is no error.
///
/// ```
/// use temper_datasets::problems::Task;
/// use temper_engine::eval::grade_completions;
///
/// let rows = br#"{"completion": "The answer is: 18", "answer": "18"}"#;
/// let mut out = Vec::new();
/// let summary = grade_completions(Task::Gsm8k, &mut &rows[..], &mut out)?;
/// assert_eq!(summary.graders.metamath.correct, 1);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn grade_completions(
    task: Task,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> std::io::Result<CompletionsSummary> {
    let mut summary = CompletionsSummary {
        task: task.to_string(),
        ..CompletionsSummary::default()
    };
    let mut tallies = Tallies::default();
    let mut line = Vec::new();
    let mut number = 0;
    while let Some(length) = next_line(input, &mut line)? {
        number += 1;
        if number == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        let row = line.trim_ascii();
        if row.is_empty() {
            continue;
        }
        let written = match grade_row(task, row, length) {
            Ok((grades, text)) => {
                summary.graded += 1;
                tallies.add(&grades);
                text
            }
            Err(reason) => {
                summary.bad += 1;
                if summary.first_bad.len() < 5 {
                    summary.first_bad.push((number, reason.clone()));
                }
                refused(row, length, number, &reason)
            }
        };
        match output.write_all(&written) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            other => other?,
        }
    }
    summary.graders = tallies.scores();
    Ok(summary)
}

/// Reads the next line; returns its full length, of which `line` holds at most [`LONGEST`] bytes. `None` at the end.
fn next_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> std::io::Result<Option<usize>> {
    line.clear();
    let mut length = input.take(LONGEST as u64).read_until(b'\n', line)?;
    if length == LONGEST && line.last() != Some(&b'\n') {
        length += skip_line(input)?;
    }
    Ok((length > 0).then_some(length))
}

/// Passes over the rest of a line without keeping it.
fn skip_line(input: &mut dyn BufRead) -> std::io::Result<usize> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(skipped);
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(buffer.len(), |at| at + 1);
        input.consume(taken);
        skipped += taken;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}

/// The verdicts on a row, and the row with them.
fn grade_row(task: Task, row: &[u8], length: usize) -> Result<(Grades, Vec<u8>), String> {
    if length > LONGEST {
        return Err(format!("{length} bytes are no completion"));
    }
    if let Err(error) = std::str::from_utf8(row) {
        return Err(format!("invalid UTF-8 after byte {}", error.valid_up_to()));
    }
    if row.first() != Some(&b'{') {
        return Err("not a JSON object".to_owned());
    }
    let fields: Fields =
        serde_json::from_slice(row).map_err(|error| format!("not a JSON object: {error}"))?;
    let completion = text("completion", fields.completion)?;
    let answer = match fields.answer {
        Some(Value::Number(number)) => number.to_string(),
        answer => text("answer", answer)?,
    };
    let grades = grade(task, &completion, &answer).map_err(|error| error.to_string())?;
    let line = with_graders(row, &grades, fields.graders.is_some());
    Ok((grades, line.map_err(|error| error.to_string())?))
}

fn text(name: &str, value: Option<Value>) -> Result<String, String> {
    match value {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(format!("`{name}` is missing or null")),
        Some(other) => Err(format!("`{name}` is {}, expected a text", kind(&other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The row as it stands with `graders` behind its last field. Verdicts of an earlier grading are replaced where they are.
fn with_graders(row: &[u8], grades: &Grades, graded_before: bool) -> serde_json::Result<Vec<u8>> {
    let mut line;
    if graded_before {
        let mut fields: Map<String, Value> = serde_json::from_slice(row)?;
        fields.insert("graders".to_owned(), serde_json::to_value(grades)?);
        line = serde_json::to_vec(&fields)?;
    } else {
        // Numbers, escapes and spaces stay as they were written.
        line = row[..row.len() - 1].trim_ascii_end().to_vec();
        line.extend(b", \"graders\": ");
        serde_json::to_writer(&mut line, grades)?;
        line.push(b'}');
    }
    line.push(b'\n');
    Ok(line)
}

/// A row that cannot be graded, with everything that was in it and the reason.
fn refused(row: &[u8], length: usize, number: u64, reason: &str) -> Vec<u8> {
    let object = serde_json::from_slice::<Map<String, Value>>(row).ok();
    let mut fields = object.unwrap_or_else(|| {
        let mut fields = Map::new();
        fields.insert("line".to_owned(), number.into());
        match std::str::from_utf8(row) {
            _ if length > LONGEST => {}
            Ok(text) => {
                fields.insert("raw".to_owned(), text.into());
            }
            Err(_) => {
                let escaped = row.escape_ascii().to_string();
                fields.insert("raw_escaped".to_owned(), escaped.into());
            }
        }
        fields
    });
    if let Some(before) = fields.insert("error".to_owned(), reason.into()) {
        fields.insert("error_before".to_owned(), before);
    }
    let mut line = json!(fields).to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graded(rows: &[u8]) -> (Vec<String>, CompletionsSummary) {
        let mut out = Vec::new();
        let summary = grade_completions(Task::Gsm8k, &mut &rows[..], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        (text.lines().map(str::to_owned).collect(), summary)
    }

    #[test]
    fn a_row_comes_back_as_it_was_written() {
        let row = "{\"id\":12345678901234567890123,\"x\": 1.50, \"x\":2, \"completion\":\"The answer is: 18\\u00e9\",\"answer\":\"18\" }";
        let (lines, summary) = graded(row.as_bytes());
        let kept = row.trim_end_matches(" }");
        assert!(lines[0].starts_with(kept), "{}", lines[0]);
        let value: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(value["graders"]["metamath"]["correct"], true);
        assert_eq!((summary.graded, summary.bad), (1, 0));
    }

    #[test]
    fn grading_again_replaces_the_verdicts() {
        let row = "{\"graders\": 5, \"completion\": \"The answer is: 18\", \"answer\": 18}";
        let (lines, _) = graded(row.as_bytes());
        let value: Map<String, Value> = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            value.keys().collect::<Vec<_>>(),
            ["graders", "completion", "answer"]
        );
        assert_eq!(value["graders"]["metamath"]["correct"], true);
    }

    #[test]
    fn rows_that_cannot_be_graded_come_back_whole_and_are_counted() {
        let rows: [(&[u8], &str, &str); 9] = [
            (
                b"{\"completion\": \"x\", \"id\": 3}",
                "`answer` is missing",
                "id",
            ),
            (
                b"{\"completion\": null, \"answer\": \"1\", \"id\": 3}",
                "`completion` is missing or null",
                "id",
            ),
            (
                b"{\"completion\": [\"x\"], \"answer\": \"1\", \"id\": 3}",
                "is a list",
                "id",
            ),
            (
                b"{\"completion\": \"x\", \"answer\": \"none\", \"error\": \"old\"}",
                "no gold answer",
                "error_before",
            ),
            (
                b"{\"completion\": \"x\", \"answer",
                "not a JSON object",
                "raw",
            ),
            (
                b"[\"The answer is: 1\", \"1\", null]",
                "not a JSON object",
                "raw",
            ),
            (
                b"{\"completion\": \"\xff\xfe\", \"answer\": \"1\"}",
                "invalid UTF-8 after byte 16",
                "raw_escaped",
            ),
            (b"\x00\x00\x00", "not a JSON object", "raw"),
            (b"{}", "missing", "error"),
        ];
        for (row, reason, field) in rows {
            let mut file = row.to_vec();
            file.extend(b"\r\n\n{\"completion\": \"The answer is: 2\", \"answer\": \"2\"}");
            let (lines, summary) = graded(&file);
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert_eq!((summary.bad, summary.graded), (1, 1), "{lines:?}");
            let value: Value = serde_json::from_str(&lines[0]).unwrap();
            let said = value["error"].as_str().unwrap();
            assert!(said.contains(reason), "{said}");
            assert!(value.get(field).is_some(), "{field}: {value}");
            assert_eq!(summary.first_bad[0], (1, said.to_owned()));
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_kept_readably() {
        let (lines, _) = graded(b"caf\xe9 \\ \"");
        let value: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(value["raw_escaped"], "caf\\xe9 \\\\ \\\"");
        assert_eq!(value["line"], 1);
    }

    #[test]
    fn a_byte_order_mark_and_nuls_in_texts_do_no_harm() {
        let (lines, summary) = graded(
            b"\xef\xbb\xbf{\"completion\": \"\\u0000The answer is: 7\\u0000\", \"answer\": \"#### 7\"}\n",
        );
        assert_eq!(summary.graded, 1, "{lines:?}");
    }

    #[test]
    fn a_line_without_end_is_passed_over() {
        let text = vec![b'x'; 3 * 8192];
        let mut rest = std::io::BufReader::new(&text[..]);
        assert_eq!(skip_line(&mut rest).unwrap(), text.len());
        let mut two = std::io::BufReader::new(&b"abc\ndef"[..]);
        assert_eq!(skip_line(&mut two).unwrap(), 4);
    }
}
