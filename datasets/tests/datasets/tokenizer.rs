use serde_json::{Value, json};
use temper_datasets::{DataError, Tokenizer};

use crate::{jsonl, repo, stories, write};

fn llama() -> Tokenizer {
    Tokenizer::load(repo("tests/golden/llama_tokenizer/tokenizer.model")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn a_sentencepiece_model_gives_the_ids_of_the_reference() {
    let tokenizer = llama();
    assert_eq!(tokenizer.vocab_size(), 32_000);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    for row in jsonl("tests/golden/metamath/dev_tokenizer.jsonl") {
        let text = row["text"].as_str().unwrap();
        assert_eq!(
            tokenizer.encode(text, false).unwrap(),
            ids(&row["llama2_ids"]),
            "{text:?}"
        );
    }
    let hello = tokenizer.encode("Hello this is a test", true).unwrap();
    assert_eq!(hello, [1, 15043, 445, 338, 263, 1243]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [1]);
}

#[test]
fn a_tokenizer_json_gives_the_ids_of_the_reference() {
    let tokenizer = stories();
    assert_eq!(tokenizer.vocab_size(), 512);
    let mut compared = 0;
    for row in jsonl("tests/golden/metamath/dev_tokenizer.jsonl") {
        if row["tok512_ids"].is_null() {
            continue;
        }
        let text = row["text"].as_str().unwrap();
        assert_eq!(
            tokenizer.encode(text, false).unwrap(),
            ids(&row["tok512_ids"]),
            "{text:?}"
        );
        compared += 1;
    }
    assert!(compared > 150);
}

#[test]
fn decoding_gives_the_text_back() {
    let (llama, stories) = (llama(), stories());
    for row in jsonl("tests/golden/metamath/dev_tokenizer.jsonl") {
        let text = row["text"].as_str().unwrap();
        if text.contains('▁') {
            // Stands for a space in the vocabulary and comes back as one.
            continue;
        }
        for tokenizer in [&llama, &stories] {
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
            let mut stream = tokenizer.stream();
            let mut streamed = String::new();
            for id in ids {
                streamed.extend(stream.push(id).unwrap());
            }
            assert_eq!(streamed + &stream.finish().unwrap(), text);
        }
    }
}

#[test]
fn a_stream_holds_back_half_a_character() {
    let tokenizer = llama();
    let mut stream = tokenizer.stream();
    // The four bytes of an emoji, then a word.
    let pieces: Vec<Option<String>> = [243, 162, 156, 133, 15043]
        .map(|id| stream.push(id).unwrap())
        .to_vec();
    assert_eq!(
        pieces,
        [None, None, None, Some("🙂".into()), Some(" Hello".into())]
    );
    assert!(stream.push(32_000).is_err());
}

#[test]
fn a_stream_after_a_prompt_keeps_the_space_between() {
    let tokenizer = llama();
    let prompt = tokenizer.encode("### Response:", true).unwrap();
    let mut stream = temper_datasets::DecodeStream::after(&tokenizer, &prompt, true);
    assert_eq!(stream.push(15043).unwrap().as_deref(), Some(" Hello"));
    assert_eq!(
        tokenizer.stream().push(15043).unwrap().as_deref(),
        Some("Hello")
    );
}

#[test]
fn special_tokens_in_text_stay_text_unless_asked_for() {
    for tokenizer in [llama(), stories()] {
        let plain = tokenizer.encode("a</s>b", false).unwrap();
        assert!(!plain.contains(&2), "{plain:?}");
        assert_eq!(tokenizer.decode(&plain, true).unwrap(), "a</s>b");
        let parsed = tokenizer.encode_with_specials("a</s>b").unwrap();
        assert!(parsed.contains(&2), "{parsed:?}");
        assert_eq!(tokenizer.special_in("x</s>"), Some("</s>"));
        assert_eq!(tokenizer.special_in("x"), None);
    }
}

#[test]
fn a_byte_piece_in_text_stays_text() {
    let ids = llama().encode("<0x0A>", false).unwrap();
    assert_eq!(llama().decode(&ids, true).unwrap(), "<0x0A>");
}

#[test]
fn a_padding_token_added_after_training_gets_its_own_id() {
    let directory = tempfile::tempdir().unwrap();
    let model = repo("tests/golden/llama_tokenizer/tokenizer.model");
    std::fs::copy(model, directory.path().join("tokenizer.model")).unwrap();
    write(directory.path(), "added_tokens.json", r#"{"[PAD]": 32000}"#);
    write(
        directory.path(),
        "generation_config.json",
        r#"{"eos_token_id": [2, 13]}"#,
    );
    let tokenizer = Tokenizer::load(directory.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 32_001);
    assert_eq!(tokenizer.id("[PAD]"), Some(32_000));
    assert_eq!(tokenizer.encode_with_specials("[PAD]").unwrap(), [32_000]);
    assert_eq!(tokenizer.stop_ids(), [2, 13]);
    assert_ne!(tokenizer.fingerprint(), llama().fingerprint());
}

#[test]
fn truncation_and_padding_of_the_file_are_not_applied() {
    let directory = tempfile::tempdir().unwrap();
    let text = std::fs::read(repo("assets/stories260k/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&text).unwrap();
    json["truncation"] = json!({
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0,
    });
    let path = write(directory.path(), "tokenizer.json", json.to_string());
    let tokenizer = Tokenizer::load(path).unwrap();
    assert!(tokenizer.encode("Once upon a time", true).unwrap().len() > 4);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
}

#[test]
fn a_model_whose_texts_do_not_begin_with_a_token_gets_none() {
    let directory = tempfile::tempdir().unwrap();
    let from = repo("assets/stories260k/tokenizer.json");
    std::fs::copy(from, directory.path().join("tokenizer.json")).unwrap();
    write(
        directory.path(),
        "tokenizer_config.json",
        r#"{"add_bos_token": false, "eos_token": "</s>"}"#,
    );
    let tokenizer = Tokenizer::load(directory.path()).unwrap();
    assert_eq!(
        tokenizer.encode("a", true).unwrap(),
        tokenizer.encode("a", false).unwrap()
    );
}

#[test]
fn missing_and_malformed_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(directory.path()).unwrap_err();
    assert!(matches!(error, DataError::NoTokenizer { .. }), "{error}");
    let error = Tokenizer::load(directory.path().join("tokenizer.json")).unwrap_err();
    assert!(matches!(error, DataError::Io { .. }), "{error}");
    std::fs::copy(
        repo("assets/stories260k/tokenizer.json"),
        directory.path().join("tokenizer.json"),
    )
    .unwrap();
    write(directory.path(), "config.json", "{");
    let error = Tokenizer::load(directory.path()).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}

#[test]
fn damaged_tokenizer_files_are_errors_and_never_panics() {
    let directory = tempfile::tempdir().unwrap();
    for name in [
        "tests/golden/llama_tokenizer/tokenizer.model",
        "assets/stories260k/tokenizer.json",
    ] {
        let bytes = std::fs::read(repo(name)).unwrap();
        let extension = if name.ends_with("model") {
            "model"
        } else {
            "json"
        };
        let name = format!("tokenizer.{extension}");
        for cut in [0, 1, 7, 100, bytes.len() / 2, bytes.len() - 1] {
            let path = write(directory.path(), &name, &bytes[..cut]);
            let error = Tokenizer::load(&path).unwrap_err();
            assert!(
                matches!(error, DataError::BadTokenizer { .. }),
                "{cut}: {error}"
            );
        }
        for at in (0..bytes.len()).step_by(bytes.len() / 15) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            let path = write(directory.path(), &name, &damaged);
            // Some damage is harmless; then the tokenizer works.
            if let Ok(tokenizer) = Tokenizer::load(&path) {
                let _ = tokenizer.encode("Hello 12 🙂\n", true);
                let _ = tokenizer.decode(&[0, 5, 300], true);
            }
        }
    }
}

#[test]
fn two_tokens_with_one_id_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let text = std::fs::read(repo("assets/stories260k/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&text).unwrap();
    json["model"]["vocab"]["<0x41>"] = json!(300);
    let path = write(directory.path(), "tokenizer.json", json.to_string());
    let error = Tokenizer::load(path).unwrap_err();
    assert!(error.to_string().contains("share id 300"), "{error}");
}
