//! The recipe's `[eval]` during a run: problems solved between two steps, and the checkpoint that solves most of them.
//!
//! Nothing here changes a number of the training: the model is only read. What was solved after which step lies in `metrics.jsonl`, so a
//! resumed run neither repeats nor forgets it; the rows of a step lie in `evals/step-…`, and an interrupted one goes on there.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;

use temper_datasets::Tokenizer;
use temper_datasets::problems::Task;
use temper_models::Llama;

use super::trainer::Trainer;
use crate::Failure;
use crate::data_source::one_file;
use crate::device::OpenDevice;
use crate::eval::{EvalConfig, Exam, Info, ModelId, OutputDir, Questions, Sitting, Summary};
use crate::generate::{Limits, Sampling};
use crate::recipe::{Evaluation, Grader, Recipe};
use crate::run::{Progress, Row, RunDir, TaskMetric, Verbosity};

/// When problems are solved, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExamOptions {
    /// Steps between two exams; 0 for one at the end.
    pub every: u64,
    /// One before the first step as well.
    pub at_start: bool,
    /// The best checkpoint is the result.
    pub choose_best: bool,
    /// What decides which is best.
    pub grader: Grader,
}

impl ExamOptions {
    /// What a recipe says.
    pub(super) fn of(eval: &Evaluation) -> Self {
        Self {
            every: eval.every as u64,
            at_start: eval.at_start,
            choose_best: eval.choose_best,
            grader: eval.grader,
        }
    }
}

/// The problems of a recipe, with prompts made, and how they are solved.
#[derive(Debug)]
pub(crate) struct RecipeExam {
    exam: Exam,
    config: EvalConfig,
    batch_size: usize,
    verbosity: Verbosity,
}

impl RecipeExam {
    /// Reads the problems, if the recipe has some.
    pub(super) fn open(
        recipe: &Recipe,
        tokenizer: &Arc<Tokenizer>,
        device: &OpenDevice,
        dtype: &str,
        verbosity: Verbosity,
    ) -> Result<Option<Self>, Failure> {
        let Some(eval) = &recipe.eval else {
            return Ok(None);
        };
        if tokenizer.is_without_text() {
            return Err(Failure::usage("`[eval]` needs a tokenizer")
                .with_hint("set `model.tokenizer` to a directory or a hub name"));
        }
        let sampling = Sampling {
            max_new_tokens: eval.longest_completion(),
            seed: recipe.seed,
            ..Sampling::default()
        };
        let data = one_file(&eval.path)?;
        let questions = Questions {
            task: Task::from(eval.task),
            data: &data,
            limit: eval.limit,
            style: eval.prompt_style,
            few_shot: eval.few_shot,
            suffix: &eval.suffix,
            stop: None,
        };
        let exam = Exam::prepare(&questions, sampling, tokenizer.clone())?;
        let id = ModelId::default();
        let mut config = EvalConfig::new(exam.task.name(), id, tokenizer.fingerprint(), dtype);
        config.data = exam.data.clone();
        config.generation = Some(exam.generation.clone());
        config.info = Info {
            model: recipe.model.path.clone().unwrap_or_default(),
            adapter: None,
            data: eval.path.clone(),
            device: device.name.clone(),
        };
        Ok(Some(Self {
            exam,
            config,
            batch_size: eval.batch_size,
            verbosity,
        }))
    }

    /// Solves all problems with `model` as it is after `step` steps; `None` when told to stop before the end.
    pub(super) fn sit(
        &self,
        model: &Llama,
        step: u64,
        run: &RunDir,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Summary>, Failure> {
        let mut config = self.config.clone();
        config.model.step = Some(step);
        let directory = OutputDir::open(&run.eval(step), &config)?;
        // Two bars would write over each other.
        let verbosity = if std::io::stderr().is_terminal() {
            Verbosity::Silent
        } else {
            self.verbosity
        };
        let sitting = Sitting {
            limits: Limits {
                max_sequences: self.batch_size,
                ..Limits::default()
            },
            directory: &directory,
            progress: Progress::new("eval", config.data.problems, verbosity),
            stop,
        };
        Ok(self.exam.sit(model, &config, sitting)?)
    }
}

/// A line of `metrics.jsonl`.
fn metric(summary: &Summary, step: u64, seconds: f64) -> TaskMetric {
    let mut scores: BTreeMap<String, f64> = summary
        .graders
        .named()
        .into_iter()
        .map(|(name, score)| (name.to_owned(), score.accuracy))
        .collect();
    let no_answer = summary.graders.metamath.no_answer_rate;
    scores.insert("no_answer".to_owned(), no_answer);
    TaskMetric {
        step,
        task: summary.task.clone(),
        problems: summary.problems,
        scores,
        seconds,
    }
}

impl Trainer<'_> {
    /// Whether an exam belongs to the present step.
    pub(super) fn exam_is_due(&self) -> bool {
        let step = self.position.step;
        self.options.exam.is_some_and(|exam| match step {
            0 => exam.at_start,
            _ => {
                exam.every > 0 && step.is_multiple_of(exam.every) && step < self.options.rate.total
            }
        })
    }

    /// Solves the problems with the parameters of `step`, unless that was done. Returns whether they are the best so far and must be
    /// saved.
    pub(super) fn sit_exam(&mut self, step: u64) -> Result<bool, Failure> {
        let Some(options) = self.options.exam else {
            return Ok(false);
        };
        if !self.exams.contains_key(&step) {
            let signals = self.signals;
            let stop = || signals.stop_requested().is_some();
            let Some(summary) = self.learner.sit(step, self.directory, &stop)? else {
                return Ok(false);
            };
            self.record(&summary, step)?;
        }
        let Some(score) = self.score(step, options.grader) else {
            return Ok(false);
        };
        let best = self.position.best_exam.map(|(best, _)| best);
        let better = options.choose_best && best.is_none_or(|best| score > best);
        if better {
            self.position.best_exam = Some((score, step));
        }
        Ok(better)
    }

    fn record(&mut self, summary: &Summary, step: u64) -> Result<(), Failure> {
        let row = metric(summary, step, self.position.seconds);
        let names: Vec<(String, f64)> = row
            .scores
            .iter()
            .map(|(name, score)| (format!("{}/{name}", row.task), *score))
            .collect();
        let scalars: Vec<(&str, f64)> = names
            .iter()
            .map(|(name, score)| (name.as_str(), *score))
            .collect();
        self.events.scalars(step, &scalars)?;
        self.metrics.write(&Row::Task(row.clone()))?;
        let line = format!("step {step}: {}", line(&row));
        self.progress.note(&line);
        self.exams.insert(step, row);
        Ok(())
    }

    fn score(&self, step: u64, grader: Grader) -> Option<f64> {
        self.exams.get(&step)?.scores.get(grader.as_str()).copied()
    }

    /// After the last step: the last exam, with the parameters of `step`, and, where the recipe says so, back to the best ones.
    /// Returns the step whose parameters the model now has; `None` when a signal came before the end.
    pub(super) fn final_exam(&mut self, step: u64) -> Result<Option<u64>, Failure> {
        let Some(options) = self.options.exam else {
            return Ok(Some(step));
        };
        self.sit_exam(step)?;
        if !self.exams.contains_key(&step) {
            return Ok(None);
        }
        match self.position.best_exam {
            Some((_, best)) if options.choose_best && best != step => {
                self.go_back(best)?;
                Ok(Some(best))
            }
            _ => Ok(Some(step)),
        }
    }
}

/// An exam in a few words.
pub(super) fn line(row: &TaskMetric) -> String {
    let score = |name: &str| 100.0 * row.scores.get(name).copied().unwrap_or(f64::NAN);
    format!(
        "{} {:.1} % (metamath), {:.1} % (lm-eval strict), {:.1} % (lm-eval flexible), {:.1} % without an answer",
        row.task,
        score("metamath"),
        score("lm_eval_strict"),
        score("lm_eval_flexible"),
        score("no_answer"),
    )
}
