//! Backward questions without a model, and recipes that are wrong.

use serde_json::json;

use super::support::Bench;

const GSM8K: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../assets/gsm8k/train-1000.jsonl"
);

#[test]
fn masked_questions_need_no_model() {
    let bench = Bench::new(2);
    let [questions, dir] =
        [bench.path("questions.jsonl"), bench.path("masked")].map(|path| json!(path));
    let text = format!(
        "[questions]\ntask = \"gsm8k\"\npath = {questions}\n[text_model]\nkind = \"none\"\n\
         [run]\ndir = {dir}\n"
    );
    let run = bench.recipe("masked", &text);
    let stdout = run.output().ok().stdout();
    let lines = run.lines("questions.jsonl");
    assert_eq!(lines.len(), 4);
    assert_eq!(
        lines[1],
        json!({
            "query": "Ann has 3 red pens and x blue pens. How many pens does she have in all?\nIf we know \
                the answer to the above question is 8, what is the value of unknown variable x?",
            "answer": "5",
            "type": "GSM_FOBAR",
            "original_question": "Ann has 3 red pens and 5 blue pens. How many pens does she have in all?",
            "masked_question": "Ann has 3 red pens and x blue pens. How many pens does she have in all?",
            "hidden": "5",
            "row": 0,
            "number": 1,
        })
    );
    assert!(stdout.contains("backward questions"), "{stdout}");
    assert_eq!(run.summary()["backward_questions"], 4);
}

#[test]
fn a_thousand_questions_of_gsm8k_are_masked_within_seconds() {
    let bench = Bench::new(1);
    let run = bench
        .run("thousand", "http://127.0.0.1:9/v1")
        .set("text_model.kind=none");
    let start = std::time::Instant::now();
    run.clone()
        .set(&format!("questions.path={GSM8K:?}"))
        .output()
        .ok();
    assert!(start.elapsed() < std::time::Duration::from_secs(10));
    let summary = run.summary();
    assert_eq!(summary["questions"], 1000);
    let lines = run.lines("questions.jsonl");
    assert_eq!(
        lines.len() as u64,
        summary["backward_questions"].as_u64().unwrap()
    );
    assert!(lines.len() > 3000, "{}", lines.len());
    assert!(
        lines
            .iter()
            .all(|line| !line["answer"].as_str().unwrap().is_empty())
    );
}

#[test]
fn rows_that_cannot_be_used_are_named_and_left_out() {
    let bench = Bench::new(2);
    let mut bytes = std::fs::read(bench.path("questions.jsonl")).unwrap();
    bytes.extend_from_slice(b"{\"question\": \"No answer?\"}\nnonsense\n\xff\xfe\n{\"question\": \"NUL \\u0000 7?\", \"answer\": \"#### 7\"}\n");
    std::fs::write(bench.path("questions.jsonl"), bytes).unwrap();
    let run = bench
        .run("rows", "http://127.0.0.1:9/v1")
        .set("text_model.kind=none");
    let stderr = run.output().ok().stderr();
    for line in ["line 3", "line 4", "line 5"] {
        assert!(stderr.contains(line), "{stderr}");
    }
    assert_eq!(run.summary()["questions"], 3);
    assert_eq!(run.summary()["skipped"].as_array().unwrap().len(), 3);
    std::fs::write(bench.path("questions.jsonl"), "{}\n").unwrap();
    let run = bench.run("no-rows", "http://127.0.0.1:9/v1");
    run.output().fails(1, &["no question", "questions.task"]);
}

#[test]
fn every_mistake_of_a_recipe_is_reported_at_once() {
    let bench = Bench::new(1);
    let text = "[questions]\ntask = \"gsm\"\npath = \"nowhere.jsonl\"\n[samples]\nansaug = 4\n\
        [text_model]\nkind = \"endpoint\"\nbase_url = \"localhost:8000\"\napi_key = \"sk-1\"\npath = \"m\"\n\
        [budget]\nmax_price = 3\n";
    let ran = bench.recipe("wrong", text).output();
    ran.fails(
        2,
        &[
            "`questions.task` must be one of `gsm8k`, `math`",
            "no file `nowhere.jsonl`",
            "did you mean `answer_augmentation`?",
            "`localhost:8000` is no address of an API",
            "write its name, `api_key_env = \"OPENAI_API_KEY\"`",
            "`text_model.path` is not used by `kind = \"endpoint\"`",
            "missing key `text_model.model`",
            "missing key `budget.prompt_price`",
            "missing key `budget.reply_price`",
        ],
    );
}

#[test]
fn a_recipe_for_another_command_is_told_apart() {
    let quickstart = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/quickstart.toml");
    let temper = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_temper"));
        super::support::Ran(command.args(arguments).output().unwrap())
    };
    temper(&["bootstrap", quickstart]).fails(2, &["this is a recipe for `temper train`"]);
    let bench = Bench::new(1);
    let run = bench.run("mine", "http://127.0.0.1:9/v1");
    let recipe = run.recipe.to_str().unwrap();
    temper(&["train", recipe]).fails(2, &["this is a recipe for `temper bootstrap`"]);
    let shown = temper(&["recipe", "show", recipe]).ok().stdout();
    assert!(shown.contains("connect_timeout = 10"), "{shown}");
    let checked = temper(&["recipe", "check", recipe]).ok().stdout();
    assert!(checked.contains("written by `test-writer`"), "{checked}");
    let explained = temper(&["recipe", "explain", "text_model.timeout"])
        .ok()
        .stdout();
    assert!(explained.contains("whole request"), "{explained}");
}
