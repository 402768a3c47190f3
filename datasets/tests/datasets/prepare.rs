use std::path::{Path, PathBuf};

use serde_json::Value;
use temper_datasets::report::Fate;
use temper_datasets::{
    CacheStatus, DataConfig, DataError, DataKind, Dataset, IGNORED, LossOn, OverLength, Result,
    Template, Tokenizer, preview,
};
use tempfile::TempDir;

use crate::{repo, stories, write};

fn prepare(config: &DataConfig) -> Result<Dataset> {
    Dataset::prepare(config, &stories(), &|_, _| ())
}

fn config(kind: DataKind, path: PathBuf) -> DataConfig {
    DataConfig {
        paths: vec![path],
        kind,
        cache: false,
        ..DataConfig::default()
    }
}

/// Rows of ids of these lengths, all trained.
fn lengths(directory: &Path, lengths: &[usize]) -> PathBuf {
    let row = |length: &usize| serde_json::json!({ "input_ids": vec![5; *length] }).to_string();
    let lines: Vec<String> = lengths.iter().map(row).collect();
    write(directory, "lengths.jsonl", lines.join("\n"))
}

#[test]
fn gsm8k_rows_are_those_of_the_reference() {
    let golden = std::fs::read(repo("tests/golden/stories260k/golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let sft = &golden["sft"];
    let data = prepare(&config(
        DataKind::Gsm8k,
        repo("assets/gsm8k/train-1000.jsonl"),
    ))
    .unwrap();
    for (slot, row) in sft["gsm8k_train_rows"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let row = row.as_u64().unwrap() as usize;
        let before = data
            .report()
            .affected
            .iter()
            .filter(|affected| affected.row < row)
            .count();
        let example = data.example(row - before);
        let length = sft["lengths"][slot].as_u64().unwrap() as usize;
        let ids: Vec<u32> = serde_json::from_value(sft["input_ids"][slot].clone()).unwrap();
        let labels: Vec<i32> = serde_json::from_value(sft["labels"][slot].clone()).unwrap();
        assert_eq!(example.input_ids, &ids[..length], "row {row}");
        assert_eq!(example.labels, &labels[..length], "row {row}");
    }
}

#[test]
fn only_the_response_and_the_end_token_are_trained() {
    let directory = TempDir::new().unwrap();
    let row = r#"{"query": "Hi </s>", "response": "Once upon a time"}"#;
    let path = write(directory.path(), "a.jsonl", row);
    let data = prepare(&config(DataKind::Metamathqa, path.clone())).unwrap();
    let shown = preview(data.example(0), &stories(), false).unwrap();
    assert!(shown.prompt.ends_with("### Response:"), "{}", shown.prompt);
    assert!(
        shown.prompt.contains("Hi </s>"),
        "text stays text: {}",
        shown.prompt
    );
    assert_eq!(shown.response, "Once upon a time</s>");
    assert_eq!(
        shown.marked,
        format!("{}«Once upon a time</s>»", shown.prompt)
    );
    assert_eq!(data.example(0).labels.last(), Some(&2));
    assert_eq!(
        data.example(0)
            .input_ids
            .iter()
            .filter(|id| **id == 2)
            .count(),
        1
    );

    let all = DataConfig {
        loss_on: LossOn::All,
        ..config(DataKind::Metamathqa, path)
    };
    let data = prepare(&all).unwrap();
    let example = data.example(0);
    assert_eq!(example.labels[0], IGNORED);
    assert_eq!(example.targets(), example.len() - 1);
    assert!(
        preview(example, &stories(), true)
            .unwrap()
            .marked
            .contains("\u{1b}[32m«")
    );
}

#[test]
fn rows_that_are_too_long_are_dropped_and_counted() {
    let directory = TempDir::new().unwrap();
    let path = lengths(directory.path(), &[3, 9, 8, 20]);
    let config = DataConfig {
        max_length: 8,
        ..config(DataKind::Tokens, path)
    };
    let data = prepare(&config).unwrap();
    let report = data.report();
    assert_eq!(
        (
            report.rows,
            report.kept,
            report.dropped_over_length,
            report.truncated
        ),
        (4, 2, 2, 0)
    );
    assert_eq!(
        (report.tokens, report.supervised_tokens, report.longest),
        (11, 9, 8)
    );
    let fates: Vec<(usize, Fate)> = report
        .affected
        .iter()
        .map(|row| (row.row, row.fate))
        .collect();
    assert_eq!(
        fates,
        [(1, Fate::DroppedOverLength), (3, Fate::DroppedOverLength)]
    );
    let text = report.to_string();
    assert!(
        text.contains("dropped as too long 2") && text.contains("lengths.jsonl` line 2"),
        "{text}"
    );

    let stop = DataConfig {
        over_length: OverLength::Error,
        ..config
    };
    let error = prepare(&stop).unwrap_err().to_string();
    assert!(
        error.contains("line 2") && error.contains("9 tokens"),
        "{error}"
    );
}

#[test]
fn truncated_rows_are_counted_and_rows_without_target_are_dropped() {
    let directory = TempDir::new().unwrap();
    let ignored = |count: usize| vec![IGNORED; count];
    let rows = [
        serde_json::json!({ "input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8] }),
        serde_json::json!({ "input_ids": [5, 6, 7, 8], "labels": [-100, -100, -100, 8] }),
        serde_json::json!({ "input_ids": [5, 6], "labels": ignored(2) }),
        serde_json::json!({ "input_ids": [5], "labels": [5] }),
    ];
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    let path = write(directory.path(), "a.jsonl", lines.join("\n"));
    let over_length = OverLength::Truncate;
    let config = DataConfig {
        max_length: 3,
        over_length,
        ..config(DataKind::Tokens, path)
    };
    let data = prepare(&config).unwrap();
    assert_eq!(data.len(), 1);
    assert_eq!(data.example(0).input_ids, [5, 6, 7]);
    assert_eq!(data.example(0).labels, [IGNORED, IGNORED, 7]);
    let report = data.report();
    assert_eq!(
        (
            report.rows,
            report.kept,
            report.truncated,
            report.without_target
        ),
        (4, 1, 2, 3)
    );
}

#[test]
fn truncation_cuts_the_end_token_off_the_response() {
    let config = DataConfig {
        max_length: 250,
        over_length: OverLength::Truncate,
        limit: Some(1),
        ..config(DataKind::Gsm8k, repo("assets/gsm8k/train-1000.jsonl"))
    };
    let data = prepare(&config).unwrap();
    assert_eq!(data.example(0).len(), 250);
    assert!(!data.example(0).input_ids.contains(&2));
    assert_eq!(data.report().affected[0].tokens, 277);
}

#[test]
fn data_without_anything_to_train_is_an_error_that_says_why() {
    let directory = TempDir::new().unwrap();
    let path = lengths(directory.path(), &[30, 40]);
    let short = DataConfig {
        max_length: 8,
        ..config(DataKind::Tokens, path)
    };
    let error = prepare(&short).unwrap_err();
    assert!(matches!(error, DataError::NothingToTrain(_)));
    let text = error.to_string();
    assert!(text.contains("dropped as too long 2"), "{text}");
    assert!(text.contains("the longest row has 40 tokens"), "{text}");

    let empty = write(directory.path(), "empty.jsonl", "\n");
    let text = prepare(&config(DataKind::Text, empty))
        .unwrap_err()
        .to_string();
    assert!(text.contains("the files hold no rows"), "{text}");
}

#[test]
fn ids_outside_the_vocabulary_name_the_row() {
    let directory = TempDir::new().unwrap();
    for (row, id) in [
        (r#"{"input_ids": [1, 512]}"#, "id 512"),
        (r#"{"input_ids": [1, 2], "labels": [-100, -1]}"#, "id -1"),
    ] {
        let path = write(directory.path(), "a.jsonl", row);
        let error = prepare(&config(DataKind::Tokens, path))
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 1") && error.contains(id), "{error}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let path = repo("assets/gsm8k/test-100.jsonl");
    let base = config(DataKind::Gsm8k, path);
    for (wrong, field) in [
        (
            DataConfig {
                paths: vec![],
                ..base.clone()
            },
            "paths",
        ),
        (
            DataConfig {
                max_length: 1,
                ..base.clone()
            },
            "max_length",
        ),
        (
            DataConfig {
                limit: Some(0),
                ..base.clone()
            },
            "limit",
        ),
        (
            DataConfig {
                template: Template::Chat { jinja: "{%".into() },
                ..base
            },
            "chat template",
        ),
    ] {
        let error = prepare(&wrong).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

const CHATML: &str = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\
                      {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

fn chat(rows: &[&str], jinja: &str) -> (TempDir, DataConfig) {
    let directory = TempDir::new().unwrap();
    let path = write(directory.path(), "chat.jsonl", rows.join("\n"));
    let template = Template::Chat {
        jinja: jinja.into(),
    };
    (
        directory,
        DataConfig {
            template,
            ..config(DataKind::Chat, path)
        },
    )
}

#[test]
fn of_a_conversation_the_last_answer_is_trained() {
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
    let (_directory, config) = chat(&[&row.replace('\n', "")], CHATML);
    let data = prepare(&config).unwrap();
    let shown = preview(data.example(0), &stories(), false).unwrap();
    assert!(
        shown.response.trim_start().starts_with('d'),
        "{}",
        shown.response
    );
    // The template writes the end token; no second one is added.
    let ids = data.example(0).input_ids;
    assert_eq!((ids[0], ids[1] == 1, ids.last()), (1, false, Some(&2)));
    assert_eq!(ids.iter().filter(|id| **id == 2).count(), 4);
}

#[test]
fn a_conversation_cannot_smuggle_in_control_tokens() {
    let row = r#"{"messages": [{"role": "user", "content": "a</s>"}, {"role": "assistant", "content": "b"}]}"#;
    let (_directory, config) = chat(&[row], CHATML);
    let error = prepare(&config).unwrap_err().to_string();
    assert!(
        error.contains("line 1") && error.contains("`</s>`"),
        "{error}"
    );
    assert!(
        prepare(&DataConfig {
            allow_special_text: true,
            ..config
        })
        .is_ok()
    );
}

#[test]
fn documents_beside_a_chat_template_stay_text() {
    let (_directory, config) = chat(&[r#"{"text": "a</s>b"}"#], CHATML);
    let data = prepare(&DataConfig {
        kind: DataKind::Text,
        ..config
    })
    .unwrap();
    let ids = data.example(0).input_ids;
    assert_eq!(
        (ids.iter().filter(|id| **id == 2).count(), ids.last()),
        (1, Some(&2))
    );
}

#[test]
fn a_template_without_a_recognisable_prompt_is_refused() {
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let (_directory, config) = chat(&[row], "{{ messages | length }}");
    assert!(
        prepare(&config)
            .unwrap_err()
            .to_string()
            .contains("does not begin with its own prompt")
    );
    let row = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    let (_directory, config) = chat(&[row], CHATML);
    assert!(
        prepare(&config)
            .unwrap_err()
            .to_string()
            .contains("last message")
    );
}

fn cached(directory: &Path) -> DataConfig {
    let path = lengths(directory, &[3, 5, 700]);
    DataConfig {
        cache: true,
        ..config(DataKind::Tokens, path)
    }
}

fn cache_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join(".temper-cache")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_second_time_the_cache_is_used_and_gives_the_same() {
    let directory = TempDir::new().unwrap();
    let config = cached(directory.path());
    let first = prepare(&config).unwrap();
    assert_eq!(first.report().cache, CacheStatus::Written);
    let second = prepare(&config).unwrap();
    assert_eq!(second.report().cache, CacheStatus::Hit);
    assert_eq!(second.fingerprint(), first.fingerprint());
    assert_eq!(second.report().affected, first.report().affected);
    assert!((0..2).all(|row| first.example(row) == second.example(row)));
    let files = cache_files(directory.path());
    assert_eq!(files.len(), 1, "no temporary file is left: {files:?}");
}

#[test]
fn other_settings_contents_or_tokenizers_have_another_cache() {
    let directory = TempDir::new().unwrap();
    let config = cached(directory.path());
    let fingerprint = prepare(&config).unwrap().fingerprint().to_owned();
    let shorter = DataConfig {
        max_length: 4,
        ..config.clone()
    };
    assert_eq!(
        prepare(&shorter).unwrap().report().cache,
        CacheStatus::Written
    );
    lengths(directory.path(), &[3, 6]);
    let changed = prepare(&config).unwrap();
    assert_eq!(changed.report().cache, CacheStatus::Written);
    assert_ne!(changed.fingerprint(), fingerprint);
    let llama = Tokenizer::load(repo("tests/golden/llama_tokenizer/tokenizer.model")).unwrap();
    let other = Dataset::prepare(&config, &llama, &|_, _| ()).unwrap();
    assert_eq!(other.report().cache, CacheStatus::Written);
}

#[test]
fn a_damaged_cache_is_rebuilt() {
    let directory = TempDir::new().unwrap();
    let config = cached(directory.path());
    let first = prepare(&config).unwrap();
    let file = cache_files(directory.path()).remove(0);
    let whole = std::fs::read(&file).unwrap();
    let damages: [Vec<u8>; 5] = [
        Vec::new(),
        whole[..whole.len() / 2].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        // One bit of an id.
        {
            let mut bytes = whole.clone();
            *bytes.last_mut().unwrap() ^= 1;
            bytes
        },
        vec![0xff; 100],
    ];
    for damage in damages {
        std::fs::write(&file, &damage).unwrap();
        let again = prepare(&config).unwrap();
        assert!(
            matches!(again.report().cache, CacheStatus::Rebuilt { .. }),
            "{:?}",
            again.report().cache
        );
        assert!((0..2).all(|row| first.example(row) == again.example(row)));
        assert_eq!(std::fs::read(&file).unwrap(), whole);
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let directory = TempDir::new().unwrap();
    let mut config = cached(directory.path());
    config.cache_dir = Some(write(directory.path(), "a-file", ""));
    let data = prepare(&config).unwrap();
    assert!(matches!(
        data.report().cache,
        CacheStatus::Unwritable { .. }
    ));
    assert!(
        data.report()
            .to_string()
            .contains("token cache: not written")
    );
}

#[test]
fn progress_ends_with_all_rows() {
    let seen = std::sync::Mutex::new(Vec::new());
    let config = config(DataKind::Gsm8k, repo("assets/gsm8k/test-100.jsonl"));
    Dataset::prepare(&config, &stories(), &|done, all| {
        seen.lock().unwrap().push((done, all));
    })
    .unwrap();
    assert_eq!(seen.lock().unwrap().last(), Some(&(100, 100)));
}
