//! What is answered to whom.

use serde_json::{Value, json};

use super::support::{MODEL, Server, stories, temper};

/// The completion that `temper generate` gives.
fn generated(prompt: &str, tokens: usize) -> String {
    let output = temper()
        .args([
            "generate",
            "--device",
            "cpu",
            "--model",
            &stories(),
            "--prompt",
            prompt,
        ])
        .args(["--max-new-tokens", &tokens.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.strip_suffix('\n').unwrap().to_owned()
}

fn texts(reply: &Value) -> Vec<&str> {
    let choices = reply["choices"].as_array().unwrap();
    choices
        .iter()
        .map(|choice| choice["text"].as_str().unwrap())
        .collect()
}

#[test]
fn models_are_listed_and_found_by_name() {
    let server = Server::start(&["--name", "org/tiny"]);
    let list = server.get("/v1/models", None).json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "org/tiny");
    assert_eq!(list["data"][0]["object"], "model");
    assert_eq!(list["data"][0]["max_model_len"], 512);
    assert_eq!(
        server.get("/v1/models/org/tiny", None).json(),
        list["data"][0]
    );
    assert_eq!(
        server.get("/v1/models/other", None).refusal(404).1,
        "model_not_found"
    );
    assert_eq!(server.complete(&json!({})).refusal(404).0, "model");
}

#[test]
fn a_completion_is_the_one_of_generate_with_the_fields_of_the_api() {
    let server = Server::start(&[]);
    let reply = server.complete(&json!({"max_tokens": 24})).json();
    assert_eq!(texts(&reply), [generated("Once upon a time", 24)]);
    assert_eq!(reply["object"], "text_completion");
    assert_eq!(reply["model"], MODEL);
    assert!(reply["id"].as_str().unwrap().starts_with("cmpl-"));
    assert!(reply["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!(reply["choices"][0]["index"], 0);
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 24, "total_tokens": 29});
    assert_eq!(reply["usage"], usage);
    let short = server.complete(&json!({})).json();
    assert_eq!(
        short["usage"]["completion_tokens"], 16,
        "as many as the API gives by default"
    );
}

#[test]
fn prompts_may_be_texts_or_ids_one_or_many() {
    let server = Server::start(&[]);
    let ask = |prompt: Value| {
        server
            .complete(&json!({"prompt": prompt, "max_tokens": 6}))
            .json()
    };
    let one = ask(json!("Once upon a time"));
    let many = ask(json!(["Once upon a time", "Tom had a"]));
    let other = ask(json!("Tom had a"));
    assert_eq!(texts(&many), [texts(&one), texts(&other)].concat());
    let tokens = |reply: &Value| reply["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(tokens(&many), tokens(&one) + tokens(&other));
    let ids = [1, 403, 407, 261, 378];
    assert_eq!(texts(&ask(json!(ids))), texts(&one));
    assert_eq!(
        texts(&ask(json!([ids, ids]))),
        [texts(&one), texts(&one)].concat()
    );
}

#[test]
fn a_conversation_goes_through_the_template_given() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chat.jinja");
    let jinja = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% if not loop.last %} {% endif %}{% endfor %}";
    std::fs::write(&file, jinja).unwrap();
    let server = Server::start(&["--chat-template", file.to_str().unwrap()]);
    let expected = generated("Once upon a time", 8);
    let parts = json!([{"type": "text", "text": "Once upon a time"}]);
    let conversations = [
        json!([{"role": "user", "content": "Once upon a time"}]),
        json!([{"role": "user", "content": parts}]),
        json!([{"role": "developer", "content": "Once upon"}, {"role": "user", "content": "a time"}]),
        json!([{"role": "user", "content": "Once"}, {"role": "assistant", "content": "upon"},
               {"role": "user", "content": "a time"}]),
    ];
    for messages in conversations {
        let reply = server.chat(&json!({ "messages": messages })).json();
        let choice = &reply["choices"][0];
        assert_eq!(choice["message"]["content"], expected, "{messages}");
        assert_eq!(choice["message"]["role"], "assistant");
        assert_eq!(choice["finish_reason"], "length");
        assert_eq!(reply["object"], "chat.completion");
        assert_eq!(reply["usage"]["prompt_tokens"], 5);
    }
    let long = server.chat(&json!({"max_tokens": null})).json();
    let usage = &long["usage"];
    let ended = long["choices"][0]["finish_reason"] == "stop";
    assert!(
        ended || usage["total_tokens"] == 512,
        "an answer may fill the context: {usage}"
    );
}

#[test]
fn without_a_chat_template_the_refusal_names_the_options() {
    let server = Server::start(&[]);
    let reply = server.chat(&json!({}));
    assert_eq!(
        reply.refusal(400),
        ("messages".into(), "chat_template".into())
    );
    assert!(
        reply.text.contains("--chat-template FILE") && reply.text.contains("--template metamath")
    );
}

#[test]
fn the_metamath_template_takes_one_question() {
    let server = Server::start(&["--template", "metamath"]);
    let question = json!({"role": "user", "content": "1 + 1?"});
    let reply = server.chat(&json!({ "messages": [question] })).json();
    let prompt = "Below is an instruction that describes a task. Write a response that appropriately \
                  completes the request.\n\n### Instruction:\n1 + 1?\n\n### Response:";
    let raw = server
        .complete(&json!({"prompt": prompt, "max_tokens": 8}))
        .json();
    assert_eq!(
        reply["choices"][0]["message"]["content"],
        raw["choices"][0]["text"]
    );
    assert_eq!(reply["usage"], raw["usage"]);
    let system = json!({"role": "system", "content": "Be brief."});
    let refused = server.chat(&json!({ "messages": [system, question] }));
    assert_eq!(refused.refusal(400).1, "chat_template");
}

#[test]
fn a_stop_string_ends_the_answer_and_is_not_in_it() {
    let server = Server::start(&[]);
    let whole = server.complete(&json!({"max_tokens": 60})).completion();
    let at = whole.find(". ").unwrap();
    for stop in [json!(". "), json!(["never said", ". "])] {
        let reply = server.complete(&json!({"max_tokens": 60, "stop": stop}));
        assert_eq!(reply.completion(), whole[..at]);
        assert_eq!(reply.json()["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn a_seed_repeats_an_answer_and_without_one_answers_differ() {
    let server = Server::start(&[]);
    let ask = |fields: Value| {
        let mut body = json!({"temperature": 1.2, "max_tokens": 20});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        let reply = server.complete(&body).json();
        texts(&reply)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let first = ask(json!({"seed": 7, "n": 3}));
    assert_eq!(first, ask(json!({"seed": 7, "n": 3})));
    assert_eq!(
        first[0],
        ask(json!({"seed": 7}))[0],
        "the first of three is the only one of one"
    );
    assert_ne!(first[0], first[1]);
    assert_ne!(first, ask(json!({"seed": 8, "n": 3})));
    assert_eq!(ask(json!({"seed": -1})), ask(json!({"seed": u64::MAX})));
    assert_ne!(ask(json!({})), ask(json!({})));
    let narrow = ask(json!({"top_k": 1, "n": 2}));
    assert_eq!(narrow[0], narrow[1]);
    assert_eq!(narrow, ask(json!({"top_p": 1e-9, "n": 2})));
}

#[test]
fn answers_do_not_depend_on_who_else_asks() {
    let server = Server::start(&["--max-sequences", "4"]);
    let starts = [
        "Once upon a time",
        "Tom",
        "The big dog was",
        "One day, Lily and her mom went to the park",
        "A",
        "She said",
    ];
    let prompts: Vec<String> = (0..18)
        .map(|i| format!("{} {i}", starts[i % starts.len()]))
        .collect();
    let ask = |prompt: &str, sampled: bool| {
        let temperature = if sampled { 0.9 } else { 0.0 };
        let fields =
            json!({"prompt": prompt, "max_tokens": 40, "seed": 3, "temperature": temperature});
        server.complete(&fields).completion()
    };
    let alone: Vec<String> = (0..)
        .zip(&prompts)
        .map(|(i, prompt)| ask(prompt, i % 3 == 0))
        .collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let ask = &ask;
        let clients: Vec<_> = (0..)
            .zip(&prompts)
            .map(|(i, prompt)| scope.spawn(move || ask(prompt, i % 3 == 0)))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn metrics_count_what_happened() {
    let server = Server::start(&[]);
    assert_eq!(server.metric("generated_tokens_total"), 0.0);
    server.complete(&json!({"max_tokens": 7, "n": 2}));
    server.complete(&json!({"max_tokens": 0}));
    server.get("/no/such\"place", None);
    let reply = server.get("/metrics", None);
    assert!(
        reply.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let lines = [
        "temper_requests_total{route=\"/v1/completions\",code=\"200\",model=\"stories260k\"} 1",
        "temper_requests_total{route=\"/v1/completions\",code=\"400\",model=\"\"} 1",
        "temper_requests_total{route=\"other\",code=\"404\",model=\"\"} 1",
        "temper_generated_tokens_total{model=\"stories260k\"} 14",
        "temper_prompt_tokens_total{model=\"stories260k\"} 10",
        "temper_running_sequences{model=\"stories260k\"} 0",
        "temper_waiting_sequences{model=\"stories260k\"} 0",
        "temper_time_to_first_token_seconds_count{model=\"stories260k\"} 2",
        "temper_request_duration_seconds_count{model=\"stories260k\"} 1",
        "# EOF",
    ];
    for line in lines {
        assert!(
            reply.text.lines().any(|found| found == line),
            "{line} is not in {}",
            reply.text
        );
    }
}
