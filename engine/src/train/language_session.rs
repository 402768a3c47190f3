//! Language models as a kind of training.

use std::io::Write;
use std::path::Path;

use temper_adapters::peft::AdapterConfig;
use temper_adapters::weights::Dtype;
use temper_adapters::{Parameters, adapter_file};

use super::samples::Samples;
use super::setup::{Setup, same_recipe};
use super::{Learner, Session, TrainerOptions, TrainingRecipe};
use crate::Failure;
use crate::recipe::{Recipe, Run};
use crate::run::{RunDir, Signals};

impl TrainingRecipe for Recipe {
    fn run(&self) -> &Run {
        &self.run
    }

    fn text(&self) -> String {
        self.to_toml()
    }

    fn check_same(&self, stored: &Path) -> Result<(), Failure> {
        same_recipe(self, stored)
    }

    fn open(&self, quiet: bool) -> Result<Box<dyn Session>, Failure> {
        Ok(Box::new(LanguageSession {
            recipe: self.clone(),
            setup: Setup::new(self, quiet)?,
            samples: None,
        }))
    }
}

/// A language model with its data, and completions before and after.
struct LanguageSession {
    recipe: Recipe,
    setup: Setup,
    samples: Option<Samples>,
}

impl Session for LanguageSession {
    fn learner(&self) -> &dyn Learner {
        &self.setup.learner
    }

    fn learner_mut(&mut self) -> &mut dyn Learner {
        &mut self.setup.learner
    }

    fn options(&self) -> TrainerOptions {
        self.setup.options
    }

    fn device(&self) -> &str {
        &self.setup.device.name
    }

    fn data_fingerprint(&self) -> String {
        self.setup.data_fingerprint()
    }

    fn model_settings(&self) -> String {
        self.setup.learner.model.config().to_json().to_string()
    }

    fn prepare(&mut self, run: &RunDir, resumed: bool, _: &Signals) -> Result<(), Failure> {
        let setup = &self.setup;
        let mut samples = Samples::open(&self.recipe, run, setup, resumed)?;
        if !resumed {
            samples.before(&setup.learner.model.frozen(), setup)?;
            samples.save(run)?;
        }
        self.samples = Some(samples);
        Ok(())
    }

    /// The adapter in PEFT layout, or the model in Hugging Face layout; then the samples.
    fn finish(&mut self, run: &RunDir) -> Result<(), Failure> {
        let setup = &self.setup;
        if let Some(config) = &setup.adapter {
            save_adapter(run, setup, config)?;
        } else {
            let model = &setup.learner.model;
            model.save(&run.model(), Dtype::F32, 5_000_000_000)?;
            setup.copy_tokenizer(&run.model())?;
        }
        if let Some(samples) = &mut self.samples {
            samples.after(&setup.learner.model.frozen(), setup)?;
            samples.save(run)?;
        }
        Ok(())
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        self.samples
            .as_ref()
            .map_or(Ok(()), |samples| samples.print(out))
    }

    fn results(&self) -> Vec<&'static str> {
        match self.setup.adapter {
            Some(_) => vec!["adapter"],
            None => vec!["model"],
        }
    }
}

fn save_adapter(directory: &RunDir, setup: &Setup, config: &AdapterConfig) -> Result<(), Failure> {
    let file = adapter_file(&setup.learner.model, config)?;
    let path = directory.adapter();
    std::fs::create_dir_all(&path)?;
    file.save(&path)?;
    Ok(())
}
