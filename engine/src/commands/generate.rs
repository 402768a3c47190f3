//! `temper generate`: text from a model.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Map, Value};
use temper_datasets::{ChatTemplate, DataError, Message, Renderer, Row, Template, Tokenizer};

use super::output::refuse_input;
use crate::Failure;
use crate::generate::{Completion, GenerateError, Progress as Step, Prompt, Statistics, complete};
use crate::loading::{BatchArgs, ModelArgs, Precision, SamplingArgs};
use crate::run::{Progress, Verbosity, note, write_atomic};

/// Arguments of `temper generate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Precision of weights and products; by default what suits the device
    #[arg(long, value_enum)]
    dtype: Option<Precision>,
    /// The prompt; its completion is shown as it grows
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "input",
        conflicts_with = "input"
    )]
    prompt: Option<String>,
    /// JSONL file of rows with `prompt` or `input_ids`; the rows come back with `completion` (or `ids`) and `finish`
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Longest completion, in tokens
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Text before which a completion ends; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    batch: BatchArgs,
    /// Give the prompt as it stands (the default)
    #[arg(long, conflicts_with = "template")]
    raw: bool,
    /// Put the prompt into a template
    #[arg(long, value_enum)]
    template: Option<Frame>,
    /// Write here instead of to the standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A template for one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Frame {
    /// The prompt that `MetaMath` models are trained on
    Metamath,
    /// The Alpaca prompt, without input
    Alpaca,
    /// The model's own chat template
    Chat,
}

/// What is wrong with the input.
#[derive(Debug, thiserror::Error)]
enum InputError {
    #[error("cannot read `{}`: {source}", file.display())]
    Read {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("line {line} of `{}` is no JSON object: {source}", file.display())]
    Json {
        file: PathBuf,
        line: usize,
        source: serde_json::Error,
    },
    #[error("line {line} of `{}`: {problem}", file.display())]
    Row {
        file: PathBuf,
        line: usize,
        problem: String,
    },
    #[error("`{}` has no rows", file.display())]
    Empty { file: PathBuf },
    #[error("the model has no chat template; use --raw, --template metamath or --template alpaca")]
    NoChatTemplate,
    #[error(
        "the prompt of row {row} contains the special token `{token}`, which would end or split the conversation"
    )]
    Special { row: usize, token: String },
}

/// One row of the input file.
#[derive(Debug)]
struct Entry {
    fields: Map<String, Value>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Text(String),
    Ids(Vec<u32>),
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let sampling = args
        .sampling
        .ending(args.max_new_tokens as usize, args.stop.clone());
    sampling.check()?;
    if let (Some(output), Some(input)) = (&args.output, &args.input) {
        refuse_input(output, [input.as_path()])?;
    }
    let entries = match (&args.prompt, &args.input) {
        (Some(text), _) => vec![Entry {
            fields: Map::new(),
            source: Source::Text(text.clone()),
        }],
        (None, Some(file)) => read_entries(file).map_err(Failure::run)?,
        (None, None) => return Err(Failure::usage("give --prompt or --input")),
    };
    let options = args.model.options(args.dtype);
    let directory = options.resolve()?;
    let tokenizer = tokenizer(&directory, &entries)?.map(Arc::new);
    let prompts = prompts(&entries, tokenizer.as_deref(), args.template)?;
    let model = options.load_from(directory)?.model;
    let limits = args.batch.limits();
    let complete = |on_progress: &mut dyn FnMut(Step<'_>)| {
        complete(
            &model,
            tokenizer.as_ref(),
            &prompts,
            &sampling,
            limits,
            on_progress,
        )
    };
    if args.prompt.is_some() {
        return args.show(complete);
    }
    let decoded = tokenizer.is_some();
    args.write_rows(entries, decoded, complete)
}

impl Args {
    /// One prompt: text on the terminal as it grows, or in a file.
    fn show(
        &self,
        complete: impl Fn(&mut dyn FnMut(Step<'_>)) -> Result<Statistics, GenerateError>,
    ) -> Result<(), Failure> {
        let mut out = std::io::stdout();
        let mut all = String::new();
        let mut written = Ok(());
        complete(&mut |step| {
            if let Step::Text(_, text) = step {
                all.push_str(text);
                if self.output.is_none() && written.is_ok() {
                    written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                }
            }
        })?;
        if let Some(file) = &self.output {
            return Ok(write_atomic(file, all.as_bytes())?);
        }
        written?;
        Ok(writeln!(out)?)
    }

    /// Rows of a file, in their order: each is written as soon as those before it are.
    fn write_rows(
        &self,
        entries: Vec<Entry>,
        decoded: bool,
        complete: impl Fn(&mut dyn FnMut(Step<'_>)) -> Result<Statistics, GenerateError>,
    ) -> Result<(), Failure> {
        let mut progress = Progress::new("generate", entries.len() as u64, Verbosity::Normal);
        let mut lines = Lines::new(entries, decoded, self.output.is_none());
        let mut written = Ok(());
        let begun = Instant::now();
        let completed = complete(&mut |step| {
            if let (Step::Done(index, completion), Ok(())) = (step, &written) {
                written = lines.done(index, completion);
                progress.update(lines.count, "");
            }
        });
        progress.finish();
        written?;
        report(completed?, begun.elapsed());
        match &self.output {
            Some(path) => Ok(write_atomic(path, &lines.text)?),
            None => Ok(()),
        }
    }
}

fn report(done: Statistics, took: Duration) {
    let seconds = took.as_secs_f64();
    note(&format!(
        "{} tokens generated and {} of prompts read in {seconds:.2} s: {:.0} new tokens a second; {} of prompts shared",
        done.generated_tokens,
        done.prompt_tokens,
        done.generated_tokens as f64 / seconds,
        done.shared_tokens,
    ));
}

/// Rows that come in any order, written in their own.
struct Lines {
    entries: Vec<Option<Entry>>,
    /// Complete, and waiting for a row before them.
    early: BTreeMap<usize, Completion>,
    next: usize,
    count: u64,
    decoded: bool,
    /// To the standard output at once, or all into `text`.
    stream: bool,
    text: Vec<u8>,
}

impl Lines {
    fn new(entries: Vec<Entry>, decoded: bool, stream: bool) -> Self {
        Self {
            entries: entries.into_iter().map(Some).collect(),
            early: BTreeMap::new(),
            next: 0,
            count: 0,
            decoded,
            stream,
            text: Vec::new(),
        }
    }

    fn done(&mut self, index: usize, completion: Completion) -> std::io::Result<()> {
        self.count += 1;
        self.early.insert(index, completion);
        while let Some(completion) = self.early.remove(&self.next) {
            if let Some(entry) = self.entries[self.next].take() {
                serde_json::to_writer(&mut self.text, &row(entry, completion, self.decoded))?;
                self.text.push(b'\n');
            }
            self.next += 1;
        }
        if self.stream && !self.text.is_empty() {
            let mut out = std::io::stdout().lock();
            out.write_all(&self.text)?;
            out.flush()?;
            self.text.clear();
        }
        Ok(())
    }
}

fn row(entry: Entry, completion: Completion, decoded: bool) -> Map<String, Value> {
    let mut fields = entry.fields;
    let given_ids = matches!(entry.source, Source::Ids(_));
    if decoded || !given_ids {
        fields.insert("completion".to_owned(), completion.text.into());
    }
    if given_ids {
        fields.insert("ids".to_owned(), completion.ids.into());
    }
    fields.insert("finish".to_owned(), serde_json::json!(completion.finish));
    fields
}

fn read_entries(file: &Path) -> Result<Vec<Entry>, InputError> {
    let text = std::fs::read_to_string(file).map_err(|source| InputError::Read {
        file: file.to_owned(),
        source,
    })?;
    let mut entries = Vec::new();
    for (line, text) in (1..)
        .zip(text.lines())
        .filter(|(_, text)| !text.trim().is_empty())
    {
        let json = |source| InputError::Json {
            file: file.to_owned(),
            line,
            source,
        };
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(json)?;
        let source = source(&fields).map_err(|problem| InputError::Row {
            file: file.to_owned(),
            line,
            problem,
        })?;
        entries.push(Entry { fields, source });
    }
    if entries.is_empty() {
        return Err(InputError::Empty {
            file: file.to_owned(),
        });
    }
    Ok(entries)
}

fn source(fields: &Map<String, Value>) -> Result<Source, String> {
    if let Some(taken) = ["completion", "ids", "finish"]
        .into_iter()
        .find(|&name| fields.contains_key(name))
    {
        return Err(format!(
            "`{taken}` is there already, and the answer would replace it; rename it"
        ));
    }
    match (fields.get("prompt"), fields.get("input_ids")) {
        (Some(_), Some(_)) => Err("has both `prompt` and `input_ids`; give one".to_owned()),
        (Some(Value::String(text)), None) => Ok(Source::Text(text.clone())),
        (Some(_), None) => Err("`prompt` is no text".to_owned()),
        (None, Some(ids)) => {
            let ids = ids
                .as_array()
                .map(|ids| ids.iter().map(id).collect::<Option<Vec<u32>>>());
            ids.flatten()
                .map(Source::Ids)
                .ok_or_else(|| "`input_ids` is no list of token ids".to_owned())
        }
        (None, None) => {
            let found: Vec<String> = fields.keys().map(|key| format!("`{key}`")).collect();
            Err(format!(
                "expected `prompt` or `input_ids`, found {}",
                found.join(", ")
            ))
        }
    }
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// The tokenizer of the model; there may be none when every row comes as ids.
fn tokenizer(directory: &Path, entries: &[Entry]) -> Result<Option<Tokenizer>, Failure> {
    match Tokenizer::load(directory) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(DataError::NoTokenizer { .. })
            if entries
                .iter()
                .all(|entry| matches!(entry.source, Source::Ids(_))) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn prompts(
    entries: &[Entry],
    tokenizer: Option<&Tokenizer>,
    frame: Option<Frame>,
) -> Result<Vec<Prompt>, Failure> {
    let framing = match (tokenizer, frame) {
        (Some(tokenizer), frame) => Some((tokenizer, Framing::new(frame, tokenizer)?)),
        (None, _) => None,
    };
    let mut prompts = Vec::with_capacity(entries.len());
    for (row, entry) in entries.iter().enumerate() {
        let ids = match (&entry.source, &framing) {
            (Source::Ids(ids), _) => ids.clone(),
            (Source::Text(text), Some((tokenizer, framing))) => {
                framing.ids(text, row, tokenizer)?
            }
            (Source::Text(_), None) => unreachable!("without a tokenizer there are ids alone"),
        };
        prompts.push(Prompt {
            row: row as u64,
            ids,
        });
    }
    Ok(prompts)
}

/// How a question becomes ids.
#[derive(Debug)]
enum Framing {
    Raw,
    Instruction(Renderer),
    Chat(Box<ChatTemplate>),
}

impl Framing {
    fn new(frame: Option<Frame>, tokenizer: &Tokenizer) -> Result<Self, Failure> {
        Ok(match frame {
            None => Self::Raw,
            Some(Frame::Metamath) => {
                Self::Instruction(Renderer::new(&Template::default(), tokenizer)?)
            }
            Some(Frame::Alpaca) => {
                Self::Instruction(Renderer::new(&Template::Alpaca {}, tokenizer)?)
            }
            Some(Frame::Chat) => {
                let jinja = tokenizer
                    .chat_template()
                    .ok_or_else(|| Failure::run(InputError::NoChatTemplate))?;
                Self::Chat(Box::new(ChatTemplate::new(jinja, tokenizer)?))
            }
        })
    }

    fn ids(&self, text: &str, row: usize, tokenizer: &Tokenizer) -> Result<Vec<u32>, Failure> {
        match self {
            Self::Raw => Ok(tokenizer.encode(text, true)?),
            Self::Instruction(renderer) => {
                let pair = Row::Pair {
                    instruction: text.to_owned(),
                    input: None,
                    response: String::new(),
                };
                Ok(tokenizer.encode(&renderer.render(&pair)?.prompt, true)?)
            }
            Self::Chat(template) => {
                if let Some(token) = tokenizer.special_in(text) {
                    return Err(Failure::run(InputError::Special {
                        row,
                        token: token.to_owned(),
                    }));
                }
                Ok(tokenizer
                    .encode_with_specials(&template.render(&[Message::new("user", text)], true)?)?)
            }
        }
    }
}
