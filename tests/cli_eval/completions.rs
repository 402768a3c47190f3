//! `temper eval --completions`.

use serde_json::{Value, json};

use super::support::{Bench, fail, lines, output, path, rows, succeed, text};

fn grade(task: &str, bench: &Bench, bytes: impl AsRef<[u8]>) -> (Vec<Value>, String) {
    let file = bench.write("rows.jsonl", bytes);
    let args = ["eval", "--task", task, "--completions", text(&file)];
    let (out, said) = succeed(&args);
    (rows(&out), said)
}

#[test]
fn verdicts_are_those_of_the_authors_program_in_the_order_of_the_rows() {
    let bench = Bench::new();
    let golden = std::fs::read_to_string(path("tests/golden/metamath/dev_math_correct.jsonl"));
    let golden = rows(&golden.unwrap());
    let asked: Vec<Value> = golden
        .iter()
        .map(|case| {
            json!({"z": case["id"], "completion": case["completion"], "answer": case["gold"], "a": [1.0, null]})
        })
        .collect();
    let (graded, said) = grade("math", &bench, lines(&asked));
    assert_eq!(graded.len(), golden.len());
    for (row, case) in graded.iter().zip(&golden) {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["z", "completion", "answer", "a", "graders"]);
        assert_eq!(row["z"], case["id"]);
        assert_eq!(row["a"], json!([1.0, null]));
        assert_eq!(
            row["graders"]["metamath"]["correct"], case["correct"],
            "{case}"
        );
    }
    let correct = golden.iter().filter(|case| case["correct"] == true).count();
    assert!(
        said.contains("100 completions graded, 0 rows could not be"),
        "{said}"
    );
    assert!(said.contains(&format!("{correct} / 100")), "{said}");
}

#[test]
fn conventions_differ_on_the_same_completions() {
    let bench = Bench::new();
    let line = |completion: &str, answer: &str| {
        format!("{}\n", json!({"completion": completion, "answer": answer}))
    };
    let file = [
        line(
            "so 6 * 3 = 18\n#### 18\nThe answer is: 18",
            "6 * 3 = <<6*3=18>>18\n#### 18",
        ),
        line("Altogether it makes 18 apples.", "18"),
        line("The answer is: 19", "#### 18"),
    ];
    let (graded, _) = grade("gsm8k", &bench, file.concat());
    let correct = |row: &Value| {
        ["metamath", "lm_eval_strict", "lm_eval_flexible"]
            .map(|name| row["graders"][name]["correct"].as_bool().unwrap())
    };
    assert_eq!(correct(&graded[0]), [true, true, true]);
    assert_eq!(correct(&graded[1]), [false, false, true]);
    assert_eq!(correct(&graded[2]), [false, false, false]);
    assert_eq!(graded[0]["graders"]["metamath"]["extracted"], 18);
    assert_eq!(graded[1]["graders"]["metamath"]["extracted"], Value::Null);
}

#[test]
fn nothing_in_a_bad_file_crashes_or_is_lost() {
    let bench = Bench::new();
    let mut bytes = Vec::new();
    let digits = "9".repeat(100_000);
    let lines: [&[u8]; 12] = [
        br#"{"completion": "The answer is: 5", "answer": "5", "id": 1}"#,
        br#"{"completion": "The answer is: 5", "id": 2}"#,
        br#"{"completion": null, "answer": "5", "id": 3}"#,
        br#"{"completion": 5, "answer": "5", "id": 4}"#,
        br#"{"completion": "The answer is: 5", "answer": "five", "id": 5}"#,
        br#"{"completion": "The answer is: 5", "answer": "5", "id": 6"#,
        b"{\"completion\": \"\xc3\x28\", \"answer\": \"5\"}",
        b"\x00\x00",
        b"",
        b"<html>502 Bad Gateway</html>",
        br#"{"completion": "\u0000The answer is: 5\u0000", "answer": "5"}"#,
        br#"{"completion": "The answer is: 5", "answer": 5.0}"#,
    ];
    for line in lines {
        bytes.extend(line);
        bytes.push(b'\n');
    }
    bytes.extend(
        format!(
            "{}\n",
            json!({"completion": format!("The answer is: {digits}"), "answer": "5"})
        )
        .bytes(),
    );
    bytes.extend(format!("{{\"deep\": {}", "[".repeat(100_000)).bytes());
    let (graded, said) = grade("gsm8k", &bench, bytes);
    assert_eq!(graded.len(), 13, "every row but the blank one comes back");
    let bad: Vec<usize> = (0..)
        .zip(&graded)
        .filter(|(_, row)| row.get("error").is_some())
        .map(|(at, _)| at)
        .collect();
    assert_eq!(bad, [1, 2, 3, 4, 5, 6, 7, 8, 12]);
    for id in 2..=5 {
        assert_eq!(graded[id - 1]["id"], id, "its fields are kept");
    }
    assert!(graded[5]["raw"].as_str().unwrap().ends_with("\"id\": 6"));
    assert!(
        graded[6]["raw_escaped"]
            .as_str()
            .unwrap()
            .contains("\\xc3(")
    );
    assert!(
        said.contains("4 completions graded, 9 rows could not be"),
        "{said}"
    );
    assert!(said.contains("line 2: `answer` is missing"), "{said}");
}

#[test]
fn wrong_arguments_are_named() {
    let bench = Bench::new();
    let missing = bench.path("missing.jsonl");
    let said = fail(
        1,
        &["eval", "--task", "gsm8k", "--completions", text(&missing)],
    );
    assert!(said.contains("missing.jsonl"), "{said}");
    let file = bench.write("rows.jsonl", "");
    let said = fail(
        2,
        &["eval", "--task", "perplexity", "--completions", text(&file)],
    );
    assert!(said.contains("grades nothing"), "{said}");
    for args in [
        &["eval"][..],
        &["eval", "--task", "gsm9k", "--completions", text(&file)],
        &[
            "eval",
            "--task",
            "gsm8k",
            "--completions",
            text(&file),
            "--output",
            "x",
        ],
        &["eval", "--task", "gsm8k"],
        &["eval", "merge"],
    ] {
        let found = output(args);
        assert_eq!(found.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_file_in_which_nothing_can_be_graded_fails_and_still_comes_back() {
    let bench = Bench::new();
    let file = bench.write("rows.jsonl", "{\"text\": \"The answer is: 5\"}\n");
    let args = ["eval", "--task", "gsm8k", "--completions", text(&file)];
    let found = output(&args);
    assert_eq!(found.status.code(), Some(1));
    let said = String::from_utf8(found.stderr).unwrap();
    assert!(
        said.contains("no row of") && said.contains("line 1: `completion` is missing"),
        "{said}"
    );
    let graded = rows(&String::from_utf8(found.stdout).unwrap());
    assert_eq!(graded[0]["text"], "The answer is: 5");
}

#[test]
fn an_empty_file_is_an_empty_answer() {
    let (graded, said) = grade("math", &Bench::new(), "\n\n");
    assert!(graded.is_empty());
    assert!(
        said.contains("0 completions graded") && !said.contains("NaN"),
        "{said}"
    );
}
