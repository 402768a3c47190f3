//! Graders, cleaning and masking against the verdicts of the authors' programs, and the problems' files.

use serde_json::{Value, json};
use temper_datasets::grade::{
    boxed_answer, grade, gsm8k_answer, is_equiv, last_boxed, math_answer, normalise,
};
use temper_datasets::problems::{Problem, Skipped, Task, read_problems};
use temper_datasets::rewrite::{Source, clean_answer, masks};
use tempfile::TempDir;

use crate::{jsonl, repo, write};

fn golden(name: &str) -> Vec<Value> {
    let rows = jsonl(&format!("tests/golden/metamath/dev_{name}.jsonl"));
    assert!(!rows.is_empty());
    rows
}

fn source(row: &Value) -> Source {
    // The program knows only this one name as MATH.
    match row["dataset"].as_str().unwrap() {
        "MATH" => Source::Math,
        _ => Source::Gsm8k,
    }
}

#[test]
fn gsm8k_answers_are_those_of_the_authors_program() {
    for row in golden("gsm8k_extract") {
        let completion = row["completion"].as_str().unwrap();
        assert_eq!(gsm8k_answer(completion), row["extracted"].as_f64(), "{row}");
        let grades = grade(Task::Gsm8k, completion, "7").unwrap();
        let extracted = grades.metamath.extracted.unwrap_or_default();
        assert_eq!(extracted.as_f64(), row["extracted"].as_f64(), "{row}");
        assert_eq!(grades.metamath.correct, row["extracted"] == 7, "{row}");
    }
}

#[test]
fn equivalence_and_normal_forms_are_those_of_the_authors_program() {
    for row in golden("is_equiv") {
        let (pred, gold) = (row["pred"].as_str(), row["gold"].as_str());
        assert_eq!(is_equiv(pred, gold), row["equiv"], "{row}");
        let normal = |text: Option<&str>| Value::from(text.and_then(normalise));
        assert_eq!(normal(pred), row["pred_norm"], "{row}");
        assert_eq!(normal(gold), row["gold_norm"], "{row}");
    }
}

#[test]
fn verdicts_on_math_completions_are_those_of_the_authors_program() {
    for row in golden("math_correct") {
        let (completion, gold) = (row["completion"].as_str().unwrap(), row["gold"].as_str());
        let answer = math_answer(completion);
        let correct = answer.is_some() && is_equiv(answer, gold);
        assert_eq!(correct, row["correct"], "{row}");
        let grades = grade(Task::Math, completion, gold.unwrap()).unwrap();
        assert_eq!(grades.metamath.correct, row["correct"], "{row}");
    }
}

#[test]
fn boxes_are_those_of_the_authors_program() {
    for row in golden("boxed") {
        let solution = row["solution"].as_str().unwrap();
        assert_eq!(
            Value::from(last_boxed(solution)),
            row["last_boxed"],
            "{row}"
        );
        assert_eq!(Value::from(boxed_answer(solution)), row["answer"], "{row}");
    }
}

#[test]
fn cleaned_answers_are_those_of_the_authors_program() {
    for row in golden("answer_cleansing") {
        let text = |field: &str| row[field].as_str().unwrap();
        let cleaned = clean_answer(source(&row), text("prediction"), text("split_str"));
        assert_eq!(Value::from(cleaned), row["cleaned"], "{row}");
    }
}

#[test]
fn hidden_numbers_are_those_of_the_authors_program() {
    for row in golden("mask_numbers") {
        let found = masks(source(&row), row["question"].as_str().unwrap());
        let found: Vec<Value> = found
            .iter()
            .map(|mask| json!({"masked": mask.question(), "masked_value": mask.hidden()}))
            .collect();
        assert_eq!(Value::from(found), row["variants"], "{row}");
    }
}

#[test]
fn grades_are_written_as_one_object_per_convention() {
    let completion = "so 3 * 6 = 18\n#### 18\nThe answer is: 18.";
    let grades = grade(Task::Gsm8k, completion, "2 * 9\n#### 18").unwrap();
    assert_eq!(
        serde_json::to_value(&grades).unwrap(),
        json!({
            "metamath": {"extracted": 18, "correct": true},
            "lm_eval_strict": {"extracted": "18", "correct": true},
            "lm_eval_flexible": {"extracted": "18.", "correct": true},
        })
    );
    let none = serde_json::to_value(grade(Task::Math, "", "1").unwrap()).unwrap();
    assert_eq!(
        none["metamath"],
        json!({"extracted": null, "correct": false})
    );
}

#[test]
fn a_row_without_a_gold_answer_is_an_error_that_quotes_it() {
    for (task, answer) in [
        (Task::Gsm8k, ""),
        (Task::Gsm8k, "#### "),
        (Task::Gsm8kBackward, "many"),
        (Task::Math, ""),
        (Task::Math, r"so \boxed{1"),
    ] {
        let error = grade(task, "The answer is: 1", answer).unwrap_err();
        assert!(
            error.to_string().starts_with("no gold answer in `"),
            "{error}"
        );
    }
}

fn read(task: Task, contents: impl AsRef<[u8]>) -> (Vec<Problem>, Vec<Skipped>) {
    let directory = TempDir::new().unwrap();
    let path = write(directory.path(), "test.jsonl", contents);
    read_problems(task, &path).unwrap()
}

#[test]
fn broken_rows_cost_themselves_and_are_named() {
    let mut contents = Vec::new();
    contents.extend_from_slice(
        "\u{feff}{\"question\": \"Q\", \"answer\": \"R\\n#### 1,000\"}\r\n\n".as_bytes(),
    );
    contents.extend_from_slice(b"{\"question\": \"\xff\", \"answer\": \"#### 1\"}\n");
    contents.extend_from_slice(b"{\"question\": \"Q\", \"answer\": \"1\"\n[1]\n");
    contents.extend_from_slice(b"{\"answer\": \"1\"}\n{\"question\": \"Q\"}\n");
    contents.extend_from_slice(b"{\"question\": \"Q\", \"answer\": \"none\"}\n");
    contents.extend_from_slice(b"{\"question\": \"Last\\u0000\", \"answer\": 7}");
    let (problems, skipped) = read(Task::Gsm8k, contents);
    let kept: Vec<_> = problems
        .iter()
        .map(|problem| {
            (
                problem.index,
                problem.question.as_str(),
                problem.answer.as_str(),
            )
        })
        .collect();
    assert_eq!(kept, [(0, "Q", "1000"), (7, "Last\0", "7")]);
    assert_eq!(problems[0].solution.as_deref(), Some("R\n#### 1,000"));
    let reasons = [
        (3, "invalid UTF-8 after 14 bytes"),
        (4, "EOF while parsing"),
        (5, "expected a JSON object"),
        (6, "no question"),
        (7, "no gold answer: expected one of"),
        (8, "no gold answer in `none`"),
    ];
    assert_eq!(skipped.len(), reasons.len());
    for (row, (line, reason)) in skipped.iter().zip(reasons) {
        assert_eq!(row.line, line);
        assert!(row.reason.starts_with(reason), "{row:?}");
    }
}

#[test]
fn every_shape_of_the_test_files_is_read() {
    let rows = [
        (
            Task::Math,
            r#"{"problem": "P", "solution": "\\boxed{1}", "level": "Level 3", "type": "Algebra"}"#,
        ),
        (
            Task::Math,
            r#"{"problem": "P", "solution": "text", "answer": "1", "level": 3, "subject": "Algebra"}"#,
        ),
        (
            Task::Math,
            r#"{"instruction": "P", "output": "\\boxed{1}", "level": "Level 3", "type": "Algebra"}"#,
        ),
    ];
    for (task, row) in rows {
        let (problems, skipped) = read(task, row);
        assert!(skipped.is_empty(), "{skipped:?}");
        let problem = &problems[0];
        assert_eq!(
            (problem.question.as_str(), problem.answer.as_str()),
            ("P", "1")
        );
        assert_eq!(problem.level.as_deref(), Some("Level 3"));
        assert_eq!(problem.subject.as_deref(), Some("Algebra"));
    }
    let array = r#" [{"query": "Q", "response": "R\n#### 5\nThe answer is: 5"}, 3]"#;
    let (problems, skipped) = read(Task::Gsm8k, array);
    assert_eq!((problems[0].answer.as_str(), skipped[0].line), ("5", 2));
}

#[test]
fn the_shipped_test_files_hold_a_hundred_problems_each() {
    for (task, folder) in [
        (Task::Gsm8k, "gsm8k"),
        (Task::Gsm8kBackward, "gsm8k_backward"),
        (Task::Math, "math"),
    ] {
        let path = repo(&format!("assets/{folder}/test-100.jsonl"));
        let (problems, skipped) = read_problems(task, &path).unwrap();
        assert_eq!((problems.len(), skipped.len()), (100, 0), "{folder}");
        let again = problems.iter().map(|problem| {
            let grades = grade(
                task,
                &format!("The answer is: {}", problem.answer),
                &problem.answer,
            );
            u32::from(grades.unwrap().metamath.correct)
        });
        assert_eq!(again.sum::<u32>(), 100, "{folder}");
    }
}
