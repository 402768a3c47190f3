//! Ids against those of transformers, and broken files.

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/diffusion/clip_tokenizer")
        .join(name)
}

/// A directory as published: the shared vocabulary and the special tokens of one model.
fn published(model: &str) -> (tempfile::TempDir, ClipTokenizer) {
    let directory = tempfile::tempdir().unwrap();
    let own = ["special_tokens_map.json", "tokenizer_config.json"].map(|f| format!("{model}/{f}"));
    for file in ["vocab.json", "merges.txt"]
        .into_iter()
        .chain(own.iter().map(String::as_str))
    {
        let name = Path::new(file).file_name().unwrap();
        std::fs::copy(golden(file), directory.path().join(name)).unwrap();
    }
    let tokenizer = ClipTokenizer::load(directory.path()).unwrap();
    (directory, tokenizer)
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn ids_equal_those_of_transformers() {
    let (_one, first) = published("sd1");
    let (_two, second) = published("sdxl_2");
    let cases = std::fs::read_to_string(golden("cases.jsonl")).unwrap();
    let mut seen = 0;
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let text = case["text"].as_str().unwrap();
        let own = ids(&case["sd1"]);
        let other = case.get("sdxl_2").map_or_else(|| own.clone(), ids);
        for (tokenizer, text_ids, pad) in [(&first, own, 49_407), (&second, other, 0)] {
            let mut expected = [&[49_406], &text_ids[..], &[49_407]].concat();
            let used = expected.len();
            expected.resize(77, pad);
            let tokens = tokenizer.encode(text).unwrap();
            assert_eq!(tokens.ids, expected, "{text:?}");
            assert_eq!(tokens.used, used, "{text:?}");
            assert_eq!(
                tokens.truncated.is_some(),
                case["cut"].as_bool().unwrap(),
                "{text:?}"
            );
        }
        seen += 1;
    }
    assert_eq!(seen, 72);
}

#[test]
fn what_does_not_fit_is_cut_behind_the_end_token_and_reported() {
    let (_directory, tokenizer) = published("sd1");
    let text = format!("{}Long Prompt", "dog ".repeat(74));
    let tokens = tokenizer.encode(&text).unwrap();
    assert_eq!(
        (tokens.ids.len(), tokens.used, tokens.ids[76]),
        (77, 77, 49_407)
    );
    let rest = tokens.truncated.unwrap();
    assert!(
        text.ends_with(&rest) && rest.ends_with("Prompt") && !rest.contains("dog"),
        "{rest}"
    );
    let exact = tokenizer.encode("dog ".repeat(75).trim()).unwrap();
    assert_eq!((exact.truncated, exact.used), (None, 77));
    let signs = tokenizer.encode(&"犬 ".repeat(60)).unwrap();
    assert!(
        signs
            .truncated
            .unwrap()
            .chars()
            .all(|sign| sign == '犬' || sign == ' ')
    );
}

#[test]
fn files_of_a_saved_tokenizer_are_the_same() {
    let (_directory, tokenizer) = published("sdxl_2");
    let copy = tempfile::tempdir().unwrap();
    tokenizer.save(copy.path().join("tokenizer_2")).unwrap();
    let again = ClipTokenizer::load(copy.path().join("tokenizer_2")).unwrap();
    assert_eq!(again.fingerprint(), tokenizer.fingerprint());
    assert_eq!((again.pad_id(), again.vocab_size()), (0, 49_408));
}

#[test]
fn padding_of_sd2_comes_from_the_map_although_the_configuration_differs() {
    let (directory, _tokenizer) = published("sdxl_2");
    let config = r#"{"pad_token": "<|endoftext|>", "model_max_length": 12}"#;
    std::fs::write(directory.path().join("tokenizer_config.json"), config).unwrap();
    let tokenizer = ClipTokenizer::load(directory.path()).unwrap();
    assert_eq!((tokenizer.pad_id(), tokenizer.max_length()), (0, 12));
    let complete = r#"{"pad_token": "<|endoftext|>", "added_tokens_decoder": {}}"#;
    std::fs::write(directory.path().join("tokenizer_config.json"), complete).unwrap();
    let tokenizer = ClipTokenizer::load(directory.path()).unwrap();
    assert_eq!((tokenizer.pad_id(), tokenizer.max_length()), (49_407, 77));
}

#[test]
fn a_single_file_gives_the_same_ids() {
    let (directory, from_parts) = published("sd1");
    let path = directory.path().join("tokenizer.json");
    from_parts.inner.save(&path, false).unwrap();
    for file in ["vocab.json", "merges.txt"] {
        std::fs::remove_file(directory.path().join(file)).unwrap();
    }
    let from_file = ClipTokenizer::load(directory.path()).unwrap();
    for text in ["a photo of sks dog", "it's 2 dogs!", &"dog ".repeat(90)] {
        assert_eq!(
            from_file.encode(text).unwrap(),
            from_parts.encode(text).unwrap()
        );
    }
}

#[test]
fn broken_tokenizers_are_refused_by_file() {
    let refused = |change: &dyn Fn(&Path), part: &str| {
        let (directory, _tokenizer) = published("sd1");
        change(directory.path());
        let error = ClipTokenizer::load(directory.path()).unwrap_err();
        let text = format!("{error} {:?}", std::error::Error::source(&error));
        assert!(text.contains(part), "{part} in {text}");
    };
    let write = |name: &'static str, text: &'static str| {
        move |directory: &Path| std::fs::write(directory.join(name), text).unwrap()
    };
    refused(
        &|d| std::fs::remove_file(d.join("merges.txt")).unwrap(),
        "merges.txt",
    );
    refused(&write("merges.txt", "#version: 0.2\na b\nabc\n"), "line 3");
    refused(&write("merges.txt", "zz qq\n"), "merges.txt");
    refused(&write("vocab.json", "[1]"), "vocab.json");
    refused(&write("vocab.json", "{"), "vocab.json");
    refused(&write("vocab.json", r#"{"a": -1}"#), "`a` is -1");
    refused(
        &write("special_tokens_map.json", r#"{"pad_token": "<pad>"}"#),
        "<pad>",
    );
    refused(
        &write("tokenizer_config.json", r#"{"model_max_length": 1}"#),
        "model_max_length",
    );
    refused(&write("tokenizer.json", "{}"), "tokenizer.json");
}

#[test]
fn the_tiny_tokenizer_knows_the_words_of_its_prompts() {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-diffusion/tokenizer");
    let tokenizer = ClipTokenizer::load(directory).unwrap();
    assert_eq!(tokenizer.vocab_size(), 834);
    let tokens = tokenizer.encode("a photo of sks dog").unwrap();
    assert_eq!(tokens.ids[..8], [832, 320, 524, 512, 591, 560, 833, 833]);
    // Whatever it does not know is spelled in bytes.
    let other = tokenizer.encode("犬 Zebra").unwrap();
    assert!(other.used > 6 && other.ids.iter().all(|id| *id < 834));
}
