//! The numbers a run ends with, and what it prints.

use std::io::Write;

use super::{Learner, Position, Session, exams, plan};
use crate::Failure;
use crate::run::{Items, Row, RunDir, Summary, Unit, peak_resident_bytes, read_metrics};

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
    directory: &RunDir,
    summary: &Summary,
    session: &dyn Session,
) -> Result<(), Failure> {
    let rows = read_metrics(&directory.metrics())?;
    let mut out = std::io::stdout().lock();
    session.print(&mut out)?;
    writeln!(out, "{}", losses(&rows, summary))?;
    // Photographs are too few to hold some out: their loss is that of training pictures under noise that stays the same.
    let name = match session.learner().unit() {
        Unit::Tokens => "held-out loss",
        Unit::Images => "validation loss",
    };
    if let (true, Some(step)) = (summary.stopped_early, summary.best_step) {
        let is_result = summary.task.as_ref().is_none_or(|task| task.step == step);
        writeln!(
            out,
            "stopped early   the {name} was lowest after step {step}{}",
            if is_result {
                "; that state is the result"
            } else {
                ""
            }
        )?;
    }
    if let (Some(before), Some(after)) = (summary.eval_loss_before, summary.eval_loss) {
        writeln!(out, "{name:<15} {before:.4} -> {after:.4}")?;
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
    let (directory, results) = (directory.path().display(), session.results());
    writeln!(
        out,
        "run directory   {directory} ({}/, curve.svg, metrics.jsonl, summary.json)",
        results.join("/, ")
    )?;
    Ok(())
}

/// The losses of single steps jump with their examples and, for diffusion, with their noise: means of the first and the last tenth of
/// the logged steps are shown where there are enough.
fn losses(rows: &[Row], summary: &Summary) -> String {
    let logged: Vec<f64> = rows
        .iter()
        .filter_map(|row| match row {
            Row::Train(metric) => Some(metric.loss),
            Row::Eval(_) | Row::Task(_) => None,
        })
        .collect();
    let tenth = logged.len() / 10;
    let (first, last, note) = match tenth {
        0 | 1 => (summary.first_loss, summary.last_loss, String::new()),
        _ => (
            mean(&logged[..tenth]),
            mean(&logged[logged.len() - tenth..]),
            format!(" (means of {tenth})"),
        ),
    };
    format!(
        "loss            {first:.4} -> {last:.4} after {} steps{note}",
        summary.steps
    )
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Metric;

    fn shown(steps: u64) -> String {
        let row = |step| {
            Row::Train(Metric {
                step,
                loss: step as f64,
                lr: 1.0,
                grad_norm: 1.0,
                items: Items::default(),
                memory_bytes: 0,
                seconds: 1.0,
            })
        };
        let rows: Vec<Row> = (1..=steps).map(row).collect();
        let summary = Summary {
            first_loss: 1.0,
            last_loss: steps as f64,
            steps,
            ..Summary::default()
        };
        losses(&rows, &summary)
    }

    #[test]
    fn the_losses_of_a_long_run_are_means_of_its_tenths() {
        assert_eq!(
            shown(40),
            "loss            2.5000 -> 38.5000 after 40 steps (means of 4)"
        );
        assert_eq!(shown(5), "loss            1.0000 -> 5.0000 after 5 steps");
    }
}
