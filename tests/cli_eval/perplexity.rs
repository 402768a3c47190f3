//! `temper eval --task perplexity`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};

use super::support::{Bench, fail, lines, path, rows, succeed, text};

fn args<'a>(data: &'a str, output: &'a str, model: &'a str) -> Vec<&'a str> {
    vec![
        "eval",
        "--task",
        "perplexity",
        "--model",
        model,
        "--data",
        data,
        "--device",
        "cpu",
        "--output",
        output,
    ]
}

/// The loss that `temper forward` reports for one row of ids.
fn forward(bench: &Bench, model: &str, ids: &[i64]) -> f64 {
    let (input, output) = (bench.path("in.safetensors"), bench.path("out.safetensors"));
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let ids = HostTensor::new(Dtype::I64, vec![1, ids.len()], bytes).unwrap();
    let tensors = [
        ("input_ids".to_owned(), ids.clone()),
        ("labels".to_owned(), ids),
    ];
    save_safetensors(&input, &tensors, &BTreeMap::new()).unwrap();
    let args = [
        "forward",
        "--model",
        model,
        "--input",
        text(&input),
        "--output",
        text(&output),
        "--device",
        "cpu",
    ];
    succeed(&args);
    f64::from(Checkpoint::open(&output).unwrap().read_f32("loss").unwrap()[0])
}

#[test]
fn the_loss_is_the_mean_over_all_tokens_of_all_rows() {
    let bench = Bench::new();
    let model = path("assets/stories260k");
    let model = text(&model);
    let ids: [Vec<i64>; 2] = [(1..40).collect(), vec![1, 403, 407, 261, 378]];
    let losses = ids.clone().map(|ids| forward(&bench, model, &ids));
    let asked = ids.each_ref().map(|ids| json!({ "input_ids": ids }));
    let data = bench.write("ids.jsonl", lines(&asked));
    let output = bench.path("p");
    let more = ["--kind", "tokens", "--json"];
    let (shown, _) = succeed(&[&args(text(&data), text(&output), model)[..], &more].concat());
    let summary: Value = serde_json::from_str(&shown).unwrap();
    let expected = (losses[0] * 38.0 + losses[1] * 4.0) / 42.0;
    assert_eq!(summary["cut"], 0);
    assert_eq!(
        (&summary["tokens"], &summary["rows"]),
        (&json!(42), &json!(2))
    );
    let found = summary["loss"].as_f64().unwrap();
    assert!(
        (found - expected).abs() < 1e-5,
        "{found}, expected {expected}"
    );
    let perplexity = summary["perplexity"].as_f64().unwrap();
    assert!((perplexity - found.exp()).abs() < 1e-9);
    assert_eq!(bench.json("p/summary.json"), summary);
}

#[test]
fn stories_surprise_a_story_model_less_than_mathematics() {
    let bench = Bench::new();
    let model = path("assets/stories260k");
    let story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";
    let data = bench.write("story.txt", format!("{story}\n"));
    let output = bench.path("story");
    let (shown, _) = succeed(
        &[
            &args(text(&data), text(&output), text(&model))[..],
            &["--json"],
        ]
        .concat(),
    );
    let story: Value = serde_json::from_str(&shown).unwrap();
    let (gsm8k, output) = (path("assets/gsm8k/test-100.jsonl"), bench.path("gsm8k"));
    let more = ["--kind", "gsm8k", "--limit", "3", "--json"];
    let (shown, _) =
        succeed(&[&args(text(&gsm8k), text(&output), text(&model))[..], &more].concat());
    let mathematics: Value = serde_json::from_str(&shown).unwrap();
    let perplexity = |of: &Value| of["perplexity"].as_f64().unwrap();
    assert!(perplexity(&story) < 4.0, "{story}");
    assert!(
        perplexity(&mathematics) > 4.0 * perplexity(&story),
        "{mathematics}"
    );
    assert!(bench.read("story/report.html").contains("Once upon a time"));
}

#[test]
fn shards_merge_and_a_started_one_goes_on() {
    let bench = Bench::new();
    let model = path("assets/stories260k");
    let data = bench.write(
        "lines.txt",
        "One day\nTom saw a big dog.\nThe sun was hot.\nShe was happy\n",
    );
    let run = |name: &str, more: &[&str]| {
        let output = bench.path(name);
        succeed(&[&args(text(&data), text(&output), text(&model))[..], more].concat());
    };
    run("whole", &[]);
    run("a", &["--shard", "0/2"]);
    run("b", &["--shard", "1/2"]);
    let merged = bench.path("merged");
    let (a, b) = (bench.path("a"), bench.path("b"));
    succeed(&[
        "eval",
        "merge",
        text(&b),
        text(&a),
        "--output",
        text(&merged),
    ]);
    bench.assert_same("merged", "whole");
    let traces = bench.read("whole/traces.jsonl");
    let torn = lines(&rows(&traces)[..2]) + "{\"index\": 3, \"tok";
    bench.write("whole/traces.jsonl", torn);
    std::fs::remove_file(bench.path("whole/summary.json")).unwrap();
    run("whole", &[]);
    assert_eq!(bench.read("whole/traces.jsonl"), traces);
    assert_eq!(rows(&traces).len(), 4);
    let said = fail(1, &["eval", "diff", text(&a), text(&b)]);
    assert!(said.contains("no verdicts"), "{said}");
}

#[test]
fn unknown_words_are_refused() {
    let bench = Bench::new();
    let (model, output) = (path("assets/stories260k"), bench.path("p"));
    let args = args("x.txt", text(&output), text(&model));
    let found = super::support::output(&[&args[..], &["--kind", "prose"]].concat());
    let said = String::from_utf8(found.stderr).unwrap();
    assert_eq!(found.status.code(), Some(2));
    assert!(said.contains("metamathqa"), "{said}");
}
