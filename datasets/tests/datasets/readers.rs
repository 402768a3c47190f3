use std::path::PathBuf;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use temper_datasets::reader::data_files;
use temper_datasets::{DataKind, Result, Row, TokenizeOptions, read_rows, tokenize_jsonl};
use tempfile::TempDir;

use crate::{stories, write};

fn rows_of(name: &str, contents: impl AsRef<[u8]>, kind: DataKind) -> Result<Vec<Row>> {
    let directory = TempDir::new().unwrap();
    let path = write(directory.path(), name, contents);
    let rows = read_rows(&[path], kind, None)?;
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn error_of(name: &str, contents: impl AsRef<[u8]>, kind: DataKind) -> String {
    rows_of(name, contents, kind).unwrap_err().to_string()
}

fn pair(instruction: &str, input: Option<&str>, response: &str) -> Row {
    Row::Pair {
        instruction: instruction.into(),
        input: input.map(Into::into),
        response: response.into(),
    }
}

#[test]
fn metamath_rows_come_from_arrays_and_lines_alike() {
    let expected = [
        pair("Q\n1", None, "A"),
        pair("I", Some(""), "O"),
        pair("I", Some("C"), "R"),
    ];
    let rows = [
        r#"{"type": "GSM_SV", "query": "Q\n1", "original_question": "x", "response": "A"}"#,
        r#"{"instruction": "I", "input": "", "output": "O"}"#,
        r#"{"instruction": "I", "input": "C", "response": "R"}"#,
    ];
    let array = format!("\u{feff} [\n{}\n]\n", rows.join(",\n"));
    assert_eq!(
        rows_of("a.json", array, DataKind::Metamathqa).unwrap(),
        expected
    );
    let lines = format!("\u{feff}{}\r\n\r\n", rows.join("\r\n"));
    assert_eq!(
        rows_of("a.jsonl", lines, DataKind::Metamathqa).unwrap(),
        expected
    );
}

#[test]
fn gsm8k_rows_lose_their_calculator_marks_and_end_with_the_answer() {
    let row = r#"{"question": "Q?", "answer": "2*3=<<2*3=6>>6 a<b.\nSo 1,000.\n#### 1,000"}"#;
    let rows = rows_of("a.jsonl", row, DataKind::Gsm8k).unwrap();
    let response = "2*3=6 a<b.\nSo 1,000.\n#### 1,000\nThe answer is: 1,000";
    assert_eq!(rows, [pair("Q?", None, response)]);
    let error = error_of(
        "a.jsonl",
        r#"{"question": "Q?", "answer": "6"}"#,
        DataKind::Gsm8k,
    );
    assert!(
        error.contains("line 1") && error.contains("####"),
        "{error}"
    );
}

#[test]
fn every_line_of_a_text_file_is_a_document() {
    let rows = rows_of("a.txt", "one\r\n\n two \n", DataKind::Text).unwrap();
    assert_eq!(rows, [Row::Text("one".into()), Row::Text(" two ".into())]);
    let rows = rows_of("a.jsonl", r#"{"text": "a\nb"}"#, DataKind::Text).unwrap();
    assert_eq!(rows, [Row::Text("a\nb".into())]);
}

#[test]
fn rows_of_ids_may_have_labels() {
    let lines = "{\"input_ids\": [1, 2], \"labels\": [-100, 2]}\n{\"input_ids\": [3]}";
    let rows = rows_of("a.jsonl", lines, DataKind::Tokens).unwrap();
    let tokens = |input_ids, labels| Row::Tokens { input_ids, labels };
    assert_eq!(
        rows,
        [
            tokens(vec![1, 2], Some(vec![-100, 2])),
            tokens(vec![3], None)
        ]
    );
    for (row, reason) in [
        (r#"{"input_ids": [1, -2]}"#, "holds -2"),
        (
            r#"{"input_ids": [1, 2], "labels": [1]}"#,
            "2 `input_ids` but 1 `labels`",
        ),
        (
            r#"{"input_ids": "1 2"}"#,
            "is a text, expected a list of token ids",
        ),
        (r#"{"input_ids": [1.5]}"#, "holds 1.5"),
    ] {
        let error = error_of("a.jsonl", row, DataKind::Tokens);
        assert!(
            error.contains("line 1") && error.contains(reason),
            "{error}"
        );
    }
}

#[test]
fn a_broken_line_names_file_and_line() {
    let lines = "{\"text\": \"a\"}\n\n{\"text\": \"b\"\n";
    let error = error_of("train.jsonl", lines, DataKind::Text);
    assert!(error.contains("train.jsonl` line 3"), "{error}");
    assert!(error.contains("the line begins"), "{error}");
    let error = error_of(
        "train.json",
        "[\n{\"text\": \"a\"},\n{\"text\": }\n]",
        DataKind::Text,
    );
    assert!(error.contains("train.json` line 3"), "{error}");
    let error = error_of("train.json", "[{\"text\": \"a\"}", DataKind::Text);
    assert!(error.contains("train.json` line 1"), "{error}");
}

#[test]
fn a_missing_field_names_the_row_and_what_is_there() {
    let error = error_of(
        "a.json",
        r#"[{"query": "q", "response": "r"}, {"query": "q"}]"#,
        DataKind::Metamathqa,
    );
    assert!(
        error.contains("a.json` row 2") && error.contains("found `query`"),
        "{error}"
    );
    let error = error_of("a.jsonl", "{}", DataKind::Text);
    assert!(
        error.contains("line 1") && error.contains("no fields"),
        "{error}"
    );
    let error = error_of("a.jsonl", r#"{"text": 5}"#, DataKind::Text);
    assert!(
        error.contains("`text`") && error.contains("is a number"),
        "{error}"
    );
    let error = error_of("a.jsonl", "[1]", DataKind::Text);
    assert!(error.contains("JSON object"), "{error}");
    let error = error_of("a.jsonl", "7", DataKind::Text);
    assert!(error.contains("JSON object"), "{error}");
}

#[test]
fn odd_json_is_an_error_with_its_line() {
    for (line, reason) in [
        (&b"{\"text\": \"a\", \"text\": \"b\"}"[..], "occurs twice"),
        (b"{\"text\": \"\\ud800\"}", "line 2"),
        (b"{\"text\": \"\xff\"}", "invalid UTF-8"),
        (b"{\"text\": \"\x00\"}", "line 2"),
    ] {
        let mut lines = b"{\"text\": \"fine\"}\n".to_vec();
        lines.extend_from_slice(line);
        let error = error_of("a.jsonl", &lines, DataKind::Text);
        assert!(
            error.contains("line 2") && error.contains(reason),
            "{error}"
        );
    }
    let error = error_of("a.json", b"[\n{\"text\": \"\xff\"}]", DataKind::Text);
    assert!(
        error.contains("line 2") && error.contains("invalid UTF-8"),
        "{error}"
    );
}

#[test]
fn a_directory_stands_for_its_data_files_in_order() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), "b.jsonl", "{\"text\": \"2\"}");
    write(directory.path(), "a.txt", "1\n");
    write(directory.path(), "README.md", "no data");
    write(directory.path(), ".hidden.jsonl", "no data");
    let files = data_files(&[directory.path().to_path_buf()]).unwrap();
    let rows = read_rows(&files, DataKind::Text, None).unwrap();
    let texts: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    assert_eq!(texts, [Row::Text("1".into()), Row::Text("2".into())]);

    let empty = TempDir::new().unwrap();
    let error = data_files(&[empty.path().to_path_buf()])
        .unwrap_err()
        .to_string();
    assert!(error.contains(".parquet"), "{error}");
    assert!(data_files(&[PathBuf::from("does/not/exist")]).is_err());
}

#[test]
fn files_of_unknown_or_unfit_format_are_refused() {
    assert!(error_of("a.csv", "text\na", DataKind::Text).contains("extension"));
    assert!(error_of("a.txt", "a", DataKind::Gsm8k).contains("holds only text"));
}

#[test]
fn a_limit_stops_reading_before_later_errors() {
    let directory = TempDir::new().unwrap();
    let lines = write(directory.path(), "a.jsonl", "{\"text\": \"1\"}\nbroken");
    assert_eq!(
        read_rows(&[lines], DataKind::Text, Some(1)).unwrap().len(),
        1
    );
    let array = write(
        directory.path(),
        "b.json",
        r#"[{"text": "1"}, {"text": "2"}]"#,
    );
    assert_eq!(
        read_rows(&[array], DataKind::Text, Some(1)).unwrap().len(),
        1
    );
}

#[test]
fn conversations_need_roles_and_contents() {
    let row = r#"{"messages": [{"role": "user", "content": "a", "name": "x"}]}"#;
    let rows = rows_of("a.jsonl", row, DataKind::Chat).unwrap();
    let Row::Chat(messages) = &rows[0] else {
        panic!("{rows:?}")
    };
    assert_eq!(
        (
            messages[0].role.as_str(),
            messages[0].extra["name"].as_str()
        ),
        ("user", Some("x"))
    );
    let error = error_of(
        "a.jsonl",
        r#"{"messages": [{"role": "user"}]}"#,
        DataKind::Chat,
    );
    assert!(
        error.contains("line 1") && error.contains("content"),
        "{error}"
    );
}

/// A file with a text column and a list column of two rows.
fn parquet_file(directory: &TempDir) -> PathBuf {
    let schema = "message rows {
        required binary query (UTF8);
        optional binary response (UTF8);
        required group input_ids (LIST) { repeated group list { required int64 element; } }
    }";
    let path = directory.path().join("rows.parquet");
    let file = std::fs::File::create(&path).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (texts, levels) in [(["q1", "q2"], None), (["r1", "r2"], Some(&[1_i16, 1][..]))] {
        let texts = texts.map(ByteArray::from);
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&texts, levels, None)
            .unwrap();
        column.close().unwrap();
    }
    let mut column = group.next_column().unwrap().unwrap();
    let (ids, defined, repeated) = ([1, 2, 3], [1, 1, 1], [0, 1, 0]);
    column
        .typed::<Int64Type>()
        .write_batch(&ids, Some(&defined), Some(&repeated))
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    path
}

#[test]
fn parquet_columns_are_fields() {
    let directory = TempDir::new().unwrap();
    let path = parquet_file(&directory);
    let rows = read_rows(std::slice::from_ref(&path), DataKind::Metamathqa, None).unwrap();
    assert_eq!(rows[0].1, pair("q1", None, "r1"));
    assert_eq!(rows[1].1, pair("q2", None, "r2"));
    let rows = read_rows(std::slice::from_ref(&path), DataKind::Tokens, None).unwrap();
    assert_eq!(
        rows[0].1,
        Row::Tokens {
            input_ids: vec![1, 2],
            labels: None
        }
    );
    assert_eq!(
        rows[1].1,
        Row::Tokens {
            input_ids: vec![3],
            labels: None
        }
    );
    let error = read_rows(&[path], DataKind::Text, None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("rows.parquet` row 1") && error.contains("`input_ids`"),
        "{error}"
    );
}

#[test]
fn damaged_parquet_files_are_errors_and_never_panics() {
    let directory = TempDir::new().unwrap();
    let bytes = std::fs::read(parquet_file(&directory)).unwrap();
    for cut in [0, 3, 20, bytes.len() / 2, bytes.len() - 1] {
        let path = write(directory.path(), "cut.parquet", &bytes[..cut]);
        assert!(
            read_rows(&[path], DataKind::Metamathqa, None).is_err(),
            "{cut}"
        );
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x21;
        let path = write(directory.path(), "damaged.parquet", &damaged);
        let _ = read_rows(&[path], DataKind::Metamathqa, None);
    }
}

fn tokenize(lines: &str, special: bool, decode: bool) -> Result<String> {
    let mut out = Vec::new();
    let options = TokenizeOptions { special, decode };
    tokenize_jsonl(lines.as_bytes(), "in.jsonl", &mut out, &stories(), options)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn rows_get_ids_and_keep_their_fields() {
    let lines = "{\"id\": 7, \"text\": \"Once\"}\n\n{\"text\": \"\"}\n";
    assert_eq!(
        tokenize(lines, true, false).unwrap(),
        "{\"id\":7,\"text\":\"Once\",\"ids\":[1,403]}\n{\"text\":\"\",\"ids\":[1]}\n"
    );
    assert_eq!(
        tokenize("{\"text\": \"Once\"}", false, false).unwrap(),
        "{\"text\":\"Once\",\"ids\":[403]}\n"
    );
    assert_eq!(
        tokenize("{\"ids\": [1, 403]}", true, true).unwrap(),
        "{\"ids\":[1,403],\"text\":\"Once\"}\n"
    );
}

#[test]
fn a_row_that_cannot_be_tokenised_names_its_line() {
    for (lines, decode, reason) in [
        ("{\"text\": \"a\"}\n{\"tex\": \"a\"}", false, "`tex`"),
        ("{\"ids\": [1]}\n{\"ids\": [99999]}", true, "99999"),
        ("{\"ids\": [1]}\n{\"ids\": [-1]}", true, "`ids`"),
        ("{\"text\": \"a\"}\n{", false, "line"),
    ] {
        let error = tokenize(lines, true, decode).unwrap_err().to_string();
        assert!(
            error.contains("`in.jsonl` line 2") && error.contains(reason),
            "{error}"
        );
    }
}
