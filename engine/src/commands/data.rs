//! `temper data`: what a model is really trained on.

mod generate;

use temper_datasets::{Dataset, ExampleRef, IGNORED, Tokenizer, preview};

use super::output::{has_colour, print};
use super::recipe::RecipeArgs;
use crate::Failure;
use crate::data_source::{load_tokenizer, train_and_eval_sets};
use crate::diffusion;
use crate::run::Verbosity;

/// Arguments of `temper data`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print decoded training rows with the trained tokens marked, and what became of all rows; of a recipe on images, a table of them
    Preview(PreviewArgs),
    /// Write rows that are made by rule
    #[command(subcommand)]
    Generate(generate::World),
}

#[derive(Debug, clap::Args)]
struct PreviewArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Rows to print; left out: 3, or all images
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Preview(args) => show(args),
        Action::Generate(world) => generate::run(world),
    }
}

fn show(args: &PreviewArgs) -> Result<(), Failure> {
    if let Some(recipe) = args.recipe.load_diffusion() {
        return print(diffusion::preview(&recipe?, args.rows)?);
    }
    let recipe = args.recipe.load()?;
    let tokenizer = load_tokenizer(&recipe)?;
    let (train, held_out) = train_and_eval_sets(&recipe, &tokenizer, Verbosity::Normal)?;
    let mut parts = rows(&train, args.rows.unwrap_or(3), &tokenizer)?;
    parts.push(format!("training rows\n{}", indented(train.report())));
    if let Some(held_out) = held_out {
        parts.push(format!("held-out rows\n{}", indented(held_out.report())));
    }
    print(parts.join("\n\n"))
}

fn rows(dataset: &Dataset, count: usize, tokenizer: &Tokenizer) -> Result<Vec<String>, Failure> {
    let shown = |row: usize| {
        let example = dataset.example(row);
        let (tokens, trained) = (example.len(), example.targets());
        let text = if tokenizer.is_without_text() {
            marked_ids(example)
        } else {
            preview(example, tokenizer, has_colour())?.marked
        };
        let (number, all) = (row + 1, dataset.len());
        Ok(format!(
            "--- row {number} of {all}: {tokens} tokens, {trained} trained\n{text}"
        ))
    };
    (0..count.min(dataset.len())).map(shown).collect()
}

/// Ids with the trained ones marked, where there is no tokenizer that could turn them into text.
fn marked_ids(example: ExampleRef<'_>) -> String {
    let mark = |(id, label): (&u32, &i32)| {
        if *label == IGNORED {
            id.to_string()
        } else {
            format!("«{id}»")
        }
    };
    let ids: Vec<String> = example
        .input_ids
        .iter()
        .zip(example.labels)
        .map(mark)
        .collect();
    ids.join(" ")
}

fn indented(text: impl std::fmt::Display) -> String {
    format!("  {}", text.to_string().replace('\n', "\n  "))
}
