//! An endpoint on the loopback interface that can calculate, and misbehave on request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What the server does with a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Act {
    /// The right answer.
    Answer,
    /// A wrong one.
    WrongAnswer,
    /// This text.
    Say(&'static str),
    /// This status, with a message.
    Status(u16),
    /// 429, and to be left alone for so many seconds.
    TooMany(f64),
    /// A web page with status 200.
    Page,
    /// JSON that ends in the middle.
    Malformed,
    /// No choices.
    NoChoices,
    /// A choice without text.
    NoText,
    /// So many bytes of text.
    Long(usize),
    /// The head of a reply and half of its body.
    BreakOff,
    /// Nothing, for a long time.
    Hang,
    /// The right answer, after so many milliseconds.
    Slow(u64),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) authorization: Option<String>,
    pub(super) body: Value,
}

impl Seen {
    /// The prompt, whichever way it came.
    pub(super) fn prompt(&self) -> &str {
        let message = &self.body["messages"][1]["content"];
        message.as_str().or(self.body["prompt"].as_str()).unwrap()
    }

    /// What follows the worked examples.
    pub(super) fn case(&self) -> &str {
        self.prompt().rsplit_once("\n\nQuestion: ").unwrap().1
    }
}

type Rule = dyn Fn(usize, &Seen) -> Act + Send + Sync;

/// A server for as long as the process lives.
pub(super) struct Server {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// `rule` is given how many requests came before, and the request.
    pub(super) fn start(rule: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, rule): (_, Arc<Rule>) = (Arc::clone(&seen), Arc::new(rule));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, rule) = (Arc::clone(&log), Arc::clone(&rule));
                // A client that went away is its own business.
                std::thread::spawn(move || serve(stream, &log, &rule));
            }
        });
        Self { url, seen }
    }

    /// One that always answers rightly.
    pub(super) fn good() -> Self {
        Self::start(|_, _| Act::Answer)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Seen>>, rule: &Arc<Rule>) -> std::io::Result<()> {
    let request = read(&stream)?;
    let before = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.len() - 1
    };
    let act = rule(before, &request);
    match act {
        Act::Hang => std::thread::sleep(Duration::from_mins(1)),
        Act::Slow(milliseconds) => std::thread::sleep(Duration::from_millis(milliseconds)),
        _ => {}
    }
    reply(stream, &request, &act)
}

fn read(stream: &TcpStream) -> std::io::Result<Seen> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        head.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Seen {
        path: head[0].split(' ').nth(1).unwrap().to_owned(),
        authorization: header("authorization"),
        body: serde_json::from_slice(&body)?,
    })
}

fn reply(mut stream: TcpStream, request: &Seen, act: &Act) -> std::io::Result<()> {
    let (mut status, mut extra, mut kind) = (200, String::new(), "application/json");
    let body = match act {
        Act::Answer | Act::Slow(_) | Act::Hang => completion(request, &answer(request.case(), 0)),
        Act::WrongAnswer => completion(request, &answer(request.case(), 1)),
        Act::Say(text) => completion(request, text),
        Act::Long(bytes) => completion(request, &"9".repeat(*bytes)),
        Act::BreakOff => completion(request, &"word ".repeat(200)),
        Act::Status(code) => {
            status = *code;
            json!({"error": {"message": format!("status {code} on request")}}).to_string()
        }
        Act::TooMany(seconds) => {
            status = 429;
            extra = format!("Retry-After: {seconds}\r\n");
            json!({"error": {"message": "slow down"}}).to_string()
        }
        Act::Page => {
            kind = "text/html; charset=utf-8";
            "<!doctype html><title>Log in</title>".to_owned()
        }
        Act::Malformed => "{\"choices\": [{\"message\"".to_owned(),
        Act::NoChoices => json!({"choices": []}).to_string(),
        Act::NoText => {
            json!({"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]})
                .to_string()
        }
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    let sent = if *act == Act::BreakOff {
        body.len() / 2
    } else {
        body.len()
    };
    stream.write_all(&body.as_bytes()[..sent])?;
    stream.flush()
}

fn completion(request: &Seen, text: &str) -> String {
    let mut choice = json!({"index": 0, "finish_reason": "stop"});
    if request.path.ends_with("/chat/completions") {
        choice["message"] = json!({"role": "assistant", "content": text});
    } else {
        choice["text"] = json!(text);
    }
    let usage = json!({"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050});
    json!({"id": "1", "object": "completion", "choices": [choice], "usage": usage}).to_string()
}

/// What a good writer says to the last case of a prompt about two heaps; `wrong_by` is added to numbers asked for.
fn answer(case: &str, wrong_by: i64) -> String {
    if let Some((question, _)) = case.split_once("\nRephrase the above question:") {
        let numbers = numbers(question);
        return format!(
            " What is the sum when {} pens lie on a heap and {} on another?\n",
            numbers[0], numbers[1]
        );
    }
    if case.ends_with("\n Result: ") {
        let told = numbers(case).pop().unwrap();
        return format!("There are {told} pens in all.");
    }
    let numbers = numbers(case);
    let is_backward = case.contains("unknown variable x");
    if is_backward {
        let value = numbers[1] - numbers[0] + wrong_by;
        return format!(
            "{} = x + {}.\nThe value of x is {value}.",
            numbers[1], numbers[0]
        );
    }
    let sum: i64 = numbers.iter().sum::<i64>() + wrong_by;
    format!(
        "{} + {} = {sum}.\nThe answer is {sum}.",
        numbers[0], numbers[1]
    )
}

fn numbers(text: &str) -> Vec<i64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}
