//! Training runs: from a recipe to a run directory.

mod adapter;
mod average;
mod dry_run;
mod exams;
mod language;
mod language_session;
mod learner;
mod optimizer;
mod plan;
mod report;
mod resume;
mod samples;
mod schedule;
mod session;
mod setup;
mod state;
mod trainer;

pub(crate) use adapter::{AdapterText, peft_config};
pub use average::Averages;
pub use dry_run::dry_run;
pub use exams::ExamOptions;
pub use language::LanguageLearner;
pub(crate) use language::token_batch;
pub use learner::{Learner, StepReport};
pub use optimizer::{AdamW, Moments, OptimizerState, clip, global_norm, without_gradient};
pub use plan::{MemoryPlan, PlanInput};
pub(crate) use plan::{adapter_sizes, grouped, size};
pub(crate) use resume::differs;
pub use schedule::LearningRate;
pub(crate) use session::{Session, TrainingRecipe};
pub use state::Position;
pub(crate) use state::{load as load_state, save as save_state};
pub use trainer::{Ending, TrainerOptions};

use std::path::Path;

use crate::Failure;
use crate::recipe::{Recipe, Run, leaves};
use crate::run::{
    Environment, EventWriter, MetricsWriter, Progress, RunDir, RunMode, Signals, Summary,
    TaskMetric, Verbosity, read_metrics, write_curve,
};
use resume::{evaluated, exams, restore, settle};
pub(crate) use setup::{check_ranks, options, same_method, same_recipe, warn};
use trainer::{Trainer, broken_parameter};

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
    train_any(recipe, switches)
}

/// Trains what any recipe says.
pub(crate) fn train_any(
    recipe: &dyn TrainingRecipe,
    switches: TrainSwitches,
) -> Result<Summary, Failure> {
    let signals = Signals::install()?;
    let mut session = recipe.open(switches.quiet)?;
    // Before a run directory is made, or an old one emptied.
    if let Some(name) = broken_parameter(session.learner().model()) {
        let message = format!("the model to begin with is broken: `{name}` is not finite");
        return Err(Failure::run(message)
            .with_hint("its file is damaged, or was saved from a run that failed: get it anew"));
    }
    let mode = run_mode(recipe.run(), &recipe.text(), switches.resume)?;
    let directory = RunDir::create(&recipe.run().dir, mode)?;
    let (optimizer, position) = restore(recipe, &directory, session.as_mut(), switches.resume)?;
    let resumed_from = (position.step > 0).then_some(position.step);
    begin(recipe, &directory, session.device(), resumed_from)?;
    session.prepare(&directory, resumed_from.is_some(), &signals)?;
    let position = settle(position, session.as_ref())?;
    // A checkpoint before the first step comes after a row of its own.
    let kept = resumed_from.or(position.eval_before.map(|_| 0));
    let verbosity = if switches.quiet {
        Verbosity::Silent
    } else {
        Verbosity::Normal
    };
    let options = session.options();
    let mut trainer = Trainer {
        options,
        learner: session.learner_mut(),
        optimizer,
        position,
        directory: &directory,
        store: directory.checkpoint_store()?,
        metrics: match kept {
            Some(step) => MetricsWriter::resume(&directory.metrics(), step)?,
            None => MetricsWriter::create(&directory.metrics())?,
        },
        events: EventWriter::create(&directory.events(), resumed_from)?,
        progress: Progress::new("train", options.rate.total, verbosity)
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
    finish(recipe, &directory, session.as_mut())?;
    let mut summary = report::summary(&position, timed, eval_loss, resumed_from, session.learner());
    summary.task = task;
    directory.write_json(&directory.summary(), &summary)?;
    if !switches.unreported {
        report::print(&directory, &summary, session.as_ref())?;
    }
    Ok(summary)
}

/// After the last step: the last evaluations, and the parameters that are the result. Returns the held-out loss and what the result
/// solves.
fn conclude(
    recipe: &dyn TrainingRecipe,
    trainer: &mut Trainer<'_>,
    ending: Ending,
) -> Result<(Option<f64>, Option<TaskMetric>), Failure> {
    let chooses = trainer.options.exam.is_some_and(|exam| exam.choose_best);
    let last = trainer.position.step;
    let (eval_loss, step) = match (ending, trainer.position.best) {
        (Ending::EarlyStop, Some((_, best))) if !chooses => (trainer.restore_best()?, best),
        _ => (trainer.evaluate_last()?, last),
    };
    let Some(step) = trainer.final_exam(step)? else {
        let signal = trainer.signals.stop_requested().unwrap_or_default();
        return Err(interrupted(recipe, signal, last));
    };
    if !trainer.show(step)? {
        let signal = trainer.signals.stop_requested().unwrap_or_default();
        return Err(interrupted(recipe, signal, last));
    }
    trainer.adopt_averages();
    Ok((eval_loss, trainer.exams.get(&step).cloned()))
}

/// How a run begins that is resumed, or of this recipe.
///
/// # Errors
/// When the old run that would be overwritten holds what the recipe reads.
pub(crate) fn run_mode(run: &Run, recipe: &str, resume: bool) -> Result<RunMode, Failure> {
    match (resume, run.overwrite) {
        (true, _) => return Ok(RunMode::Resume),
        (false, false) => return Ok(RunMode::Fresh),
        (false, true) => {}
    }
    for (key, value) in leaves(recipe) {
        let values = match value {
            toml::Value::Array(values) => values,
            value => vec![value],
        };
        let mut texts = values.iter().filter_map(toml::Value::as_str);
        let lost = texts.find(|text| RunDir::would_remove(&run.dir, Path::new(text)));
        if let Some(lost) = lost.filter(|_| key != "run.dir") {
            let message = format!(
                "`{key}` is `{lost}`, which `run.overwrite` would remove with the old run in `{}`",
                run.dir.display()
            );
            return Err(Failure::usage(message)
                .with_hint("name another `run.dir`, or move what is needed out of it"));
        }
    }
    Ok(RunMode::Overwrite)
}

/// What ends a run that a signal stopped.
fn interrupted(recipe: &dyn TrainingRecipe, signal: i32, step: u64) -> Failure {
    let path = recipe.run().dir.display();
    let message =
        format!("stopped by signal {signal} after step {step}; everything is saved in `{path}`");
    Failure::interrupted(signal, message)
        .with_hint("the same command with --resume goes on from here")
}

/// Leaves recipe and environment in the run directory.
fn begin(
    recipe: &dyn TrainingRecipe,
    directory: &RunDir,
    device: &str,
    resumed_from: Option<u64>,
) -> Result<(), Failure> {
    if resumed_from.is_none() {
        crate::run::write_atomic(&directory.recipe(), recipe.text().as_bytes())?;
    }
    directory.write_json(&directory.environment(), &Environment::capture(device))?;
    Ok(())
}

/// Writes what others can load, then the curve.
fn finish(
    recipe: &dyn TrainingRecipe,
    directory: &RunDir,
    session: &mut dyn Session,
) -> Result<(), Failure> {
    session.finish(directory)?;
    let run = recipe.run();
    let title = run
        .name
        .clone()
        .unwrap_or_else(|| run.dir.display().to_string());
    write_curve(
        &directory.curve(),
        &title,
        &read_metrics(&directory.metrics())?,
    )?;
    Ok(())
}
