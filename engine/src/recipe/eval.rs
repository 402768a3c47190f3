//! `[eval]`: problems with known answers that are solved while the model is trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use temper_datasets::problems::Task;

/// The `[eval]` section. It changes no number of the training: problems are solved between two steps, with a copy of the model.
///
/// ```
/// # use temper_engine::recipe::{Evaluation, PromptStyle};
/// let eval = Evaluation { path: "test.jsonl".into(), ..Evaluation::default() };
/// assert_eq!((eval.every, eval.prompt_style), (0, PromptStyle::Metamath));
/// assert_eq!(eval.longest_completion(), 512);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["task", "path"]))]
pub struct Evaluation {
    /// What is solved, and with it how answers are read.
    pub task: EvalTask,
    /// File of the problems, or one file of a hub data set, `org/name[@revision]:file`.
    pub path: String,
    /// Solve only the first so many problems; 0 solves all.
    pub limit: usize,
    /// Worked examples before each question.
    #[schemars(range(max = 8))]
    pub few_shot: usize,
    /// Layout of the prompt.
    pub prompt_style: PromptStyle,
    /// Text put behind each question, such as a request for a format.
    pub suffix: String,
    /// Solve the problems every so many steps; 0 solves them only at the end.
    pub every: usize,
    /// Solve the problems before the first step as well, to see what training changed.
    pub at_start: bool,
    /// Longest completion in tokens; 0 takes the task's own: 512, and 2048 for `math`.
    pub max_new_tokens: usize,
    /// Problems solved at a time. Changes the speed, not what is solved.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Which convention decides what is best.
    pub grader: Grader,
    /// Keep the checkpoint that solves most problems, and make it the result of the run. Of equal ones the earliest is taken.
    pub choose_best: bool,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            task: EvalTask::default(),
            path: String::new(),
            limit: 0,
            few_shot: 0,
            prompt_style: PromptStyle::default(),
            suffix: String::new(),
            every: 0,
            at_start: false,
            max_new_tokens: 0,
            batch_size: 32,
            grader: Grader::default(),
            choose_best: false,
        }
    }
}

impl Evaluation {
    /// Tokens of the longest completion, with the default of the task.
    pub fn longest_completion(&self) -> usize {
        match self.max_new_tokens {
            0 => Task::from(self.task).max_new_tokens(),
            tokens => tokens,
        }
    }
}

/// What is solved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EvalTask {
    /// Grade-school word problems with `question` and `answer`.
    #[default]
    Gsm8k,
    /// The same, turned round: one number is unknown and the answer is given.
    Gsm8kBackward,
    /// Competition problems with answers in LaTeX.
    Math,
}

impl From<EvalTask> for Task {
    fn from(task: EvalTask) -> Self {
        match task {
            EvalTask::Gsm8k => Self::Gsm8k,
            EvalTask::Gsm8kBackward => Self::Gsm8kBackward,
            EvalTask::Math => Self::Math,
        }
    }
}

/// Layout of an evaluation prompt.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum PromptStyle {
    /// `MetaMath`'s evaluation prompt: the training prompt and `Let's think step by step.`
    #[default]
    Metamath,
    /// The prompt of lm-evaluation-harness: `Question: …` and `Answer:`.
    LmEval,
    /// The Alpaca prompt, which training data is rendered with, and nothing behind it.
    Alpaca,
    /// The question alone.
    Raw,
    /// The model's own chat template.
    Chat,
}

impl PromptStyle {
    /// The value as it is written in a recipe.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Metamath => "metamath",
            Self::LmEval => "lm-eval",
            Self::Alpaca => "alpaca",
            Self::Raw => "raw",
            Self::Chat => "chat",
        }
    }
}

/// A grading convention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grader {
    /// The program of the `MetaMath` authors.
    #[default]
    Metamath,
    /// lm-evaluation-harness, strict extraction.
    LmEvalStrict,
    /// lm-evaluation-harness, flexible extraction.
    LmEvalFlexible,
}

impl Grader {
    /// The value as it is written in a recipe and in traces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Metamath => "metamath",
            Self::LmEvalStrict => "lm_eval_strict",
            Self::LmEvalFlexible => "lm_eval_flexible",
        }
    }
}
