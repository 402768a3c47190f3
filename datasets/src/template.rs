//! Rows to prompts and responses.
//!
//! The two instruction prompts are those of Alpaca, as used by `MetaMath` (arXiv 2309.12284, training
//! program). They are matched byte for byte, because a model answers only to the prompt it was trained on.

use serde::{Deserialize, Serialize};

use crate::chat::ChatTemplate;
use crate::error::{DataError, Result};
use crate::reader::RowLocation;
use crate::record::{Message, Row};
use crate::tokenizer::Tokenizer;

/// How a row becomes text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Template {
    /// The prompt of `MetaMath`. The first line of a query is its instruction and the other lines are its
    /// input, as in the authors' program; with `single_field` the whole query is the instruction, as in
    /// their evaluation.
    Metamath {
        /// Do not split queries at the first line end.
        single_field: bool,
    },
    /// The same prompt with the fields as they are in the file; a query is an instruction.
    Alpaca {},
    /// No words of its own: the prompt is the instruction, then the input on the next line.
    Raw {},
    /// The model's chat template.
    Chat {
        /// Jinja source, usually [`Tokenizer::chat_template`].
        jinja: String,
    },
}

impl Default for Template {
    fn default() -> Self {
        Self::Metamath {
            single_field: false,
        }
    }
}

/// A row as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What the model is given.
    pub prompt: String,
    /// What it shall learn to answer. `prompt + response` is the whole text.
    pub response: String,
}

/// The instruction prompt, up to and including `### Response:`, without input if `input` is empty.
pub fn instruction_prompt(instruction: &str, input: &str) -> String {
    const TASK: &str = "Below is an instruction that describes a task";
    const WRITE: &str = "Write a response that appropriately completes the request.";
    if input.is_empty() {
        return format!("{TASK}. {WRITE}\n\n### Instruction:\n{instruction}\n\n### Response:");
    }
    format!(
        "{TASK}, paired with an input that provides further context. {WRITE}\n\n\
         ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    )
}

/// A template that is ready to render rows for one tokenizer.
///
/// ```no_run
/// # use temper_datasets::{Renderer, Row, Template, Tokenizer};
/// # fn main() -> temper_datasets::Result<()> {
/// let tokenizer = Tokenizer::load("assets/stories260k")?;
/// let renderer = Renderer::new(&Template::default(), &tokenizer)?;
/// let row = Row::Pair { instruction: "1 + 1?".into(), input: None, response: "2".into() };
/// assert!(renderer.render(&row)?.prompt.ends_with("### Response:"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Renderer(Kind);

#[derive(Debug)]
enum Kind {
    Instruction { split_query: bool },
    Raw,
    Chat(Box<ChatTemplate>),
}

impl Renderer {
    /// Compiles `template`.
    ///
    /// # Errors
    /// If a chat template is not valid Jinja.
    pub fn new(template: &Template, tokenizer: &Tokenizer) -> Result<Self> {
        Ok(Self(match template {
            Template::Metamath { single_field } => Kind::Instruction {
                split_query: !single_field,
            },
            Template::Alpaca {} => Kind::Instruction { split_query: false },
            Template::Raw {} => Kind::Raw,
            Template::Chat { jinja } => Kind::Chat(Box::new(ChatTemplate::new(jinja, tokenizer)?)),
        }))
    }

    /// Whether the rendered text contains special tokens that the tokenizer must recognise.
    pub fn writes_specials(&self) -> bool {
        matches!(self.0, Kind::Chat(_))
    }

    /// Renders a row. Text is not templated: it is a response to an empty prompt.
    ///
    /// # Errors
    /// If the row is a conversation and the template is none for conversations, if a conversation does not
    /// end with an answer, or if the chat template fails.
    pub fn render(&self, row: &Row) -> Result<Rendered> {
        let (instruction, input, response) = match row {
            Row::Pair {
                instruction,
                input,
                response,
            } => (instruction, input.as_deref(), response),
            Row::Text(text) => {
                return Ok(Rendered {
                    prompt: String::new(),
                    response: text.clone(),
                });
            }
            Row::Chat(messages) => return self.render_chat(messages),
            Row::Tokens { .. } => return Err(unfit("rows of ids are not rendered")),
        };
        let prompt = match (&self.0, input) {
            (Kind::Instruction { split_query: true }, None) => {
                let (first, rest) = instruction.split_once('\n').unwrap_or((instruction, ""));
                instruction_prompt(first, rest)
            }
            (Kind::Instruction { .. }, input) => {
                instruction_prompt(instruction, input.unwrap_or_default())
            }
            (Kind::Raw, None | Some("")) => instruction.clone(),
            (Kind::Raw, Some(input)) => format!("{instruction}\n{input}"),
            (Kind::Chat(_), input) => {
                let question = match input {
                    None | Some("") => instruction.clone(),
                    Some(input) => format!("{instruction}\n{input}"),
                };
                let user = Message::new("user", question);
                return self.render_chat(&[user, Message::new("assistant", response.as_str())]);
            }
        };
        Ok(Rendered {
            prompt,
            response: response.clone(),
        })
    }

    fn render_chat(&self, messages: &[Message]) -> Result<Rendered> {
        let Kind::Chat(template) = &self.0 else {
            return Err(unfit("rows with `messages` need the template `chat`"));
        };
        let Some((answer, before)) = messages.split_last() else {
            return Err(unfit("a conversation is empty"));
        };
        if answer.role != "assistant" {
            return Err(unfit(
                "the last message of a conversation must be by the `assistant`",
            ));
        }
        let prompt = template.render(before, true)?;
        let full = template.render(messages, false)?;
        let response = full.strip_prefix(prompt.as_str()).ok_or_else(|| {
            unfit(
                "renders a conversation that does not begin with its own prompt, so prompt and answer \
                 cannot be told apart",
            )
        })?;
        Ok(Rendered {
            response: response.to_owned(),
            prompt,
        })
    }
}

fn unfit(reason: &str) -> DataError {
    DataError::BadSetting {
        field: "template",
        reason: reason.to_owned(),
    }
}

/// The row's own texts, in which special tokens would be an injection; the first one found, if any.
pub(crate) fn special_in_row(
    row: &Row,
    tokenizer: &Tokenizer,
    location: &RowLocation,
) -> Result<()> {
    let texts: Vec<&str> = match row {
        Row::Pair {
            instruction,
            input,
            response,
        } => {
            vec![instruction, input.as_deref().unwrap_or_default(), response]
        }
        Row::Chat(messages) => messages
            .iter()
            .map(|message| message.content.as_str())
            .collect(),
        Row::Text(_) | Row::Tokens { .. } => Vec::new(),
    };
    match texts.iter().find_map(|text| tokenizer.special_in(text)) {
        None => Ok(()),
        Some(token) => {
            let token = token.to_owned();
            Err(DataError::SpecialInText {
                location: location.clone(),
                token,
            })
        }
    }
}

#[cfg(test)]
mod tests;
