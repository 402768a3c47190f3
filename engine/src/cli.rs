//! The command line: one variant a command, each with its own file in `commands`.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{Failure, commands};

/// Fine-tune language and diffusion models from one binary and a TOML recipe.
#[derive(Debug, Parser)]
#[command(name = "temper", version, about, propagate_version = true, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List compute devices: what was compiled in, what is present, memory, dtypes
    Devices(commands::devices::Args),
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
    let cli = match Cli::try_parse() {
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
                let _ = writeln!(std::io::stderr(), "{text}");
            }
            failure.exit_code()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Devices(args) => commands::devices::run(&args),
        Command::Recipe(args) => commands::recipe::run(&args),
        Command::Data(args) => commands::data::run(&args),
        Command::Tokenize(args) => commands::tokenize::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
    }
}
