//! `temper tokenize`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::support::{ROOT, TOKENIZER_GOLDEN, err, fails, ok, out, rows, temper, text_of};

const VOCABULARIES: [(&str, &str); 2] = [
    ("tests/golden/llama_tokenizer", "llama2_ids"),
    ("assets/stories260k", "tok512_ids"),
];

#[test]
fn ids_are_those_of_the_reference_tokenizers() {
    for (tokenizer, key) in VOCABULARIES {
        let text = ok(&[
            "tokenize",
            "--tokenizer",
            tokenizer,
            "--no-special",
            TOKENIZER_GOLDEN,
        ]);
        let rows = rows(&text);
        assert_eq!(rows.len(), 163);
        let known: Vec<&Value> = rows.iter().filter(|row| !row[key].is_null()).collect();
        assert!(known.len() > 100);
        for (number, row) in rows.iter().enumerate() {
            assert_eq!(row["id"], number, "rows stay in order");
        }
        for row in known {
            assert_eq!(row["ids"], row[key], "{tokenizer}: {}", row["text"]);
        }
    }
}

#[test]
fn begin_token_comes_first_unless_unwanted() {
    let text = ok(&[
        "tokenize",
        "--tokenizer",
        "tests/golden/llama_tokenizer/tokenizer.model",
        TOKENIZER_GOLDEN,
    ]);
    for row in rows(&text) {
        let ids = row["ids"].as_array().unwrap();
        assert_eq!(ids[0], 1);
        assert_eq!(&ids[1..], row["llama2_ids"].as_array().unwrap());
    }
}

#[test]
fn decoding_gives_the_texts_back() {
    for (tokenizer, _) in VOCABULARIES {
        let golden = rows(&fs::read_to_string(Path::new(ROOT).join(TOKENIZER_GOLDEN)).unwrap());
        let ids = rows(&ok(&[
            "tokenize",
            "--tokenizer",
            tokenizer,
            TOKENIZER_GOLDEN,
        ]));
        let lines: Vec<String> = ids
            .iter()
            .map(|row| format!("{{\"ids\": {}}}", row["ids"]))
            .collect();
        let bare = lines.join("\n");
        let output = piped(
            &["tokenize", "--tokenizer", tokenizer, "--decode", "-"],
            &bare,
        );
        let decoded = rows(&out(&output));
        assert_eq!(decoded.len(), golden.len());
        let equal = decoded
            .iter()
            .zip(&golden)
            .filter(|(found, wanted)| found["text"] == wanted["text"])
            .count();
        // Only the texts that contain special tokens may lose something.
        let special = |row: &&Value| {
            ["<s>", "</s>", "<unk>"]
                .iter()
                .any(|token| row["text"].as_str().unwrap().contains(token))
        };
        assert!(
            equal + golden.iter().filter(special).count() >= golden.len(),
            "{tokenizer}: {equal} of {}",
            golden.len()
        );
    }
}

/// Runs `temper` with a text on stdin.
fn piped(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
    command
        .args(arguments)
        .current_dir(ROOT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // The command may end before it has read everything.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

#[test]
fn broken_line_names_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    fs::write(&file, "{\"text\": \"fine\"}\n\n{\"text\": \"cut off\n").unwrap();
    let arguments = [
        "tokenize",
        "--tokenizer",
        "assets/stories260k",
        text_of(&file),
    ];
    let message = fails(&arguments, 1);
    assert!(message.contains("rows.jsonl` line 3"), "{message}");
    assert_eq!(
        rows(&out(&temper(&arguments))).len(),
        1,
        "lines before it were written"
    );

    fs::write(&file, "{\"txt\": \"misspelt\"}\n").unwrap();
    let message = fails(&arguments, 1);
    assert!(
        message.contains("rows.jsonl` line 1") && message.contains("`txt`"),
        "{message}"
    );

    let output = piped(
        &[
            "tokenize",
            "--tokenizer",
            "assets/stories260k",
            "--decode",
            "-",
        ],
        "{\"ids\": [1, 512]}\n",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("`stdin` line 1") && err(&output).contains("512"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let line = format!("{{\"text\": \"{}\"}}\n", "once upon a time ".repeat(40));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    fs::write(&file, line.repeat(2000)).unwrap();
    for arguments in [
        vec![
            "tokenize",
            "--tokenizer",
            "assets/stories260k",
            text_of(&file),
        ],
        vec!["recipe", "schema"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
        command
            .args(&arguments)
            .current_dir(ROOT)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        assert_eq!(err(&output), "", "{arguments:?}");
    }
}
