//! The result of a run before its problems.

use std::sync::Arc;

use temper_datasets::Tokenizer;
use temper_datasets::problems::Task;

use crate::Failure;
use crate::data_source::{load_tokenizer, one_file};
use crate::eval::{EvalConfig, Exam, Info, ModelId, OutputDir, Questions, Sitting};
use crate::generate::{Limits, Sampling};
use crate::loading::{LoadOptions, LoadedModel};
use crate::recipe::{AblationExam, PromptStyle, Recipe, directory_name};
use crate::run::{Progress, Signals, Verbosity};

/// Where one result is tried; its model is loaded when the first exam needs it.
pub(super) struct Room<'a> {
    recipe: &'a Recipe,
    verbosity: Verbosity,
    loaded: Option<(LoadedModel, Arc<Tokenizer>)>,
}

impl<'a> Room<'a> {
    pub(super) fn new(recipe: &'a Recipe, quiet: bool) -> Self {
        let verbosity = if quiet {
            Verbosity::Silent
        } else {
            Verbosity::Normal
        };
        Self {
            recipe,
            verbosity,
            loaded: None,
        }
    }

    /// The share of problems solved, by the convention of `MetaMath`. Rows that an earlier call left are kept.
    pub(super) fn score(&mut self, exam: &AblationExam) -> Result<f64, Failure> {
        let run = self.recipe.run.dir.clone();
        let verbosity = self.verbosity;
        let (loaded, tokenizer) = self.loaded()?;
        let task = Task::from(exam.task);
        let file = one_file(&exam.path)?;
        let prepared = Exam::prepare(
            &questions(exam, task, &file),
            sampling(exam, task),
            tokenizer.clone(),
        )?;
        let mut config = EvalConfig::new(
            task.name(),
            ModelId::default(),
            tokenizer.fingerprint(),
            &format!("{:?}", loaded.dtype).to_lowercase(),
        );
        config.data = prepared.data.clone();
        config.generation = Some(prepared.generation.clone());
        config.info = Info {
            model: run.display().to_string(),
            adapter: None,
            data: exam.path.clone(),
            device: loaded.device.name.clone(),
        };
        let directory = run.join("evals").join(directory_name(&exam.name));
        let signals = Signals::install()?;
        let sitting = Sitting {
            limits: Limits::default(),
            directory: &OutputDir::open(&directory, &config)?,
            progress: Progress::new(&exam.name, config.data.problems, verbosity),
            stop: &|| signals.stop_requested().is_some(),
        };
        match prepared.sit(&loaded.model, &config, sitting)? {
            Some(summary) => Ok(summary.graders.metamath.accuracy),
            None => Err(Failure::interrupted(
                signals.stop_requested().unwrap_or_default(),
                format!("stopped while `{}` was tried", run.display()),
            )),
        }
    }

    fn loaded(&mut self) -> Result<&(LoadedModel, Arc<Tokenizer>), Failure> {
        let loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => (
                result_of(self.recipe)?,
                Arc::new(load_tokenizer(self.recipe)?),
            ),
        };
        Ok(self.loaded.insert(loaded))
    }
}

/// What a finished run left behind: a model, or an adapter of the model it began with.
fn result_of(recipe: &Recipe) -> Result<LoadedModel, Failure> {
    let run = &recipe.run.dir;
    let adapter = run.join("adapter");
    let adapted = adapter.is_dir();
    let own = run.join("model").display().to_string();
    let options = LoadOptions {
        model: match &recipe.model.path {
            Some(path) if adapted => path.clone(),
            _ => own,
        },
        adapter: adapted.then_some(adapter),
        device: recipe.device.clone(),
        dtype: None,
    };
    options.load()
}

fn questions<'a>(exam: &AblationExam, task: Task, data: &'a std::path::Path) -> Questions<'a> {
    Questions {
        task,
        data,
        limit: exam.limit,
        style: PromptStyle::Metamath,
        few_shot: 0,
        suffix: "",
        stop: None,
    }
}

fn sampling(exam: &AblationExam, task: Task) -> Sampling {
    Sampling {
        max_new_tokens: match exam.max_new_tokens {
            0 => task.max_new_tokens(),
            tokens => tokens,
        },
        ..Sampling::default()
    }
}
