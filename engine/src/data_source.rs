//! From the `[data]` of a recipe to rows of ids: where files and tokenizer come from, what is held out.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use temper_datasets::{DataConfig, Dataset, Tokenizer};
use temper_models::LlamaConfig;

use crate::Failure;
use crate::hub::{resolve_dataset, resolve_model};
use crate::recipe::{self, Arithmetic, Data, Eval, Recipe};
use crate::run::{Progress, Verbosity};

/// The tokenizer of a recipe, downloaded if need be. Rows of ids need none: for them, where there is no
/// tokenizer, the model's vocabulary takes its place.
pub(crate) fn load_tokenizer(recipe: &Recipe) -> Result<Tokenizer, Failure> {
    let is_ids = recipe.data.kind == recipe::DataKind::Tokens;
    let Some(source) = recipe.model.tokenizer_source() else {
        return if is_ids {
            Ok(Tokenizer::of_ids(vocabulary(recipe)?))
        } else {
            Err(no_tokenizer())
        };
    };
    let path = resolve_model(source)?;
    let named = recipe.model.tokenizer.is_some();
    if is_ids && !named && path.is_dir() && !has_tokenizer(&path) {
        return Ok(Tokenizer::of_ids(vocabulary(recipe)?));
    }
    Ok(Tokenizer::load(path)?)
}

fn no_tokenizer() -> Failure {
    Failure::run("the recipe names no tokenizer")
        .with_hint("set `model.tokenizer` to a directory or a hub name")
}

/// Whether a directory has a tokenizer of its own.
pub(crate) fn has_tokenizer(directory: &Path) -> bool {
    ["tokenizer.json", "tokenizer.model"]
        .iter()
        .any(|name| directory.join(name).is_file())
}

/// Size of the model's vocabulary.
fn vocabulary(recipe: &Recipe) -> Result<usize, Failure> {
    let model = &recipe.model;
    let config = match (&model.preset, &model.config, &model.path) {
        (Some(name), _, _) => LlamaConfig::preset(name)?,
        (None, Some(file), _) => LlamaConfig::from_json(&read_json(file)?)?,
        (None, None, Some(path)) => LlamaConfig::load(&resolve_model(path)?)?,
        (None, None, None) => return Err(no_tokenizer()),
    };
    Ok(config.vocab_size)
}

fn read_json(file: &Path) -> Result<serde_json::Value, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::run(format!("cannot read `{}`: {error}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| failed(&error))
}

/// The one file that a path or a hub name stands for.
pub(crate) fn one_file(spec: &str) -> Result<PathBuf, Failure> {
    let mut files = resolve_dataset(spec)?;
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(file),
        (_, more) => Err(
            Failure::usage(format!("`{spec}` stands for {} files", more + 1))
                .with_hint("name one of them, as in `org/name:test.jsonl`"),
        ),
    }
}

/// How the rows behind `specs` (files, directories, hub names) are read: as the recipe says for its training
/// rows, but at most `limit` of them (0: all). Files are downloaded if need be.
pub(crate) fn dataset_config(
    recipe: &Recipe,
    specs: &[String],
    limit: usize,
    tokenizer: &Tokenizer,
) -> Result<DataConfig, Failure> {
    let data = &recipe.data;
    let mut paths = Vec::new();
    for spec in specs {
        paths.extend(resolve_dataset(spec)?);
    }
    Ok(DataConfig {
        paths,
        kind: kind(data.kind),
        template: template(data, tokenizer)?,
        max_length: data.max_length,
        over_length: match data.over_length {
            recipe::OverLength::Drop => temper_datasets::OverLength::Drop,
            recipe::OverLength::Truncate => temper_datasets::OverLength::Truncate,
            recipe::OverLength::Error => temper_datasets::OverLength::Error,
        },
        loss_on: match data.loss_on() {
            // Rows of ids bring their labels; those decide, and rows without labels train every token.
            _ if data.kind == recipe::DataKind::Tokens => temper_datasets::LossOn::Response,
            recipe::LossOn::Response => temper_datasets::LossOn::Response,
            recipe::LossOn::All => temper_datasets::LossOn::All,
        },
        limit: (limit > 0).then_some(limit),
        cache: data.cache,
        ..DataConfig::default()
    })
}

fn kind(kind: recipe::DataKind) -> temper_datasets::DataKind {
    match kind {
        recipe::DataKind::MetaMathQa => temper_datasets::DataKind::Metamathqa,
        recipe::DataKind::Gsm8k | recipe::DataKind::Arithmetic => temper_datasets::DataKind::Gsm8k,
        recipe::DataKind::Text => temper_datasets::DataKind::Text,
        recipe::DataKind::Tokens => temper_datasets::DataKind::Tokens,
        recipe::DataKind::Chat => temper_datasets::DataKind::Chat,
    }
}

fn template(data: &Data, tokenizer: &Tokenizer) -> Result<temper_datasets::Template, Failure> {
    Ok(match data.template.or(data.kind.default_template()) {
        Some(recipe::Template::Metamath) => temper_datasets::Template::Metamath {
            single_field: data.single_field,
        },
        Some(recipe::Template::Alpaca) => temper_datasets::Template::Alpaca {},
        // Rows of ids are not rendered at all.
        Some(recipe::Template::Raw) | None => temper_datasets::Template::Raw {},
        Some(recipe::Template::Chat) => temper_datasets::Template::Chat {
            jinja: chat_template(data, tokenizer)?,
        },
    })
}

/// The recipe's own file, else what comes with the tokenizer.
fn chat_template(data: &Data, tokenizer: &Tokenizer) -> Result<String, Failure> {
    if let Some(file) = &data.chat_template {
        let failed = |error| {
            Failure::run(format!(
                "cannot read the chat template `{}`: {error}",
                file.display()
            ))
        };
        return std::fs::read_to_string(file).map_err(failed);
    }
    tokenizer.chat_template().map(str::to_owned).ok_or_else(|| {
        Failure::run("the tokenizer has no chat template").with_hint(
            "set `data.chat_template` to a Jinja file, or use the tokenizer of a chat model",
        )
    })
}

/// The rows to train on, and the held-out rows if the recipe asks for some. Shows progress on stderr.
pub(crate) fn train_and_eval_sets(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    verbosity: Verbosity,
) -> Result<(Arc<Dataset>, Option<Arc<Dataset>>), Failure> {
    let data = &recipe.data;
    let mut config = dataset_config(recipe, data.path.as_slice(), data.limit, tokenizer)?;
    config.generated = data.arithmetic.as_ref().map(Arithmetic::world);
    let train = prepare(&config, tokenizer, "training rows", verbosity)?;
    let Some(eval) = &data.eval else {
        return Ok((Arc::new(train), None));
    };
    let Eval {
        path,
        fraction,
        limit,
    } = eval;
    let (train, held_out) = match (path, fraction) {
        (Some(specs), _) => {
            let config = dataset_config(recipe, specs.as_slice(), *limit, tokenizer)?;
            (
                train,
                prepare(&config, tokenizer, "held-out rows", verbosity)?,
            )
        }
        (None, Some(fraction)) => train.split(*fraction, recipe.seed)?,
        (None, None) => return Ok((Arc::new(train), None)),
    };
    let held_out = if *limit > 0 {
        held_out.keep_first(*limit)
    } else {
        held_out
    };
    Ok((Arc::new(train), Some(Arc::new(held_out))))
}

fn prepare(
    config: &DataConfig,
    tokenizer: &Tokenizer,
    label: &str,
    verbosity: Verbosity,
) -> Result<Dataset, Failure> {
    // How many rows there are is known only when they have been read.
    let shown: Mutex<Option<Progress>> = Mutex::new(None);
    let update = |done: usize, rows: usize| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = shown.get_or_insert_with(|| Progress::new(label, rows as u64, verbosity));
        progress.update(done as u64, "");
    };
    Ok(Dataset::prepare(config, tokenizer, &update)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
    const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets");

    fn recipe(model: &str, data: &str) -> Recipe {
        let text = format!(
            "[model]\npath = \"{model}\"\n[data]\ncache = false\n{data}\n\
             [train]\nsteps = 1\nbatch_size = 1\nlr = 1e-4\n"
        );
        Recipe::parse(&text, "test.toml", &[]).unwrap()
    }

    fn sets(recipe: &Recipe) -> (Arc<Dataset>, Option<Arc<Dataset>>) {
        let tokenizer = load_tokenizer(recipe).unwrap();
        train_and_eval_sets(recipe, &tokenizer, Verbosity::Silent).unwrap()
    }

    fn gsm8k(eval: &str) -> Recipe {
        let data = format!(
            "kind = \"gsm8k\"\npath = \"{ASSETS}/gsm8k/train-1000.jsonl\"\nlimit = 100\n{eval}"
        );
        recipe(&format!("{ASSETS}/stories260k"), &data)
    }

    #[test]
    fn a_share_of_the_rows_is_held_out_and_limited() {
        let (all, none) = sets(&gsm8k(""));
        assert!(none.is_none());
        let (train, held_out) = sets(&gsm8k("[data.eval]\nfraction = 0.2\nlimit = 5"));
        let held = (all.len() as f64 * 0.2).round() as usize;
        assert_eq!(train.len(), all.len() - held);
        assert_eq!(held_out.unwrap().len(), 5);
    }

    #[test]
    fn files_of_held_out_rows_have_their_own_limit() {
        let eval = format!("[data.eval]\npath = \"{ASSETS}/gsm8k/test-100.jsonl\"\nlimit = 7");
        let (train, held_out) = sets(&gsm8k(&eval));
        assert_eq!(train.report().rows, 100);
        assert_eq!(held_out.unwrap().report().rows, 7);
    }

    #[test]
    fn rows_of_ids_need_no_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ids.jsonl");
        std::fs::write(&file, "{\"input_ids\": [1, 2, 3]}\n").unwrap();
        let data = format!("kind = \"tokens\"\npath = \"{}\"", file.display());
        let recipe = recipe(&format!("{GOLDEN}/llama/mha/model"), &data);
        assert_eq!(sets(&recipe).0.example(0).input_ids, [1, 2, 3]);
        std::fs::write(&file, "{\"input_ids\": [1, 1000000]}\n").unwrap();
        let tokenizer = load_tokenizer(&recipe).unwrap();
        let error = train_and_eval_sets(&recipe, &tokenizer, Verbosity::Silent).unwrap_err();
        assert!(
            error.to_string().contains("outside the vocabulary"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_chat_template_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("chat.jsonl");
        std::fs::write(&file, "{\"messages\": []}\n").unwrap();
        let data = format!("kind = \"chat\"\npath = \"{}\"", file.display());
        let recipe = recipe(&format!("{ASSETS}/stories260k"), &data);
        let tokenizer = load_tokenizer(&recipe).unwrap();
        let error = train_and_eval_sets(&recipe, &tokenizer, Verbosity::Silent).unwrap_err();
        assert!(
            error.to_string().contains("hint: set `data.chat_template`"),
            "{error}"
        );
    }
}
