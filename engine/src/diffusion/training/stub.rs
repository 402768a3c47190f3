//! Diffusion models as a kind of training.

use std::path::Path;

use crate::Failure;
use crate::recipe::{DiffusionRecipe, Run};
use crate::run::Summary;
use crate::train::{Session, TrainSwitches, TrainingRecipe, differs, train_any};

/// Trains what `recipe` says and leaves a complete run directory.
///
/// # Errors
/// Anything that keeps the run from its end; what was saved before stays.
pub fn train(recipe: &DiffusionRecipe, switches: TrainSwitches) -> Result<Summary, Failure> {
    for line in recipe.advice() {
        crate::run::note(&line);
    }
    train_any(recipe, switches)
}

/// Prints parameters, steps, images and memory of a run without reading a weight.
///
/// # Errors
/// What would also keep the run from starting, as far as it shows without weights.
pub fn dry_run(_recipe: &DiffusionRecipe) -> Result<(), Failure> {
    Err(not_built())
}

fn not_built() -> Failure {
    Failure::run("training on images is not built yet")
}

impl TrainingRecipe for DiffusionRecipe {
    fn run(&self) -> &Run {
        &self.run
    }

    fn text(&self) -> String {
        self.to_toml()
    }

    fn check_same(&self, stored: &Path) -> Result<(), Failure> {
        let text = std::fs::read_to_string(stored)?;
        let old = Self::parse(&text, &stored.display().to_string(), &[])?;
        differs(&self.to_toml(), &old.to_toml(), stored)
    }

    fn open(&self, _quiet: bool) -> Result<Box<dyn Session>, Failure> {
        Err(not_built())
    }
}
