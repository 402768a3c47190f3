//! The shipped files of the arithmetic world: they are what the generator makes, and fit each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use temper_datasets::Tokenizer;
use temper_datasets::arithmetic::{Arithmetic, Set, Shape, Split};
use temper_datasets::problems::eval_prompt;
use tokenizers::pre_tokenizers::split::{Split as Splitter, SplitPattern};
use tokenizers::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
};

use super::{jsonl, repo};

const ASSETS: &str = "assets/arithmetic";
const SETS: [Set; 5] = [Set::Original, Set::Rephrased, Set::Sv, Set::Fobar, Set::Sum];

/// Compares a shipped file with what it should hold. `TEMPER_BLESS=1 cargo test` writes it anew.
fn shipped(name: &str, expected: &str) {
    let file = repo(ASSETS).join(name);
    if std::env::var_os("TEMPER_BLESS").is_some() {
        std::fs::create_dir_all(repo(ASSETS)).unwrap();
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap();
    assert!(
        found == expected,
        "`{}` is not what is made today",
        file.display()
    );
}

/// The texts that a vocabulary must know: questions and answers of one side.
fn made(split: Split) -> Vec<String> {
    let world = Arithmetic {
        split,
        problems: 2000,
        sets: SETS.to_vec(),
        ..Arithmetic::default()
    };
    let both = world
        .rows()
        .into_iter()
        .map(|row| [row.question, row.answer]);
    both.flatten().collect()
}

static TRAIN: LazyLock<Vec<String>> = LazyLock::new(|| made(Split::Train));
static TEST: LazyLock<Vec<String>> = LazyLock::new(|| made(Split::Test));

fn entities() -> BTreeSet<&'static str> {
    let sides = [Split::Train, Split::Test];
    let words = sides
        .iter()
        .flat_map(|side| side.names().iter().chain(side.items()));
    words.copied().collect()
}

/// A number is its digits. A space belongs to the word behind it, to the word before it if a number follows, and to
/// an operator on both sides.
const PIECES: &str = r"\n|▁[-+*/=]▁|▁?[A-Za-z']+(?:▁(?=[0-9]))?|[0-9]|▁?[^\s▁A-Za-z0-9]|▁";

/// Texts that always come as they are, one token each: the prompt of MetaMath and the end of an answer.
const PHRASES: [&str; 5] = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
     ### Instruction:\n",
    "\n\n### Response:",
    " Let's think step by step.",
    "\n#### ",
    "\nThe answer is: ",
];

fn split_into_words(text: &str) -> Vec<String> {
    let pattern = SplitPattern::Regex(PIECES.into());
    let splitter = Splitter::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
    let mut text = PreTokenizedString::from(text.replace(' ', "▁"));
    splitter.pre_tokenize(&mut text).unwrap();
    let pieces = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    pieces
        .into_iter()
        .map(|(piece, ..)| piece.to_owned())
        .collect()
}

/// The words of all texts, except names and things: nobody learns a word that never occurs in training, so those are
/// spelled with pieces that do.
fn common_words() -> BTreeSet<String> {
    let entities = entities();
    let mut words = BTreeSet::new();
    for text in TRAIN.iter().chain(TEST.iter()) {
        let unphrased = |text: String, phrase: &str| text.replace(phrase, "\n");
        let text = PHRASES.into_iter().fold(text.clone(), unphrased);
        let known = |word: &String| !entities.contains(word.trim_matches('▁'));
        words.extend(split_into_words(&text).into_iter().filter(known));
    }
    words
}

/// Byte-pair merges over the names and things, while a pair is in at least four of them.
fn merges() -> Vec<(String, String)> {
    let spell = |word: &&str| {
        format!("▁{word}")
            .chars()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let mut words: Vec<Vec<String>> = entities().iter().map(spell).collect();
    let mut merges = Vec::new();
    loop {
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for word in &words {
            let pairs: BTreeSet<_> = word
                .windows(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect();
            for pair in pairs {
                *counts.entry(pair).or_default() += 1;
            }
        }
        let Some((pair, count)) = counts.into_iter().max_by_key(|(_, count)| *count) else {
            return merges;
        };
        if count < 4 {
            return merges;
        }
        for word in &mut words {
            while let Some(at) = word
                .windows(2)
                .position(|two| two[0] == pair.0 && two[1] == pair.1)
            {
                word.splice(at..at + 2, [format!("{}{}", pair.0, pair.1)]);
            }
        }
        merges.push(pair);
    }
}

fn vocabulary(merges: &[(String, String)]) -> Vec<String> {
    let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let characters = ('a'..='z')
        .chain('A'..='Z')
        .chain('0'..='9')
        .chain("▁\n.,?!'-+*/=#:()$%x".chars());
    let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let mut vocabulary = Vec::new();
    for token in special
        .into_iter()
        .chain(bytes)
        .chain(characters.map(String::from))
        .chain(common_words())
        .chain(merged)
    {
        if !vocabulary.contains(&token) {
            vocabulary.push(token);
        }
    }
    vocabulary
}

fn tokenizer_json() -> String {
    let merges = merges();
    let vocabulary = vocabulary(&merges);
    let ids: serde_json::Map<String, Value> = vocabulary
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), id.into()))
        .collect();
    let added = |(id, content, special): (usize, &str, bool)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special,
        })
    };
    let special = (0..3).map(|id| (id, vocabulary[id].as_str(), true));
    let phrases = PHRASES
        .iter()
        .enumerate()
        .map(|(index, text)| (vocabulary.len() + index, *text, false));
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.chain(phrases).map(added).collect::<Vec<_>>(),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": false,
        },
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": true,
            "vocab": ids, "merges": merges,
        },
    });
    format!("{tokenizer:#}\n")
}

#[test]
fn the_shipped_tokenizer_is_made_of_the_words_of_the_stories() {
    shipped("tokenizer.json", &tokenizer_json());
}

fn tokenizer() -> Tokenizer {
    Tokenizer::load(repo(ASSETS)).unwrap()
}

#[test]
fn texts_come_back_and_every_digit_is_a_token() {
    let tokenizer = tokenizer();
    for text in TEST.iter().take(500) {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), *text);
        for token in ids.iter().map(|id| tokenizer.token(*id).unwrap()) {
            let digits = token.chars().filter(char::is_ascii_digit).count();
            assert!(digits == 0 || token.len() == 1, "{token}");
        }
    }
    let odd = "Zoë paid 1,234.50 € \t twice";
    let ids = tokenizer.encode(odd, false).unwrap();
    assert_eq!(
        tokenizer.decode(&ids, true).unwrap(),
        odd,
        "bytes stand in for what no word is"
    );
}

#[test]
fn every_token_of_a_test_problem_occurs_in_training() {
    let tokenizer = tokenizer();
    let tokens = |texts: &[String]| {
        let ids = texts
            .iter()
            .flat_map(|text| tokenizer.encode(text, false).unwrap());
        ids.collect::<BTreeSet<u32>>()
    };
    let (train, test) = (tokens(&TRAIN), tokens(&TEST));
    let unknown: Vec<_> = test
        .difference(&train)
        .map(|id| tokenizer.token(*id).unwrap())
        .collect();
    assert_eq!(unknown, [""; 0]);
    let config: Value =
        serde_json::from_slice(&std::fs::read(repo(ASSETS).join("config.json")).unwrap()).unwrap();
    assert!(tokenizer.vocab_size() as u64 <= config["vocab_size"].as_u64().unwrap());
}

#[test]
fn the_prompt_of_evaluation_is_the_beginning_of_a_training_row() {
    let tokenizer = tokenizer();
    let row = &Arithmetic::default().rows()[0];
    let prompt = eval_prompt(&row.question, &[]);
    let asked = tokenizer.encode(&prompt, true).unwrap();
    let (before, _) = prompt.split_once(" Let's").unwrap();
    let trained = tokenizer
        .encode(&format!("{before}{}", row.answer), true)
        .unwrap();
    assert_eq!(trained[..asked.len()], asked);
    let template = asked.len() - tokenizer.encode(&row.question, false).unwrap().len();
    assert_eq!(
        template, 4,
        "begin mark, instruction, response, first words of the answer"
    );
}

fn lines(rows: impl Iterator<Item = Value>) -> String {
    rows.flat_map(|row| [row.to_string(), "\n".to_owned()])
        .collect()
}

#[test]
fn the_shipped_test_problems_are_what_the_generator_makes() {
    let forward = Arithmetic {
        split: Split::Test,
        seed: 2024,
        problems: 400,
        steps: vec![1, 2],
        ..Arithmetic::default()
    };
    let rows = forward.rows();
    shipped(
        "test.jsonl",
        &lines(rows.iter().map(|row| row.to_json(Shape::Gsm8k))),
    );
    let backward = Arithmetic {
        sets: vec![Set::Sv, Set::Fobar],
        problems: 1000,
        ..forward
    };
    let rows = backward.rows();
    // In the published backward test set about two in three questions are worded as in FOBAR.
    let chosen = (0..400).map(|index| &rows[index * rows.len() / 400]);
    shipped(
        "test-backward.jsonl",
        &lines(chosen.map(|row| row.to_json(Shape::Gsm8kBackward))),
    );
    for name in ["test.jsonl", "test-backward.jsonl"] {
        let path = Path::new(ASSETS).join(name);
        let rows = jsonl(path.to_str().unwrap());
        let questions: BTreeSet<String> = rows.iter().map(Value::to_string).collect();
        assert!(
            rows.len() == 400 && questions.len() > 390,
            "{}",
            questions.len()
        );
    }
}
