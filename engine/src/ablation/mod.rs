//! Ablations: variants of one recipe, trained with several seeds for equally many steps and tried on the same problems.
//!
//! The table has the mean and the sample standard deviation over the seeds, as the ablations of `MetaMath` (arXiv
//! 2309.12284, table 3) have one number per variant and no spread. What is finished is never done again: the same
//! command goes on where it was stopped.
//!
//! ```text
//! runs/arithmetic-metamath/
//!   base/                       the run that all variants start from, if the recipe has one
//!   sft/seed-1/                 a run directory
//!   sft/seed-1/evals/forward/   an evaluation directory
//!   table.md, summary.json, accuracy.svg
//! ```

mod chart;
mod exam;
mod plan;
mod summary;
mod table;

use std::path::Path;

pub use summary::{AblationSummary, ArmSummary, ExamSummary};

use crate::Failure;
use crate::recipe::AblationExam;
use crate::run::{note, write_atomic};
use crate::train::{TrainSwitches, same_recipe, train};
use plan::{Plan, Run};

/// Trains and tries every variant of the recipe at `path`, whose keys `overrides` change, and leaves table, summary and
/// picture in its run directory. Returns the table.
///
/// # Errors
/// Problems of the recipe or of a variant of it, before anything is trained; then whatever ends a run.
pub fn ablate(path: &Path, overrides: &[String], quiet: bool) -> Result<String, Failure> {
    let plan = Plan::new(path, overrides)?;
    let total = plan.runs().count();
    let mut results = Vec::with_capacity(total);
    for (index, run) in plan.runs().enumerate() {
        note(&format!("run {} of {total}: {}", index + 1, run.label));
        let scores = finished(run, &plan.exams, quiet).map_err(Failure::going_on)?;
        results.push(scores);
    }
    let summary = AblationSummary::new(&plan, results);
    let table = table::render(&summary);
    let write = |name: &str, bytes: &[u8]| write_atomic(&plan.directory.join(name), bytes);
    write("table.md", table.as_bytes())?;
    write("accuracy.svg", chart::render(&summary)?.as_bytes())?;
    let mut json = serde_json::to_vec_pretty(&summary)?;
    json.push(b'\n');
    write("summary.json", &json)?;
    Ok(table)
}

/// Trains a run unless that was done, and tries its result on all problems; the scores in the order of the exams.
fn finished(run: &Run, exams: &[AblationExam], quiet: bool) -> Result<Vec<f64>, Failure> {
    let directory = &run.recipe.run.dir;
    let again = run.recipe.run.overwrite;
    if again || !directory.join("summary.json").is_file() {
        let switches = TrainSwitches {
            resume: !again && directory.join("recipe.toml").is_file(),
            quiet,
            unreported: true,
        };
        train(&run.recipe, switches)?;
    } else {
        same_recipe(&run.recipe, &directory.join("recipe.toml"))?;
    }
    let mut sitting = exam::Room::new(&run.recipe, quiet);
    exams.iter().map(|exam| sitting.score(exam)).collect()
}
