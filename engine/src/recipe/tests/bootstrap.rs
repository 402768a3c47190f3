//! Recipes for `temper bootstrap`.

use std::path::Path;

use crate::recipe::{
    BootstrapRecipe, Compute, Mode, Problem, QuestionTask, RecipeErrors, TextModelKind, reading,
};

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A recipe that passes, with further lines in `[text_model]` and behind it.
fn parse(text_model: &str, rest: &str) -> Result<BootstrapRecipe, RecipeErrors> {
    let text = format!(
        "[questions]\ntask = \"gsm8k\"\npath = \"assets/gsm8k/train-1000.jsonl\"\n\
         [text_model]\n{text_model}\n[samples]\nfobar = 1\n{rest}"
    );
    reading::parse(&text, "dir/mine.toml", &[], repository())
}

const ENDPOINT: &str = "kind = \"endpoint\"\nbase_url = \"http://[::1]:8000/v1\"\nmodel = \"m\"\n";

fn problem(text_model: &str, rest: &str) -> Problem {
    let mut errors = parse(text_model, rest).unwrap_err();
    assert_eq!(errors.problems.len(), 1, "{errors}");
    errors.problems.remove(0)
}

#[test]
fn defaults_are_those_of_the_kind() {
    let recipe = parse(ENDPOINT, "").unwrap();
    let model = &recipe.text_model;
    assert_eq!((model.temperature, model.mode()), (0.7, Mode::Chat));
    assert_eq!(
        (model.attempts, model.timeout, model.max_new_tokens),
        (Some(6), Some(180), None)
    );
    assert_eq!((model.device.as_ref(), model.stop()), (None, Vec::new()));
    assert_eq!(recipe.run.dir, Path::new("runs/mine"));
    let recipe = parse("kind = \"engine\"\npath = \"org/model\"", "").unwrap();
    let model = &recipe.text_model;
    assert_eq!(
        (model.mode(), model.max_new_tokens),
        (Mode::Completion, Some(512))
    );
    assert_eq!((model.compute, model.attempts), (Some(Compute::Auto), None));
    assert_eq!(model.stop(), ["Question:"]);
}

#[test]
fn a_resolved_recipe_reads_as_the_same() {
    for text_model in [
        ENDPOINT,
        "kind = \"engine\"\npath = \"org/model\"",
        "kind = \"none\"",
    ] {
        let recipe = parse(text_model, "").unwrap();
        let again: BootstrapRecipe =
            reading::parse(&recipe.to_toml(), "resolved.toml", &[], repository()).unwrap();
        assert_eq!(again, recipe);
    }
}

#[test]
fn keys_of_the_other_kind_are_refused_except_where_nothing_is_asked() {
    let both = format!("{ENDPOINT}device = \"cpu\"");
    let found = problem(&both, "");
    assert_eq!(found.key, "text_model.device");
    assert!(found.hint.unwrap().contains("kind = \"engine\""));
    assert!(parse(&both.replace("\"endpoint\"", "\"none\""), "").is_ok());
}

#[test]
fn addresses_and_names_of_keys_are_looked_at() {
    for (url, words) in [
        ("ftp://host/v1", "no address"),
        ("http://", "no address"),
        ("http://host/v1?key=1", "no address"),
        ("https://me:secret@host/v1", "user name or password"),
        ("https://host/v1/chat/completions", "names an operation"),
    ] {
        let found = problem(&ENDPOINT.replace("http://[::1]:8000/v1", url), "");
        assert_eq!(found.key, "text_model.base_url");
        assert!(found.message.contains(words), "{found}");
    }
    let found = problem(&format!("{ENDPOINT}api_key_env = \"sk-proj-123\""), "");
    assert!(found.hint.unwrap().contains("never the key itself"));
}

#[test]
fn a_run_that_would_make_nothing_is_refused() {
    let recipe = parse(ENDPOINT, "")
        .unwrap()
        .to_toml()
        .replace("fobar = 1", "fobar = 0");
    let errors = reading::parse::<BootstrapRecipe>(&recipe, "r.toml", &[], repository());
    assert_eq!(errors.unwrap_err().problems[0].key, "samples");
}

#[test]
fn the_shipped_recipes_ask_as_the_paper_does() {
    for (name, kind) in [
        ("bootstrap-gsm8k", TextModelKind::Endpoint),
        ("bootstrap-local", TextModelKind::Engine),
    ] {
        let file = repository().join(format!("recipes/{name}.toml"));
        let recipe: BootstrapRecipe = reading::load(&file, &[], repository()).unwrap();
        assert_eq!(
            (recipe.seed, recipe.questions.task),
            (42, QuestionTask::Gsm8k)
        );
        assert_eq!(
            (recipe.text_model.kind, recipe.text_model.temperature),
            (kind, 0.7)
        );
        assert_eq!(recipe.run.dir, Path::new("runs").join(name));
    }
}
