//! The command line: one variant a command, each with its own file in `commands`.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::run::note;
use crate::{Failure, commands};

/// Fine-tune language and diffusion models from one binary and a TOML recipe.
#[derive(Debug, Parser)]
#[command(
    name = "temper",
    version,
    about,
    propagate_version = true,
    subcommand_required = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train what a recipe says and leave a complete run directory
    Train(commands::train::Args),
    /// Train and compare variants of a recipe with several seeds: a table and a plot
    Ablate(commands::ablate::Args),
    /// Make a data set like MetaMathQA out of questions with known answers, with a model that writes
    Bootstrap(commands::bootstrap::Args),
    /// Check on this machine that training is right: gradients, accumulation, packing, masks, resume, merge, device parity
    Verify(commands::verify::Args),
    /// List compute devices: what was compiled in, what is present, memory, dtypes
    Devices(commands::devices::Args),
    /// Complete prompts: one on the terminal, or a JSONL file of them
    Generate(Box<commands::generate::Args>),
    /// Measure how much a model solves (GSM8K, MATH, perplexity), grade completions made elsewhere, compare pictures with photographs or control maps
    Eval(Box<commands::eval::Args>),
    /// Serve a model and adapters over HTTP, with the API of OpenAI: chat, completions, streaming
    Serve(Box<commands::serve::Args>),
    /// Draw pictures from prompts with a diffusion pipeline and adapters
    Sample(Box<commands::sample::Args>),
    /// Run named tensors through a network and write what it gives: logits, a UNet's prediction, latents, embeddings
    Forward(commands::forward::Args),
    /// Fold an adapter into its model and write a plain model directory
    Merge(commands::merge::Args),
    /// Write an adapter as another tool names it: PEFT, diffusers, kohya
    Convert(commands::convert::Args),
    /// Measure and plot the hyperspherical energy of layers before and after adapters
    Energy(commands::energy::Args),
    /// Check, show and explain recipes
    Recipe(commands::recipe::Args),
    /// Look at training data as the model sees it
    Data(commands::data::Args),
    /// Turn the texts of a JSONL file into token ids, or back
    Tokenize(commands::tokenize::Args),
    /// Say what a file or directory is: model, adapter, run, checkpoint, dataset, tokenizer, recipe
    Inspect(commands::inspect::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // `--seed -1` is a wrong number, and not an option of its own.
    let command = Cli::command().mut_subcommands(|command| command.allow_negative_numbers(true));
    let read = command
        .try_get_matches()
        .and_then(|found| Cli::from_arg_matches(&found));
    let cli = match read {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not errors; clap knows which stream and code they take.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                note(&text);
            }
            failure.exit_code()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Train(args) => commands::train::run(&args),
        Command::Ablate(args) => commands::ablate::run(&args),
        Command::Bootstrap(args) => commands::bootstrap::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Devices(args) => commands::devices::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Serve(args) => commands::serve::run(&args),
        Command::Sample(args) => commands::sample::run(&args),
        Command::Forward(args) => commands::forward::run(&args),
        Command::Merge(args) => commands::merge::run(&args),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Energy(args) => commands::energy::run(&args),
        Command::Recipe(args) => commands::recipe::run(&args),
        Command::Data(args) => commands::data::run(&args),
        Command::Tokenize(args) => commands::tokenize::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
    }
}
