//! Keys that contradict each other.

use super::{expect, parse, problem, recipe_with};
use crate::recipe::{Arithmetic, Method};

const LORA: (&str, &str) = ("adapter", "kind = \"lora\"");
const FULL: (&str, &str) = ("adapter", "kind = \"full\"");

/// A valid recipe without `[data.eval]`.
fn without_eval(edits: &[(&str, &str)]) -> String {
    recipe_with(edits).replace("[data.eval]\nfraction = 0.1\n", "")
}

#[test]
fn unknown_device_is_refused() {
    for device in [
        "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cpu:0", "auto:1", "CUDA", "",
    ] {
        let line = format!("device = \"{device}\"");
        expect(&[("", &line)], "device", device, "`cuda:0`");
    }
    for device in [
        "auto",
        "cpu",
        "cuda",
        "cuda:0",
        "vulkan:12",
        "wgpu",
        "metal:1",
    ] {
        assert!(parse(&recipe_with(&[("", &format!("device = \"{device}\""))])).is_ok());
    }
}

#[test]
fn length_is_given_once() {
    let key = "train.epochs";
    expect(
        &[("train", "epochs = 3")],
        key,
        "exclude each other",
        "keep one",
    );
    let none = recipe_with(&[]).replace("steps = 100\n", "");
    let problem = problem(&none);
    assert!(problem.message.contains("how long to train"), "{problem}");
    assert_eq!(problem.source_line.as_deref(), Some("[train]"));
}

#[test]
fn micro_batch_fits_into_the_batch() {
    let key = "train.micro_batch_size";
    expect(
        &[("train", "micro_batch_size = 16")],
        key,
        "larger than",
        "optimizer step",
    );
    let uneven = [
        ("train", "micro_batch_size = 3"),
        ("train", "loss_average = \"micro_batch\""),
    ];
    expect(&uneven, key, "must divide", "`loss_average = \"token\"`");
    assert!(parse(&recipe_with(&uneven[..1])).is_ok());
}

#[test]
fn warmup_is_given_once_and_ends() {
    let both = [
        ("train", "warmup_ratio = 0.1"),
        ("train", "warmup_steps = 5"),
    ];
    expect(
        &both,
        "train.warmup_ratio",
        "exclude each other",
        "keep one",
    );
    expect(
        &[("train", "warmup_steps = 100")],
        "train.warmup_steps",
        "does not end",
        "never reach",
    );
}

#[test]
fn constant_schedule_has_no_floor() {
    let edits = [
        ("train", "schedule = \"constant\""),
        ("train", "min_lr_ratio = 0.1"),
    ];
    expect(&edits, "train.min_lr_ratio", "has no effect", "`cosine`");
}

#[test]
fn evaluation_needs_held_out_rows() {
    for line in ["eval_every = 10", "early_stopping_patience = 2"] {
        let problem = problem(&without_eval(&[("train", line)]));
        assert!(problem.message.contains("needs held-out rows"), "{problem}");
        assert!(problem.hint.unwrap().contains("[data.eval]"));
    }
    expect(
        &[("train", "early_stopping_patience = 2")],
        "train.early_stopping_patience",
        "only one at the end",
        "eval_every",
    );
}

#[test]
fn a_best_checkpoint_is_chosen_among_several() {
    let mut edits = vec![
        ("eval", "task = \"gsm8k\""),
        ("eval", "path = \"org/problems\""),
        ("eval", "choose_best = true"),
    ];
    expect(
        &edits,
        "eval.choose_best",
        "nothing to choose from",
        "every = 100",
    );
    edits.push(("eval", "every = 50"));
    let eval = parse(&recipe_with(&edits)).unwrap().eval.unwrap();
    assert_eq!((eval.every, eval.longest_completion()), (50, 512));
    edits.push(("eval", "few_shot = 9"));
    expect(&edits, "eval.few_shot", "at most 8", "");
}

#[test]
fn held_out_rows_are_chosen_one_way() {
    let edits = [("data.eval", "path = \"org/other\"")];
    expect(&edits, "data.eval.path", "exclude each other", "keep one");
    let neither = recipe_with(&[("data.eval", "limit = 5")]).replace("fraction = 0.1\n", "");
    let problem = problem(&neither);
    assert_eq!(problem.key, "data.eval");
    assert!(problem.message.contains("which rows"), "{problem}");
}

#[test]
fn oft_block_is_given_once() {
    let both = [("adapter", "r = 8"), ("adapter", "oft_block_size = 8")];
    expect(
        &both,
        "adapter.oft_block_size",
        "exclude each other",
        "keep one",
    );
    let none = [("adapter", "r = 0"), ("adapter", "oft_block_size = 0")];
    expect(
        &none,
        "adapter.oft_block_size",
        "both 0",
        "oft_block_size = 32",
    );
    expect(
        &[("adapter", "oft_block_size = 1")],
        "adapter.oft_block_size",
        "no parameters",
        "32",
    );
    for edits in [
        &[("adapter", "r = 8")][..],
        &[("adapter", "r = 8"), ("adapter", "oft_block_size = 0")],
    ] {
        let recipe = parse(&recipe_with(edits)).unwrap();
        assert!(
            matches!(recipe.method(), Method::Oft(oft) if (oft.r, oft.oft_block_size) == (8, 0))
        );
    }
}

#[test]
fn oft_keys_without_effect_are_refused() {
    expect(
        &[("adapter", "eps = 1e-3")],
        "adapter.eps",
        "only with `coft = true`",
        "add `coft = true`",
    );
    expect(
        &[("adapter", "eps_scaling = \"official\"")],
        "adapter.eps_scaling",
        "only with `coft = true`",
        "",
    );
    expect(
        &[("adapter", "module_dropout = 0.1")],
        "adapter.module_dropout",
        "no effect in PEFT",
        "write 0",
    );
    let exact = [
        ("adapter", "use_cayley_neumann = false"),
        ("adapter", "num_cayley_neumann_terms = 5"),
    ];
    expect(
        &exact,
        "adapter.num_cayley_neumann_terms",
        "only with `use_cayley_neumann = true`",
        "",
    );
    let eps = [("adapter", "coft = true"), ("adapter", "eps = 0.0")];
    expect(&eps, "adapter.eps", "above 0", "");
}

#[test]
fn keys_of_another_kind_are_refused_by_name() {
    expect(
        &[("adapter", "lora_alpha = 8")],
        "adapter.lora_alpha",
        "not used by `kind = \"oft\"`",
        "take it out",
    );
    expect(
        &[LORA, ("adapter", "coft = true")],
        "adapter.coft",
        "not used by `kind = \"lora\"`",
        "take it out",
    );
    expect(
        &[FULL, ("adapter", "target_modules = [\"q_proj\"]")],
        "adapter.target_modules",
        "`kind = \"full\"`",
        "",
    );
    expect(
        &[FULL, ("adapter", "init_from = \"org/adapter\"")],
        "adapter.init_from",
        "`kind = \"full\"`",
        "",
    );
    expect(
        &[("adapter", "bias = \"lora_only\"")],
        "adapter.bias",
        "`kind = \"oft\"`",
        "`oft_only`",
    );
    expect(
        &[LORA, ("adapter", "bias = \"oft_only\"")],
        "adapter.bias",
        "`kind = \"lora\"`",
        "`lora_only`",
    );
}

#[test]
fn lora_ranks_and_alphas_are_positive() {
    expect(&[LORA, ("adapter", "r = 0")], "adapter.r", "at least 1", "");
    expect(
        &[LORA, ("adapter", "lora_alpha = 0")],
        "adapter.lora_alpha",
        "above 0",
        "",
    );
    expect(
        &[LORA, ("adapter", "lora_dropout = 1.0")],
        "adapter.lora_dropout",
        "below 1",
        "",
    );
    expect(
        &[LORA, ("adapter", "rank_pattern = { q_proj = 0 }")],
        "adapter.rank_pattern",
        "rank 0",
        "exclude_modules",
    );
    expect(
        &[LORA, ("adapter", "alpha_pattern = { q_proj = 0.0 }")],
        "adapter.alpha_pattern",
        "alpha 0",
        "above 0",
    );
}

#[test]
fn layer_selection_must_select() {
    expect(
        &[("adapter", "target_modules = \"q_proj\"")],
        "adapter.target_modules",
        "whole layer names",
        "[\"q_proj\"]",
    );
    expect(
        &[("adapter", "exclude_modules = \"lm_head\"")],
        "adapter.exclude_modules",
        "whole layer names",
        "",
    );
    expect(
        &[("adapter", "target_modules = [\"all-linear\"]")],
        "adapter.target_modules",
        "not a layer",
        "without brackets",
    );
    expect(
        &[("adapter", "layers_pattern = \"layers\"")],
        "adapter.layers_pattern",
        "only with `layers_to_transform`",
        "",
    );
    let regex = [
        ("adapter", "target_modules = '.*\\.q_proj'"),
        ("adapter", "layers_to_transform = [0]"),
    ];
    expect(
        &regex,
        "adapter.layers_to_transform",
        "regular expression",
        "as a list",
    );
}

#[test]
fn template_goes_with_the_kind() {
    expect(
        &[("data", "template = \"chat\"")],
        "data.template",
        "`kind = \"gsm8k\"`",
        "`metamath`",
    );
    expect(
        &[
            ("data", "kind = \"tokens\""),
            ("data", "template = \"raw\""),
        ],
        "data.template",
        "`kind = \"tokens\"`",
        "take",
    );
    expect(
        &[
            ("data", "kind = \"text\""),
            ("data", "template = \"alpaca\""),
        ],
        "data.template",
        "`kind = \"text\"`",
        "take",
    );
    expect(
        &[("data", "kind = \"chat\""), ("data", "template = \"raw\"")],
        "data.template",
        "`kind = \"chat\"`",
        "take",
    );
    let single = [
        ("data", "single_field = true"),
        ("data", "template = \"alpaca\""),
    ];
    expect(
        &single,
        "data.single_field",
        "only with `template = \"metamath\"`",
        "",
    );
}

#[test]
fn rows_without_a_response_cannot_learn_it() {
    for kind in ["text", "tokens"] {
        let line = format!("kind = \"{kind}\"");
        expect(
            &[("data", &line), ("data", "loss_on = \"response\"")],
            "data.loss_on",
            "no response",
            "\"all\"",
        );
    }
}

#[test]
fn random_weights_need_one_architecture_and_a_tokenizer() {
    let random = ("model", "init = \"random\"");
    expect(
        &[random],
        "model.init",
        "needs an architecture",
        "`preset = ...`",
    );
    let preset = ("model", "preset = \"llama2-7b\"");
    expect(
        &[random, preset, ("model", "config = \"c.json\"")],
        "model.config",
        "both give",
        "keep one",
    );
    let bare = recipe_with(&[random, preset]).replace("path = \"org/model\"\n", "");
    let message = problem(&bare).message;
    assert!(message.contains("no tokenizer"), "{message}");
    assert!(parse(&bare.replace("gsm8k", "tokens")).is_ok());
}

#[test]
fn pretrained_weights_need_a_path_and_bring_their_config() {
    expect(
        &[("model", "config = \"c.json\"")],
        "model.config",
        "pretrained",
        "init = \"random\"",
    );
    let none =
        recipe_with(&[("model", "preset = \"llama2-7b\"")]).replace("path = \"org/model\"\n", "");
    let problem = problem(&none);
    assert_eq!(problem.key, "model.path");
    assert!(problem.message.contains("missing"), "{problem}");
}

#[test]
fn known_bad_value_starts_no_second_complaint() {
    expect(
        &[("train", "steps = \"many\"")],
        "train.steps",
        "must be an integer",
        "",
    );
    expect(
        &[("data", "kind = \"jsn\""), ("data", "template = \"chat\"")],
        "data.kind",
        "must be one of",
        "",
    );
}

#[test]
fn rows_are_either_read_or_made() {
    let made = ("data", "kind = \"arithmetic\"");
    expect(&[made], "data.path", "not used", "`[data.arithmetic]`");
    expect(
        &[("data.arithmetic", "problems = 5")],
        "data.arithmetic",
        "only by `kind = \"arithmetic\"`",
        "change `kind`",
    );
    let text = recipe_with(&[made]).replace("path = \"org/rows\"\n", "");
    let recipe = parse(&text).unwrap();
    assert_eq!(recipe.data.arithmetic, Some(Arithmetic::default()));
    assert_eq!(parse(&recipe.to_toml()).unwrap(), recipe);
    let wrong = recipe_with(&[made, ("data.arithmetic", "steps = [1, 5]")]);
    let wrong = problem(&wrong.replace("path = \"org/rows\"\n", ""));
    assert_eq!(wrong.key, "data.arithmetic.steps[1]");
}
