//! `temper data generate`: rows of a made-up world as a file.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::ValueEnum;
use temper_datasets::arithmetic::{Arithmetic, ArithmeticRow, Set, Shape, Split};

use super::super::output::print;
use crate::Failure;
use crate::run::{note, write_atomic};

/// The worlds that rows can come from.
#[derive(Debug, clap::Subcommand)]
pub(super) enum World {
    /// Grade-school word problems with their solutions, as a recipe's `[data.arithmetic]` makes them
    Arithmetic(Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose names, items and numbers
    #[arg(long, value_enum, default_value_t)]
    split: SplitName,
    /// Seed of the problems
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many problems to make
    #[arg(long, value_name = "N", default_value_t = 1000)]
    problems: usize,
    /// How many calculations a problem takes: each draws one of these
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "1,2,3"
    )]
    steps: Vec<usize>,
    /// The largest number in questions and solutions
    #[arg(long, value_name = "N", default_value_t = 99)]
    largest: u32,
    /// Which rows are made of each problem
    #[arg(
        long,
        value_name = "SET,…",
        value_delimiter = ',',
        default_value = "original"
    )]
    sets: Vec<SetName>,
    /// How many rows of `ans-aug`, of `rephrased` and of `sum` are made of each problem
    #[arg(long, value_name = "N", default_value_t = 1)]
    copies: usize,
    /// Write at most so many rows, taken evenly from all
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
    /// Shape of the rows
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write here instead of to the standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum SplitName {
    /// To learn from
    #[default]
    Train,
    /// To be examined with: other names, other items, other numbers of two digits
    Test,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SetName {
    /// The problem itself
    Original,
    /// The same question with another rationale
    AnsAug,
    /// The question in other words
    Rephrased,
    /// Self-verification: a number is x, the answer stands in the story
    Sv,
    /// A number is x, the answer is told behind the question
    Fobar,
    /// A calculation without a story
    Sum,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// `question` and `answer`
    #[default]
    Gsm8k,
    /// `query`, `answer`, `type` and `original_question`
    Gsm8kBackward,
    /// `type`, `query`, `original_question` and `response`
    Metamathqa,
}

pub(super) fn run(world: &World) -> Result<(), Failure> {
    let World::Arithmetic(args) = world;
    let settings = args.settings();
    settings.check().map_err(Failure::usage)?;
    let rows = settings.rows();
    let wanted = args.rows.unwrap_or(rows.len()).min(rows.len());
    let mut text = String::new();
    for index in 0..wanted {
        let row: &ArithmeticRow = &rows[index * rows.len() / wanted];
        let _ = writeln!(text, "{}", row.to_json(args.format.into()));
    }
    match &args.output {
        None => print(text.trim_end()),
        Some(file) => {
            write_atomic(file, text.as_bytes())?;
            note(&format!("{wanted} rows written to `{}`", file.display()));
            Ok(())
        }
    }
}

impl Args {
    fn settings(&self) -> Arithmetic {
        Arithmetic {
            split: match self.split {
                SplitName::Train => Split::Train,
                SplitName::Test => Split::Test,
            },
            seed: self.seed,
            problems: self.problems,
            steps: self.steps.clone(),
            largest: self.largest,
            sets: self.sets.iter().map(|set| (*set).into()).collect(),
            copies: self.copies,
        }
    }
}

impl From<SetName> for Set {
    fn from(name: SetName) -> Self {
        match name {
            SetName::Original => Self::Original,
            SetName::AnsAug => Self::AnsAug,
            SetName::Rephrased => Self::Rephrased,
            SetName::Sv => Self::Sv,
            SetName::Fobar => Self::Fobar,
            SetName::Sum => Self::Sum,
        }
    }
}

impl From<Format> for Shape {
    fn from(format: Format) -> Self {
        match format {
            Format::Gsm8k => Self::Gsm8k,
            Format::Gsm8kBackward => Self::Gsm8kBackward,
            Format::Metamathqa => Self::Metamathqa,
        }
    }
}
