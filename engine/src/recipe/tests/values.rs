//! Keys and values one at a time: unknown, of the wrong type, outside a list or a range, missing.

use super::{expect, parse, problem, recipe_with};
use crate::recipe::{hints, schema};

#[test]
fn unknown_key_names_the_nearest_one() {
    expect(
        &[("train", "weigth_decay = 0.1")],
        "train.weigth_decay",
        "unknown key",
        "`weight_decay`",
    );
    expect(
        &[("train", "Lr_ = 0.1")],
        "train.Lr_",
        "unknown key",
        "`lr`",
    );
    expect(
        &[("data", "zzzzzz = 1")],
        "data.zzzzzz",
        "in `[data]`",
        "`[data]` has `kind`",
    );
}

#[test]
fn names_of_other_tools_are_translated() {
    for (section, line, hint) in [
        ("train", "learning_rate = 1e-4", "did you mean `lr`?"),
        ("train", "num_train_epochs = 3", "did you mean `epochs`?"),
        ("train", "num_epochs = 3", "did you mean `epochs`?"),
        (
            "train",
            "per_device_train_batch_size = 3",
            "did you mean `micro_batch_size`?",
        ),
        (
            "train",
            "gradient_accumulation_steps = 3",
            "accumulation follows",
        ),
        (
            "train",
            "output_dir = 'x'",
            "did you mean `dir` in `[run]`?",
        ),
        ("train", "bf16 = true", "`[precision]`"),
        ("adapter", "lora_r = 3", "did you mean `r`?"),
        ("model", "model_name_or_path = 'x'", "did you mean `path`?"),
        ("data", "seq_len = 3", "did you mean `max_length`?"),
        ("data", "max_seq_length = 3", "did you mean `max_length`?"),
        ("data", "sequence_len = 3", "did you mean `max_length`?"),
        (
            "train",
            "max_length = 3",
            "did you mean `max_length` in `[data]`?",
        ),
        (
            "train",
            "seed = 3",
            "did you mean `seed`? it stands at the top",
        ),
        ("training", "lr = 1", "did you mean the section `[train]`?"),
        ("evaluation", "limit = 1", "the section `[data.eval]`"),
        ("lora", "r = 1", "`kind = \"lora\"`"),
    ] {
        let problem = problem(&recipe_with(&[(section, line)]));
        assert!(problem.hint.as_ref().unwrap().contains(hint), "{problem}");
    }
}

#[test]
fn every_alias_leads_to_a_key_that_exists() {
    let schemas = [
        schema::schema(),
        schema::diffusion_schema(),
        schema::bootstrap_schema(),
    ];
    for target in hints::targets() {
        let exists = |schema| schema::lookup(schema, target).is_some();
        assert!(schemas.iter().any(exists), "{target}");
    }
}

#[test]
fn wrong_type_names_what_is_expected() {
    expect(
        &[("train", "lr = \"1e-4\"")],
        "train.lr",
        "must be a number, found the string `1e-4`",
        "`1e-4`",
    );
    expect(
        &[("train", "batch_size = 8.0")],
        "train.batch_size",
        "an integer, found `8.0`",
        "write `8`",
    );
    expect(
        &[("train", "batch_size = 8.5")],
        "train.batch_size",
        "an integer, found `8.5`",
        "",
    );
    expect(
        &[("data", "packing = \"yes\"")],
        "data.packing",
        "`true` or `false`",
        "without quotes",
    );
    expect(
        &[("data", "packing = 1")],
        "data.packing",
        "`true` or `false`, found `1`",
        "",
    );
    expect(
        &[("run", "name = 2026-11-22")],
        "run.name",
        "a string, found the date",
        "quotes",
    );
    expect(
        &[("model", "path = [\"a/b\"]")],
        "model.path",
        "a string, found an array",
        "",
    );
}

#[test]
fn wrong_type_inside_or_in_place_of_an_array_is_refused() {
    expect(
        &[("sample", "prompts = \"Hi\"")],
        "sample.prompts",
        "an array of strings",
        "[\"Hi\"]",
    );
    expect(
        &[("", "seed = 99999999999999999999")],
        "seed",
        "found `99999999999999999999`",
        "64 bits",
    );
    expect(
        &[("adapter", "target_modules = 3")],
        "adapter.target_modules",
        "a string or an array of strings",
        "",
    );
    expect(
        &[("adapter", "target_modules = [\"a_\", 3]")],
        "adapter.target_modules[1]",
        "a string, found `3`",
        "",
    );
}

#[test]
fn text_in_place_of_a_section_is_refused() {
    let text = recipe_with(&[("", "run = \"runs/x\"")]);
    let problem = problem(&text);
    assert_eq!((problem.key.as_str(), problem.line), ("run", Some(2)));
    assert!(problem.hint.unwrap().contains("`[run]`"));
}

#[test]
fn value_outside_the_list_names_the_allowed_ones() {
    let all = "one of `cosine`, `linear`, `constant`, found the string `cosin`";
    expect(
        &[("train", "schedule = \"cosin\"")],
        "train.schedule",
        all,
        "`cosine`",
    );
    expect(
        &[("adapter", "kind = \"boft\"")],
        "adapter.kind",
        "`full`, `oft`, `lora`",
        "not supported yet; use `oft`",
    );
    expect(
        &[("precision", "compute = \"fp16\"")],
        "precision.compute",
        "`bf16`",
        "`f16`",
    );
    expect(
        &[("model", "preset = \"llama2-7\"")],
        "model.preset",
        "`llama2-7b`",
        "`llama2-7b`",
    );
    expect(
        &[("train", "non_finite = \"skip\"")],
        "train.non_finite",
        "must be `stop`",
        "",
    );
}

#[test]
fn number_outside_its_range_is_refused() {
    for (section, line, key, message) in [
        (
            "train",
            "lr = 0",
            "train.lr",
            "above 0 and at most 1, found `0`",
        ),
        ("train", "lr = -1e-4", "train.lr", "above 0"),
        ("train", "lr = 5", "train.lr", "at most 1"),
        ("train", "lr = nan", "train.lr", "above 0"),
        (
            "train",
            "max_grad_norm = inf",
            "train.max_grad_norm",
            "at least 0, found `inf`",
        ),
        ("train", "beta1 = 1.0", "train.beta1", "below 1"),
        ("train", "beta2 = -0.1", "train.beta2", "at least 0"),
        ("train", "epsilon = 0", "train.epsilon", "above 0"),
        (
            "train",
            "weight_decay = -1",
            "train.weight_decay",
            "at least 0",
        ),
        ("train", "batch_size = 0", "train.batch_size", "at least 1"),
        ("train", "steps = 0", "train.steps", "at least 1"),
    ] {
        expect(&[(section, line)], key, message, "");
    }
}

#[test]
fn count_outside_its_range_is_refused() {
    for (section, line, key, message) in [
        ("train", "keep_last = 0", "train.keep_last", "at least 1"),
        (
            "train",
            "warmup_ratio = 1.0",
            "train.warmup_ratio",
            "below 1",
        ),
        ("train", "save_every = -5", "train.save_every", "at least 0"),
        ("data", "max_length = 7", "data.max_length", "at least 8"),
        (
            "data.eval",
            "fraction = 1.5",
            "data.eval.fraction",
            "below 1",
        ),
        (
            "data.eval",
            "fraction = 0.0",
            "data.eval.fraction",
            "above 0",
        ),
        (
            "sample",
            "temperature = -1",
            "sample.temperature",
            "at least 0",
        ),
        (
            "adapter",
            "num_cayley_neumann_terms = 1",
            "adapter.num_cayley_neumann_terms",
            "at least 2",
        ),
        (
            "adapter",
            "layers_to_transform = []",
            "adapter.layers_to_transform",
            "must not be empty",
        ),
        ("", "seed = -1", "seed", "at least 0"),
    ] {
        expect(&[(section, line)], key, message, "");
    }
}

#[test]
fn missing_keys_and_sections_are_named() {
    let errors = parse("[data]\nlimit = 1\n[train]\nsteps = 1\n").unwrap_err();
    let found: Vec<_> = errors
        .problems
        .iter()
        .map(|p| (p.key.as_str(), p.line))
        .collect();
    let expected = [
        ("data.kind", Some(1)),
        ("data.path", Some(1)),
        ("train.batch_size", Some(3)),
        ("train.lr", Some(3)),
        ("model", None),
    ];
    assert_eq!(found, expected);
    assert!(
        errors.problems[0]
            .hint
            .as_ref()
            .unwrap()
            .contains("`metamathqa`")
    );
}
