//! What is to be run: one recipe per variant and seed, all checked before the first of them starts.

use std::path::{Path, PathBuf};

use crate::Failure;
use crate::recipe::{Ablation, AblationExam, Init, Model, Recipe, directory_name};

/// All runs of an ablation.
pub(super) struct Plan {
    pub(super) directory: PathBuf,
    pub(super) base: Option<Run>,
    pub(super) arms: Vec<PlannedArm>,
    pub(super) exams: Vec<AblationExam>,
    pub(super) seeds: Vec<u64>,
}

/// A variant: a run per seed.
pub(super) struct PlannedArm {
    pub(super) name: String,
    pub(super) set: Vec<String>,
    pub(super) runs: Vec<Run>,
}

/// A training run.
pub(super) struct Run {
    /// For people.
    pub(super) label: String,
    pub(super) recipe: Recipe,
}

impl Plan {
    /// Reads the recipe and all its variants.
    pub(super) fn new(path: &Path, overrides: &[String]) -> Result<Self, Failure> {
        let recipe = Recipe::load(path, overrides)?;
        let directory = recipe.run.dir;
        let Some(ablation) = recipe.ablation else {
            return Err(
                Failure::usage(format!("`{}` has no `[ablation]`", path.display()))
                    .with_hint("`recipes/arithmetic-metamath.toml` shows one"),
            );
        };
        let variant = |set: &[String], name: &str| variant(path, &[overrides, set].concat(), name);
        let base = match &ablation.base {
            Some(set) => Some(Run::new(
                variant(set, "base")?,
                "base",
                directory.join("base"),
            )),
            None => None,
        };
        let arms = ablation.arms.iter().map(|arm| {
            let mut recipe = variant(&arm.set, &arm.name)?;
            if let Some(base) = &base {
                recipe.model = begun_from(&base.recipe, &recipe.model);
            }
            Ok(PlannedArm::new(&arm.name, &arm.set, &recipe, &ablation))
        });
        Ok(Self {
            arms: arms.collect::<Result<_, Failure>>()?,
            exams: ablation.exams,
            seeds: ablation.seeds,
            directory,
            base,
        })
    }

    /// In the order in which they run.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        let arms = self.arms.iter().flat_map(|arm| &arm.runs);
        self.base.iter().chain(arms)
    }
}

fn variant(path: &Path, overrides: &[String], name: &str) -> Result<Recipe, Failure> {
    let mut recipe = Recipe::load(path, overrides).map_err(|errors| {
        let failure = Failure::from(errors);
        failure.with_hint(format!("these are the problems of the variant `{name}`"))
    })?;
    recipe.ablation = None;
    Ok(recipe)
}

/// The model that the base leaves behind, with the tokenizer of the recipe.
fn begun_from(base: &Recipe, model: &Model) -> Model {
    Model {
        path: Some(base.run.dir.join("model").display().to_string()),
        init: Init::Pretrained,
        preset: None,
        config: None,
        tokenizer: model.tokenizer.clone(),
    }
}

impl PlannedArm {
    fn new(name: &str, set: &[String], recipe: &Recipe, ablation: &Ablation) -> Self {
        let runs = ablation.seeds.iter().map(|seed| {
            let mut recipe = recipe.clone();
            recipe.seed = *seed;
            let directory = recipe.run.dir.join(directory_name(name));
            let directory = directory.join(format!("seed-{seed}"));
            Run::new(recipe, &format!("{name}, seed {seed}"), directory)
        });
        Self {
            name: name.to_owned(),
            set: set.to_vec(),
            runs: runs.collect(),
        }
    }
}

impl Run {
    fn new(mut recipe: Recipe, label: &str, directory: PathBuf) -> Self {
        recipe.run.dir = directory;
        recipe.run.name = Some(label.to_owned());
        Self {
            label: label.to_owned(),
            recipe,
        }
    }
}
