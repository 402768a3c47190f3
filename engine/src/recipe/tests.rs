//! Behaviour of recipes as their authors see it. Contradictions between keys are in
//! `tests/contradictions.rs`.

mod bootstrap;
mod contradictions;
mod diffusion;
mod files;
mod overrides;
mod schema;
mod values;

use super::*;

/// A recipe that passes, with extra lines put into its sections: `("train", "eval_every = 5")`. A
/// line replaces the line of the same key.
pub(super) fn recipe_with(edits: &[(&str, &str)]) -> String {
    let mut sections = vec![
        ("", vec!["seed = 7"]),
        ("model", vec!["path = \"org/model\""]),
        ("adapter", vec!["kind = \"oft\""]),
        ("data", vec!["kind = \"gsm8k\"", "path = \"org/rows\""]),
        ("data.eval", vec!["fraction = 0.1"]),
        ("train", vec!["steps = 100", "batch_size = 8", "lr = 1e-3"]),
    ];
    for &(section, line) in edits {
        let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        match sections.iter_mut().find(|(name, _)| *name == section) {
            Some((_, lines)) => {
                lines.retain(|old| key(old) != key(line));
                lines.push(line);
            }
            None => sections.push((section, vec![line])),
        }
    }
    let render = |(name, lines): &(&str, Vec<&str>)| {
        let header = if name.is_empty() {
            String::new()
        } else {
            format!("[{name}]\n")
        };
        header + &lines.join("\n") + "\n"
    };
    sections.iter().map(render).collect()
}

pub(super) fn parse(text: &str) -> Result<Recipe, RecipeErrors> {
    Recipe::parse(text, "test.toml", &[])
}

/// The only problem of a recipe.
pub(super) fn problem(text: &str) -> Problem {
    let errors = parse(text).unwrap_err();
    assert_eq!(errors.problems.len(), 1, "{errors}");
    errors.problems[0].clone()
}

/// Checks the only problem of a recipe: its key, a part of its message and a part of its hint.
pub(super) fn expect(edits: &[(&str, &str)], key: &str, message: &str, hint: &str) {
    let text = recipe_with(edits);
    let problem = problem(&text);
    assert_eq!(problem.key, key, "{problem}");
    assert!(problem.message.contains(message), "{problem}");
    assert!(
        problem.hint.as_deref().unwrap_or_default().contains(hint),
        "{problem}"
    );
    let line = problem.line.expect("a line");
    let quoted = text.lines().nth(line - 1).unwrap();
    assert_eq!(problem.source_line.as_deref(), Some(quoted));
}

#[test]
fn smallest_recipe_gets_its_defaults() {
    let text = "[model]\npath='org/m'\n[data]\nkind='text'\npath='org/d'\n[train]\nepochs=1\nbatch_size=4\nlr=1e-4\n";
    let recipe = Recipe::parse(text, "dir/first.toml", &[]).unwrap();
    assert_eq!((recipe.device.as_str(), recipe.seed), ("auto", 42));
    assert_eq!(recipe.method(), Method::Full);
    assert_eq!(
        (recipe.data.template, recipe.data.loss_on()),
        (Some(Template::Raw), LossOn::All)
    );
    assert_eq!(recipe.train.micro_batch_size, 4);
    assert_eq!(recipe.train.warmup_ratio, Some(0.03));
    assert_eq!(recipe.run.dir, Path::new("runs/first"));
}

#[test]
fn all_problems_are_reported_in_order() {
    let text = "\
device = \"gpu\"
[model]
path = \"data/missing.jsonl\"
[adapter]
kind = \"oft\"
lora_alpha = 8
[data]
kind = \"gsm8k\"
path = [\"org/rows\", \"gone.jsonl\"]
max_seq_length = 512
template = \"chat\"
[train]
epochs = 3
steps = 10
batch_size = \"8\"
lr = 0
";
    let overrides = ["train.beta1=2".to_owned(), "run.dri=x".to_owned()];
    let errors = Recipe::parse(text, "bad.toml", &overrides).unwrap_err();
    let found: Vec<_> = errors
        .problems
        .iter()
        .map(|p| (p.file.as_str(), p.line.unwrap(), p.key.as_str()))
        .collect();
    let expected = [
        ("bad.toml", 1, "device"),
        ("bad.toml", 3, "model.path"),
        ("bad.toml", 6, "adapter.lora_alpha"),
        ("bad.toml", 9, "data.path[1]"),
        ("bad.toml", 10, "data.max_seq_length"),
        ("bad.toml", 11, "data.template"),
        ("bad.toml", 13, "train.epochs"),
        ("bad.toml", 15, "train.batch_size"),
        ("bad.toml", 16, "train.lr"),
        ("--set", 1, "train.beta1"),
        ("--set", 1, "run.dri"),
    ];
    assert_eq!(found, expected);
    assert!(errors.to_string().ends_with("11 problems in bad.toml"));
}

#[test]
fn report_quotes_the_line_and_points_at_the_value() {
    let text = recipe_with(&[("train", "\tlr = \"é\" # rate")]);
    let expected = "\
error: `train.lr` must be a number, found the string `é`
  --> test.toml:14:7
   |
14 |  lr = \"é\" # rate
   |       ^^^

1 problem in test.toml";
    assert_eq!(parse(&text).unwrap_err().to_string(), expected);
}

#[test]
fn text_that_is_not_toml_is_reported_with_all_its_lines() {
    let errors = parse("device = cuda:0\nseed = 1\nseed = 2\n[model]\npath = .5\n").unwrap_err();
    let lines: Vec<_> = errors.problems.iter().map(|p| p.line).collect();
    assert_eq!(lines, [Some(1), Some(3), Some(5)]);
    assert!(
        errors
            .problems
            .iter()
            .all(|p| p.message.starts_with("not valid TOML"))
    );
    assert!(
        errors.problems[0]
            .hint
            .as_ref()
            .unwrap()
            .contains("\"cuda:0\"")
    );
}

#[test]
fn hostile_texts_are_refused_without_a_crash() {
    for text in [
        "[".repeat(30_000),
        format!("a={}", "[".repeat(30_000)),
        format!("{}a=1", "a.".repeat(30_000)),
        format!("a={}", "{a=".repeat(20_000)),
        "\u{0}\u{1b}[31m=".to_owned(),
        "a = 1\n".repeat(5_000),
        "x".repeat(1 << 17),
        String::new(),
    ] {
        let errors = parse(&text).unwrap_err();
        assert!(!errors.problems.is_empty());
        assert!(!errors.to_string().contains('\u{1b}'));
    }
}

#[test]
fn resolved_recipe_reads_back_equal() {
    for edits in [
        &[][..],
        &[("adapter", "r = 4")],
        &[("adapter", "coft = true")],
        &[("adapter", "use_cayley_neumann = false")],
        &[("adapter", "kind = \"full\"")],
        &[
            ("adapter", "kind = \"lora\""),
            ("adapter", "rank_pattern = { \"model.q_proj\" = 4 }"),
        ],
        &[("data", "kind = \"tokens\""), ("train", "warmup_steps = 0")],
        &[
            ("data", "path = [\"a/b\", \"c/d\"]"),
            ("train", "micro_batch_size = 2"),
        ],
        &[
            ("sample", "prompts = [\"a\\nb\", \"\\u0000\"]"),
            ("run", "name = \"ü\""),
        ],
        &[
            ("train", "lr = 0.1234567890123456"),
            ("train", "epsilon = 1e-300"),
        ],
    ] {
        let recipe = parse(&recipe_with(edits)).unwrap();
        let resolved = recipe.to_toml();
        assert_eq!(parse(&resolved).unwrap(), recipe, "{resolved}");
    }
}

#[test]
fn resolved_recipe_shows_defaults() {
    let resolved = parse(&recipe_with(&[])).unwrap().to_toml();
    for line in [
        "oft_block_size = 32",
        "num_cayley_neumann_terms = 5",
        "template = \"metamath\"",
        "keep_last = 2",
    ] {
        assert!(
            resolved.lines().any(|found| found == line),
            "{line} in {resolved}"
        );
    }
}

#[test]
fn steps_and_warmup_follow_the_published_counts() {
    let train = Train {
        epochs: Some(3.0),
        batch_size: 128,
        warmup_ratio: Some(0.03),
        ..Train::default()
    };
    assert_eq!(train.total_steps(395_000), 9_258);
    assert_eq!(train.warmup(9_258), 278);
}

#[test]
fn advice_names_choices_that_are_often_regretted() {
    let recipe = parse(&recipe_with(&[
        ("adapter", "coft = true"),
        ("data", "over_length = \"truncate\""),
    ]))
    .unwrap();
    let advice = recipe.advice();
    assert!(
        advice.iter().any(|line| line.contains("`adapter.eps`")),
        "{advice:?}"
    );
    assert!(
        advice.iter().any(|line| line.contains("`data.over_length")),
        "{advice:?}"
    );
    assert_eq!(parse(&recipe_with(&[])).unwrap().advice(), [""; 0]);
}
