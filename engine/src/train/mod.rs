//! Training runs: from a recipe to a run directory.

mod adapter;
mod dry_run;
mod exams;
mod language;
mod learner;
mod optimizer;
mod plan;
mod samples;
mod schedule;
mod setup;
mod state;
mod trainer;

use std::collections::BTreeMap;
use std::io::Write;

use temper_adapters::peft::AdapterConfig;
use temper_adapters::weights::Dtype;
use temper_adapters::{Parameters, adapter_file};

pub use exams::ExamOptions;
pub use language::LanguageLearner;
pub(crate) use language::token_batch;
pub use learner::{Learner, StepReport};
pub use optimizer::{AdamW, Moments, OptimizerState, clip, global_norm, without_gradient};
pub(crate) use plan::grouped;
pub use plan::{MemoryPlan, PlanInput};
pub use schedule::LearningRate;
pub use state::Position;
pub(crate) use state::{load as load_state, save as save_state};
pub use trainer::{Ending, TrainerOptions};

use crate::Failure;
use crate::recipe::Recipe;
use crate::run::{
    Environment, EventWriter, MetricsWriter, Progress, Row, RunDir, RunMode, Signals, Summary,
    TaskMetric, Verbosity, note, peak_resident_bytes, read_metrics, write_curve,
};
use samples::Samples;
use setup::Setup;
pub(crate) use setup::same_recipe;
use trainer::Trainer;

/// Switches of one run that are not part of its recipe.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainSwitches {
    /// Go on from the newest checkpoint that verifies.
    pub resume: bool,
    /// No progress on stderr.
    pub quiet: bool,
    /// No samples and no result on stdout.
    pub unreported: bool,
}

/// Trains what `recipe` says and leaves a complete run directory.
///
/// # Errors
/// Anything that keeps the run from its end; what was saved before stays.
pub fn train(recipe: &Recipe, switches: TrainSwitches) -> Result<Summary, Failure> {
    let signals = Signals::install()?;
    let mut setup = Setup::new(recipe, switches.quiet)?;
    let mode = match (switches.resume, recipe.run.overwrite) {
        (true, _) => RunMode::Resume,
        (false, true) => RunMode::Overwrite,
        (false, false) => RunMode::Fresh,
    };
    let directory = RunDir::create(&recipe.run.dir, mode)?;
    let (optimizer, position) = restore(recipe, &directory, &mut setup, switches.resume)?;
    let resumed_from = (position.step > 0).then_some(position.step);
    begin(recipe, &directory, &setup, resumed_from)?;
    let mut samples = Samples::open(recipe, &directory, &setup, resumed_from.is_some())?;
    if resumed_from.is_none() {
        samples.before(&setup.learner.model.frozen(), &setup)?;
        samples.save(&directory)?;
    }
    let verbosity = if switches.quiet {
        Verbosity::Silent
    } else {
        Verbosity::Normal
    };
    let mut trainer = Trainer {
        options: setup.options,
        learner: &mut setup.learner,
        optimizer,
        position,
        directory: &directory,
        store: directory.checkpoint_store()?,
        metrics: match resumed_from {
            Some(step) => MetricsWriter::resume(&directory.metrics(), step)?,
            None => MetricsWriter::create(&directory.metrics())?,
        },
        events: EventWriter::create(&directory.events(), resumed_from)?,
        progress: Progress::new("train", setup.options.rate.total, verbosity)
            .starting_at(resumed_from.unwrap_or(0)),
        signals: &signals,
        evaluated: evaluated(&directory, resumed_from)?,
        exams: exams(&directory, resumed_from)?,
        timed: (0.0, 0),
    };
    let ending = trainer.run()?;
    trainer.progress.finish();
    if let Ending::Signal(signal) = ending {
        return Err(interrupted(recipe, signal, trainer.position.step));
    }
    let (eval_loss, task) = conclude(recipe, &mut trainer, ending)?;
    trainer.metrics.sync()?;
    let (position, timed) = (trainer.position.clone(), trainer.timed);
    finish(recipe, &directory, &setup, &mut samples)?;
    let mut summary = summary(&position, timed, eval_loss, resumed_from, &setup);
    summary.task = task;
    directory.write_json(&directory.summary(), &summary)?;
    if !switches.unreported {
        report(recipe, &summary, &samples)?;
    }
    Ok(summary)
}

/// After the last step: the last evaluations, and the parameters that are the result. Returns the held-out loss and what the result
/// solves.
fn conclude(
    recipe: &Recipe,
    trainer: &mut Trainer<'_>,
    ending: Ending,
) -> Result<(Option<f64>, Option<TaskMetric>), Failure> {
    let chooses = trainer.options.exam.is_some_and(|exam| exam.choose_best);
    let last = trainer.position.step;
    let (eval_loss, step) = match (ending, trainer.position.best) {
        (Ending::EarlyStop, Some((_, best))) if !chooses => (trainer.restore_best()?, best),
        _ => (trainer.evaluate()?, last),
    };
    let Some(step) = trainer.final_exam(step)? else {
        let signal = trainer.signals.stop_requested().unwrap_or_default();
        return Err(interrupted(recipe, signal, last));
    };
    Ok((eval_loss, trainer.exams.get(&step).cloned()))
}

/// What ends a run that a signal stopped.
fn interrupted(recipe: &Recipe, signal: i32, step: u64) -> Failure {
    let path = recipe.run.dir.display();
    let message =
        format!("stopped by signal {signal} after step {step}; everything is saved in `{path}`");
    Failure::interrupted(signal, message)
        .with_hint("the same command with --resume goes on from here")
}

/// The held-out loss at the step that is resumed from, if the interrupted run came to it.
fn evaluated(directory: &RunDir, resumed_from: Option<u64>) -> Result<Option<(u64, f64)>, Failure> {
    let Some(step) = resumed_from else {
        return Ok(None);
    };
    let rows = read_metrics(&directory.metrics())?;
    Ok(rows.iter().find_map(|row| match row {
        Row::Eval(eval) if eval.step == step => Some((step, eval.eval_loss)),
        _ => None,
    }))
}

/// What the interrupted run solved up to the step that is resumed from. The rows of what it solved later are removed.
fn exams(
    directory: &RunDir,
    resumed_from: Option<u64>,
) -> Result<BTreeMap<u64, TaskMetric>, Failure> {
    directory.drop_evals_after(resumed_from)?;
    if resumed_from.is_none() {
        return Ok(BTreeMap::new());
    }
    let rows = read_metrics(&directory.metrics())?.into_iter();
    let exam = |row| match row {
        Row::Task(exam) => Some((exam.step, exam)),
        Row::Train(_) | Row::Eval(_) => None,
    };
    Ok(rows.filter_map(exam).collect())
}

/// State of the newest checkpoint that verifies, or a start from nothing.
fn restore(
    recipe: &Recipe,
    directory: &RunDir,
    setup: &mut Setup,
    resume: bool,
) -> Result<(OptimizerState, Position), Failure> {
    let start = Position {
        data: setup.data_fingerprint(),
        ..Position::default()
    };
    if !resume {
        return Ok((OptimizerState::default(), start));
    }
    let mut store = directory.checkpoint_store()?;
    let found = store.latest_verified()?;
    // A run that was killed before it wrote its recipe has nothing to differ from.
    if found.newest.is_some() || directory.recipe().exists() {
        setup::same_recipe(recipe, &directory.recipe())?;
    }
    for skipped in &found.skipped {
        note(&format!(
            "checkpoint `{}` is not used: {}",
            skipped.path.display(),
            skipped.reason
        ));
    }
    let Some(checkpoint) = found.newest else {
        note("no checkpoint yet: the run starts from its first step");
        return Ok((OptimizerState::default(), start));
    };
    store.set_aside_after(checkpoint.step)?;
    let (optimizer, position) = state::load(&checkpoint.path, &mut setup.learner.model)?;
    if position.data != start.data {
        return Err(
            Failure::run("the training data changed since the checkpoint was written")
                .with_hint("restore the data, or start a new run in another `run.dir`"),
        );
    }
    note(&format!("resumed after step {}", position.step));
    Ok((optimizer, position))
}

/// Leaves recipe and environment in the run directory.
fn begin(
    recipe: &Recipe,
    directory: &RunDir,
    setup: &Setup,
    resumed_from: Option<u64>,
) -> Result<(), Failure> {
    if resumed_from.is_none() {
        crate::run::write_atomic(&directory.recipe(), recipe.to_toml().as_bytes())?;
    }
    directory.write_json(
        &directory.environment(),
        &Environment::capture(&setup.device.name),
    )?;
    Ok(())
}

/// Writes what others can load: the adapter in PEFT layout, or the model in Hugging Face layout; then curve and samples.
fn finish(
    recipe: &Recipe,
    directory: &RunDir,
    setup: &Setup,
    samples: &mut Samples,
) -> Result<(), Failure> {
    if let Some(config) = &setup.adapter {
        save_adapter(directory, setup, config)?;
    } else {
        setup
            .learner
            .model
            .save(&directory.model(), Dtype::F32, 5_000_000_000)?;
        setup.copy_tokenizer(&directory.model())?;
    }
    samples.after(&setup.learner.model.frozen(), setup)?;
    samples.save(directory)?;
    let title = recipe
        .run
        .name
        .clone()
        .unwrap_or_else(|| recipe.run.dir.display().to_string());
    write_curve(
        &directory.curve(),
        &title,
        &read_metrics(&directory.metrics())?,
    )?;
    Ok(())
}

fn save_adapter(directory: &RunDir, setup: &Setup, config: &AdapterConfig) -> Result<(), Failure> {
    let file = adapter_file(&setup.learner.model, config)?;
    let path = directory.adapter();
    std::fs::create_dir_all(&path)?;
    file.save(&path)?;
    Ok(())
}

fn summary(
    position: &Position,
    timed: (f64, u64),
    eval_loss: Option<f64>,
    resumed_from: Option<u64>,
    setup: &Setup,
) -> Summary {
    let model = &setup.learner.model;
    let (seconds, tokens) = timed;
    let speed = if seconds > 0.0 {
        tokens as f64 / seconds
    } else {
        position.tokens as f64 / position.seconds.max(1e-9)
    };
    Summary {
        first_loss: position.first_loss.unwrap_or(f64::NAN),
        last_loss: position.last_loss,
        eval_loss,
        eval_loss_before: position.eval_before,
        tokens_per_second: speed,
        peak_memory_bytes: peak_resident_bytes().unwrap_or(0),
        steps: position.step,
        trainable_parameters: model.count(true) as u64,
        total_parameters: model.count(false) as u64,
        tokens: position.tokens,
        skipped_steps: 0,
        resumed_from,
        stopped_early: position.stopped_early,
        best_step: position.best.map(|(_, step)| step),
        task: None,
        seconds: position.seconds,
    }
}

fn report(recipe: &Recipe, summary: &Summary, samples: &Samples) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    samples.print(&mut out)?;
    writeln!(
        out,
        "loss            {:.4} -> {:.4} after {} steps",
        summary.first_loss, summary.last_loss, summary.steps
    )?;
    if let (true, Some(step)) = (summary.stopped_early, summary.best_step) {
        let is_result = summary.task.as_ref().is_none_or(|task| task.step == step);
        writeln!(
            out,
            "stopped early   the held-out loss was lowest after step {step}{}",
            if is_result {
                "; that state is the result"
            } else {
                ""
            }
        )?;
    }
    if let (Some(before), Some(after)) = (summary.eval_loss_before, summary.eval_loss) {
        writeln!(out, "held-out loss   {before:.4} -> {after:.4}")?;
    }
    if let Some(task) = &summary.task {
        writeln!(
            out,
            "solved          {} after step {}",
            exams::line(task),
            task.step
        )?;
    }
    writeln!(
        out,
        "speed           {:.0} tokens/s",
        summary.tokens_per_second
    )?;
    writeln!(
        out,
        "peak memory     {}",
        plan::size(summary.peak_memory_bytes)
    )?;
    let directory = recipe.run.dir.display();
    let result = if recipe.adapter.is_some() && recipe.method() != crate::recipe::Method::Full {
        "adapter"
    } else {
        "model"
    };
    writeln!(
        out,
        "run directory   {directory} ({result}/, curve.svg, metrics.jsonl, summary.json)"
    )?;
    Ok(())
}

pub use dry_run::dry_run;
