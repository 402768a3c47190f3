//! What clients cannot use up.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{COMPLETIONS, MODEL, Server, wait_until};

/// A request that takes long enough to be in the way.
fn long(n: usize) -> Value {
    json!({"model": MODEL, "prompt": "Once upon a time", "max_tokens": 500, "n": n, "temperature": 1.5, "stream": true})
}

#[test]
fn a_full_queue_refuses_until_there_is_a_place() {
    let server = Server::start(&["--max-sequences", "1", "--max-queue", "3"]);
    let stream = server.open_stream(COMPLETIONS, &long(4));
    let refused = server.complete(&json!({"max_tokens": 1}));
    assert_eq!(refused.refusal(429).1, "queue_full");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(server.get("/health", None).status, 200);
    drop(stream);
    wait_until("a place", || {
        server.complete(&json!({"max_tokens": 1})).status == 200
    });
}

#[test]
fn a_client_that_goes_away_frees_what_it_held() {
    let server = Server::start(&["--max-sequences", "1", "--max-queue", "9"]);
    let stream = server.open_stream(COMPLETIONS, &long(10));
    wait_until("waiting sequences", || {
        server.metric("waiting_sequences") > 0.0
    });
    assert_eq!(server.metric("running_sequences"), 1.0);
    drop(stream);
    wait_until("the end of all ten", || {
        server.metric("running_sequences") + server.metric("waiting_sequences") == 0.0
    });
    assert!(server.metric("cancelled_sequences_total") >= 5.0);
    assert!(server.metric("generated_tokens_total") < 3000.0);
}

#[test]
fn a_client_that_does_not_wait_for_a_whole_answer_frees_it_too() {
    let server = Server::start(&["--max-sequences", "1", "--max-queue", "9"]);
    let mut stream = server.connect();
    let mut body = long(10);
    body["stream"] = false.into();
    let body = body.to_string();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    wait_until("waiting sequences", || {
        server.metric("waiting_sequences") > 0.0
    });
    drop(stream);
    wait_until("cancelled sequences", || {
        server.metric("cancelled_sequences_total") >= 5.0
    });
}

#[test]
fn an_answer_that_takes_too_long_is_given_up() {
    let server = Server::start(&[
        "--max-sequences",
        "1",
        "--request-timeout",
        "1",
        "--max-queue",
        "999",
    ]);
    let mut body = long(128);
    let begun = Instant::now();
    let streamed = server.post(COMPLETIONS, &body).text;
    assert!(begun.elapsed() < Duration::from_secs(20));
    let last = streamed.trim_end().rsplit("\n\n").next().unwrap();
    let error: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "timeout");
    body["stream"] = false.into();
    assert_eq!(server.post(COMPLETIONS, &body).refusal(504).1, "timeout");
    wait_until("the engine to rest", || {
        server.metric("running_sequences") == 0.0
    });
    assert_eq!(server.complete(&json!({"max_tokens": 1})).status, 200);
}

#[test]
fn a_client_that_is_slow_with_its_headers_or_idle_is_cut_off() {
    let server = Server::start(&["--header-timeout", "1"]);
    let begun = Instant::now();
    let request = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for sent in [&request[..40], request] {
        let mut stream = server.connect();
        stream.write_all(sent.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.contains("200 OK"), sent == request, "{answer}");
    }
    let waited = begun.elapsed();
    assert!(
        waited > Duration::from_millis(1600) && waited < Duration::from_secs(10),
        "{waited:?}"
    );
}

#[test]
fn too_many_or_too_large_headers_are_refused() {
    let server = Server::start(&[]);
    let many = "X-Many: a\r\n".repeat(200);
    let large = format!("X-Large: {}\r\n", "a".repeat(1 << 20));
    for headers in [many, large] {
        let mut stream = server.connect();
        let _ = write!(
            stream,
            "GET /health HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
        );
        let mut head = [0; 12];
        if stream.read_exact(&mut head).is_ok() {
            assert_eq!(&head, b"HTTP/1.1 431");
        }
    }
    assert_eq!(server.get("/health", None).status, 200);
}
