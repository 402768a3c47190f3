//! The loop: step, guard, clip, update, log, evaluate, save. The same for every model.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::tensor::FloatDType;
use temper_adapters::{Adaptable, Param};
use temper_models::Gradients;

use super::average::Averages;
use super::exams::ExamOptions;
use super::learner::{Learner, StepReport};
use super::optimizer::{AdamW, OptimizerState, clip, global_norm, without_gradient};
use super::schedule::LearningRate;
use super::state::{self, Position};
use crate::Failure;
use crate::run::{
    CheckpointStore, EvalMetric, EventWriter, Items, Metric, MetricsWriter, Progress, Row, RunDir,
    Signals, TaskMetric, resident_bytes,
};

/// How a run is driven.
#[derive(Clone, Copy, Debug)]
pub struct TrainerOptions {
    /// The optimizer.
    pub adam: AdamW,
    /// The learning rate.
    pub rate: LearningRate,
    /// Largest global norm of the gradients; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Steps between evaluations; 0 evaluates at the start and the end alone.
    pub eval_every: u64,
    /// Steps between checkpoints; 0 saves at the end alone.
    pub save_every: u64,
    /// Checkpoints kept.
    pub keep_last: usize,
    /// Steps between log lines.
    pub log_every: u64,
    /// Evaluations without improvement before the run stops.
    pub patience: Option<usize>,
    /// Problems to solve between steps.
    pub exam: Option<ExamOptions>,
    /// Steps between [`Learner::show`]; 0 only before the first step and after the last.
    pub show_every: u64,
    /// Largest decay of the running means of the parameters; `None` keeps none.
    pub ema_decay: Option<f64>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps were made.
    Complete,
    /// The held-out loss stopped improving.
    EarlyStop,
    /// A signal asked for it; everything is saved.
    Signal(i32),
}

/// Files and switches of a run in progress.
pub(super) struct Trainer<'a> {
    pub(super) options: TrainerOptions,
    pub(super) learner: &'a mut dyn Learner,
    pub(super) optimizer: OptimizerState,
    pub(super) position: Position,
    pub(super) directory: &'a RunDir,
    pub(super) store: CheckpointStore,
    pub(super) metrics: MetricsWriter,
    pub(super) events: EventWriter,
    pub(super) progress: Progress,
    pub(super) signals: &'a Signals,
    /// Step and value of the last held-out loss.
    pub(super) evaluated: Option<(u64, f64)>,
    /// What was solved after which step.
    pub(super) exams: BTreeMap<u64, TaskMetric>,
    /// Seconds and items of the steps of this process but the first, which warms caches up.
    pub(super) timed: (f64, u64),
}

impl Trainer<'_> {
    /// Runs to the end, or to a reason to stop before it.
    pub(super) fn run(&mut self) -> Result<Ending, Failure> {
        let total = self.options.rate.total;
        self.begin_averages();
        // Better now than after hours.
        self.store.check_space(self.checkpoint_bytes())?;
        // At the beginning, or where a signal came before the end of a show.
        let shows = self.options.show_every;
        let begins = self.position.step;
        if begins == 0 || (shows > 0 && begins.is_multiple_of(shows) && begins < total) {
            let shown = self.show(begins)?;
            if let (false, Some(signal)) = (shown, self.signals.stop_requested()) {
                return Ok(Ending::Signal(signal));
            }
        }
        if self.position.step == 0 && self.position.eval_before.is_none() {
            self.position.eval_before = self.evaluate()?;
            if let (Some(loss), Some(_)) = (self.position.eval_before, self.options.patience) {
                // Nothing may turn out better than the start.
                self.position.best = Some((loss, 0));
                self.save()?;
            }
        }
        if self.position.stopped_early {
            return Ok(Ending::EarlyStop);
        }
        // At the beginning, or where a signal came before the end of an exam.
        if self.exam_is_due() {
            let best = self.sit_exam(self.position.step)?;
            let signal = self.signals.stop_requested();
            if best || signal.is_some() {
                self.save()?;
            }
            if let Some(signal) = signal {
                return Ok(Ending::Signal(signal));
            }
        }
        let first = self.position.step;
        while self.position.step < total {
            self.step(first)?;
            let step = self.position.step;
            let due = |every: u64| every > 0 && step.is_multiple_of(every);
            let stop = if due(self.options.eval_every) && step < total {
                self.evaluate_and_judge()?
            } else {
                false
            };
            let best = self.exam_is_due() && self.sit_exam(step)?;
            if due(self.options.show_every) && step < total {
                self.show(step)?;
            }
            let signal = self.signals.stop_requested();
            let save_now = self.signals.take_save_request();
            let ends = signal.is_some() || stop || step == total;
            if due(self.options.save_every) || save_now || best || ends {
                self.save()?;
            }
            if let Some(signal) = signal {
                return Ok(Ending::Signal(signal));
            }
            if stop {
                return Ok(Ending::EarlyStop);
            }
        }
        Ok(Ending::Complete)
    }

    fn step(&mut self, first: u64) -> Result<(), Failure> {
        let step = self.position.step;
        let start = Instant::now();
        let mut gradients = Gradients::new();
        let report = self.learner.gradients(step, &mut gradients)?;
        if step == first {
            self.audit(&gradients)?;
        }
        let (norm, broken) = global_norm(&gradients);
        if !report.loss.is_finite() || !norm.is_finite() {
            return Err(self.not_finite(report.loss, broken));
        }
        clip(&mut gradients, norm, self.options.max_grad_norm);
        let lr = self.options.rate.at(step);
        self.update(gradients, lr);
        let seconds = start.elapsed().as_secs_f64();
        if step > first {
            self.timed.0 += seconds;
            self.timed.1 += report.items;
        }
        self.advance(&report, seconds);
        if self
            .position
            .step
            .is_multiple_of(self.options.log_every.max(1))
            || self.position.step == self.options.rate.total
        {
            self.log(&report, [lr, norm, seconds])?;
        }
        let speed = self.learner.unit().speed(report.items as f64 / seconds);
        self.progress.step(self.position.step, report.loss, &speed);
        Ok(())
    }

    /// Every trained tensor must get a gradient: a hole in the graph would leave it untrained in silence.
    fn audit(&self, gradients: &Gradients) -> Result<(), Failure> {
        let missing = without_gradient(self.learner.model(), gradients);
        if missing.is_empty() && !gradients.is_empty() {
            return Ok(());
        }
        let shown = missing
            .iter()
            .take(4)
            .cloned()
            .collect::<Vec<_>>()
            .join("`, `");
        let message = format!(
            "{} trained tensors got no gradient: `{shown}`",
            missing.len()
        );
        Err(Failure::run(message)
            .with_hint("the batch may hold nothing that enters the loss (no target token, an empty mask); see `temper data preview`"))
    }

    fn update(&mut self, mut gradients: Gradients, lr: f64) {
        self.optimizer.begin_update();
        let (optimizer, adam) = (&mut self.optimizer, self.options.adam);
        let scales = rate_scales(self.learner);
        let model = self.learner.model_mut();
        model.visit_mut(&mut |param: &mut Param| {
            if let Some(gradient) = gradients.remove(param.name()) {
                let scale = scales.get(param.name()).copied().unwrap_or(1.0);
                optimizer.update(&adam, lr * scale, param, gradient);
            }
        });
        model.project();
        let updates = optimizer.updates;
        if let Some(averages) = &mut optimizer.averages {
            averages.update(self.learner.model(), updates);
        }
    }

    /// Where the recipe keeps running means and the checkpoint, if any, has none.
    fn begin_averages(&mut self) {
        let Some(decay) = self.options.ema_decay else {
            self.optimizer.averages = None;
            return;
        };
        let kept = self.optimizer.averages.take();
        let averages = kept.unwrap_or_else(|| Averages::new(decay, self.learner.model()));
        self.optimizer.averages = Some(averages.with_decay(decay));
    }

    /// Puts the running means into the model, and the parameters where the means were.
    fn swap_averages(&mut self) {
        if let Some(averages) = &mut self.optimizer.averages {
            averages.swap(self.learner.model_mut());
        }
    }

    /// Makes the running means the parameters of the model, for good.
    pub(super) fn adopt_averages(&mut self) {
        self.swap_averages();
        self.optimizer.averages = None;
    }

    /// Lets the learner show what it has learned, with the running means where there are some.
    pub(super) fn show(&mut self, step: u64) -> Result<bool, Failure> {
        let signals = self.signals;
        self.swap_averages();
        let stop = || signals.stop_requested().is_some();
        let shown = self.learner.show(step, self.directory, &stop);
        self.swap_averages();
        shown
    }

    /// Back to the parameters after `step`.
    pub(super) fn go_back(&mut self, step: u64) -> Result<(), Failure> {
        let checkpoint = self.store.load(step)?;
        let (optimizer, _) = state::load(&checkpoint.path, self.learner.model_mut())?;
        self.optimizer.averages = optimizer.averages;
        Ok(())
    }

    fn advance(&mut self, report: &StepReport, seconds: f64) {
        let position = &mut self.position;
        position.step += 1;
        position.items += report.items;
        position.seconds += seconds;
        position.first_loss.get_or_insert(report.loss);
        position.last_loss = report.loss;
    }

    fn log(
        &mut self,
        report: &StepReport,
        [lr, grad_norm, seconds]: [f64; 3],
    ) -> Result<(), Failure> {
        let position = &self.position;
        let per_second = report.items as f64 / seconds;
        let items = Items::new(self.learner.unit(), position.items, per_second);
        self.metrics.write(&Row::Train(Metric {
            step: position.step,
            loss: report.loss,
            lr,
            grad_norm,
            items,
            memory_bytes: resident_bytes().unwrap_or(0),
            seconds: position.seconds,
        }))?;
        let scalars = [
            ("train/loss", report.loss),
            ("train/lr", lr),
            ("train/grad_norm", grad_norm),
            (speed_tag(&items), per_second),
        ];
        self.events.scalars(position.step, &scalars)?;
        Ok(())
    }

    /// Held-out loss now, logged once a step.
    pub(super) fn evaluate(&mut self) -> Result<Option<f64>, Failure> {
        let position = &self.position;
        if let Some((step, loss)) = self.evaluated
            && step == position.step
        {
            return Ok(Some(loss));
        }
        self.swap_averages();
        let evaluated = self.learner.evaluate();
        self.swap_averages();
        let Some((loss, targets)) = evaluated? else {
            return Ok(None);
        };
        let position = &self.position;
        self.evaluated = Some((position.step, loss));
        self.metrics.write(&Row::Eval(EvalMetric {
            step: position.step,
            eval_loss: loss,
            eval_tokens: targets,
            seconds: position.seconds,
            scores: BTreeMap::new(),
        }))?;
        self.events.scalars(position.step, &[("eval/loss", loss)])?;
        Ok(Some(loss))
    }

    /// Held-out loss after the last step, which may be the best one.
    pub(super) fn evaluate_last(&mut self) -> Result<Option<f64>, Failure> {
        let found = self.evaluate()?;
        if let (Some(loss), true) = (found, self.options.eval_every > 0) {
            self.is_best(loss);
        }
        Ok(found)
    }

    /// Remembers the loss at this step if none was lower.
    fn is_best(&mut self, loss: f64) -> bool {
        let position = &mut self.position;
        let best = position.best.is_none_or(|(best, _)| loss < best);
        if best {
            position.best = Some((loss, position.step));
        }
        best
    }

    /// Whether the run should stop: no better held-out loss for `patience` evaluations.
    fn evaluate_and_judge(&mut self) -> Result<bool, Failure> {
        let Some(loss) = self.evaluate()? else {
            return Ok(false);
        };
        if self.is_best(loss) {
            self.position.stale_evals = 0;
            if self.options.patience.is_some() {
                self.save()?;
            }
        } else {
            self.position.stale_evals += 1;
        }
        let stale = self.position.stale_evals;
        self.position.stopped_early = self
            .options
            .patience
            .is_some_and(|patience| stale >= patience);
        Ok(self.position.stopped_early)
    }

    /// After an early stop: puts the parameters with the lowest held-out loss back into the model; returns that loss.
    pub(super) fn restore_best(&mut self) -> Result<Option<f64>, Failure> {
        let Some((loss, step)) = self.position.best else {
            return Ok(None);
        };
        self.go_back(step)?;
        Ok(Some(loss))
    }

    /// What a checkpoint takes on the disk, about.
    fn checkpoint_bytes(&self) -> u64 {
        state::expected_bytes(self.learner.model(), self.optimizer.averages.is_some())
    }

    /// Writes a checkpoint of the present state.
    pub(super) fn save(&mut self) -> Result<(), Failure> {
        self.metrics.sync()?;
        let (model, optimizer, position) = (self.learner.model(), &self.optimizer, &self.position);
        let bytes = self.checkpoint_bytes();
        self.store.save(position.step, bytes, |writer| {
            state::save(writer, model, optimizer, position)
        })?;
        let best: Vec<u64> = [position.best, position.best_exam]
            .into_iter()
            .flatten()
            .map(|(_, step)| step)
            .collect();
        self.store.keep_last(self.options.keep_last, &best)?;
        Ok(())
    }

    /// The state before the bad step is saved; the report names the step, its examples and the first broken tensor.
    fn not_finite(&mut self, loss: f64, broken: Option<String>) -> Failure {
        let step = self.position.step;
        let model: &dyn Adaptable = self.learner.model();
        let place = broken_parameter(model)
            .map(|name| format!("parameter `{name}`"))
            .or_else(|| broken.map(|name| format!("gradient of `{name}`")));
        let place = place.unwrap_or_else(|| "the loss".to_owned());
        let rows = self.learner.describe_step(step);
        let report = serde_json::json!({ "step": step + 1, "loss": format!("{loss}"), "first_not_finite": place, "examples": rows });
        let saved = self
            .directory
            .write_json(&self.directory.path().join("not_finite.json"), &report)
            .map_err(Failure::from)
            .and_then(|()| self.save());
        let kept = match saved {
            Ok(()) => format!("the state before it is saved as step {step}"),
            Err(failure) => format!("the state before it could NOT be saved: {failure}"),
        };
        let message = format!(
            "step {} is not finite (loss {loss}, first in the {place}); examples {rows}; {kept}",
            step + 1
        );
        Failure::run(message).with_hint(
            "lower `train.lr`, set `train.max_grad_norm`, or look at the examples named above",
        )
    }
}

/// The learning rates that differ from the recipe's, as multiples of it.
fn rate_scales(learner: &dyn Learner) -> BTreeMap<String, f64> {
    let mut scales = BTreeMap::new();
    learner.model().visit(&mut |param| {
        let scale = learner.rate_scale(param.name());
        if param.is_trainable() && (scale - 1.0).abs() > f64::EPSILON {
            scales.insert(param.name().to_owned(), scale);
        }
    });
    scales
}

fn speed_tag(items: &Items) -> &'static str {
    match items {
        Items::Tokens { .. } => "train/tokens_per_second",
        Items::Images { .. } => "train/images_per_second",
    }
}

/// The first parameter that is not finite, frozen ones included: it spoils every gradient before it.
pub(super) fn broken_parameter(model: &dyn Adaptable) -> Option<String> {
    let mut broken = None;
    model.visit(&mut |param| {
        let sum = || {
            param
                .plain()
                .cast(FloatDType::F32)
                .sum()
                .into_scalar::<f32>()
        };
        if broken.is_none() && !sum().is_finite() {
            broken = Some(param.name().to_owned());
        }
    });
    broken
}
