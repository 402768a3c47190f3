//! Question bootstrapping: a data set in the manner of `MetaMathQA` out of questions with known answers (`MetaMath`,
//! arXiv 2309.12284, §3).
//!
//! A source of text ([`crate::text_model`]) writes more answers, other words and backward questions; only what leads to the
//! known answer is kept. The text rules (masking, prompts, cleaning, responses) are [`temper_datasets::rewrite`]'s.
//!
//! The run directory holds `recipe.toml`, `environment.json`, and
//!
//! | file | content |
//! |---|---|
//! | `provenance.jsonl` | every generation ([`Record`]): appended as it ends, put into order when the run does |
//! | `data.json` or `data.jsonl` | the rows that are kept: `type`, `query`, `original_question`, `response` |
//! | `summary.json` | counts by kind and reason, failures by name, what was spent ([`Summary`]) |
//! | `questions.jsonl` | without a text model: the masked questions and the values of their unknowns |
//!
//! The order of both data files is that of the questions, whatever ran at the same time. A killed process loses at most the
//! requests under way; `--resume` goes on from there.
//!
//! Deviations from the authors' program: duplicates are counted and may be dropped; the source is asked in a fixed number of
//! attempts instead of without end; faults of the program are avoided unless [`crate::recipe::Behaviour::Released`] asks for them.

mod dry_run;
mod error;
mod journal;
mod plan;
mod questions;
mod record;
mod results;
mod run;
mod source;
mod table;
mod unit;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::Failure;
use crate::recipe::{BootstrapRecipe, TextModelKind};
use crate::run::{Environment, RunDir, Verbosity, note, write_atomic};
use crate::text_model::{Closed, Gate, TextModel};
use crate::train::run_mode;

pub use dry_run::dry_run;
pub use error::BootstrapError;
pub use record::{Key, Outcome, Record, Stage};
pub use results::{Counts, KindResults, Results};

use journal::Journal;
use plan::{Rules, Seeds};
use unit::Workshop;

/// How a run is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootstrapSwitches {
    /// Go on with what is in the run directory.
    pub resume: bool,
    /// No progress on stderr.
    pub quiet: bool,
}

/// The content of `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Who wrote.
    pub text_model: String,
    /// Questions that were used.
    pub questions: u64,
    /// Rows of the question files that cannot be used, and why.
    pub skipped: Vec<String>,
    /// What came of them.
    #[serde(flatten)]
    pub results: Results,
    /// Requests, failed attempts included, of all processes that worked on the run.
    pub requests: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of replies.
    pub reply_tokens: u64,
    /// Their price, if the recipe gives prices.
    pub price: Option<f64>,
    /// Whether everything was attempted.
    pub finished: bool,
    /// What stopped it, if something did.
    pub stopped_by: Option<String>,
    /// Wall time of this process.
    pub seconds: f64,
}

/// Makes the data set of a recipe, or as much of it as budget and patience allow.
///
/// # Errors
/// Files that cannot be read or written, a source that fails for good, a signal. What was done is saved.
pub fn bootstrap(recipe: &BootstrapRecipe, switches: BootstrapSwitches) -> Result<(), Failure> {
    let begin = Instant::now();
    let seeds = Seeds::read(recipe)?;
    seeds.note_skipped();
    let mode = run_mode(&recipe.run, &recipe.to_toml(), switches.resume)?;
    let directory = RunDir::claim(&recipe.run.dir, mode)?;
    if switches.resume {
        same_recipe(recipe, &directory.recipe())?;
    }
    let model = source::open(recipe)?;
    write_atomic(&directory.recipe(), recipe.to_toml().as_bytes())?;
    let device = recipe.text_model.device.as_deref().unwrap_or("none");
    directory.write_json(&directory.environment(), &Environment::capture(device))?;
    match model {
        None => questions::write(&seeds, Rules::of(recipe), &directory, begin),
        Some(model) => Run {
            recipe,
            directory: &directory,
            seeds: &seeds,
            begin,
        }
        .make(model.as_ref(), switches.quiet),
    }
}

/// Refuses to resume with a recipe whose generations would not go with those that were made. Budget, patience, numbers of
/// rows and the place may change.
fn same_recipe(recipe: &BootstrapRecipe, stored: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(stored)
        .map_err(|error| Failure::run(format!("cannot read `{}`: {error}", stored.display())))?;
    let old: BootstrapRecipe = toml::from_str(&text).map_err(|error| {
        let place = stored.display();
        Failure::run(format!(
            "`{place}` is not the recipe of a bootstrapping run: {}",
            error.message()
        ))
    })?;
    let (new, was) = (&recipe.text_model, &old.text_model);
    // Masked questions were written by nobody: who writes may be chosen afterwards.
    let masked = was.kind == TextModelKind::None;
    let changed = [
        ("seed", recipe.seed != old.seed),
        ("behaviour", recipe.behaviour != old.behaviour),
        (
            "questions.task",
            recipe.questions.task != old.questions.task,
        ),
        (
            "questions.path",
            recipe.questions.path != old.questions.path,
        ),
        ("text_model.kind", new.kind != was.kind),
        ("text_model.model", new.model != was.model),
        ("text_model.path", new.path != was.path),
        ("text_model.adapter", new.adapter != was.adapter),
        ("text_model.mode", new.mode != was.mode),
        ("text_model.temperature", new.temperature != was.temperature),
        ("text_model.top_p", new.top_p != was.top_p),
        (
            "text_model.max_new_tokens",
            new.max_new_tokens != was.max_new_tokens,
        ),
        ("text_model.stop", new.stop != was.stop),
    ];
    let changed: Vec<&str> = changed
        .iter()
        .filter(|(key, is_changed)| *is_changed && !(masked && key.starts_with("text_model.")))
        .map(|(key, _)| *key)
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the recipe differs from the one in `{}`: `{}`",
        stored.display(),
        changed.join("`, `")
    );
    Err(Failure::usage(message)
        .with_hint("undo the change to resume, or start a new run in another `run.dir`"))
}

/// A run on its way.
struct Run<'a> {
    recipe: &'a BootstrapRecipe,
    directory: &'a RunDir,
    seeds: &'a Seeds,
    begin: Instant,
}

impl Run<'_> {
    fn make(&self, model: &dyn TextModel, quiet: bool) -> Result<(), Failure> {
        let (recipe, rules) = (self.recipe, Rules::of(self.recipe));
        let path = self.directory.path().join("provenance.jsonl");
        let journal = Journal::open(&path)?;
        if journal.torn > 0 {
            note(
                "the last line of `provenance.jsonl` was torn and is dropped; its generation is made again",
            );
        }
        let gate = Gate::new(source::limits(recipe), journal.spent());
        let units = plan::units(&self.seeds.all, &recipe.samples, rules);
        let journal = RefCell::new(journal);
        let workshop = Workshop {
            seeds: &self.seeds.all,
            rules,
            seed: recipe.seed,
            model,
            patience: source::patience(recipe),
            gate: &gate,
            journal: &journal,
            journal_path: &path,
        };
        let verbosity = if quiet {
            Verbosity::Silent
        } else {
            Verbosity::Normal
        };
        run::make_all(&workshop, &units, recipe.text_model.concurrency, verbosity)?;
        let mut journal = journal.into_inner();
        journal.sort()?;
        let output = recipe.output;
        let results = results::write(
            &mut journal,
            &self.seeds.all,
            &units,
            rules,
            output,
            self.directory,
        )?;
        self.report(model.name(), results, &gate)
    }

    fn report(&self, model: &str, results: Results, gate: &Gate) -> Result<(), Failure> {
        let (spent, closed) = (gate.spent(), gate.closed());
        let budget = &self.recipe.budget;
        let has_price = budget.prompt_price.is_some() || budget.reply_price.is_some();
        let summary = Summary {
            text_model: model.to_owned(),
            questions: self.seeds.all.len() as u64,
            skipped: self.seeds.skipped.clone(),
            requests: spent.requests,
            prompt_tokens: spent.prompt_tokens,
            reply_tokens: spent.reply_tokens,
            price: has_price.then(|| gate.limits().price_of(spent)),
            finished: results
                .kinds
                .iter()
                .all(|kind| kind.left == 0 && kind.failed.is_empty()),
            stopped_by: closed.as_ref().map(Closed::to_string),
            seconds: self.begin.elapsed().as_secs_f64(),
            results,
        };
        self.directory
            .write_json(&self.directory.summary(), &summary)?;
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{}",
            table::table(self.recipe.questions.task.as_str(), &summary.results)
        )?;
        writeln!(out, "{}", spending(&summary))?;
        out.flush()?;
        self.verdict(&summary, closed)
    }

    /// Says how the run ended, and how to go on.
    fn verdict(&self, summary: &Summary, closed: Option<Closed>) -> Result<(), Failure> {
        let rows = summary.results.rows;
        let saved = format!(
            "{rows} rows are saved in `{}`",
            self.directory.path().display()
        );
        let go_on = "the same command with `--resume` goes on from here";
        match closed {
            None if summary.finished => note(&saved),
            None => note(&format!(
                "{saved}; some replies were given up, and {go_on} with them"
            )),
            Some(Closed::Budget(key)) => note(&format!(
                "stopped: `budget.{key}` is reached; {saved}; to go on: `--resume --set budget.{key}=...` with a higher limit"
            )),
            Some(Closed::Signal(signal)) => {
                let message = format!("stopped by signal {signal}; {saved}");
                return Err(Failure::interrupted(signal, message).with_hint(go_on));
            }
            Some(Closed::Hopeless { error, hint }) => {
                return Err(Failure::run(format!("{error}; {saved}")).with_hint(hint));
            }
            Some(Closed::Failures { count, last }) => {
                let message = format!(
                    "{count} replies in a row were given up, the last one because {last}; {saved}"
                );
                return Err(Failure::run(message)
                    .with_hint(format!("once the source works again, {go_on}")));
            }
        }
        Ok(())
    }
}

/// What it took, in one line, and what went wrong on the way.
fn spending(summary: &Summary) -> String {
    let tokens = |count| crate::train::grouped(count);
    let mut text = format!(
        "{} requests, {} prompt tokens, {} reply tokens",
        tokens(summary.requests),
        tokens(summary.prompt_tokens),
        tokens(summary.reply_tokens)
    );
    if summary.results.estimated > 0 {
        let _ = write!(
            text,
            " (estimated for {} replies)",
            tokens(summary.results.estimated)
        );
    }
    if let Some(price) = summary.price {
        let _ = write!(text, ", price {price:.2}");
    }
    for (name, count) in &summary.results.failed_attempts {
        let _ = write!(text, "\nfailed attempts: {name} {count}");
    }
    text
}
