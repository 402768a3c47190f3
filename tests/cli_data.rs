//! The commands that look at things, driven as a user drives them: `recipe`, `data`, `tokenize`, `inspect`.

#![expect(
    clippy::unwrap_used,
    reason = "in a helper of a test, too, a failure is a failed test"
)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use temper_engine::run::{
    Items, Metric, MetricsWriter, Row, RunDir, RunError, RunMode, Summary, Unit,
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Runs `temper` in the root of the repository.
fn temper(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_temper"))
        .args(arguments)
        .current_dir(ROOT)
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Stdout of a command that must succeed.
fn ok(arguments: &[&str]) -> String {
    let output = temper(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", err(&output));
    out(&output)
}

/// Stderr of a command that must end with `code`.
fn fails(arguments: &[&str], code: i32) -> String {
    let output = temper(arguments);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {}{}",
        out(&output),
        err(&output)
    );
    err(&output)
}

fn rows(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What `inspect --json` says.
fn inspected(path: &str) -> Value {
    serde_json::from_str(&ok(&["inspect", "--json", path])).unwrap()
}

const TOKENIZER_GOLDEN: &str = "tests/golden/metamath/dev_tokenizer.jsonl";
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

const BAD_RECIPE: &str = "\
[model]
path = \"assets/stories260k\"
[data]
kind = \"gsm8k\"
path = \"assets/gsm8k/none.jsonl\"
[train]
steps = 10
epochs = 3
batch_size = \"eight\"
learning_rate = 1e-4
";

#[test]
fn all_problems_of_a_recipe_are_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    fs::write(&file, BAD_RECIPE).unwrap();
    let message = fails(&["recipe", "check", text_of(&file)], 2);
    for part in [
        "bad.toml:5:",
        "none.jsonl",
        "bad.toml:9:",
        "batch_size",
        "bad.toml:10:1",
        "did you mean `lr`?",
        "problems in",
    ] {
        assert!(message.contains(part), "`{part}` is not in\n{message}");
    }
    fails(&["recipe", "show", text_of(&file)], 2);
    fails(&["data", "preview", text_of(&file)], 2);
    fails(&["recipe", "check", "recipes/none.toml"], 2);
}

#[test]
fn a_sound_recipe_is_summed_up_and_advice_goes_to_stderr() {
    let output = temper(&[
        "recipe",
        "check",
        "recipes/quickstart.toml",
        "--set",
        "data.over_length=truncate",
    ]);
    assert!(output.status.success());
    assert!(
        out(&output).starts_with("ok: oft of `assets/stories260k`"),
        "{}",
        out(&output)
    );
    assert!(
        err(&output).starts_with("advice: `data.over_length"),
        "{}",
        err(&output)
    );
    let message = fails(
        &[
            "recipe",
            "check",
            "recipes/quickstart.toml",
            "--set",
            "train.lr=fast",
        ],
        2,
    );
    assert!(message.contains("--set"), "{message}");
}

#[test]
fn the_recipe_shown_is_the_same_recipe() {
    let shown = ok(&[
        "recipe",
        "show",
        "recipes/quickstart.toml",
        "--set",
        "train.lr=0.5",
    ]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shown.toml");
    fs::write(&file, &shown).unwrap();
    assert_eq!(ok(&["recipe", "show", text_of(&file)]), shown);
    assert!(
        shown.contains("lr = 0.5") && shown.contains("beta2 = 0.999"),
        "{shown}"
    );
}

#[test]
fn the_schema_is_json_and_keys_are_explained() {
    let schema: Value = serde_json::from_str(&ok(&["recipe", "schema"])).unwrap();
    assert_eq!(
        schema["properties"]["train"]["properties"]["lr"]["exclusiveMinimum"],
        0.0
    );
    assert!(ok(&["recipe", "explain", "train.schedule"]).contains("default: `cosine`"));
    let message = fails(&["recipe", "explain", "train.learning"], 2);
    assert!(
        message.contains("`train` has") && message.contains("warmup_ratio"),
        "{message}"
    );
}

/// Previews GSM8K rows without leaving a cache in the repository.
fn preview(more: &[&str]) -> String {
    let mut arguments = vec![
        "data",
        "preview",
        "recipes/quickstart.toml",
        "--set",
        "data.cache=false",
    ];
    arguments.extend(["--set", "data.limit=20", "--set", "data.eval.limit=5"]);
    arguments.extend(more);
    ok(&arguments)
}

#[test]
fn only_the_response_is_marked_as_trained() {
    let text = preview(&["--rows", "2"]);
    assert_eq!(text.matches('«').count(), 2);
    for row in text.split("--- row").skip(1) {
        let (prompt, rest) = row.split_once('«').unwrap();
        let (response, _) = rest.split_once('»').unwrap();
        assert!(
            prompt.ends_with("### Response:") && prompt.contains("### Instruction:"),
            "{prompt}"
        );
        assert!(
            response.contains("The answer is: ") && response.ends_with("</s>"),
            "{response}"
        );
        assert!(
            !response.contains("### Instruction") && !response.contains("Below is"),
            "the prompt is not trained: {response}"
        );
    }
    assert!(!text.contains('\u{1b}'), "no colours in a pipe");
    let all = preview(&["--rows", "1", "--set", "data.loss_on=all"]);
    assert!(all.contains("<s>« Below is"), "{all}");
}

#[test]
fn the_preview_counts_all_rows() {
    let text = preview(&["--rows", "0"]);
    assert!(
        text.starts_with("training rows\n  rows 20, kept "),
        "{text}"
    );
    assert!(
        text.contains("held-out rows\n  rows 5, kept ")
            && text.contains("line 8 (567 tokens): dropped"),
        "{text}"
    );
    assert!(!text.contains("--- row"), "{text}");
}

#[test]
fn rows_of_ids_are_shown_without_a_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let (data, recipe) = (dir.path().join("ids.jsonl"), dir.path().join("ids.toml"));
    fs::write(&data, "{\"input_ids\": [7, 8, 9]}\n").unwrap();
    let text = format!(
        "[model]\npath = \"tests/golden/llama/mha/model\"\n[data]\nkind = \"tokens\"\npath = \"{}\"\ncache = false\n\
         [train]\nsteps = 1\nbatch_size = 1\nlr = 1e-3\n",
        data.display()
    );
    fs::write(&recipe, text).unwrap();
    assert!(ok(&["data", "preview", text_of(&recipe)]).contains("\n7 «8» «9»\n"));
}

#[test]
fn broken_data_is_named_in_a_preview() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("rows.jsonl");
    fs::write(
        &data,
        "{\"question\": \"1+1?\", \"answer\": \"2\\n#### 2\"}\n{\"question\": 3}\n",
    )
    .unwrap();
    let path = format!("data.path={}", data.display());
    let message = fails(
        &[
            "data",
            "preview",
            "recipes/quickstart.toml",
            "--set",
            "data.cache=false",
            "--set",
            &path,
        ],
        1,
    );
    assert!(message.contains("rows.jsonl` line 2"), "{message}");
}

/// `temper data generate arithmetic` with these arguments.
fn arithmetic(more: &[&str]) -> Vec<Value> {
    rows(&ok(&[&["data", "generate", "arithmetic"], more].concat()))
}

#[test]
fn word_problems_are_written_in_the_shapes_of_their_models() {
    let plain = arithmetic(&["--problems", "5", "--steps", "2"]);
    assert_eq!(plain.len(), 5);
    assert!(plain.iter().all(|row| row["steps"] == 2));
    let sets = "original,ans-aug,rephrased,sv,fobar";
    let augmented = arithmetic(&["--problems", "5", "--sets", sets, "--format", "metamathqa"]);
    let kinds: std::collections::BTreeSet<&str> = augmented
        .iter()
        .filter_map(|row| row["type"].as_str())
        .collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    for row in &augmented {
        let response = row["response"].as_str().unwrap();
        assert!(response.contains("\nThe answer is: "), "{response}");
    }
    let backward = [
        "--split",
        "test",
        "--sets",
        "sv,fobar",
        "--format",
        "gsm8k-backward",
        "--rows",
        "20",
    ];
    let backward = arithmetic(&backward);
    assert_eq!(backward.len(), 20);
    let number = |row: &Value| {
        row["answer"]
            .as_str()
            .and_then(|text| text.parse::<u32>().ok())
    };
    assert!(backward.iter().all(|row| number(row).is_some()));
}

#[test]
fn word_problems_go_to_a_file_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    ok(&["data", "generate", "arithmetic", "--output", text_of(&file)]);
    assert_eq!(rows(&fs::read_to_string(&file).unwrap()).len(), 1000);
    let refused = ["data", "generate", "arithmetic", "--steps", "9", "--output"];
    let message = fails(&[&refused[..], &[text_of(&file)]].concat(), 2);
    assert!(message.contains("`steps`"), "{message}");
    assert_eq!(rows(&fs::read_to_string(&file).unwrap()).len(), 1000);
}

#[test]
fn models_are_described() {
    let model = inspected("assets/stories260k");
    assert_eq!(
        (&model["kind"], &model["parameters"]),
        (&"model".into(), &260_032.into())
    );
    assert_eq!(
        (&model["vocabulary"], &model["context"]),
        (&512.into(), &512.into())
    );
    assert_eq!(
        (&model["tied_embeddings"], &model["dtype"]),
        (&true.into(), &"F32".into())
    );
    assert_eq!(inspected("assets/stories260k/config.json")["kind"], "model");
    let text = ok(&["inspect", "tests/golden/llama/gqa/model"]);
    assert!(
        text.contains("key value heads    2\n") && text.ends_with("fit the architecture\n"),
        "{text}"
    );
}

#[test]
fn weights_that_do_not_fit_their_configuration_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = Path::new(ROOT).join("assets/stories260k");
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["num_hidden_layers"] = 6.into();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    fs::copy(
        model.join("model.safetensors"),
        dir.path().join("model.safetensors"),
    )
    .unwrap();
    let output = temper(&["inspect", text_of(dir.path())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        out(&output).contains("model.layers.5.mlp.up_proj.weight"),
        "{}",
        out(&output)
    );
}

#[test]
fn adapters_are_described_and_checked_against_a_model() {
    let case = "tests/golden/oft/llama_oft_all_cn";
    let adapter = format!("{case}/adapter");
    let found = inspected(&adapter);
    assert_eq!(
        (&found["kind"], &found["method"]),
        (&"adapter".into(), &"oft".into())
    );
    assert_eq!(
        (&found["block_size"], &found["modules"]),
        (&16.into(), &14.into())
    );
    let says = |text: &str, fact: &[&str]| {
        let mut lines = text.lines();
        lines.any(|line| line.split_whitespace().eq(fact.iter().copied()))
    };
    let text = ok(&["inspect", &adapter, "--model", case]);
    assert!(says(&text, &["fits", "yes"]), "{text}");
    let lora = "tests/golden/oft/lora_conv3x3";
    let base = format!("{lora}/base.safetensors");
    let text = ok(&["inspect", &format!("{lora}/adapter"), "--model", &base]);
    assert!(says(&text, &["matched", "2"]), "{text}");
}

#[test]
fn an_adapter_of_another_model_does_not_fit() {
    let adapter = "tests/golden/llama/mha/oft_adapter_final";
    let output = temper(&[
        "inspect",
        adapter,
        "--model",
        "tests/golden/llama/gqa/model",
        "--json",
    ]);
    let fitting = temper(&[
        "inspect",
        adapter,
        "--model",
        "tests/golden/llama/mha/model",
        "--json",
    ]);
    assert!(fitting.status.success(), "{}", err(&fitting));
    let report: Value = serde_json::from_str(&out(&output)).unwrap_or_default();
    // Another width or another number of layers: either way it must not pass.
    assert_eq!(output.status.code(), Some(1), "{report}");
    let message = fails(
        &["inspect", "assets/gsm8k", "--model", "assets/stories260k"],
        2,
    );
    assert!(message.contains("is a dataset"), "{message}");
}

#[test]
fn runs_and_their_checkpoints_are_described_without_being_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my-run");
    finished_run(&path);
    let torn = path.join("checkpoints/step-00000002/state.bin");
    fs::write(&torn, b"torn").unwrap();
    let before = listing(&path);
    let run = inspected(text_of(&path));
    assert_eq!(listing(&path), before);
    assert_eq!(
        (&run["kind"], &run["name"]),
        (&"run".into(), &"quick".into())
    );
    assert_eq!((&run["steps"], &run["last_loss"]), (&2.into(), &0.5.into()));
    assert_eq!(
        (&run["method"], &run["finished"]),
        (&"oft".into(), &true.into())
    );
    let checkpoints = run["checkpoint_directories"].as_array().unwrap();
    assert_eq!(checkpoints[1]["state"], "verified");
    assert!(
        checkpoints[0]["state"]
            .as_str()
            .unwrap()
            .starts_with("skipped: "),
        "{checkpoints:?}"
    );

    let good = path.join("checkpoints/step-00000001");
    let checkpoint = inspected(text_of(&good));
    assert_eq!(
        (&checkpoint["step"], &checkpoint["state"]),
        (&1.into(), &"verified".into())
    );
    let message = fails(
        &["inspect", text_of(&path.join("checkpoints/step-00000002"))],
        1,
    );
    assert!(message.contains("state.bin"), "{message}");
}

/// A run of two steps with a checkpoint after each.
fn finished_run(path: &Path) {
    let run = RunDir::create(path, RunMode::Fresh).unwrap();
    let recipe = ok(&[
        "recipe",
        "show",
        "recipes/quickstart.toml",
        "--set",
        "run.name=quick",
    ]);
    // The data may be gone when the run is looked at.
    fs::write(
        run.recipe(),
        recipe.replace("train-1000.jsonl", "gone.jsonl"),
    )
    .unwrap();
    let mut metrics = MetricsWriter::create(&run.metrics()).unwrap();
    let mut store = run.checkpoint_store().unwrap();
    for step in 1..=2 {
        let loss = 1.0 / step as f64;
        let metric = Metric {
            step,
            loss,
            lr: 0.1,
            grad_norm: 1.0,
            items: Items::new(Unit::Tokens, 10, 5.0),
            memory_bytes: 1,
            seconds: 1.0,
        };
        metrics.write(&Row::Train(metric)).unwrap();
        store
            .save::<RunError>(step, 5, |writer| writer.write("state.bin", b"state"))
            .unwrap();
    }
    run.write_json(
        &run.summary(),
        &Summary {
            last_loss: 0.5,
            steps: 2,
            ..Summary::default()
        },
    )
    .unwrap();
}

/// Names and contents below a directory.
fn listing(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(listing(&path));
        } else {
            found.push((text_of(&path).to_owned(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn data_tokenizers_weights_and_recipes_are_described() {
    let data = inspected("assets/gsm8k");
    assert_eq!(
        (&data["kind"], &data["rows"]),
        (&"dataset".into(), &1100.into())
    );
    assert_eq!(data["files"][0]["data_kind"], "gsm8k");
    assert_eq!(inspected(TOKENIZER_GOLDEN)["files"][0]["data_kind"], "text");
    let tokenizer = inspected("tests/golden/llama_tokenizer/tokenizer.model");
    assert_eq!(
        (&tokenizer["ids"], &tokenizer["end_token"]),
        (&32000.into(), &"2 `</s>`".into())
    );
    assert_eq!(
        inspected("assets/stories260k/tokenizer.json")["kind"],
        "tokenizer"
    );
    let weights = inspected("tests/golden/oft/mlp_b8_exact/base.safetensors");
    assert_eq!(
        weights["tensors_by_name"][1]["shape"],
        serde_json::json!([32, 16])
    );
    assert_eq!(inspected("recipes/quickstart.toml")["steps"], 80);
}

#[test]
fn anything_else_is_an_error_that_lists_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let notes = dir.path().join("notes.md");
    fs::write(&notes, "hello").unwrap();
    for path in [
        text_of(dir.path()),
        text_of(&notes),
        "Cargo.toml",
        "assets/stories260k/generation_config.json",
    ] {
        let message = fails(&["inspect", path], 1);
        assert!(
            message.contains("nothing that") && message.contains("adapter_config.json"),
            "{message}"
        );
    }
    assert!(fails(&["inspect", "no/such/path"], 1).contains("no/such/path"));
    let garbage = dir.path().join("garbage.safetensors");
    fs::write(&garbage, [255; 64]).unwrap();
    assert!(fails(&["inspect", text_of(&garbage)], 1).contains("garbage.safetensors"));
    fails(&["inspect"], 2);
}
