//! A server for one test, and clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(super) const COMPLETIONS: &str = "/v1/completions";
pub(super) const CHAT: &str = "/v1/chat/completions";
pub(super) const MODEL: &str = "stories260k";
pub(super) const KEY: &str = "sk-a-key-for-tests";

pub(super) fn path(relative: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(relative)
}

pub(super) fn stories() -> String {
    path("assets/stories260k").to_str().unwrap().to_owned()
}

pub(super) fn temper() -> Command {
    Command::new(env!("CARGO_BIN_EXE_temper"))
}

/// Polls until `condition` holds; a test that waits longer than half a minute has failed.
pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        let waited = start.elapsed();
        assert!(
            waited < Duration::from_secs(30),
            "waited too long for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running server, ended when it is dropped.
pub(super) struct Server {
    pub(super) child: Child,
    /// `127.0.0.1:PORT`.
    pub(super) address: String,
    key: Option<&'static str>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: ureq::http::HeaderMap,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The text of the first choice of `/v1/completions`.
    pub(super) fn completion(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()["choices"][0]["text"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Parameter and code of a refusal with this status, in the shape of the API.
    pub(super) fn refusal(&self, status: u16) -> (String, String) {
        assert_eq!(self.status, status, "{}", self.text);
        let error = &self.json()["error"];
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{error}"
        );
        assert!(error["type"].is_string(), "{error}");
        let param = error["param"].as_str().unwrap_or_default();
        (param.to_owned(), error["code"].as_str().unwrap().to_owned())
    }
}

impl Server {
    pub(super) fn start(more: &[&str]) -> Self {
        Self::of(&stories(), more)
    }

    pub(super) fn with_key() -> Self {
        let mut command = temper();
        command.env("TEMPER_TEST_KEY", KEY);
        let args = ["--model", &stories(), "--api-key-env", "TEMPER_TEST_KEY"];
        let mut server = Self::spawn(command, &args);
        server.key = Some(KEY);
        server
    }

    pub(super) fn of(model: &str, more: &[&str]) -> Self {
        Self::spawn(temper(), &[&["--model", model], more].concat())
    }

    fn spawn(mut command: Command, args: &[&str]) -> Self {
        command
            .args(["serve", "--device", "cpu", "--port", "0"])
            .args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            panic!("{line}: {}", said(child.stderr.take().unwrap()))
        };
        Self {
            child,
            address: address.to_owned(),
            key: None,
        }
    }

    /// Greedy completions with these fields on top.
    pub(super) fn complete(&self, fields: &Value) -> Reply {
        let mut body = json!({"model": MODEL, "prompt": "Once upon a time", "temperature": 0});
        merge(&mut body, fields);
        self.post(COMPLETIONS, &body)
    }

    /// A greedy chat with these fields on top.
    pub(super) fn chat(&self, fields: &Value) -> Reply {
        let messages = json!([{"role": "user", "content": "Once upon a time"}]);
        let mut body =
            json!({"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 8});
        merge(&mut body, fields);
        self.post(CHAT, &body)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(
            path,
            "application/json",
            body.to_string().as_bytes(),
            self.key,
        )
    }

    pub(super) fn send(&self, path: &str, kind: &str, body: &[u8], key: Option<&str>) -> Reply {
        let mut request = agent().post(self.url(path)).header("Content-Type", kind);
        if let Some(key) = key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        reply(request.send(body))
    }

    pub(super) fn get(&self, path: &str, key: Option<&str>) -> Reply {
        let mut request = agent().get(self.url(path));
        if let Some(key) = key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        reply(request.call())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The value of a metric of the base model.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics", self.key).text;
        let line = format!("temper_{name}{{model=\"{MODEL}\"}} ");
        let value = text.lines().find_map(|found| found.strip_prefix(&line));
        value
            .unwrap_or_else(|| panic!("no {line}in {text}"))
            .parse()
            .unwrap()
    }

    /// A connection without a client that would be polite.
    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    /// A stream of events that has begun.
    pub(super) fn open_stream(&self, path: &str, body: &Value) -> BufReader<TcpStream> {
        let mut stream = self.connect();
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            assert!(
                reader.read_line(&mut line).unwrap() > 0,
                "the connection was closed"
            );
        }
        reader
    }

    /// What it said on the standard error, once it has ended.
    pub(super) fn end(mut self) -> String {
        let _ = self.child.kill();
        said(self.child.stderr.take().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(mut stderr: ChildStderr) -> String {
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    text
}

fn merge(body: &mut Value, fields: &Value) {
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None);
    config
        .timeout_global(Some(Duration::from_mins(1)))
        .build()
        .new_agent()
}

fn reply(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
    let mut response = response.unwrap();
    Reply {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: response.body_mut().read_to_string().unwrap(),
    }
}
