//! Models evaluated, killed, sharded, merged and compared.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{Bench, fail, lines, path, succeed, temper, text};

#[test]
fn an_evaluation_leaves_everything_that_determines_it() {
    let bench = Bench::new();
    let shown = bench.eval("a", &[]);
    assert!(shown.starts_with("gsm8k: 7 problems"), "{shown}");
    assert!(
        shown.contains("lm_eval_flexible") && shown.contains("question length"),
        "{shown}"
    );
    let config = bench.json("a/config.json");
    for key in [
        "/model/sha256",
        "/data/sha256",
        "/generation/prompts_sha256",
        "/tokenizer",
    ] {
        let hash = config.pointer(key).and_then(Value::as_str);
        assert!(hash.is_some_and(|hash| hash.len() >= 64), "{key}: {config}");
    }
    assert_eq!(config["generation"]["stop"].as_array().unwrap().len(), 10);
    assert_eq!(config["dtype"], "f32");
    let traces = bench.traces("a");
    assert_eq!(traces.len(), 7);
    for (place, trace) in traces.iter().enumerate() {
        assert_eq!(trace["index"], place);
        let prompt = trace["prompt"].as_str().unwrap();
        assert!(prompt.contains(trace["question"].as_str().unwrap()));
        assert!(prompt.ends_with("### Response: Let's think step by step."));
        assert_eq!(trace["tokens"], 12);
        assert_eq!(trace["finish"], "length");
    }
    let first: Value = serde_json::from_str(
        std::fs::read_to_string(path("assets/gsm8k/test-100.jsonl"))
            .unwrap()
            .lines()
            .next()
            .unwrap(),
    )
    .unwrap();
    assert_eq!(traces[0]["question"], first["question"]);
    assert!(
        first["answer"]
            .as_str()
            .unwrap()
            .ends_with(&format!("#### {}", traces[0]["answer"].as_str().unwrap()))
    );
    let summary = bench.json("a/summary.json");
    assert_eq!(summary["problems"], 7);
    assert_eq!(summary["finish"], json!({"length": 7}));
    assert_eq!(summary["tokens"]["completion"], 84);
    assert!(bench.read("a/report.html").contains("<svg"));
    // Asked again, everything is there already, and the answer is the same.
    let before = bench.read("a/traces.jsonl");
    let again = bench.eval("a", &["--json"]);
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), summary);
    assert_eq!(bench.read("a/traces.jsonl"), before);
}

#[test]
fn a_killed_evaluation_goes_on_and_ends_with_the_same_bytes() {
    let bench = Bench::new();
    let more = [
        "--batch-size",
        "1",
        "--limit",
        "20",
        "--temperature",
        "1",
        "--seed",
        "5",
    ];
    bench.eval("whole", &more);
    let args = bench.args("killed", &more);
    let traces = bench.path("killed/traces.jsonl");
    let written = || {
        let text = std::fs::read(&traces).unwrap_or_default();
        text.split_inclusive(|&byte| byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
            .count()
    };
    for kill_after in [1, 6] {
        let mut child = temper(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while written() < kill_after && start.elapsed() < Duration::from_mins(1) {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(
            !status.success(),
            "the kill must hit an evaluation in progress"
        );
        let rows = written();
        assert!((kill_after..20).contains(&rows), "{rows}");
        assert!(!bench.path("killed/summary.json").exists());
    }
    // A row that was being written when the machine went down.
    let mut torn = std::fs::read(&traces).unwrap();
    let row = torn.split(|&byte| byte == b'\n').next().unwrap().to_vec();
    torn.extend(&row[..row.len() / 2]);
    std::fs::write(&traces, torn).unwrap();
    let (_, said) = succeed(&args);
    assert!(
        !said.contains("eval: 1/20"),
        "finished rows are not repeated: {said}"
    );
    bench.assert_same("killed", "whole");
}

#[test]
fn a_changed_setting_is_refused_by_name() {
    let bench = Bench::new();
    bench.eval("a", &["--limit", "2"]);
    let before = bench.read("a/traces.jsonl");
    for (more, name) in [
        (["--limit", "3"], "`data.limit` was 2, is 3"),
        (
            ["--max-new-tokens", "13"],
            "`generation.max_new_tokens` was 12, is 13",
        ),
        (
            ["--prompt-style", "lm-eval"],
            "`generation.prompt_style` was \"metamath\", is \"lm-eval\"",
        ),
        (["--suffix", " Now."], "`generation.suffix`"),
        (["--dtype", "bf16"], "`dtype` was \"f32\", is \"bf16\""),
        (["--shard", "0/2"], "`shard.count` was 1, is 2"),
        (["--task", "gsm8k-backward"], "`task` was \"gsm8k\""),
    ] {
        let more = [&["--limit", "2"][..], &more].concat();
        let said = bench.refuse(2, "a", &more);
        assert!(said.contains(name), "{said}");
    }
    assert_eq!(bench.read("a/traces.jsonl"), before);
    // Where and in what batches it runs decides nothing.
    bench.eval("a", &["--limit", "2", "--batch-size", "3"]);
    std::fs::create_dir(bench.path("other")).unwrap();
    bench.write("other/notes.txt", "mine");
    let said = bench.refuse(2, "other", &[]);
    assert!(said.contains("holds no evaluation"), "{said}");
}

#[test]
fn completions_do_not_depend_on_the_batch() {
    let bench = Bench::new();
    for (name, size) in [("one", "1"), ("three", "3"), ("all", "7")] {
        bench.eval(name, &["--batch-size", size, "--temperature", "0.8"]);
    }
    bench.assert_same("one", "three");
    bench.assert_same("one", "all");
}

#[test]
fn merged_shards_are_the_whole() {
    let bench = Bench::new();
    bench.eval("whole", &[]);
    let shards: Vec<String> = (0..3)
        .map(|index| {
            let name = format!("shard {index}");
            bench.eval(&name, &["--shard", &format!("{index}/3")]);
            text(&bench.path(&name)).to_owned()
        })
        .collect();
    let merge = |shards: &[&str], output: &str| -> Vec<String> {
        let mut args: Vec<String> = ["eval", "merge"].map(str::to_owned).to_vec();
        args.extend(shards.iter().map(|&shard| shard.to_owned()));
        args.extend(["--output".to_owned(), text(&bench.path(output)).to_owned()]);
        args
    };
    let shards: Vec<&str> = shards.iter().map(String::as_str).collect();
    let run = |args: &[String]| succeed(args).0;
    let refused = |args: &[String]| fail(1, args);
    let shown = run(&merge(&[shards[2], shards[0], shards[1]], "merged"));
    assert!(shown.starts_with("gsm8k: 7 problems"), "{shown}");
    bench.assert_same("merged", "whole");
    let without_info = |name: &str| {
        let mut config = bench.json(&format!("{name}/config.json"));
        config.as_object_mut().unwrap().remove("info");
        config
    };
    assert_eq!(without_info("merged"), without_info("whole"));

    let said = refused(&merge(&shards[..2], "x"));
    assert!(said.contains("2/3 is missing"), "{said}");
    let said = refused(&merge(&[shards[0], shards[1], shards[1]], "x"));
    assert!(said.contains("both shard 1/3"), "{said}");
    bench.eval("other", &["--shard", "2/3", "--limit", "6"]);
    let other = bench.path("other");
    let said = refused(&merge(&[shards[0], shards[1], text(&other)], "x"));
    assert!(said.contains("`data.limit` was 7, is 6"), "{said}");
    std::fs::remove_file(bench.path("shard 2/summary.json")).unwrap();
    let said = refused(&merge(&shards, "x"));
    assert!(
        said.contains("shard 2") && said.contains("to finish it"),
        "{said}"
    );
    assert!(
        !bench.path("x").exists(),
        "nothing is left of a refused merge"
    );
}

/// Gives the first problems of an evaluation other verdicts.
fn set_verdicts(bench: &Bench, name: &str, verdicts: &[bool]) {
    let mut traces = bench.traces(name);
    for (trace, &verdict) in traces.iter_mut().zip(verdicts) {
        for grader in ["metamath", "lm_eval_strict", "lm_eval_flexible"] {
            trace["graders"][grader] = json!({"extracted": "1", "correct": verdict});
        }
    }
    bench.write(&format!("{name}/traces.jsonl"), lines(&traces));
}

#[test]
fn two_evaluations_are_compared_problem_by_problem() {
    let bench = Bench::new();
    bench.eval("a", &[]);
    bench.eval("b", &["--few-shot", "1", "--prompt-style", "lm-eval"]);
    set_verdicts(
        &bench,
        "a",
        &[true, false, false, false, false, true, false],
    );
    set_verdicts(&bench, "b", &[true, true, true, true, true, false, false]);
    let (a, b) = (bench.path("a"), bench.path("b"));
    let (shown, _) = succeed(&["eval", "diff", text(&a), text(&b), "--json"]);
    let found: Value = serde_json::from_str(&shown).unwrap();
    let graded = &found["graders"]["metamath"];
    assert_eq!(graded["pairs"]["first_only"], 1);
    assert_eq!(graded["pairs"]["second_only"], 4);
    assert_eq!(graded["p_value"], 0.375);
    assert!((graded["difference"].as_f64().unwrap() - 3.0 / 7.0).abs() < 1e-12);
    assert_eq!(found["changed"].as_array().unwrap().len(), 5);
    let (shown, _) = succeed(&["eval", "diff", text(&a), text(&b)]);
    for part in [
        "7 problems",
        "0.3750",
        "won under metamath",
        "#1 ",
        "lost under metamath",
        "#5 ",
        "few_shot",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let mut traces = bench.traces("b");
    traces[3]["question"] = json!("another");
    bench.write("b/traces.jsonl", lines(&traces));
    let said = fail(1, &["eval", "diff", text(&a), text(&b)]);
    assert!(said.contains("problem 3 is not the same in both"), "{said}");
    let said = fail(1, &["eval", "diff", text(&a), text(&bench.path("none"))]);
    assert!(said.contains("config.json"), "{said}");
}

#[test]
fn rows_without_an_answer_are_named_and_prompts_without_room_are_counted() {
    let bench = Bench::new();
    let long = "apples and ".repeat(600);
    let data = bench.write(
        "problems.jsonl",
        format!(
            "{}\nnonsense\n{}\n{}\n",
            json!({"question": "1 + 1?", "answer": "#### 2"}),
            json!({"question": "no answer?", "answer": "unknown"}),
            json!({"question": long, "answer": "#### 7"}),
        ),
    );
    let args = bench.args("a", &["--data", text(&data)]);
    let (shown, said) = succeed(&args);
    assert!(
        said.contains("line 2 is left out") && said.contains("line 3 is left out"),
        "{said}"
    );
    assert!(
        shown.contains("2 rows without a true answer left out"),
        "{shown}"
    );
    let traces = bench.traces("a");
    assert_eq!(traces.len(), 2);
    assert_eq!(traces[1]["finish"], "error");
    assert!(
        traces[1]["error"]
            .as_str()
            .unwrap()
            .contains("context of 512")
    );
    assert_eq!(
        bench.json("a/summary.json")["finish"],
        json!({"error": 1, "length": 1})
    );
    let empty = bench.write("empty.jsonl", "nonsense\n");
    let said = bench.refuse(1, "b", &["--data", text(&empty)]);
    assert!(
        said.contains("no gsm8k problem") && said.contains("line 1"),
        "{said}"
    );
    assert!(!bench.path("b").exists());
}

#[test]
fn mathematics_is_broken_down_by_level_and_subject() {
    let bench = Bench::new();
    let data = path("assets/math/test-100.jsonl");
    let shown = bench.eval("a", &["--task", "math", "--data", text(&data)]);
    assert!(
        shown.contains("\nlevel ") && shown.contains("\nsubject "),
        "{shown}"
    );
    let summary = bench.json("a/summary.json");
    for (groups, field) in [("by_level", "level"), ("by_subject", "subject")] {
        let groups = summary[groups].as_array().unwrap();
        let counted: u64 = groups
            .iter()
            .map(|group| group["problems"].as_u64().unwrap())
            .sum();
        assert_eq!(counted, 7, "{summary}");
        for group in groups {
            let traces = bench.traces("a");
            let of = traces.iter().filter(|trace| trace[field] == group["name"]);
            assert_eq!(of.count() as u64, group["problems"], "{group}");
        }
    }
    assert!(summary.get("by_question_length").is_none());
}

#[test]
fn hostile_problems_stay_text_in_the_report() {
    let bench = Bench::new();
    let row = json!({"question": "</pre><script>alert('x')</script>\u{0}{{ 7 * 7 }}", "answer": "#### 7"});
    let data = bench.write("problems.jsonl", format!("{row}\n"));
    bench.eval("a", &["--data", text(&data)]);
    let report = bench.read("a/report.html");
    assert!(!report.contains("<script"), "{report}");
    assert!(report.contains("{{ 7 * 7 }}"));
}
