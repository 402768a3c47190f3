//! Where a resumed run goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{FloatDType, s};
use sha2::{Digest, Sha256};
use temper_adapters::Adaptable;

use super::{OptimizerState, Position, Session, TrainingRecipe, state};
use crate::Failure;
use crate::recipe::leaves;
use crate::run::{Row, RunDir, TaskMetric, hex, note, read_metrics};

/// The held-out loss at the step that is resumed from, if the interrupted run came to it.
pub(super) fn evaluated(
    directory: &RunDir,
    resumed_from: Option<u64>,
) -> Result<Option<(u64, f64)>, Failure> {
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
pub(super) fn exams(
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
pub(super) fn restore(
    recipe: &dyn TrainingRecipe,
    directory: &RunDir,
    session: &mut dyn Session,
    resume: bool,
) -> Result<(OptimizerState, Position), Failure> {
    let start = Position {
        data: session.data_fingerprint(),
        base: base_fingerprint(session.learner().model(), &session.model_settings()),
        ..Position::default()
    };
    if !resume {
        return Ok((OptimizerState::default(), start));
    }
    let mut store = directory.checkpoint_store()?;
    let found = store.latest_verified()?;
    // A run that was killed before it wrote its recipe has nothing to differ from.
    if found.newest.is_some() || directory.recipe().exists() {
        recipe.check_same(&directory.recipe())?;
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
    let (optimizer, position) = state::load(&checkpoint.path, session.learner_mut().model_mut())?;
    if !position.data.starts_with(&start.data) {
        return Err(data_changed());
    }
    if !position.base.is_empty() && position.base != start.base {
        return Err(
            Failure::run("the base model changed since the checkpoint was written: its frozen weights, configurations, tokenizer or noise process are others").with_hint(
                "restore the model that `model.path` named, or start a new run in another `run.dir`",
            ),
        );
    }
    note(&format!("resumed after step {}", position.step));
    Ok((optimizer, position))
}

/// The position on the data as the session found or made them when it was prepared.
pub(super) fn settle(position: Position, session: &dyn Session) -> Result<Position, Failure> {
    let data = session.data_fingerprint();
    if position.step > 0 && position.data != data {
        return Err(data_changed());
    }
    Ok(Position { data, ..position })
}

fn data_changed() -> Failure {
    Failure::run("the training data changed since the checkpoint was written")
        .with_hint("restore the data, or start a new run in another `run.dir`")
}

/// SHA-256 over the model's settings and names, shapes and some values of every frozen parameter. What is trained on another base than it was begun on fits
/// neither. All values of a large model would take minutes to hash; any training moves nearly all of them, so a sample shows it.
fn base_fingerprint(model: &dyn Adaptable, settings: &str) -> String {
    const SAMPLE: usize = 1024;
    let mut hasher = Sha256::new();
    hasher.update(settings);
    model.visit(&mut |param| {
        if param.is_trainable() {
            return;
        }
        hasher.update(format!("{} {:?}\n", param.name(), param.shape()));
        let (values, numel) = (param.plain().cast(FloatDType::F32), param.numel());
        let step = numel.div_ceil(SAMPLE).max(1) as isize;
        for value in values.slice(s![..;step]).into_data().iter::<f32>() {
            hasher.update(value.to_le_bytes());
        }
    });
    hex(&hasher.finalize())
}

/// Refuses to go on when two written recipes, made alike in what may differ, are not the same.
pub(crate) fn differs(new: &str, old: &str, stored: &Path) -> Result<(), Failure> {
    let [new, old] = [new, old].map(|text| leaves(text).into_iter().collect::<BTreeMap<_, _>>());
    let all: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let changed = all.into_iter().filter_map(|key| {
        let said = match (new.get(key), old.get(key)) {
            (now, then) if now == then => return None,
            (Some(now), Some(then)) => format!("`{key} = {now}`, was {then}"),
            (Some(now), None) => format!("`{key} = {now}`, was not there"),
            (None, Some(then)) => format!("without `{key}`, was {then}"),
            (None, None) => return None,
        };
        Some(said)
    });
    let changed: Vec<String> = changed.collect();
    if changed.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the recipe differs from the one in `{}`: {}",
        stored.display(),
        changed.join("; ")
    );
    Err(Failure::usage(message)
        .with_hint("undo the change to resume, or start a new run in another `run.dir`"))
}
