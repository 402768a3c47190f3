//! `temper eval`: how much a model solves, and how well pictures show what they should.

mod options;
mod pictures;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde_json::Value;
use temper_datasets::problems::Task;
use temper_datasets::{Dataset, Tokenizer};

use super::output::print;
use options::Given;
use pictures::{Common, ControlArgs, PictureArgs, SubjectArgs};

use crate::Failure;
use crate::data_source::{dataset_config, one_file};
use crate::device::OpenDevice;
use crate::eval::{
    CompletionsSummary, EvalConfig, Exam, Info, ModelId, Outcome, OutputDir, PERPLEXITY, Questions,
    RowSettings, Shard, Sitting, diff, diff_table, fingerprint, grade_completions, measure, merge,
    perplexity_table, score_table, summary_table,
};
use crate::generate::Sampling;
use crate::loading::{BatchArgs, LoadOptions, Precision, SamplingArgs};
use crate::recipe::{self, DataKind, LossOn, OverLength, PromptStyle, Recipe, Template};
use crate::run::{Progress, RunError, Verbosity, note};

/// Arguments of `temper eval`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    evaluate: Evaluate,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Join the shards of one evaluation into a directory like that of an evaluation made in one go
    Merge {
        /// Directories of all shards
        #[arg(required = true, value_name = "DIR")]
        shards: Vec<PathBuf>,
        /// Directory for the whole
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
        /// Print the summary as JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare two evaluations problem by problem: McNemar's exact test, and what changed
    Diff {
        /// Directory of the first evaluation
        first: PathBuf,
        /// Directory of the second
        second: PathBuf,
        /// Print the comparison as JSON
        #[arg(long)]
        json: bool,
    },
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TaskName {
    /// Grade-school word problems
    Gsm8k,
    /// The same, turned round: one number is unknown and the answer is given
    Gsm8kBackward,
    /// Competition problems
    Math,
    /// The loss on a file
    Perplexity,
    /// Pictures of a subject against photographs of it: CLIP-I, DINO, CLIP-T, diversity by LPIPS
    Subject,
    /// Pictures against the control maps that they should follow: L1, overlap and F1 of edges; mIoU, mAcc and aAcc of label maps
    Control,
}

impl TaskName {
    /// `None` where nothing is asked.
    fn task(self) -> Option<Task> {
        match self {
            Self::Gsm8k => Some(Task::Gsm8k),
            Self::Gsm8kBackward => Some(Task::Gsm8kBackward),
            Self::Math => Some(Task::Math),
            Self::Perplexity | Self::Subject | Self::Control => None,
        }
    }

    /// As on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Gsm8k => "gsm8k",
            Self::Gsm8kBackward => "gsm8k-backward",
            Self::Math => "math",
            Self::Perplexity => PERPLEXITY,
            Self::Subject => "subject",
            Self::Control => "control",
        }
    }
}

#[derive(Debug, clap::Args)]
struct Evaluate {
    #[command(flatten)]
    given: Given,
    /// What is measured
    #[arg(long, value_enum, required = true)]
    task: Option<TaskName>,
    /// Grade completions made elsewhere: JSONL rows with `completion` and `answer`; they come back on stdout with `graders`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "adapter", "data", "output"])]
    completions: Option<PathBuf>,
    /// Model directory, or `org/name[@revision]` on the hub
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Adapter directory (PEFT layout)
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// File of the problems, or of the rows of a perplexity; or one file of a hub data set
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// Directory for configuration, traces, summary and report; the same command goes on where it was stopped. Of pictures: for
    /// `pictures.jsonl` and `summary.json`, if they are wanted
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Device: auto, cpu, cuda[:N], metal, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Precision of weights and products; by default what suits the device
    #[arg(long, value_enum)]
    dtype: Option<Precision>,
    /// Only the first so many problems; 0 for all
    #[arg(long, default_value_t = 0, value_name = "N")]
    limit: usize,
    /// One of several parts of the problems, `0/8` to `7/8`; join them with `temper eval merge`
    #[arg(long, default_value = "0/1", value_name = "I/N")]
    shard: Shard,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    asking: Asking,
    #[command(flatten)]
    rows: Rows,
    #[command(flatten)]
    pictures: PictureArgs,
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    control: ControlArgs,
}

/// How problems are asked and answered.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Problems")]
struct Asking {
    /// Layout of the prompt
    #[arg(long, value_enum, default_value = "metamath")]
    prompt_style: PromptStyle,
    /// Worked examples before each question, at most 8
    #[arg(long, default_value_t = 0, value_name = "K", value_parser = clap::value_parser!(u8).range(..=8))]
    few_shot: u8,
    /// Text behind each question
    #[arg(long, default_value = "", value_name = "TEXT")]
    suffix: String,
    /// Text before which a completion ends, instead of those of the prompt style; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Longest completion, in tokens [default: 512, and 2048 for math]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    batch: BatchArgs,
}

/// How the rows of a perplexity are read: as by the keys of `[data]` in a recipe.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Perplexity")]
struct Rows {
    /// Format of the rows: text, metamathqa, gsm8k, chat, tokens
    #[arg(long, default_value = "text", value_parser = word::<DataKind>)]
    kind: DataKind,
    /// Template: metamath, alpaca, raw, chat [default: by the kind]
    #[arg(long, value_parser = word::<Template>)]
    template: Option<Template>,
    /// Which tokens count: response, all [default: by the kind]
    #[arg(long, value_parser = word::<LossOn>)]
    loss_on: Option<LossOn>,
    /// Tokens a row; longer rows are cut, and counted [default: the model's context]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
}

/// A word that a recipe has for a value.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Some(Action::Merge {
            shards,
            output,
            json,
        }) => show(&merge(shards, output)?, *json),
        Some(Action::Diff {
            first,
            second,
            json,
        }) => {
            let found = diff(first, second)?;
            if *json {
                return print(serde_json::to_string_pretty(&found)?);
            }
            print(diff_table(&found))
        }
        None => args.evaluate.run(),
    }
}

fn show(outcome: &Outcome, json: bool) -> Result<(), Failure> {
    match outcome {
        _ if json => print(serde_json::to_string_pretty(outcome)?),
        Outcome::Graded(summary) => print(summary_table(summary)),
        Outcome::Perplexity(summary) => print(perplexity_table(summary)),
    }
}

/// What came of grading, for a reader.
fn tell_grading(summary: &CompletionsSummary) {
    note(&format!(
        "{}: {} completions graded, {} rows could not be",
        summary.task, summary.graded, summary.bad
    ));
    for (line, reason) in &summary.first_bad {
        note(&format!("  line {line}: {reason}"));
    }
    if summary.bad > summary.first_bad.len() as u64 {
        note("  and more; each such row has `error`");
    }
    note(score_table(&summary.graders, summary.graded).trim_end());
}

impl Evaluate {
    fn run(&self) -> Result<(), Failure> {
        let task = self.task.ok_or_else(|| missing("task"))?;
        self.given.check(task)?;
        match task {
            TaskName::Subject => return self.subject.run(&self.pictures, &self.common()),
            TaskName::Control => return self.control.run(&self.pictures, &self.common()),
            _ => {}
        }
        if let Some(file) = &self.completions {
            let task = task.task().ok_or_else(|| {
                Failure::usage("--completions are graded, and `perplexity` grades nothing")
            })?;
            return self.grade(task, file);
        }
        let options = LoadOptions {
            model: self.model.clone().ok_or_else(|| missing("model"))?,
            adapter: self.adapter.clone(),
            device: self.device.clone(),
            dtype: self.dtype.map(Into::into),
        };
        let output = self.output.as_deref().ok_or_else(|| missing("output"))?;
        let outcome = match task.task() {
            Some(task) => self.solve(task, &options, output)?,
            None => self.perplexity(&options, output)?,
        };
        show(&outcome, self.json)
    }

    fn common(&self) -> Common<'_> {
        Common {
            output: self.output.as_deref(),
            json: self.json,
            device: &self.device,
            dtype: self.dtype,
        }
    }

    fn grade(&self, task: Task, file: &Path) -> Result<(), Failure> {
        let open = File::open(file)
            .map_err(|error| Failure::run(format!("cannot read `{}`: {error}", file.display())))?;
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let summary = grade_completions(task, &mut BufReader::new(open), &mut out)?;
        match std::io::Write::flush(&mut out) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(error.into());
            }
            _ => {}
        }
        if self.json {
            note(&serde_json::to_string(&summary)?);
        } else {
            tell_grading(&summary);
        }
        if summary.graded == 0 && summary.bad > 0 {
            let message = format!(
                "no row of `{}` could be graded; line {}: {}",
                file.display(),
                summary.first_bad[0].0,
                summary.first_bad[0].1
            );
            return Err(Failure::run(message)
                .with_hint("a row is a JSON object with `completion` and `answer`, both texts"));
        }
        Ok(())
    }

    fn solve(&self, task: Task, options: &LoadOptions, output: &Path) -> Result<Outcome, Failure> {
        let model = options.resolve()?;
        let data = self.data_file()?;
        let tokenizer = Arc::new(Tokenizer::load(&model)?);
        let exam = Exam::prepare(
            &self.questions(task, &data),
            self.sampling(task),
            tokenizer.clone(),
        )?;
        for row in exam.skipped.iter().take(5) {
            note(&format!("line {} is left out: {}", row.line, row.reason));
        }
        let (device, _) = options.open()?;
        let mut config = self.config(task.name(), options, &model, &tokenizer, &device)?;
        config.data = exam.data.clone();
        config.generation = Some(exam.generation.clone());
        let directory = OutputDir::open(output, &config)?;
        let loaded = options.load_from(model)?;
        let size = config.shard.size(config.data.problems);
        let sitting = Sitting {
            limits: self.asking.batch.limits(),
            directory: &directory,
            progress: Progress::new("eval", size, Verbosity::Normal),
            stop: &|| false,
        };
        match exam.sit(&loaded.model, &config, sitting)? {
            Some(summary) => Ok(Outcome::Graded(Box::new(summary))),
            None => Err(Failure::run("the evaluation was left before its end")),
        }
    }

    fn questions<'a>(&'a self, task: Task, data: &'a Path) -> Questions<'a> {
        let asking = &self.asking;
        Questions {
            task,
            data,
            limit: self.limit,
            style: asking.prompt_style,
            few_shot: asking.few_shot.into(),
            suffix: &asking.suffix,
            stop: (!asking.stop.is_empty()).then_some(&asking.stop),
        }
    }

    fn sampling(&self, task: Task) -> Sampling {
        let asking = &self.asking;
        let longest = asking.max_new_tokens.map(|tokens| tokens as usize);
        let longest = longest.unwrap_or_else(|| task.max_new_tokens());
        asking.sampling.ending(longest, Vec::new())
    }

    fn perplexity(&self, options: &LoadOptions, output: &Path) -> Result<Outcome, Failure> {
        let model = options.resolve()?;
        let tokenizer = Tokenizer::load(&model)?;
        let context = temper_models::LlamaConfig::load(&model)?.max_position_embeddings;
        let max_length = self.rows.max_length.unwrap_or(context).min(context);
        let (rows, settings) = self.rows(max_length, &tokenizer)?;
        let report = rows.report();
        note(&report.to_string());
        let (device, _) = options.open()?;
        let mut config = self.config(PERPLEXITY, options, &model, &tokenizer, &device)?;
        rows.fingerprint().clone_into(&mut config.data.sha256);
        config.data.limit = self.limit as u64;
        config.data.problems = rows.len() as u64;
        config.data.skipped = report.rows.saturating_sub(rows.len()) as u64;
        config.rows = Some(RowSettings {
            cut: report.truncated as u64,
            ..settings
        });
        let directory = OutputDir::open(output, &config)?;
        let loaded = options.load_from(model)?;
        let summary = measure(&loaded.model, &tokenizer, &rows, &config, &directory)?;
        Ok(Outcome::Perplexity(summary))
    }

    /// The rows, read as the `[data]` of a recipe would be.
    fn rows(
        &self,
        max_length: usize,
        tokenizer: &Tokenizer,
    ) -> Result<(Dataset, RowSettings), Failure> {
        let Rows {
            kind,
            template,
            loss_on,
            ..
        } = self.rows;
        let data = recipe::Data {
            kind,
            template: template.or(kind.default_template()),
            loss_on,
            max_length,
            over_length: OverLength::Truncate,
            cache: false,
            ..recipe::Data::default()
        };
        let settings = RowSettings {
            kind: kind.as_str().to_owned(),
            template: serde_json::to_value(data.template)?
                .as_str()
                .unwrap_or("none")
                .to_owned(),
            loss_on: serde_json::to_value(data.loss_on())?
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            max_length,
            cut: 0,
        };
        let spec = self.data.clone().ok_or_else(|| missing("data"))?;
        let recipe = Recipe {
            data,
            ..Recipe::default()
        };
        let config = dataset_config(&recipe, &[spec], self.limit, tokenizer)?;
        Ok((Dataset::prepare(&config, tokenizer, &|_, _| ())?, settings))
    }

    fn config(
        &self,
        task: &str,
        options: &LoadOptions,
        model: &Path,
        tokenizer: &Tokenizer,
        device: &OpenDevice,
    ) -> Result<EvalConfig, Failure> {
        let dtype = device.precision(options.dtype)?;
        let id = ModelId {
            sha256: Some(fingerprint(model, |name| {
                name == "config.json" || ends_like_weights(name)
            })?),
            adapter_sha256: self
                .adapter
                .as_deref()
                .map(adapter_fingerprint)
                .transpose()?,
            step: None,
        };
        let dtype = format!("{dtype:?}").to_lowercase();
        let mut config = EvalConfig::new(task, id, tokenizer.fingerprint(), &dtype);
        config.shard = self.shard;
        config.info = Info {
            model: options.model.clone(),
            adapter: self.adapter.as_ref().map(|path| path.display().to_string()),
            data: self.data.clone().unwrap_or_default(),
            device: device.name.clone(),
        };
        Ok(config)
    }

    /// The one file behind `--data`.
    fn data_file(&self) -> Result<PathBuf, Failure> {
        let spec = self.data.as_deref().ok_or_else(|| missing("data"))?;
        one_file(spec)
    }
}

fn ends_like_weights(name: &str) -> bool {
    name.ends_with(".safetensors")
}

fn adapter_fingerprint(directory: &Path) -> Result<String, RunError> {
    fingerprint(directory, |name| name.starts_with("adapter_"))
}

fn missing(name: &str) -> Failure {
    Failure::usage(format!("--{name} is missing"))
}
