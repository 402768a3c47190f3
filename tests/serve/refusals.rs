//! What is refused, with which status, and by which name.

use serde_json::{Value, json};

use super::support::{CHAT, COMPLETIONS, KEY, MODEL, Server};

#[test]
fn a_key_opens_everything_but_health_and_is_never_shown() {
    let server = Server::with_key();
    let body = json!({"model": MODEL, "prompt": "Tom", "max_tokens": 1}).to_string();
    let post = |key| server.send(COMPLETIONS, "application/json", body.as_bytes(), key);
    assert_eq!(post(Some(KEY)).status, 200);
    for key in [None, Some("sk-another-key"), Some(&KEY[1..]), Some("")] {
        let reply = post(key);
        assert_eq!(reply.refusal(401).1, "invalid_api_key");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        assert!(!reply.text.contains("another"));
        for path in ["/v1/models", "/v1/models/x", "/metrics", "/elsewhere"] {
            assert_eq!(server.get(path, key).status, 401, "{path}");
        }
        assert_eq!(server.get("/health", key).json(), json!({"status": "ok"}));
    }
    assert_eq!(server.get("/v1/models", Some(KEY)).status, 200);
    let (metrics, said) = (server.get("/metrics", Some(KEY)).text, server.end());
    assert!(!metrics.contains(KEY) && !said.contains(KEY), "{said}");
}

#[test]
fn bodies_that_are_no_request_are_refused() {
    let server = Server::start(&["--max-body", "1KB"]);
    let post = |kind: &str, body: &[u8]| server.send(COMPLETIONS, kind, body, None);
    let broken: [&[u8]; 7] = [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff\xfe{}",
        b"{\"model\": \"\xff\"}",
        b"{} {}",
    ];
    for body in broken {
        assert_eq!(
            post("application/json", body).refusal(400).1,
            "malformed_request"
        );
    }
    assert_eq!(
        post("application/json", &[b'['; 900]).refusal(400).1,
        "malformed_request"
    );
    let good = json!({"model": MODEL, "prompt": "Tom", "max_tokens": 1}).to_string();
    assert_eq!(
        post("application/json; charset=utf-8", good.as_bytes()).status,
        200
    );
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        assert_eq!(
            post(kind, good.as_bytes()).refusal(415).1,
            "unsupported_media_type"
        );
    }
    for bytes in [1000, 8 << 20] {
        let large = json!({"model": MODEL, "prompt": "x".repeat(bytes)}).to_string();
        assert_eq!(
            post("application/json", large.as_bytes()).refusal(413).1,
            "request_too_large"
        );
    }
}

#[test]
fn a_body_of_unknown_length_is_read_up_to_the_limit() {
    use std::io::{Read, Write};

    let server = Server::start(&["--max-body", "1KB"]);
    let mut stream = server.connect();
    stream
        .write_all(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        )
        .unwrap();
    for _ in 0..3 {
        let _ = write!(stream, "200\r\n{}\r\n", " ".repeat(0x200));
    }
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
}

#[test]
fn addresses_and_methods_that_are_none_are_refused_in_the_same_shape() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/", None).refusal(404).1, "not_found");
    assert_eq!(server.get("/v1/../etc/passwd", None).status, 404);
    assert_eq!(
        server.get(COMPLETIONS, None).refusal(405).1,
        "method_not_allowed"
    );
    let origin = server.get("/v1/models", None);
    assert!(!origin.headers.contains_key("access-control-allow-origin"));
}

#[test]
fn parameters_that_would_change_the_answer_are_refused_by_name() {
    let server = Server::start(&["--template", "alpaca"]);
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    let unsupported = [
        ("logprobs", json!(5)),
        ("logprobs", json!(true)),
        ("echo", json!(true)),
        ("best_of", json!(2)),
        ("suffix", json!("end")),
        ("frequency_penalty", json!(0.5)),
        ("presence_penalty", json!(-1)),
        ("logit_bias", json!({"5": 1})),
        ("tools", tool),
        ("tool_choice", json!("required")),
        ("response_format", json!({"type": "json_object"})),
        ("top_logprobs", json!(2)),
        ("min_p", json!(0.1)),
    ];
    for (name, value) in unsupported {
        let expected = (name.to_owned(), "unsupported_parameter".to_owned());
        assert_eq!(
            server.complete(&json!({ name: value })).refusal(400),
            expected
        );
        assert_eq!(server.chat(&json!({ name: value })).refusal(400), expected);
    }
    let unknown = server.complete(&json!({"temprature": 0.5}));
    assert_eq!(
        unknown.refusal(400),
        ("temprature".into(), "unknown_parameter".into())
    );
    let harmless = json!({
        "user": "me", "metadata": {"a": "b"}, "store": false, "logprobs": null, "echo": false, "best_of": 1,
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "top_k": -1, "stop": null, "top_p": 1,
    });
    assert_eq!(
        server.complete(&harmless).completion(),
        server.complete(&json!({})).completion()
    );
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    let server = Server::start(&[
        "--template",
        "alpaca",
        "--max-tokens",
        "100",
        "--max-queue",
        "8",
        "--max-sequences",
        "8",
    ]);
    let long = vec!["x"; 17];
    let cases = [
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_p": 1.1}), "top_p"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"seed": 0.5}), "seed"),
        (json!({"stop": 5}), "stop"),
        (json!({"stop": [""]}), "stop"),
        (json!({"stop": long}), "stop"),
        (json!({"n": 0}), "n"),
        (json!({"n": 129}), "n"),
        (json!({"n": 17}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 101}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"stream": 1}), "stream"),
        (json!({"model": 1}), "model"),
        (json!({"stream_options": {}}), "stream_options"),
        (
            json!({"stream": true, "stream_options": {"x": 1}}),
            "stream_options.x",
        ),
    ];
    for (fields, param) in cases {
        assert_eq!(server.complete(&fields).refusal(400).0, param, "{fields}");
        assert_eq!(server.chat(&fields).refusal(400).0, param, "{fields}");
    }
    let both = json!({"max_tokens": 5, "max_completion_tokens": 6});
    assert_eq!(server.chat(&both).refusal(400).0, "max_completion_tokens");
    assert_eq!(
        server
            .chat(&json!({"max_tokens": null, "max_completion_tokens": 3}))
            .json()["usage"]["completion_tokens"],
        3
    );
}

#[test]
fn inputs_that_are_none_are_refused_by_name() {
    let server = Server::start(&["--template", "alpaca"]);
    let prompts = [
        json!([]),
        json!(5),
        json!([1, "a"]),
        json!(["a", 1]),
        json!([-1]),
        json!([5_000_000_000_u64]),
        json!([512]),
        json!([[]]),
        json!("a</s>b"),
        json!({}),
    ];
    for prompt in prompts {
        let refusal = server.complete(&json!({ "prompt": prompt })).refusal(400);
        assert_eq!(refusal.0, "prompt", "{prompt}");
    }
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let messages = [
        (json!([]), "messages"),
        (json!("hello"), "messages"),
        (json!([5]), "messages[0]"),
        (json!([{"content": "a"}]), "messages[0].role"),
        (
            json!([{"role": "tool", "content": "a"}]),
            "messages[0].role",
        ),
        (json!([{"role": "user"}]), "messages[0].content"),
        (user(json!(5)), "messages[0].content"),
        (
            user(json!([{"type": "image_url", "image_url": {"url": "http://localhost/"}}])),
            "messages[0].content",
        ),
        (user(json!("a </s> b")), "messages[0].content"),
        (
            json!([{"role": "assistant", "content": "a", "tool_calls": [{}]}]),
            "messages[0].tool_calls",
        ),
    ];
    for (messages, param) in messages {
        assert_eq!(
            server.chat(&json!({ "messages": messages })).refusal(400).0,
            param,
            "{messages}"
        );
    }
    let missing = server.post(CHAT, &json!({"model": MODEL}));
    assert_eq!(
        missing.refusal(400),
        ("messages".into(), "missing_required_parameter".into())
    );
    assert_eq!(
        server
            .post(COMPLETIONS, &json!({"prompt": "a"}))
            .refusal(400)
            .0,
        "model"
    );
}

#[test]
fn a_request_beyond_the_context_is_refused_with_the_numbers() {
    let server = Server::start(&[]);
    let ids = vec![5; 500];
    let reply = server.complete(&json!({"prompt": ids, "max_tokens": 13}));
    assert_eq!(
        reply.refusal(400),
        ("prompt".into(), "context_length_exceeded".into())
    );
    for number in ["512", "513", "500", "13"] {
        assert!(reply.text.contains(number), "{number}: {}", reply.text);
    }
    assert_eq!(
        server
            .complete(&json!({"prompt": ids, "max_tokens": 12}))
            .status,
        200
    );
    let full = server.complete(&json!({"prompt": vec![5; 512]}));
    assert_eq!(full.refusal(400).1, "context_length_exceeded");
    let short = server.complete(&json!({ "prompt": ids })).json();
    assert!(short["usage"]["total_tokens"].as_u64().unwrap() <= 512);
    let server = Server::start(&["--max-length", "64"]);
    let reply = server.complete(&json!({"max_tokens": 60}));
    assert_eq!(reply.refusal(400).1, "context_length_exceeded");
    assert!(
        reply.text.contains("context is 64 tokens"),
        "{}",
        reply.text
    );
}

#[test]
fn without_a_key_only_names_of_this_machine_are_answered() {
    use std::io::{Read, Write};

    let server = Server::start(&[]);
    let status = |host: &str| {
        let mut stream = server.connect();
        write!(
            stream,
            "GET /v1/models HTTP/1.1\r\n{host}Connection: close\r\n\r\n"
        )
        .unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        String::from_utf8(head[9..].to_vec()).unwrap()
    };
    for host in [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1:1",
        "[::1]:8000",
        "[::1]",
        "127.0.0.2",
    ] {
        assert_eq!(status(&format!("Host: {host}\r\n")), "200", "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "10.0.0.1",
        "",
        "127.0.0.1.evil.example",
    ] {
        assert_eq!(status(&format!("Host: {host}\r\n")), "403", "{host}");
    }
    assert_eq!(status(""), "403");
}
