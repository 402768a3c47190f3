//! Endpoints that fail: each failure has a name and is counted, and nothing is lost.

use std::time::{Duration, Instant};

use serde_json::json;

use super::server::{Act, Server};
use super::support::{Bench, KEY};

/// A server that acts by a list, then well.
fn moody(acts: &'static [Act]) -> Server {
    Server::start(move |before, _| acts.get(before).cloned().unwrap_or(Act::Answer))
}

#[test]
fn passing_failures_are_named_counted_and_overcome() {
    let bench = Bench::new(4);
    let server = moody(&[
        Act::Status(500),
        Act::Page,
        Act::Malformed,
        Act::Answer,
        Act::NoChoices,
        Act::NoText,
        Act::BreakOff,
        Act::Answer,
        Act::Status(503),
        Act::TooMany(0.0),
        Act::Hang,
    ]);
    let run = bench.run("passing", &server.url);
    let run = run
        .set("text_model.concurrency=1")
        .set("text_model.timeout=1");
    let stdout = run.output().ok().stdout();
    assert_eq!(run.rows().len(), 24, "everything was made good");
    let summary = run.summary();
    assert_eq!(
        summary["failed_attempts"],
        json!({
            "broken off": 1, "malformed reply": 1, "no choices": 1, "no text": 1, "status 429": 1,
            "status 500": 1, "status 503": 1, "timeout": 1, "web page": 1,
        })
    );
    assert_eq!(summary["requests"], server.seen().len());
    assert!(stdout.contains("failed attempts: web page 1"), "{stdout}");
}

#[test]
fn what_is_given_up_is_noted_the_run_goes_on_and_resume_asks_again() {
    let bench = Bench::new(3);
    let rule = |before: usize, request: &super::server::Seen| {
        let is_first = request.case().starts_with("Ann has 3 red") && before < 20;
        if is_first {
            Act::Status(500)
        } else {
            Act::Answer
        }
    };
    let server = Server::start(rule);
    let run = bench
        .run("given-up", &server.url)
        .set("text_model.attempts=2")
        .set("samples.fobar=0");
    let run = run
        .set("samples.self_verification=0")
        .set("text_model.concurrency=1");
    let stderr = run.output().ok().stderr();
    assert!(stderr.contains("--resume"), "{stderr}");
    assert_eq!(run.kind("GSM_AnsAug")["failed"], json!({"status 500": 1}));
    assert_eq!(
        run.kind("GSM_Rephrased")["failed"],
        json!({"status 500": 1})
    );
    assert_eq!(
        (run.rows().len(), &run.summary()["finished"]),
        (4, &json!(false))
    );
    let asked = server.seen().len();
    assert_eq!(asked, 2 + 2 + 2 + 4, "two attempts each at what fails");
    // The third of these requests is beyond the twentieth of all.
    let resumed = run.clone().set("text_model.attempts=30").with("--resume");
    resumed.output().ok();
    assert_eq!(
        (run.rows().len(), &run.summary()["finished"]),
        (6, &json!(true))
    );
    assert_eq!(run.kind("GSM_AnsAug")["failed"], json!({}));
    let failures = run.summary()["failed_attempts"]["status 500"]
        .as_u64()
        .unwrap();
    assert_eq!(failures as usize, 20 - 6, "those of both processes");
}

#[test]
fn too_many_failures_in_a_row_end_the_run_with_what_there_is() {
    let bench = Bench::new(10);
    let server = Server::start(|before, _| {
        if before < 5 {
            Act::Answer
        } else {
            Act::Status(502)
        }
    });
    let run = bench.run("dead", &server.url).set("text_model.attempts=1");
    let run = run
        .set("text_model.max_consecutive_failures=4")
        .set("text_model.concurrency=1");
    run.output().fails(
        1,
        &[
            "4 replies in a row",
            "status 502",
            "5 rows are saved",
            "--resume",
        ],
    );
    assert_eq!(server.seen().len(), 9);
    assert_eq!(run.rows().len(), 5);
    assert_eq!(run.kind("GSM_AnsAug")["left"], 1);
}

#[test]
fn an_endpoint_that_is_not_there_is_said_so() {
    let bench = Bench::new(2);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let run = bench
        .run("nobody", &url)
        .set("text_model.max_consecutive_failures=2");
    run.set("text_model.attempts=2")
        .output()
        .fails(1, &["cannot connect", &url, "0 rows are saved"]);
}

#[test]
fn a_refused_key_ends_the_run_at_once_and_is_not_shown() {
    let bench = Bench::new(5);
    let server = Server::start(|_, _| Act::Status(401));
    let run = bench
        .run("denied", &server.url)
        .set("text_model.concurrency=1");
    let ran = run.output().fails(1, &["status 401", "api_key_env"]);
    assert!(!ran.stderr().contains(KEY));
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_wrong_address_ends_the_run_at_once() {
    let bench = Bench::new(5);
    let server = Server::start(|_, _| Act::Status(404));
    let run = bench
        .run("lost", &server.url)
        .set("text_model.concurrency=1");
    run.output()
        .fails(1, &["status 404", "text_model.base_url"]);
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_request_that_is_refused_is_not_repeated() {
    let bench = Bench::new(2);
    let server = moody(&[Act::Status(400)]);
    let run = bench
        .run("refused", &server.url)
        .set("text_model.concurrency=1");
    run.output().ok();
    assert_eq!(run.kind("GSM_AnsAug")["failed"], json!({"status 400": 1}));
    assert_eq!(run.rows().len(), 11);
}

#[test]
fn a_reply_beyond_the_limit_is_refused() {
    let bench = Bench::new(1);
    let server = moody(&[Act::Long(50_000)]);
    let run = bench
        .run("long", &server.url)
        .set("text_model.max_reply_bytes=4096");
    run.clone().set("text_model.concurrency=1").output().ok();
    assert_eq!(
        run.kind("GSM_AnsAug")["failed"],
        json!({"reply too long": 1})
    );
}

#[test]
fn a_pause_that_the_endpoint_asks_for_is_kept_by_all() {
    let bench = Bench::new(1);
    let server = moody(&[Act::TooMany(1.0)]);
    let run = bench
        .run("rest", &server.url)
        .set("text_model.concurrency=1");
    let start = Instant::now();
    run.output().ok();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(run.rows().len(), 6);
}

#[test]
fn requests_keep_to_their_rate() {
    let (bench, server) = (Bench::new(1), Server::good());
    let run = bench
        .run("rate", &server.url)
        .set("text_model.requests_per_minute=600");
    let start = Instant::now();
    run.output().ok();
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(800),
        "9 requests, a tenth of a second apart: {took:?}"
    );
}

#[test]
fn a_missing_key_is_a_mistake_of_the_user() {
    let (bench, server) = (Bench::new(1), Server::good());
    let run = bench
        .run("keyless", &server.url)
        .set("text_model.api_key_env=TEMPER_TEST_NO_KEY");
    run.output()
        .fails(2, &["`TEMPER_TEST_NO_KEY` holds no key"]);
    assert!(server.seen().is_empty());
}
