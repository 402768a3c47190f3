//! What a run asks, keeps and writes.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::server::{Act, Server};
use super::support::{Bench, KEY, all_text};

#[test]
fn every_kind_of_row_is_asked_for_as_the_paper_says_and_kept_in_its_schema() {
    let (bench, server) = (Bench::new(3), Server::good());
    let run = bench.run("all", &server.url);
    let stdout = run.output().ok().stdout();
    // A question: one answer; one rephrased; for each of two numbers one statement and one FOBAR.
    let rows = run.rows();
    assert_eq!(rows.len(), 3 * (1 + 1 + 2 + 2));
    let kinds: Vec<&str> = rows
        .iter()
        .map(|row| row["type"].as_str().unwrap())
        .collect();
    let of_a_question = [
        "GSM_AnsAug",
        "GSM_Rephrased",
        "GSM_SV",
        "GSM_SV",
        "GSM_FOBAR",
        "GSM_FOBAR",
    ];
    assert_eq!(kinds, of_a_question.repeat(3));
    let original = "Ann has 3 red pens and 5 blue pens. How many pens does she have in all?";
    assert_eq!(
        rows[0],
        json!({"type": "GSM_AnsAug", "query": original, "original_question": original,
            "response": "3 + 5 = 8.\n#### 8\nThe answer is: 8"})
    );
    assert_eq!(
        rows[1]["query"],
        "What is the sum when 3 pens lie on a heap and 5 on another?"
    );
    assert_eq!(
        rows[2]["query"],
        "Ann has x red pens and 5 blue pens. There are 8 pens in all. What is the value of unknown variable x?"
    );
    assert_eq!(
        rows[5]["query"],
        "Ann has 3 red pens and x blue pens. How many pens does she have in all?\nIf we know the answer \
         to the above question is 8, what is the value of unknown variable x?"
    );
    assert_eq!(
        rows[5]["response"],
        "8 = x + 3.\nThe value of x is 5.\n#### 5\nThe answer is: 5"
    );
    let fields: Vec<&String> = rows[5].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["type", "query", "original_question", "response"]);
    let head = stdout.lines().next().unwrap();
    let words: Vec<&str> = head.split_whitespace().collect();
    assert_eq!(
        words,
        [
            "GSM_AnsAug",
            "GSM_Rephrased",
            "GSM_SV",
            "GSM_FOBAR",
            "total"
        ]
    );
    let counts: Vec<&str> = stdout.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(counts, ["gsm8k", "3", "3", "6", "6", "18"]);
}

#[test]
fn requests_have_the_layout_of_the_authors_and_seeds_of_their_own() {
    let (bench, server) = (Bench::new(1), Server::good());
    let run = bench
        .run("layout", &server.url)
        .set("text_model.concurrency=1");
    run.output().ok();
    let seen = server.seen();
    let cases: Vec<&str> = seen.iter().map(super::server::Seen::case).collect();
    assert_eq!(
        cases[0],
        "Ann has 3 red pens and 5 blue pens. How many pens does she have in all?\nA: Let's think step by step.\n"
    );
    assert!(cases[1].ends_with("\nRephrase the above question: "));
    assert_eq!(
        cases[3],
        "How many pens does she have in all? The answer is 8.\n Result: "
    );
    for request in &seen {
        assert_eq!(request.path, "/v1/chat/completions");
        let body = &request.body;
        assert_eq!(
            (&body["model"], &body["temperature"]),
            (&json!("test-writer"), &json!(0.7))
        );
        assert_eq!(
            body["messages"][0],
            json!({"role": "system", "content": "Follow the given examples and answer the question."})
        );
        assert_eq!(
            request.authorization.as_deref(),
            Some(format!("Bearer {KEY}").as_str())
        );
    }
    let mut seeds: Vec<u64> = seen
        .iter()
        .map(|request| request.body["seed"].as_u64().unwrap())
        .collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(
        seeds.len(),
        9,
        "an answer, a rephrased question and two statements with theirs, two FOBAR answers"
    );
}

#[test]
fn base_models_are_asked_for_completions() {
    let (bench, server) = (Bench::new(1), Server::good());
    let run = bench
        .run("base", &server.url)
        .set("text_model.mode=completion")
        .set("text_model.send_seed=false");
    run.set("text_model.max_new_tokens=300").output().ok();
    for request in server.seen() {
        assert_eq!(request.path, "/v1/completions");
        assert_eq!(request.body["stop"], json!(["Question:"]));
        assert_eq!(request.body["max_tokens"], 300);
        assert!(request.body.get("messages").is_none() && request.body.get("seed").is_none());
    }
}

#[test]
fn every_generation_leaves_a_line_that_says_where_it_comes_from() {
    let bench = Bench::new(2);
    let server = Server::start(|_, request| {
        let is_first = request.case().starts_with("Ann has 3 red pens and 5");
        if is_first {
            Act::WrongAnswer
        } else {
            Act::Answer
        }
    });
    let run = bench.run("lines", &server.url);
    run.output().ok();
    let lines = run.lines("provenance.jsonl");
    assert_eq!(lines.len(), 2 * 9);
    let mut first = lines[0].clone();
    let seed = first["seed"].take();
    let hash = first["prompt_sha256"].take();
    let question = "Ann has 3 red pens and 5 blue pens. How many pens does she have in all?";
    assert_eq!(
        first,
        json!({
            "row": 0, "kind": "ans_aug", "number": null, "sample": 0, "stage": "solve", "seed": null,
            "model": "test-writer", "prompt_sha256": null, "query": question,
            "reply": "3 + 5 = 9.\nThe answer is 9.", "answer": "9", "truth": "8",
            "outcome": "rejected", "reason": "other answer", "attempts": 1, "failures": [],
            "prompt_tokens": 1000, "reply_tokens": 50, "tokens_estimated": false,
        })
    );
    let seen = server.seen();
    let request = seen
        .iter()
        .find(|request| request.body["seed"] == seed)
        .unwrap();
    let digest = Sha256::digest(request.prompt().as_bytes());
    let hex = digest
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    assert_eq!(hash, json!(hex));
    let rewrite = &lines[1];
    assert_eq!(
        (&rewrite["stage"], &rewrite["outcome"]),
        (&json!("rewrite"), &json!("rewritten"))
    );
    let kind = run.kind("GSM_AnsAug");
    assert_eq!(
        (&kind["rejected"], &kind["accepted"]),
        (&json!({"other answer": 1}), &json!(1))
    );
    assert_eq!(run.summary()["finished"], true);
}

#[test]
fn replies_that_cannot_be_used_are_rejected_with_their_reasons() {
    let bench = Bench::new(3);
    let server = Server::start(|_, request| {
        let case = request.case();
        let is_rephrase = case.contains("Rephrase the above");
        match case.split(' ').nth(2) {
            Some("3") if is_rephrase => Act::Say("  \n"),
            Some("3") => Act::Say("I cannot say."),
            Some("4") if !is_rephrase => Act::Say(""),
            _ => Act::Answer,
        }
    });
    let run = bench.run("reasons", &server.url);
    run.clone()
        .set("samples.fobar=0")
        .set("samples.self_verification=0")
        .output()
        .ok();
    assert_eq!(
        run.kind("GSM_AnsAug")["rejected"],
        json!({"empty reply": 1, "no answer": 1})
    );
    assert_eq!(
        run.kind("GSM_Rephrased")["rejected"],
        json!({"empty reply": 1})
    );
    assert_eq!(run.rows().len(), 1 + 2);
}

#[test]
fn what_comes_out_does_not_depend_on_what_runs_at_the_same_time() {
    let bench = Bench::new(6);
    // Replies come in another order than requests, and some are wrong, by what is asked.
    let rule = |_: usize, request: &super::server::Seen| match request.body["seed"]
        .as_u64()
        .unwrap()
        % 5
    {
        0 => Act::WrongAnswer,
        1 => Act::Slow(30),
        _ => Act::Answer,
    };
    let server = Server::start(rule);
    let files = |name: &str, concurrency: usize| {
        let run = bench
            .run(name, &server.url)
            .set("samples.answer_augmentation=3");
        run.clone()
            .set(&format!("text_model.concurrency={concurrency}"))
            .output()
            .ok();
        (run.file("data.json"), run.file("provenance.jsonl"))
    };
    let alone = files("alone", 1);
    assert!(alone.0.len() > 1000);
    assert_eq!(files("together", 32), alone);
}

#[test]
fn duplicates_are_counted_and_dropped_on_request() {
    let (bench, server) = (Bench::new(2), Server::good());
    let run = bench
        .run("kept", &server.url)
        .set("samples.answer_augmentation=4");
    run.output().ok();
    assert_eq!(run.kind("GSM_AnsAug")["duplicates"], 6);
    assert_eq!(run.kind("GSM_AnsAug")["written"], 8);
    let run = bench
        .run("dropped", &server.url)
        .set("samples.answer_augmentation=4");
    run.clone()
        .set("output.duplicates=drop")
        .set("output.format=jsonl")
        .output()
        .ok();
    assert_eq!(run.kind("GSM_AnsAug")["duplicates"], 6);
    assert_eq!(run.kind("GSM_AnsAug")["written"], 2);
    let lines = run.lines("data.jsonl");
    assert_eq!(lines.len(), 2 + 2 + 4 + 4);
    assert_eq!(run.summary()["rows"], 12);
}

#[test]
fn the_key_is_in_no_file_and_no_message() {
    let bench = Bench::new(1);
    // An endpoint that repeats what it was given.
    let server = Server::start(|_, _| Act::Say("sk-very-secret-0123456789"));
    let run = bench.run("secret", &server.url);
    let ran = run.output().ok();
    let said = ran.stdout() + &ran.stderr();
    assert!(!said.contains(KEY), "{said}");
    let written: String = all_text(&run.dir)
        .lines()
        .filter(|line| !line.contains("\"reply\""))
        .collect();
    assert!(!written.contains(KEY), "{written}");
}

#[test]
fn a_dry_run_asks_nothing_and_writes_nothing() {
    let (bench, server) = (Bench::new(3), Server::good());
    let run = bench
        .run("dry", &server.url)
        .set("text_model.requests_per_minute=1");
    let stdout = run.clone().with("--dry-run").output().ok().stdout();
    assert!(
        stdout.contains("3 questions, 6 numbers to hide"),
        "{stdout}"
    );
    let requests = stdout
        .lines()
        .find(|line| line.starts_with("requests"))
        .unwrap();
    assert!(requests.ends_with("27"), "3 + 6 + 12 + 6: {requests}");
    assert!(stdout.contains("at least 0.5 hours"), "{stdout}");
    assert!(
        stdout.contains("How many pens does she have in all? The answer is 8.\n Result:"),
        "{stdout}"
    );
    assert!(server.seen().is_empty());
    assert!(!run.dir.exists());
}
