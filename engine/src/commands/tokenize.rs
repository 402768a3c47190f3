//! `temper tokenize`: ids of a JSONL file, to compare tokenizers with.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

use temper_datasets::{DataError, TokenizeOptions, Tokenizer, tokenize_jsonl};

use crate::Failure;

/// Arguments of `temper tokenize`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory with a tokenizer, `tokenizer.json` or `tokenizer.model`
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// Do not put the begin token first
    #[arg(long, conflicts_with = "decode")]
    no_special: bool,
    /// From `ids` to `text` instead
    #[arg(long)]
    decode: bool,
    /// JSONL file whose rows have a `text`; `-` reads stdin
    #[arg(value_name = "FILE.jsonl")]
    file: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let options = TokenizeOptions {
        special: !args.no_special,
        decode: args.decode,
    };
    let (name, input) = open(&args.file)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    match tokenize_jsonl(input, name, &mut out, &tokenizer, options) {
        // The reader has seen enough.
        Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// The rows, and how messages call them.
fn open(file: &Path) -> Result<(&Path, Box<dyn BufRead>), Failure> {
    if file == Path::new("-") {
        return Ok((Path::new("stdin"), Box::new(std::io::stdin().lock())));
    }
    let failed = |error| Failure::run(format!("cannot open `{}`: {error}", file.display()));
    Ok((
        file,
        Box::new(BufReader::new(File::open(file).map_err(failed)?)),
    ))
}
