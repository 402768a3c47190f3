//! The numbers a run ends with, and what it prints.

use std::io::Write;

use super::{Learner, Position, Session, TrainingRecipe, exams, plan};
use crate::Failure;
use crate::run::{Items, Summary, peak_resident_bytes};

/// The content of `summary.json`.
pub(super) fn summary(
    position: &Position,
    timed: (f64, u64),
    eval_loss: Option<f64>,
    resumed_from: Option<u64>,
    learner: &dyn Learner,
) -> Summary {
    let model = learner.model();
    let (seconds, items) = timed;
    let speed = if seconds > 0.0 {
        items as f64 / seconds
    } else {
        position.items as f64 / position.seconds.max(1e-9)
    };
    Summary {
        first_loss: position.first_loss.unwrap_or(f64::NAN),
        last_loss: position.last_loss,
        eval_loss,
        eval_loss_before: position.eval_before,
        peak_memory_bytes: peak_resident_bytes().unwrap_or(0),
        steps: position.step,
        trainable_parameters: model.count(true) as u64,
        total_parameters: model.count(false) as u64,
        items: Items::new(learner.unit(), position.items, speed),
        skipped_steps: 0,
        resumed_from,
        stopped_early: position.stopped_early,
        best_step: position.best.map(|(_, step)| step),
        task: None,
        seconds: position.seconds,
    }
}

/// Prints the summary.
pub(super) fn print(
    recipe: &dyn TrainingRecipe,
    summary: &Summary,
    session: &dyn Session,
) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    session.print(&mut out)?;
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
        "speed           {}",
        session.learner().unit().speed(summary.items.speed().1)
    )?;
    writeln!(
        out,
        "peak memory     {}",
        plan::size(summary.peak_memory_bytes)
    )?;
    let (directory, result) = (recipe.run().dir.display(), session.result());
    writeln!(
        out,
        "run directory   {directory} ({result}/, curve.svg, metrics.jsonl, summary.json)"
    )?;
    Ok(())
}
