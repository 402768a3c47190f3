//! Answers that come in chunks.

use serde_json::{Value, json};

use super::support::{MODEL, Reply, Server};

/// The chunks before `[DONE]`.
fn chunks(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    let data = reply.text.split("\n\n").filter(|event| !event.is_empty());
    let mut data: Vec<&str> = data
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    data.into_iter()
        .map(|chunk| serde_json::from_str(chunk).unwrap())
        .collect()
}

fn text(chunks: &[Value], index: usize, field: fn(&Value) -> &Value) -> String {
    let choices = chunks.iter().filter_map(|chunk| chunk["choices"].get(0));
    let of_index = choices.filter(|choice| choice["index"] == index);
    of_index
        .filter_map(|choice| field(choice).as_str())
        .collect()
}

#[test]
fn chunks_of_a_completion_join_to_the_whole() {
    let server = Server::start(&[]);
    let whole = server.complete(&json!({"max_tokens": 30})).completion();
    let chunks = chunks(&server.complete(&json!({"max_tokens": 30, "stream": true})));
    assert!(chunks.len() > 10, "it comes in pieces");
    assert_eq!(text(&chunks, 0, |choice| &choice["text"]), whole);
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(
        before
            .iter()
            .all(|chunk| chunk["choices"][0]["finish_reason"].is_null())
    );
    for chunk in &chunks {
        assert_eq!(chunk["object"], "text_completion");
        assert_eq!(chunk["model"], MODEL);
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert!(chunk.get("usage").is_none());
    }
}

#[test]
fn chunks_of_a_chat_begin_with_the_role_and_may_end_with_the_usage() {
    let server = Server::start(&["--template", "alpaca"]);
    let whole = server.chat(&json!({"n": 2})).json();
    let options = json!({"include_usage": true});
    let reply = server.chat(&json!({"n": 2, "stream": true, "stream_options": options}));
    let chunks = chunks(&reply);
    for index in 0..2 {
        assert_eq!(chunks[index]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(chunks[index]["object"], "chat.completion.chunk");
        let content = text(&chunks, index, |choice| &choice["delta"]["content"]);
        assert_eq!(content, whole["choices"][index]["message"]["content"]);
    }
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], whole["usage"]);
    assert!(before.iter().all(|chunk| chunk["usage"].is_null()));
    let ends = before
        .iter()
        .filter(|chunk| chunk["choices"][0]["finish_reason"] == "length");
    assert_eq!(ends.count(), 2);
}

#[test]
fn a_stop_string_is_held_back_from_a_stream() {
    let server = Server::start(&[]);
    let fields = json!({"max_tokens": 60, "stop": "little girl"});
    let whole = server.complete(&fields);
    assert_eq!(whole.json()["choices"][0]["finish_reason"], "stop");
    let fields = json!({"max_tokens": 60, "stop": "little girl", "stream": true});
    let chunks = chunks(&server.complete(&fields));
    assert_eq!(
        text(&chunks, 0, |choice| &choice["text"]),
        whole.completion()
    );
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );
}
