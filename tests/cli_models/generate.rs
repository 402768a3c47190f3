//! `temper generate`.

use std::path::Path;

use serde_json::{Value, json};
use temper_adapters::weights::Checkpoint;

use super::support::{fail, integers, path, stories, succeed, text};

/// Runs `temper generate` on rows and returns the rows that come back.
fn generate(model: &Path, rows: &[Value], more: &[&str]) -> Vec<Value> {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("rows.jsonl");
    let lines: String = rows
        .iter()
        .flat_map(|row| [row.to_string(), "\n".to_owned()])
        .collect();
    std::fs::write(&input, lines).unwrap();
    let args = [
        &["generate", "--model", text(model), "--input", text(&input)],
        more,
    ]
    .concat();
    succeed(&args)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The rows of a left-padded prompt, without their padding.
fn unpadded(golden: &Checkpoint) -> Vec<Value> {
    let width = golden.info("left_padded_prompt").unwrap().shape[1];
    let ids = integers(golden, "left_padded_prompt");
    let mask = integers(golden, "left_pad_mask");
    let row = |(ids, mask): (&[i64], &[i64])| {
        let real = ids.iter().zip(mask).filter(|(_, mask)| **mask == 1);
        json!({"input_ids": real.map(|(id, _)| *id).collect::<Vec<_>>()})
    };
    ids.chunks(width).zip(mask.chunks(width)).map(row).collect()
}

fn ids(row: &Value) -> Vec<i64> {
    row["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_i64().unwrap())
        .collect()
}

#[test]
fn greedy_ids_are_those_of_transformers_alone() {
    for name in ["gqa", "mha"] {
        let case = path("tests/golden/llama").join(name);
        let golden = Checkpoint::open(case.join("generation.safetensors")).unwrap();
        let prompt = integers(&golden, "prompt");
        let row = json!({"input_ids": prompt, "tag": 7});
        let done = generate(&case.join("model"), &[row], &["--max-new-tokens", "20"]);
        assert_eq!(
            ids(&done[0]),
            integers(&golden, "greedy")[prompt.len()..],
            "{name}"
        );
        assert_eq!(done[0]["tag"], 7, "other fields come back");
        assert!(done[0].get("completion").is_none(), "there is no tokenizer");
    }
}

#[test]
fn greedy_ids_are_those_of_transformers_in_batches() {
    for name in ["gqa", "mha"] {
        let case = path("tests/golden/llama").join(name);
        let golden = Checkpoint::open(case.join("generation.safetensors")).unwrap();
        let width = golden.info("left_padded_prompt").unwrap().shape[1];
        let all = integers(&golden, "greedy_batch");
        let total = golden.info("greedy_batch").unwrap().shape[1];
        for batch_size in ["1", "2"] {
            let more = ["--max-new-tokens", "12", "--batch-size", batch_size];
            let done = generate(&case.join("model"), &unpadded(&golden), &more);
            for (row, expected) in done.iter().zip(all.chunks(total)) {
                let ids = ids(row);
                let expected = &expected[width..];
                assert!(
                    expected.starts_with(&ids),
                    "{name}: {ids:?} in {expected:?}"
                );
                let ended = ids.last() == Some(&2);
                assert!(
                    ended || ids.len() == expected.len(),
                    "{name}: only the end token ends a row early"
                );
                assert_eq!(row["finish"], if ended { "eos" } else { "length" });
            }
        }
    }
}

#[test]
fn stories_are_told_word_for_word_as_the_reference_tells_them() {
    let golden = std::fs::read_to_string(path("tests/golden/stories260k/golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let (ids, story) = (
        &golden["greedy_from_bos"]["ids"],
        golden["greedy_from_bos"]["text"].as_str().unwrap(),
    );
    let ids = ids.as_array().unwrap();
    let new = (ids.len() - 1).to_string();
    let done = generate(
        &stories(),
        &[json!({"input_ids": [1]})],
        &["--max-new-tokens", &new],
    );
    assert_eq!(done[0]["ids"].as_array().unwrap(), &ids[1..]);
    assert_eq!(done[0]["completion"].as_str().unwrap().trim_start(), story);

    let prompt = "Once upon a time, there was a little girl named Lily.";
    let shown = succeed(&[
        "generate",
        "--model",
        text(&stories()),
        "--prompt",
        prompt,
        "--max-new-tokens",
        "60",
    ]);
    let rest = story.strip_prefix(prompt).unwrap();
    assert!(
        rest.starts_with(shown.strip_suffix('\n').unwrap()),
        "{shown:?}"
    );
    assert!(shown.len() > 60, "{shown:?}");
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let prompt = "Once upon a time, there was a little girl named Lily.";
    let model = stories();
    let common = [
        "generate",
        "--model",
        text(&model),
        "--prompt",
        prompt,
        "--stop",
    ];
    // Inside a word, and over several tokens of one letter or syllable each.
    assert_eq!(
        succeed(&[&common[..], &["outside in"]].concat()),
        " She loved to play \n"
    );
    assert_eq!(
        succeed(&[&common[..], &["nothing of this", "--stop", "ved t"]].concat()),
        " She lo\n"
    );
    let rows = generate(&model, &[json!({"prompt": prompt})], &["--stop", " in the"]);
    assert_eq!(
        (&rows[0]["completion"], &rows[0]["finish"]),
        (&json!(" She loved to play outside"), &json!("stop"))
    );
    assert_eq!(rows[0]["prompt"], prompt);
}

#[test]
fn a_seed_repeats_its_samples_in_whatever_batches() {
    let rows: Vec<Value> = [
        "One day",
        "The big red ball was",
        "Tim",
        "Once upon a time there was a dog",
        "She",
    ]
    .into_iter()
    .map(|prompt| json!({"prompt": prompt}))
    .collect();
    let sample = |seed: &str, batch_size: &str| {
        let common = [
            "--temperature",
            "0.9",
            "--top-k",
            "50",
            "--top-p",
            "0.95",
            "--max-new-tokens",
            "24",
        ];
        generate(
            &stories(),
            &rows,
            &[&common[..], &["--seed", seed, "--batch-size", batch_size]].concat(),
        )
    };
    let first = sample("3", "1");
    assert_eq!(first, sample("3", "1"));
    assert_eq!(first, sample("3", "4"));
    assert_eq!(first, sample("3", "5"));
    let other = sample("4", "5");
    assert!(
        first
            .iter()
            .zip(&other)
            .any(|(a, b)| a["completion"] != b["completion"])
    );
    assert!(
        first
            .iter()
            .zip(&rows)
            .all(|(done, row)| done["prompt"] == row["prompt"]),
        "rows keep their order"
    );
}

#[test]
fn a_prompt_near_the_context_gets_what_room_is_left() {
    let long: Vec<u32> = (0..508).map(|i| 300 + i % 100).collect();
    let rows = [
        json!({"input_ids": [1, 403]}),
        json!({"input_ids": long}),
        json!({"input_ids": [1]}),
    ];
    let done = generate(&stories(), &rows, &["--max-new-tokens", "16"]);
    let lengths: Vec<usize> = done
        .iter()
        .map(|row| row["ids"].as_array().unwrap().len())
        .collect();
    assert_eq!(lengths, [16, 4, 16]);
    assert_eq!(done[1]["finish"], "length");
}

#[test]
fn failures_have_their_exit_codes_and_say_what_to_do() {
    let model = stories();
    let one = ["generate", "--model", text(&model), "--prompt", "One"];
    assert!(fail(2, &[&one[..], &["--dtype", "f64"]].concat()).contains("f32, bf16, f16"));
    assert!(fail(2, &[&one[..], &["--temperature", "nan"]].concat()).contains("temperature"));
    assert!(fail(2, &[&one[..], &["--top-p", "1.5"]].concat()).contains("`top_p` is 1.5"));
    assert!(fail(2, &["generate", "--model", text(&model)]).contains("--prompt"));
    assert!(fail(1, &[&one[..], &["--template", "chat"]].concat()).contains("no chat template"));
    assert!(
        fail(
            1,
            &["generate", "--model", "/nowhere/at/all", "--prompt", "One"]
        )
        .contains("/nowhere/at/all")
    );
}

#[test]
fn a_missing_shard_is_named() {
    let model = stories();
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(model.join(name), broken.join(name)).unwrap();
    }
    let index = json!({"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}});
    std::fs::write(
        broken.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    let message = fail(
        1,
        &["generate", "--model", text(&broken), "--prompt", "One"],
    );
    assert!(
        message.contains("model-00001-of-00002.safetensors"),
        "{message}"
    );
}

#[test]
fn broken_rows_are_named() {
    let model = stories();
    let directory = tempfile::tempdir().unwrap();
    let rows = directory.path().join("rows.jsonl");
    let file = ["generate", "--model", text(&model), "--input", text(&rows)];
    for (content, expected) in [
        ("{\"prompt\": \"a\"}\n{\"prompt\": 3}\n", "line 2"),
        ("{\"prompt\": \"a\"}\n\n{oops\n", "line 3"),
        ("{\"question\": \"a\"}\n", "`question`"),
        ("{\"prompt\": \"a\", \"finish\": 1}\n", "`finish`"),
        ("{\"input_ids\": [1, 600]}\n", "600"),
        ("{\"input_ids\": []}\n", "row 0 is empty"),
        ("", "no rows"),
    ] {
        std::fs::write(&rows, content).unwrap();
        let message = fail(1, &file);
        assert!(message.contains(expected), "{message}");
    }
    let long: Vec<u32> = vec![300; 600];
    std::fs::write(
        &rows,
        format!(
            "{}\n{}\n",
            json!({"prompt": "a"}),
            json!({"input_ids": long})
        ),
    )
    .unwrap();
    let message = fail(1, &file);
    assert!(
        message.contains("row 1 has 600 tokens") && message.contains("512"),
        "{message}"
    );
}
