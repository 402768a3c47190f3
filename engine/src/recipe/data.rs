//! `[data]` and `[data.eval]`: what is read, how it is rendered and which tokens are learned.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Arithmetic;

/// The `[data]` section.
///
/// ```
/// # use temper_engine::recipe::{Data, OneOrMany};
/// let data = Data { path: OneOrMany::One("train.jsonl".into()), ..Data::default() };
/// assert_eq!(data.path.as_slice(), ["train.jsonl"]);
/// assert_eq!(data.max_length, 512);
/// ```
#[expect(
    clippy::struct_excessive_bools,
    reason = "the keys of the section, one by one"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["kind"]))]
pub struct Data {
    /// Format of the records.
    pub kind: DataKind,
    /// A file, a directory, a hub data set `org/name[@revision][:file]`, or a list of these, read
    /// in order. Required, except for `arithmetic`, which is made and not read.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub path: OneOrMany,
    /// What is made for `kind = "arithmetic"`.
    pub arithmetic: Option<Arithmetic>,
    /// Prompt template. Default by kind: `metamath` for `metamathqa`, `gsm8k` and `arithmetic`, `raw` for `text`,
    /// `chat` for `chat`; `tokens` has none.
    pub template: Option<Template>,
    /// With the `metamath` template: put a query of several lines whole into the instruction
    /// instead of splitting its first line from the rest, as the MetaMath program does.
    pub single_field: bool,
    /// Jinja file that renders a conversation, instead of the one that comes with the tokenizer.
    pub chat_template: Option<PathBuf>,
    /// Longest row in tokens, prompt, response and end mark together.
    #[schemars(range(min = 8))]
    pub max_length: usize,
    /// What happens to a row longer than `max_length`; the number of such rows is always reported.
    pub over_length: OverLength,
    /// Which tokens carry loss. Default: `response`, and `all` for `text` and `tokens`.
    pub loss_on: Option<LossOn>,
    /// Put several rows into one sequence, with attention and positions kept apart. Saves padding.
    pub packing: bool,
    /// Draw a new order of the rows for every epoch. `false` reads them as they stand in the files.
    pub shuffle: bool,
    /// Read only the first so many rows; 0 reads all.
    pub limit: usize,
    /// Keep the tokenised rows on disk and reuse them while files, tokenizer and template stay the
    /// same.
    pub cache: bool,
    /// Held-out rows. Left out: nothing is held out and no evaluation loss is computed.
    pub eval: Option<Eval>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            kind: DataKind::default(),
            path: OneOrMany::default(),
            arithmetic: None,
            template: None,
            single_field: false,
            chat_template: None,
            max_length: 512,
            over_length: OverLength::default(),
            loss_on: None,
            packing: false,
            shuffle: true,
            limit: 0,
            cache: true,
            eval: None,
        }
    }
}

impl Data {
    /// Fills what depends on the kind: the template and the tokens that carry loss.
    pub(super) fn fill_defaults(&mut self) {
        self.template = self.template.or(self.kind.default_template());
        self.loss_on = Some(self.loss_on());
        if self.kind == DataKind::Arithmetic {
            self.arithmetic.get_or_insert_default();
        }
    }

    /// Which tokens carry loss, with the default of the kind.
    pub fn loss_on(&self) -> LossOn {
        let unprompted = matches!(self.kind, DataKind::Text | DataKind::Tokens);
        self.loss_on.unwrap_or(if unprompted {
            LossOn::All
        } else {
            LossOn::Response
        })
    }
}

/// Format of the records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// JSON or JSON lines with `query` and `response` (or `instruction`, `input`, `output`).
    #[default]
    MetaMathQa,
    /// JSON lines with `question` and `answer`, whose last line is `#### N`.
    Gsm8k,
    /// Plain text to continue.
    Text,
    /// Rows of token ids that need no tokenizer.
    Tokens,
    /// Conversations: lists of messages with `role` and `content`.
    Chat,
    /// Word problems that are made by `[data.arithmetic]`; held-out files have the shape of
    /// `gsm8k`.
    Arithmetic,
}

impl DataKind {
    /// The template used when the recipe names none.
    pub fn default_template(self) -> Option<Template> {
        match self {
            Self::MetaMathQa | Self::Gsm8k | Self::Arithmetic => Some(Template::Metamath),
            Self::Text => Some(Template::Raw),
            Self::Chat => Some(Template::Chat),
            Self::Tokens => None,
        }
    }

    /// The value as it is written in a recipe.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MetaMathQa => "metamathqa",
            Self::Gsm8k => "gsm8k",
            Self::Text => "text",
            Self::Tokens => "tokens",
            Self::Chat => "chat",
            Self::Arithmetic => "arithmetic",
        }
    }
}

/// How a record becomes text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Template {
    /// The MetaMath training prompt (arXiv 2309.12284): Alpaca's, first line of a query as
    /// instruction.
    Metamath,
    /// The Alpaca prompt with the whole question as instruction.
    Alpaca,
    /// No template: prompt and response are joined as they are.
    Raw,
    /// The chat template of the tokenizer, or `chat_template`.
    Chat,
}

/// What happens to a row longer than `max_length`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OverLength {
    /// Leave the row out.
    #[default]
    Drop,
    /// Cut the row on the right. Its end mark is lost, so such rows do not teach the model to stop.
    Truncate,
    /// Refuse to start.
    Error,
}

/// Which tokens carry loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// Only the tokens of the response and its end mark.
    Response,
    /// All tokens, the prompt included.
    All,
}

/// The `[data.eval]` section: rows that are never trained on. Give `path` or `fraction`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Eval {
    /// Files of the same kind as `data.path`.
    pub path: Option<OneOrMany>,
    /// Share of the training rows to hold out, chosen by the seed: above 0, below 1.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub fraction: Option<f64>,
    /// Evaluate on at most so many rows; 0 uses all.
    pub limit: usize,
}

/// One text or a list of texts.
///
/// ```
/// # use temper_engine::recipe::OneOrMany;
/// assert_eq!(OneOrMany::Many(vec!["a".into(), "b".into()]).as_slice().len(), 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// A single text.
    One(String),
    /// A list, in order.
    Many(#[schemars(length(min = 1))] Vec<String>),
}

impl OneOrMany {
    /// Whether there is none, which only means that the key was left out.
    fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// The texts, whichever way they were written.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(list) => list,
        }
    }
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}
