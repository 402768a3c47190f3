//! `--set key=value`.

use super::recipe_with;
use crate::recipe::{Length, LossOn, Method, OneOrMany, Problem, Recipe};

fn with(overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Recipe::parse(&recipe_with(&[]), "test.toml", &overrides).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(text: &str) -> Problem {
    let errors = Recipe::parse(&recipe_with(&[]), "test.toml", &[text.to_owned()]).unwrap_err();
    assert_eq!(errors.problems.len(), 1, "{errors}");
    let problem = errors.problems[0].clone();
    assert_eq!((problem.file.as_str(), problem.line), ("--set", Some(1)));
    assert_eq!(problem.source_line.as_deref(), Some(text));
    problem
}

#[test]
fn values_are_toml_and_bare_words_are_text() {
    let recipe = with(&[
        "device=cuda:0",
        "seed = 5",
        "train.lr=1e-4",
        "data.loss_on=all",
        "run.dir=runs/a b",
        "run.name=\"2\"",
        "data.packing=true",
        "model.path=org/other@v1.0",
    ]);
    assert_eq!((recipe.device.as_str(), recipe.seed), ("cuda:0", 5));
    assert_eq!(recipe.train.lr.to_bits(), 1e-4_f64.to_bits());
    assert_eq!(recipe.data.loss_on(), LossOn::All);
    assert_eq!(recipe.run.dir.to_str(), Some("runs/a b"));
    assert_eq!(recipe.run.name.as_deref(), Some("2"));
    assert!(recipe.data.packing);
    assert_eq!(recipe.model.path.as_deref(), Some("org/other@v1.0"));
}

#[test]
fn arrays_are_replaced_whole() {
    let recipe = with(&["data.path=[\"a/b\", 'c/d']"]);
    assert_eq!(
        recipe.data.path,
        OneOrMany::Many(vec!["a/b".into(), "c/d".into()])
    );
}

#[test]
fn sections_are_created_and_descended_into() {
    let recipe = with(&["sample.count=1", "data.eval.limit=9"]);
    assert_eq!(recipe.sample.count, 1);
    let eval = recipe.data.eval.unwrap();
    assert_eq!((eval.limit, eval.fraction), (9, Some(0.1)));
}

#[test]
fn value_in_braces_replaces_the_whole_section() {
    assert_eq!(with(&["adapter={kind=\"full\"}"]).method(), Method::Full);
    let recipe = with(&["adapter={kind=\"lora\", r=4}"]);
    assert!(matches!(recipe.method(), Method::Lora(lora) if lora.r == 4));
}

#[test]
fn later_override_wins() {
    assert_eq!(with(&["seed=1", "seed=2"]).seed, 2);
}

#[test]
fn override_removes_the_alternative_of_the_file() {
    assert_eq!(
        with(&["train.epochs=2"]).train.length(),
        Length::Epochs(2.0)
    );
    assert_eq!(
        with(&["data.eval.path=org/x"]).data.eval.unwrap().fraction,
        None
    );
    let both = ["train.epochs=2".to_owned(), "train.steps=3".to_owned()];
    let errors = Recipe::parse(&recipe_with(&[]), "test.toml", &both).unwrap_err();
    assert!(
        errors.problems[0].message.contains("exclude each other"),
        "{errors}"
    );
}

#[test]
fn wrong_override_names_itself_and_the_key() {
    let problem = refused("train.lr=fast");
    assert_eq!(
        (problem.key.as_str(), problem.column, problem.width),
        ("train.lr", Some(10), 4)
    );
    assert!(problem.to_string().contains("--> --set\n"), "{problem}");
    assert_eq!(refused("train.learning_rate=1").key, "train.learning_rate");
    assert!(
        refused("train.batch_size=\"8\"")
            .hint
            .unwrap()
            .contains("`8`")
    );
    assert!(
        refused("run.name=2026-11-22")
            .hint
            .unwrap()
            .contains("quotes")
    );
}

#[test]
fn malformed_overrides_are_refused() {
    for (text, message) in [
        ("train.lr", "has no value"),
        ("train.lr=", "has an empty value"),
        ("=1", "is not a key"),
        ("train..lr=1", "is not a key"),
        ("train lr=1", "is not a key"),
        ("data.path=[\"a/b\"", "is not valid TOML"),
        ("run.name=\"a", "is not valid TOML"),
        ("seed.x=1", "cannot reach into `seed`"),
    ] {
        let problem = refused(text);
        assert!(problem.message.contains(message), "{problem}");
        assert!(problem.hint.is_some());
    }
}

#[test]
fn one_override_sets_one_key() {
    let text = "seed=1\ndevice='cpu'".to_owned();
    let errors = Recipe::parse(&recipe_with(&[]), "test.toml", &[text]).unwrap_err();
    assert!(
        errors.problems[0].message.contains("does not set one key"),
        "{errors}"
    );
}
