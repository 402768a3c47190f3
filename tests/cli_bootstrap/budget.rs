//! Budgets: a run stops where it was told to, and goes on from there.

use serde_json::json;

use super::server::Server;
use super::support::Bench;

#[test]
fn a_budget_of_requests_is_kept_to_the_request_and_a_higher_one_goes_on() {
    let (bench, server) = (Bench::new(4), Server::good());
    let whole = bench.run("whole", &server.url);
    whole.output().ok();
    let all = server.seen().len();
    let run = bench.run("parts", &server.url);
    let stderr = run
        .clone()
        .set("budget.max_requests=7")
        .output()
        .ok()
        .stderr();
    for words in [
        "`budget.max_requests` is reached",
        "--resume --set budget.max_requests=",
    ] {
        assert!(stderr.contains(words), "{stderr}");
    }
    assert_eq!(server.seen().len(), all + 7);
    assert_eq!(run.summary()["stopped_by"], "budget.max_requests");
    assert_eq!(run.summary()["requests"], 7);
    let resume = |requests: usize| {
        let limit = format!("budget.max_requests={requests}");
        run.clone().set(&limit).with("--resume").output().ok();
        server.seen().len() - all
    };
    assert_eq!(resume(7), 7, "what was spent before counts");
    assert_eq!(resume(20), 20);
    assert_eq!(resume(1000), all, "nothing is asked twice");
    assert_eq!(run.file("data.json"), whole.file("data.json"));
    assert_eq!(run.file("provenance.jsonl"), whole.file("provenance.jsonl"));
}

#[test]
fn tokens_and_money_stop_a_run_too() {
    let (bench, server) = (Bench::new(4), Server::good());
    let tokens = bench
        .run("tokens", &server.url)
        .set("text_model.concurrency=1");
    // A request takes 1,000 tokens and its reply 50.
    tokens.clone().set("budget.max_tokens=3000").output().ok();
    assert_eq!(tokens.summary()["requests"], 3);
    assert_eq!(tokens.summary()["prompt_tokens"], 3000);
    let money = bench
        .run("money", &server.url)
        .set("text_model.concurrency=1");
    let money = money
        .set("budget.max_price=0.006")
        .set("budget.prompt_price=1.0");
    money.clone().set("budget.reply_price=20.0").output().ok();
    assert_eq!(money.summary()["requests"], 3);
    let price = money.summary()["price"].as_f64().unwrap();
    assert!((price - 0.006).abs() < 1e-12, "{price}");
}

#[test]
fn more_rows_can_be_asked_for_later() {
    let (bench, server) = (Bench::new(2), Server::good());
    let run = bench.run("grown", &server.url);
    run.output().ok();
    let first = server.seen().len();
    let grown = run
        .clone()
        .set("samples.answer_augmentation=3")
        .with("--resume");
    grown.output().ok();
    assert_eq!(server.seen().len() - first, 4);
    assert_eq!(run.kind("GSM_AnsAug")["accepted"], json!(6));
}
