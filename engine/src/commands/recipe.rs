//! `temper recipe`: check, show and explain recipes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::output::print;
use crate::Failure;
use crate::recipe::{
    Adapter, BootstrapRecipe, DiffusionRecipe, Length, Method, Recipe, RecipeErrors, Train,
    Trained, bootstrap_schema, diffusion_schema, explain, schema,
};
use crate::run::note;

/// Arguments of `temper recipe`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Report every problem of a recipe at once; nothing is run or downloaded
    Check(RecipeArgs),
    /// Print a recipe with all defaults and overrides filled in
    Show(RecipeArgs),
    /// Print the JSON Schema of recipes, for editors
    Schema {
        /// What the recipes are for
        #[arg(long = "for", value_enum, default_value_t = RecipeFor::Train)]
        command: RecipeFor,
    },
    /// Print the documentation of a key such as `train.lr`, or of a section such as `train`
    Explain {
        /// A dotted key
        key: String,
    },
}

/// A command that takes recipes.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RecipeFor {
    /// Language models
    Train,
    /// Diffusion models
    Images,
    /// Question sets
    Bootstrap,
}

/// A recipe file and overrides of its keys.
#[derive(Debug, clap::Args)]
pub(crate) struct RecipeArgs {
    /// Recipe file (TOML)
    recipe: PathBuf,
    /// Override one key; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

impl RecipeArgs {
    /// Reads and checks the recipe.
    pub(crate) fn load(&self) -> Result<Recipe, RecipeErrors> {
        Recipe::load(&self.recipe, &self.overrides)
    }

    /// The same for a recipe of another kind; `None` if the file is not of that kind.
    fn load_bootstrap(&self) -> Option<Result<BootstrapRecipe, RecipeErrors>> {
        BootstrapRecipe::is_at(&self.recipe)
            .then(|| BootstrapRecipe::load(&self.recipe, &self.overrides))
    }

    /// The same for a recipe that trains on images.
    pub(crate) fn load_diffusion(&self) -> Option<Result<DiffusionRecipe, RecipeErrors>> {
        DiffusionRecipe::is_at(&self.recipe)
            .then(|| DiffusionRecipe::load(&self.recipe, &self.overrides))
    }

    /// A checked recipe of any kind, with every default.
    fn resolved(&self) -> Result<String, RecipeErrors> {
        if let Some(recipe) = self.load_bootstrap() {
            return Ok(recipe?.to_toml());
        }
        if let Some(recipe) = self.load_diffusion() {
            return Ok(recipe?.to_toml());
        }
        Ok(self.load()?.to_toml())
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Check(source) => check(source),
        Action::Show(source) => print(source.resolved()?.trim_end()),
        Action::Schema { command } => print(match command {
            RecipeFor::Train => format!("{:#}", schema()),
            RecipeFor::Images => format!("{:#}", diffusion_schema()),
            RecipeFor::Bootstrap => format!("{:#}", bootstrap_schema()),
        }),
        Action::Explain { key } => {
            let text = explain(key).ok_or_else(|| unknown_key(key))?;
            print(text.trim_end())
        }
    }
}

fn check(source: &RecipeArgs) -> Result<(), Failure> {
    if let Some(recipe) = source.load_bootstrap() {
        return print(format!("ok: {}", bootstrap_summary(&recipe?)));
    }
    if let Some(recipe) = source.load_diffusion() {
        let recipe = recipe?;
        for advice in recipe.advice() {
            note(&format!("advice: {advice}"));
        }
        return print(format!("ok: {}", diffusion_summary(&recipe)));
    }
    let recipe = source.load()?;
    for advice in recipe.advice() {
        note(&format!("advice: {advice}"));
    }
    print(format!("ok: {}", summary(&recipe)))
}

/// What a recipe does, in one line.
fn summary(recipe: &Recipe) -> String {
    let model = &recipe.model;
    let (method, train) = (method_name(recipe), &recipe.train);
    let model = model.source().unwrap_or("a model with random weights");
    let length = length(train);
    let (data, rows) = (recipe.data.path.as_slice().join("`, `"), train.batch_size);
    format!(
        "{method} of `{model}` on `{data}`, {length}, batches of {rows}, results in `{}`",
        recipe.run.dir.display()
    )
}

/// How long a run is, in words.
fn length(train: &Train) -> String {
    match train.length() {
        Length::Steps(1) => "1 step".to_owned(),
        Length::Steps(steps) => format!("{steps} steps"),
        Length::Epochs(epochs) if (epochs - 1.0).abs() < f64::EPSILON => "1 epoch".to_owned(),
        Length::Epochs(epochs) => format!("{epochs} epochs"),
    }
}

/// What a recipe for images does, in one line.
pub(crate) fn diffusion_summary(recipe: &DiffusionRecipe) -> String {
    let (train, what) = (&recipe.train, recipe.diffusion.train);
    let model = recipe.model.path.as_deref();
    format!(
        "{} of the {} of `{}` on `{}`, {}, batches of {}, results in `{}`",
        kind_name(&recipe.method(), recipe.adapter.as_ref()),
        if what == Trained::Vae {
            "autoencoder"
        } else {
            "U-Net"
        },
        model.unwrap_or("a model with random weights"),
        recipe.images.path.display(),
        length(train),
        train.batch_size,
        recipe.run.dir.display()
    )
}

/// What a recipe for bootstrapping does, in one line.
fn bootstrap_summary(recipe: &BootstrapRecipe) -> String {
    let samples = &recipe.samples;
    let kinds = [
        ("answers", samples.answer_augmentation),
        ("rephrased", samples.rephrasing),
        ("self-verification", samples.self_verification),
        ("FOBAR", samples.fobar),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    format!(
        "{} of each question of `{}`, written by `{}`, results in `{}`",
        if kinds.is_empty() {
            "masked versions".to_owned()
        } else {
            kinds.join(", ")
        },
        recipe.questions.path.as_slice().join("`, `"),
        recipe.text_model.name(),
        recipe.run.dir.display()
    )
}

/// `oft`, `coft`, `lora` or `full`.
pub(crate) fn method_name(recipe: &Recipe) -> &'static str {
    kind_name(&recipe.method(), recipe.adapter.as_ref())
}

fn kind_name(method: &Method, adapter: Option<&Adapter>) -> &'static str {
    match method {
        Method::Oft(oft) if oft.coft => "coft",
        _ => adapter.map_or("full", |adapter| adapter.kind.as_str()),
    }
}

/// Names the keys of the nearest section that exists, of all kinds of recipes.
fn unknown_key(key: &str) -> Failure {
    let (mut section, mut names) = (String::new(), BTreeSet::new());
    for root in [schema(), diffusion_schema(), bootstrap_schema()] {
        let (found, keys) = nearest(&root, key);
        if found.len() > section.len() {
            names.clear();
        }
        if found.len() >= section.len() {
            section = found;
            names.extend(keys);
        }
    }
    let place = if section.is_empty() {
        "a recipe".to_owned()
    } else {
        format!("`{section}`")
    };
    let names: Vec<String> = names.into_iter().collect();
    Failure::usage(format!("no such key `{key}`"))
        .with_hint(format!("{place} has {}", names.join(", ")))
}

/// The deepest section on the way to `key`, and its keys.
fn nearest(root: &serde_json::Value, key: &str) -> (String, Vec<String>) {
    let (mut section, mut here) = (Vec::new(), root);
    for name in key.split('.') {
        let Some(inner) = here.get("properties").and_then(|keys| keys.get(name)) else {
            break;
        };
        if inner.get("properties").is_none() {
            break;
        }
        section.push(name);
        here = inner;
    }
    let keys = here
        .get("properties")
        .and_then(serde_json::Value::as_object);
    let names = keys.into_iter().flat_map(|keys| keys.keys().cloned());
    (section.join("."), names.collect())
}
