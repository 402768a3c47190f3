//! `[ablation]`: the same training in several variants and with several seeds, compared on the same problems.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EvalTask;

/// The `[ablation]` section, for `temper ablate`. `temper train` does not use it.
///
/// ```
/// # use temper_engine::recipe::Ablation;
/// assert!(Ablation::default().base.is_none());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["seeds", "arms", "exams"]))]
pub struct Ablation {
    /// Each variant is trained once with each of these as the recipe's `seed`.
    #[schemars(length(min = 1))]
    pub seeds: Vec<u64>,
    /// Overrides of a run that is made first, whose model all variants start from, as in `["train.steps=500"]`.
    /// Left out: they start from the recipe's model.
    pub base: Option<Vec<String>>,
    /// The variants.
    #[schemars(length(min = 1))]
    pub arms: Vec<Arm>,
    /// The problems that every result is tried on.
    #[schemars(length(min = 1))]
    pub exams: Vec<AblationExam>,
}

/// A variant of the recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub struct Arm {
    /// What it is called in tables and directories.
    pub name: String,
    /// Keys of the recipe that it changes, each as behind `--set`: `"train.lr=1e-4"`.
    pub set: Vec<String>,
}

/// Problems that every result is tried on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "task", "path"]))]
pub struct AblationExam {
    /// What it is called in tables and directories.
    pub name: String,
    /// What is solved, and with it how answers are read.
    pub task: EvalTask,
    /// File of the problems, or one file of a hub data set, `org/name[@revision]:file`.
    pub path: String,
    /// Solve only the first so many problems; 0 solves all.
    pub limit: usize,
    /// Longest completion in tokens; 0 takes the task's own: 512, and 2048 for `math`.
    pub max_new_tokens: usize,
}
