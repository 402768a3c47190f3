//! Files that must exist, and the recipes that come with the repository.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::recipe_with;
use crate::recipe::reading::{Kind, load, parse};
use crate::recipe::{BootstrapRecipe, DiffusionRecipe, Method, Problem, Recipe, written};

fn repository() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).to_owned()
}

/// The problems of a recipe whose relative paths start at `base`.
fn problems_in(base: &Path, edits: &[(&str, &str)]) -> Vec<Problem> {
    let text = recipe_with(edits);
    Recipe::parse_in(&text, "test.toml", &[], base).map_or_else(|e| e.problems, |_| Vec::new())
}

#[cfg(unix)]
#[test]
fn a_recipe_that_is_a_pipe_is_refused_unopened() {
    let base = tempfile::tempdir().unwrap();
    let pipe = base.path().join("pipe.toml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    assert!(!DiffusionRecipe::is_at(&pipe));
    let error = Recipe::load(&pipe, &[]).unwrap_err().to_string();
    assert!(
        error.contains("pipe.toml") && error.contains("no regular file"),
        "{error}"
    );
}

#[test]
fn missing_files_are_named_with_their_key() {
    let base = tempfile::tempdir().unwrap();
    for (section, line, key, message) in [
        (
            "model",
            "path = \"models/a/b\"",
            "model.path",
            "`models/a/b` does not exist",
        ),
        (
            "model",
            "tokenizer = \"tokenizer.json\"",
            "model.tokenizer",
            "does not exist",
        ),
        (
            "data",
            "path = \"data/train.jsonl\"",
            "data.path",
            "`data/train.jsonl` does not exist",
        ),
        (
            "data.eval",
            "path = \"test.jsonl\"",
            "data.eval.path",
            "does not exist",
        ),
        (
            "adapter",
            "init_from = \"./adapter\"",
            "adapter.init_from",
            "does not exist",
        ),
        ("data", "path = \"\"", "data.path", "does not exist"),
    ] {
        let mut edits = vec![(section, line)];
        let fraction = "fraction = 0.1";
        let problems = if section == "data.eval" {
            let text = recipe_with(&edits).replace(&format!("{fraction}\n"), "");
            Recipe::parse_in(&text, "test.toml", &[], base.path())
                .unwrap_err()
                .problems
        } else {
            edits.push(("data.eval", fraction));
            problems_in(base.path(), &edits)
        };
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].key, key);
        assert!(problems[0].message.contains(message), "{}", problems[0]);
        assert!(problems[0].line.is_some());
    }
}

#[test]
fn missing_chat_template_and_config_are_named() {
    let base = tempfile::tempdir().unwrap();
    let chat = [
        ("data", "kind = \"chat\""),
        ("data", "chat_template = \"a.jinja\""),
    ];
    assert!(
        problems_in(base.path(), &chat)[0]
            .message
            .contains("no file `a.jinja`")
    );
    let random = [
        ("model", "init = \"random\""),
        ("model", "config = \"c.json\""),
    ];
    assert!(
        problems_in(base.path(), &random)[0]
            .message
            .contains("no file `c.json`")
    );
    fs::write(base.path().join("a.jinja"), "").unwrap();
    assert!(problems_in(base.path(), &chat).is_empty());
}

#[test]
fn directory_that_is_no_model_says_what_it_is() {
    let base = tempfile::tempdir().unwrap();
    let model = base.path().join("m");
    fs::create_dir(&model).unwrap();
    let edits = [("model", "path = \"m\"")];
    assert!(
        problems_in(base.path(), &edits)[0]
            .message
            .contains("no `config.json`")
    );
    let init = [("adapter", "init_from = \"m\"")];
    assert!(
        problems_in(base.path(), &init)[0]
            .message
            .contains("no `adapter_config.json`")
    );
    fs::write(model.join("adapter_config.json"), "{}").unwrap();
    let adapter = &problems_in(base.path(), &edits)[0];
    assert!(
        adapter
            .hint
            .as_ref()
            .unwrap()
            .contains("`adapter.init_from`")
    );
    assert!(problems_in(base.path(), &init).is_empty());
    fs::write(model.join("config.json"), "{}").unwrap();
    assert!(problems_in(base.path(), &edits).is_empty());
    let file = [("model", "path = \"m/config.json\"")];
    assert!(
        problems_in(base.path(), &file)[0]
            .message
            .contains("is a file")
    );
}

#[test]
fn random_weights_can_take_the_architecture_beside_the_path() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("m")).unwrap();
    fs::write(base.path().join("m/config.json"), "{}").unwrap();
    let edits = [("model", "path = \"m\""), ("model", "init = \"random\"")];
    let hint = problems_in(base.path(), &edits)[0].hint.clone().unwrap();
    assert!(hint.contains("config = \"m/config.json\""), "{hint}");
}

#[test]
fn unreadable_recipe_files_are_refused() {
    let base = tempfile::tempdir().unwrap();
    let refusal = |path: &Path| {
        Recipe::load(path, &[])
            .unwrap_err()
            .problems
            .remove(0)
            .message
    };
    assert!(refusal(&base.path().join("none.toml")).starts_with("cannot read"));
    assert!(refusal(base.path()).contains("is a directory"));
    let file = base.path().join("r.toml");
    fs::write(&file, [b'a', 0xff]).unwrap();
    assert!(refusal(&file).contains("not UTF-8 text: byte 1"));
    fs::write(&file, vec![b'#'; 1 << 17]).unwrap();
    assert!(refusal(&file).contains("too large"));
}

fn shipped() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(repository().join("recipes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    files
}

/// The best of several attempts, because other tests keep the processor busy.
fn fastest_check<K: Kind>(file: &Path) -> Duration {
    let attempt = |_| {
        let start = Instant::now();
        load::<K>(file, &[], &repository()).unwrap();
        start.elapsed()
    };
    (0..5).map(attempt).min().unwrap()
}

#[test]
fn every_shipped_recipe_is_valid_and_fast_to_check() {
    let files = shipped();
    assert!(files.len() >= 15, "{files:?}");
    for file in files {
        if BootstrapRecipe::is_at(&file) {
            check_shipped::<BootstrapRecipe>(&file);
        } else if DiffusionRecipe::is_at(&file) {
            check_shipped::<DiffusionRecipe>(&file);
        } else {
            check_shipped::<Recipe>(&file);
        }
    }
}

fn check_shipped<K: Kind + Serialize + PartialEq + Debug>(file: &Path) {
    let mut recipe: K = load(file, &[], &repository()).unwrap_or_else(|e| panic!("{e}"));
    assert!(fastest_check::<K>(file) < Duration::from_millis(100));
    let again: K = parse(&written(&recipe), "resolved.toml", &[], &repository()).unwrap();
    assert_eq!(again, recipe);
    let stem = file.file_stem().unwrap();
    assert_eq!(recipe.run_mut().dir, Path::new("runs").join(stem));
}

#[test]
fn every_shipped_recipe_says_what_it_reproduces_and_how_to_run_it() {
    for file in shipped() {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let verb = if BootstrapRecipe::is_at(&file) {
            "bootstrap"
        } else {
            "train"
        };
        let command = format!("temper {verb} recipes/{name}");
        for part in ["# Reproduces:", "# Hardware:", command.as_str()] {
            assert!(text.contains(part), "{name} lacks {part}");
        }
    }
}

#[test]
fn metamath_recipes_carry_the_numbers_of_the_paper() {
    for size in ["7b", "13b"] {
        let file = repository().join(format!("recipes/metamath-{size}-full.toml"));
        let recipe = Recipe::load_in(&file, &[], &repository()).unwrap();
        assert_eq!(recipe.method(), Method::Full);
        assert_eq!(recipe.train.lr.to_bits(), 2e-5_f64.to_bits());
        assert_eq!(recipe.train.total_steps(395_000), 9_258);
        assert_eq!(recipe.train.warmup(9_258), 278);
        assert_eq!(
            (recipe.train.batch_size, recipe.data.max_length),
            (128, 512)
        );
    }
    let file = repository().join("recipes/metamath-70b-lora.toml");
    let recipe = Recipe::load_in(&file, &[], &repository()).unwrap();
    let Method::Lora(lora) = recipe.method() else {
        panic!("not LoRA")
    };
    assert_eq!(lora.r, 96);
    assert_eq!(recipe.train.warmup(9_258), 0);
}
