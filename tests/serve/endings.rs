//! How a server ends.

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::support::{COMPLETIONS, MODEL, Server, stories, temper, wait_until};

fn signal(server: &Server, name: &str) {
    let id = server.child.id().to_string();
    assert!(
        Command::new("kill")
            .args([name, &id])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn a_signal_lets_answers_finish_and_takes_no_more() {
    for name in ["-TERM", "-INT"] {
        let mut server = Server::start(&[]);
        let body = json!({"model": MODEL, "prompt": "Once", "max_tokens": 400, "stream": true, "temperature": 1.5});
        let mut stream = server.open_stream(COMPLETIONS, &body);
        signal(&server, name);
        wait_until("the port to close", || {
            TcpStream::connect(&server.address).is_err()
        });
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(
            rest.contains("\"finish_reason\":\"") && rest.contains("data: [DONE]"),
            "{rest}"
        );
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn answers_that_do_not_finish_in_time_are_cut_off() {
    let mut server = Server::start(&["--max-sequences", "1", "--shutdown-timeout", "1"]);
    let body = json!({"model": MODEL, "prompt": "Once", "max_tokens": 500, "stream": true, "n": 100, "temperature": 1.5});
    let mut stream = server.open_stream(COMPLETIONS, &body);
    signal(&server, "-TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&["--max-sequences", "1"]);
    let body = json!({"model": MODEL, "prompt": "Once", "max_tokens": 500, "stream": true, "n": 100, "temperature": 1.5});
    let _stream = server.open_stream(COMPLETIONS, &body);
    signal(&server, "-TERM");
    // At once it would be the same one, sent to a process and its group.
    std::thread::sleep(Duration::from_millis(1300));
    signal(&server, "-TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(143));
}

/// Standard error of a server that must not start.
fn fails(code: i32, args: &[&str]) -> String {
    let output = temper()
        .args([
            "serve",
            "--device",
            "cpu",
            "--port",
            "0",
            "--model",
            &stories(),
        ])
        .args(args)
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn what_cannot_be_served_is_said_at_the_start() {
    let taken = Server::start(&[]);
    let port = taken.address.rsplit(':').next().unwrap();
    let busy = temper()
        .args(["serve", "--model", &stories(), "--port", port])
        .output()
        .unwrap();
    assert_eq!(busy.status.code(), Some(1));
    assert!(
        String::from_utf8(busy.stderr)
            .unwrap()
            .contains("cannot listen on 127.0.0.1:")
    );
    assert!(fails(2, &["--api-key-env", "TEMPER_TEST_NOT_SET"]).contains("TEMPER_TEST_NOT_SET"));
    assert!(fails(1, &["--api-key-file", "/no/such/file"]).contains("/no/such/file"));
    assert!(fails(1, &["--template", "chat"]).contains("--chat-template"));
    assert!(fails(1, &["--chat-template", "/no/such/file"]).contains("/no/such/file"));
    assert!(fails(2, &["--adapter", "nameless"]).contains("NAME=DIR"));
    assert!(fails(1, &["--adapter", "a=/no/such/directory"]).contains("/no/such/directory"));
    assert!(fails(1, &["--cache-memory", "1KB"]).contains("holds not one sequence"));
    let twice = format!("{MODEL}=/tmp");
    assert!(fails(2, &["--adapter", &twice]).contains("is taken"));
}

#[test]
fn a_server_open_to_others_without_a_key_warns() {
    let server = Server::start(&["--host", "0.0.0.0"]);
    assert!(
        server
            .end()
            .contains("warning: anybody who reaches 0.0.0.0:")
    );
    let server = Server::start(&[]);
    assert!(!server.end().contains("warning"));
}
