//! `temper recipe`.

use std::fs;

use serde_json::Value;

use super::support::{err, fails, ok, out, temper, text_of};

const BAD_RECIPE: &str = "\
[model]
path = \"assets/stories260k\"
[data]
kind = \"gsm8k\"
path = \"assets/gsm8k/none.jsonl\"
[train]
steps = 10
epochs = 3
batch_size = \"eight\"
learning_rate = 1e-4
";

#[test]
fn all_problems_of_a_recipe_are_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    fs::write(&file, BAD_RECIPE).unwrap();
    let message = fails(&["recipe", "check", text_of(&file)], 2);
    for part in [
        "bad.toml:5:",
        "none.jsonl",
        "bad.toml:9:",
        "batch_size",
        "bad.toml:10:1",
        "did you mean `lr`?",
        "problems in",
    ] {
        assert!(message.contains(part), "`{part}` is not in\n{message}");
    }
    fails(&["recipe", "show", text_of(&file)], 2);
    fails(&["data", "preview", text_of(&file)], 2);
    fails(&["recipe", "check", "recipes/none.toml"], 2);
}

#[test]
fn a_sound_recipe_is_summed_up_and_advice_goes_to_stderr() {
    let output = temper(&[
        "recipe",
        "check",
        "recipes/quickstart.toml",
        "--set",
        "data.over_length=truncate",
    ]);
    assert!(output.status.success());
    assert!(
        out(&output).starts_with("ok: oft of `assets/stories260k`"),
        "{}",
        out(&output)
    );
    assert!(
        err(&output).starts_with("advice: `data.over_length"),
        "{}",
        err(&output)
    );
    let message = fails(
        &[
            "recipe",
            "check",
            "recipes/quickstart.toml",
            "--set",
            "train.lr=fast",
        ],
        2,
    );
    assert!(message.contains("--set"), "{message}");
}

#[test]
fn the_recipe_shown_is_the_same_recipe() {
    let shown = ok(&[
        "recipe",
        "show",
        "recipes/quickstart.toml",
        "--set",
        "train.lr=0.5",
    ]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shown.toml");
    fs::write(&file, &shown).unwrap();
    assert_eq!(ok(&["recipe", "show", text_of(&file)]), shown);
    assert!(
        shown.contains("lr = 0.5") && shown.contains("beta2 = 0.999"),
        "{shown}"
    );
}

#[test]
fn the_schema_is_json_and_keys_are_explained() {
    let schema: Value = serde_json::from_str(&ok(&["recipe", "schema"])).unwrap();
    assert_eq!(
        schema["properties"]["train"]["properties"]["lr"]["exclusiveMinimum"],
        0.0
    );
    assert!(ok(&["recipe", "explain", "train.schedule"]).contains("default: `cosine`"));
    // Recipes for images have another meaning and default of this key.
    let both = ok(&["recipe", "explain", "train.batch_size"]);
    assert!(
        both.contains("language models") && both.contains("images"),
        "{both}"
    );
    assert!(both.contains("default: `1`"), "{both}");
    let message = fails(&["recipe", "explain", "train.learning"], 2);
    assert!(
        message.contains("`train` has") && message.contains("warmup_ratio"),
        "{message}"
    );
}
