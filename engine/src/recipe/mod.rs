//! Recipes: one TOML file says what is trained, on what, how, and where the results go.
//!
//! ```
//! use temper_engine::recipe::{Method, Recipe};
//!
//! let text = r#"
//! [model]
//! path = "meta-llama/Llama-2-7b-hf"
//! [adapter]
//! kind = "oft"
//! [data]
//! kind = "metamathqa"
//! path = "meta-math/MetaMathQA"
//! [train]
//! epochs = 3
//! batch_size = 128
//! lr = 2e-4
//! "#;
//! let recipe = Recipe::parse(text, "my.toml", &["train.lr=1e-4".to_owned()])?;
//! assert_eq!(recipe.train.lr, 1e-4);
//! assert!(matches!(recipe.method(), Method::Oft(oft) if oft.oft_block_size == 32));
//! # Ok::<(), temper_engine::recipe::RecipeErrors>(())
//! ```
//!
//! Reading goes through five stages, and the problems of all of them are reported together:
//!
//! 1. `tree`: TOML with the place of every key and value. (Text that is not TOML stops here.)
//! 2. `overrides`: `--set key=value` edits the tree.
//! 3. `walk`: the tree is compared with the JSON Schema that the types below generate.
//! 4. `serde` turns the tree into a [`Recipe`].
//! 5. `validate`: contradictions between keys, and missing files. The network stays untouched.
//!
//! A recipe that passes has its defaults filled in; [`Recipe::to_toml`] writes them all out.

mod ablation;
mod adapter;
mod advice;
mod arithmetic;
mod bootstrap;
mod data;
mod diffusion;
mod eval;
mod hints;
mod leaves;
mod model;
mod output;
mod overrides;
mod problem;
mod reading;
mod schema;
#[cfg(test)]
mod tests;
mod train;
mod tree;
mod validate;
mod walk;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use ablation::{Ablation, AblationExam, Arm};
pub use adapter::{Adapter, AdapterKind, Bias, EpsScaling, LoraOptions, Method, OftOptions};
pub use arithmetic::{Arithmetic, Set};
pub use bootstrap::{
    Behaviour, BootstrapRecipe, Budget, Duplicates, Mode, Output, OutputFormat, QuestionTask,
    Questions, Samples, TextModel, TextModelKind,
};
pub use data::{Data, DataKind, Eval, LossOn, OneOrMany, OverLength, Template};
pub use diffusion::{
    CaptionsFrom, Control, Crop, Diffusion, DiffusionModel, DiffusionRecipe, ImageSample, Images,
    ImagesKind, MasksFrom, PredictionType, SAMPLERS, Trained, Validation,
};
pub use eval::{EvalTask, Evaluation, Grader, PromptStyle};
pub(crate) use leaves::leaves;
pub use model::{Init, Model, PRESETS};
pub use output::{Compute, Precision, Run, Sample};
pub use problem::{Problem, RecipeErrors};
pub use schema::{bootstrap_schema, diffusion_schema, explain, schema};
pub use train::{Length, LossAverage, NonFinite, Schedule, Train};

pub(crate) use tree::shorten;
pub(crate) use validate::directory_name;

/// Everything a run needs to know. Get one from [`Recipe::load`] or [`Recipe::parse`], which check
/// it;
/// `Default` is only the values of keys that were left out, not a recipe that can run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["model", "data", "train"]))]
pub struct Recipe {
    /// Where to compute: `auto`, `cpu`, `cuda`, `vulkan`, `wgpu` or `metal`; the last four take an
    /// index, as in
    /// `cuda:0`. `auto` takes the first GPU that works, else the CPU.
    pub device: String,
    /// Seed of everything random: order of rows, initial weights, dropout, sampling.
    pub seed: u64,
    /// The network that is trained.
    pub model: Model,
    /// Which parameters are trained. Left out: all of them.
    pub adapter: Option<Adapter>,
    /// The rows to learn from.
    pub data: Data,
    /// Length, optimizer, schedule and checkpoints.
    pub train: Train,
    /// Problems with known answers, solved while training. Left out: none.
    pub eval: Option<Evaluation>,
    /// Variants that `temper ablate` compares.
    pub ablation: Option<Ablation>,
    /// Number formats.
    pub precision: Precision,
    /// Completions before and after training, printed side by side.
    pub sample: Sample,
    /// Where results go.
    pub run: Run,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            device: "auto".into(),
            seed: 42,
            model: Model::default(),
            adapter: None,
            data: Data::default(),
            train: Train::default(),
            eval: None,
            ablation: None,
            precision: Precision::default(),
            sample: Sample::default(),
            run: Run::default(),
        }
    }
}

impl Recipe {
    /// Reads and checks a recipe file, with `key=value` overrides applied in order.
    ///
    /// A value is TOML (`train.lr=1e-4`, `data.path=["a", "b"]`, `adapter={kind="full"}`); a bare
    /// word is a string. An override of one of two keys that exclude each other, such as
    /// `train.steps`, removes the other one (`train.epochs`) of the file.
    ///
    /// # Errors
    ///
    /// All problems of the recipe at once; or one, if the file cannot be read or is not TOML.
    pub fn load(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self, RecipeErrors> {
        reading::load(path.as_ref(), overrides, Path::new(""))
    }

    /// Checks the text of a recipe. `file_name` appears in problems and, without extension, in the
    /// default of `run.dir`. Relative paths are looked up in the current directory.
    ///
    /// # Errors
    ///
    /// As [`Recipe::load`].
    pub fn parse(text: &str, file_name: &str, overrides: &[String]) -> Result<Self, RecipeErrors> {
        reading::parse(text, file_name, overrides, Path::new(""))
    }

    /// The recipe with every default filled in. Reading it again gives an equal recipe.
    pub fn to_toml(&self) -> String {
        written(self)
    }

    /// The training method and its options, defaults included.
    pub fn method(&self) -> Method {
        self.adapter.as_ref().map_or(Method::Full, Adapter::method)
    }

    #[cfg(test)]
    fn load_in(path: &Path, overrides: &[String], base: &Path) -> Result<Self, RecipeErrors> {
        reading::load(path, overrides, base)
    }

    #[cfg(test)]
    fn parse_in(
        text: &str,
        file_name: &str,
        overrides: &[String],
        base: &Path,
    ) -> Result<Self, RecipeErrors> {
        reading::parse(text, file_name, overrides, base)
    }
}

impl reading::Kind for Recipe {
    const MARK: &'static str = "train";

    fn validate(&self, checker: &mut validate::Checker<'_>) {
        checker.training(self);
    }

    fn fill_defaults(&mut self) {
        self.data.fill_defaults();
        self.train.fill_defaults();
        if let Some(adapter) = &mut self.adapter {
            adapter.fill_defaults();
        }
    }

    fn run_mut(&mut self) -> &mut Run {
        &mut self.run
    }
}

/// A checked recipe as TOML with every default written out.
fn written(recipe: &impl Serialize) -> String {
    // A checked recipe can always be written. One that was changed by hand so that it cannot (a
    // seed above 2^63, a path that is not UTF-8) must not look like an empty recipe.
    toml::to_string(recipe).unwrap_or_else(|error| format!("not a recipe: {error}\n"))
}
