//! Recipes for `temper bootstrap`: questions, what is made of them, who writes it, and what it may cost.

mod text_model;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OneOrMany, RecipeErrors, Run, reading, validate, written};

pub use text_model::{Mode, TextModel, TextModelKind};

/// Everything a bootstrapping run needs to know (`MetaMath`, arXiv 2309.12284, §3). Get one from
/// [`BootstrapRecipe::load`] or [`BootstrapRecipe::parse`], which check it.
///
/// ```
/// use temper_engine::recipe::{BootstrapRecipe, Mode};
///
/// let text = r#"
/// [questions]
/// task = "gsm8k"
/// path = "../assets/gsm8k/train-1000.jsonl"
/// [samples]
/// answer_augmentation = 10
/// [text_model]
/// kind = "endpoint"
/// base_url = "http://127.0.0.1:8000/v1"
/// model = "any"
/// "#;
/// let recipe = BootstrapRecipe::parse(text, "my.toml", &["samples.fobar=1".to_owned()])?;
/// assert_eq!((recipe.samples.answer_augmentation, recipe.samples.fobar), (10, 1));
/// assert_eq!(recipe.text_model.mode(), Mode::Chat);
/// # Ok::<(), temper_engine::recipe::RecipeErrors>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["questions", "text_model"]))]
pub struct BootstrapRecipe {
    /// Seed of every generation: each has its own, made of this one, its question, its kind and its
    /// number.
    pub seed: u64,
    /// Whether faults of the authors' released program are avoided.
    pub behaviour: Behaviour,
    /// The questions to start from.
    pub questions: Questions,
    /// How many rows to attempt of each kind.
    pub samples: Samples,
    /// Who writes the text.
    pub text_model: TextModel,
    /// What the text may cost. Counted over all processes that worked on the same `run.dir`.
    pub budget: Budget,
    /// The data set that results.
    pub output: Output,
    /// Where results go.
    pub run: Run,
}

impl Default for BootstrapRecipe {
    fn default() -> Self {
        Self {
            seed: 42,
            behaviour: Behaviour::default(),
            questions: Questions::default(),
            samples: Samples::default(),
            text_model: TextModel::default(),
            budget: Budget::default(),
            output: Output::default(),
            run: Run::default(),
        }
    }
}

impl BootstrapRecipe {
    /// Reads and checks a recipe file, with `key=value` overrides applied in order, as
    /// [`Recipe::load`](super::Recipe::load).
    ///
    /// # Errors
    /// All problems of the recipe at once; or one, if the file cannot be read or is not TOML.
    pub fn load(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self, RecipeErrors> {
        reading::load(path.as_ref(), overrides, Path::new(""))
    }

    /// Checks the text of a recipe, as [`Recipe::parse`](super::Recipe::parse).
    ///
    /// # Errors
    /// As [`BootstrapRecipe::load`].
    pub fn parse(text: &str, file_name: &str, overrides: &[String]) -> Result<Self, RecipeErrors> {
        reading::parse(text, file_name, overrides, Path::new(""))
    }

    /// The recipe with every default filled in. Reading it again gives an equal recipe.
    pub fn to_toml(&self) -> String {
        written(self)
    }

    /// Whether a file is a recipe of this kind, right or wrong.
    pub fn is_at(path: &Path) -> bool {
        reading::is_marked::<Self>(path)
    }
}

impl reading::Kind for BootstrapRecipe {
    const MARK: &'static str = "questions";

    fn validate(&self, checker: &mut validate::Checker<'_>) {
        checker.bootstrap(self);
    }

    fn fill_defaults(&mut self) {
        self.text_model.fill_defaults(self.questions.task);
    }

    fn run_mut(&mut self) -> &mut Run {
        &mut self.run
    }
}

/// Whether faults of the authors' released program are avoided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Behaviour {
    /// They are.
    #[default]
    Fixed,
    /// They are repeated: worked examples of MATH before the backward questions of GSM8K, and some
    /// answers to MATH read by the rule of GSM8K.
    Released,
}

/// The `[questions]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["task", "path"]))]
pub struct Questions {
    /// What the questions are, which decides how numbers are masked and answers are compared.
    pub task: QuestionTask,
    /// JSONL file, or a list of them, read in order.
    pub path: OneOrMany,
    /// Take only the first so many questions; 0 takes all.
    pub limit: usize,
}

/// What the questions are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QuestionTask {
    /// Rows with `question` and `answer`, whose last line is `#### N`.
    #[default]
    Gsm8k,
    /// Rows with `problem` and `solution`, whose last `\boxed{}` holds the answer.
    Math,
}

impl QuestionTask {
    /// The value as it is written in a recipe.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gsm8k => "gsm8k",
            Self::Math => "math",
        }
    }
}

/// The `[samples]` section: the K of each kind; 0 leaves a kind out. The paper does not state its K.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Samples {
    /// More answers to each question (eq. 1): one generation each.
    pub answer_augmentation: u32,
    /// Rephrased versions of each question (eq. 2): one generation for the question, one for its answer.
    pub rephrasing: u32,
    /// Self-verification (eq. 3), for each number of each question: the number becomes x, the last
    /// clause becomes a statement that holds the answer (one generation), and x is asked for (one).
    pub self_verification: u32,
    /// FOBAR (eq. 4), for each number of each question: the number becomes x, the answer is given
    /// and x is asked for: one generation each.
    pub fobar: u32,
}

/// The `[budget]` section. When a limit is reached, what was done is saved, and `--resume` with a
/// higher limit goes on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Most requests, failed attempts included.
    #[schemars(range(min = 1))]
    pub max_requests: Option<u64>,
    /// Most tokens, prompts and replies together; passed by at most the requests under way.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u64>,
    /// Most money, in the currency of the two prices; passed by at most the requests under way.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_price: Option<f64>,
    /// Price of a million prompt tokens.
    #[schemars(range(min = 0))]
    pub prompt_price: Option<f64>,
    /// Price of a million reply tokens.
    #[schemars(range(min = 0))]
    pub reply_price: Option<f64>,
}

/// The `[output]` section.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// How the data set is written.
    pub format: OutputFormat,
    /// What happens to a row whose type, query and response another row has; such rows are always
    /// counted.
    pub duplicates: Duplicates,
}

/// How the data set is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// `data.json`, one JSON array, as `MetaMathQA` was released.
    #[default]
    Json,
    /// `data.jsonl`, one object a line.
    Jsonl,
}

/// What happens to rows that repeat another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// They stay, as in the authors' program.
    #[default]
    Keep,
    /// Only the first stays.
    Drop,
}
