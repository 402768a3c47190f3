//! What goes over the wire, and what of it may be shown.

use serde_json::{Value, json};

use super::*;

fn endpoint(system: Option<&str>) -> Endpoint {
    let manner = Manner {
        system: system.map(str::to_owned),
        temperature: 0.7,
        top_p: Some(0.9),
        max_new_tokens: None,
        stop: vec!["Question:".to_owned()],
    };
    Endpoint::new(EndpointOptions {
        base_url: "http://127.0.0.1:9/v1/".to_owned(),
        model: "writer".to_owned(),
        key: Some("sk-secret".to_owned()),
        send_seed: true,
        manner,
        connect_timeout: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
        max_reply_bytes: 1000,
        requests_per_minute: None,
        tokens_per_minute: None,
    })
    .unwrap()
}

#[test]
fn the_mode_decides_the_operation_and_the_body() {
    let chat = endpoint(Some("Be good."));
    assert_eq!(chat.url, "http://127.0.0.1:9/v1/chat/completions");
    let body = wire::request("writer", &chat.options.manner, "2 + 2?", Some(7));
    let expected = json!({
        "model": "writer",
        "messages": [{"role": "system", "content": "Be good."}, {"role": "user", "content": "2 + 2?"}],
        "temperature": 0.7, "top_p": 0.9, "stop": ["Question:"], "seed": 7,
    });
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    let base = endpoint(None);
    assert_eq!(base.url, "http://127.0.0.1:9/v1/completions");
    let body = wire::request("writer", &base.options.manner, "2 + 2 =", None);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["prompt"], "2 + 2 =");
    assert!(body.get("messages").is_none() && body.get("seed").is_none());
}

#[test]
fn replies_of_both_operations_are_read_and_uncounted_tokens_guessed() {
    let endpoint = endpoint(None);
    let read = |body: Value| endpoint.read("12345678", body.to_string().as_bytes());
    let chat = read(json!({
        "choices": [{"message": {"role": "assistant", "content": "four"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1},
    }));
    let chat = chat.unwrap();
    assert_eq!(
        (chat.text.as_str(), chat.cut_off, chat.usage.total()),
        ("four", true, 6)
    );
    let base = read(json!({"choices": [{"text": "four"}], "usage": null})).unwrap();
    assert_eq!((base.usage.prompt_tokens, base.usage.reply_tokens), (2, 1));
    assert!(base.usage.estimated && !base.cut_off);
    let name = |body: Value| read(body).unwrap_err().name();
    assert_eq!(
        name(json!({"error": {"message": "overloaded"}})),
        "no choices"
    );
    assert_eq!(
        name(json!({"choices": [{"message": {"content": null}}]})),
        "no text"
    );
    assert_eq!(name(json!([1])), "malformed reply");
}

#[test]
fn what_is_shown_of_an_endpoint_is_short_and_holds_no_key() {
    let endpoint = endpoint(None);
    let shown = endpoint.excerpt(&format!("wrong key sk-secret\n{}", "x".repeat(1000)));
    assert!(
        shown.starts_with("wrong key (the key) x") && shown.chars().count() == 200,
        "{shown}"
    );
    assert!(!format!("{endpoint:?}").contains("sk-secret"));
}

#[test]
fn pauses_are_given_in_seconds_or_as_a_date() {
    let pause = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::try_from(value).unwrap());
        retry_after(&headers)
    };
    assert_eq!(pause("20"), Some(Duration::from_secs(20)));
    assert_eq!(pause("0.5"), Some(Duration::from_millis(500)));
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
    assert!(pause(&date).is_some_and(|pause| pause > Duration::from_secs(80)));
    for nonsense in [
        "soon",
        "-3",
        "NaN",
        "1e300",
        "Thu, 01 Jan 1970 00:00:00 GMT",
    ] {
        assert_eq!(pause(nonsense), None, "{nonsense}");
    }
}

#[test]
fn a_key_that_cannot_be_sent_is_refused_without_being_shown() {
    let error = headers(Some("sk-se\ncret")).unwrap_err().to_string();
    assert!(
        error.contains("cannot be sent") && !error.contains("cret"),
        "{error}"
    );
}
