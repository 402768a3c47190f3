//! How a conversation becomes one prompt.

use std::error::Error;
use std::path::Path;

use clap::ValueEnum;
use temper_datasets::{ChatTemplate, DataError, Message, Renderer, Row, Template, Tokenizer};

use super::api::ApiError;
use crate::Failure;

/// A template for conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Frame {
    /// The model's own chat template
    Chat,
    /// The prompt that MetaMath models are trained on; one question at a time
    Metamath,
    /// The Alpaca prompt, without input; one question at a time
    Alpaca,
}

/// A template that is ready for conversations.
#[derive(Debug)]
pub(crate) enum Framing {
    /// There is none, so conversations are refused.
    Missing,
    Chat(Box<ChatTemplate>),
    /// One question and its answer.
    Instruction(Renderer),
}

impl Framing {
    /// The template in `file`, else the one named, else the model's own, else none.
    ///
    /// # Errors
    /// A file that cannot be read, a template that is no Jinja, or `chat` for a model that has no template.
    pub(crate) fn new(
        frame: Option<Frame>,
        file: Option<&Path>,
        tokenizer: &Tokenizer,
    ) -> Result<Self, Failure> {
        let chat = |jinja: &str| Ok(Self::Chat(Box::new(ChatTemplate::new(jinja, tokenizer)?)));
        let instruction = |template: &Template| {
            let renderer = Renderer::new(template, tokenizer)?;
            Ok(Self::Instruction(renderer))
        };
        if let Some(file) = file {
            let jinja = std::fs::read_to_string(file).map_err(|error| {
                Failure::run(format!("cannot read `{}`: {error}", file.display()))
            })?;
            return chat(&jinja);
        }
        match (frame, tokenizer.chat_template()) {
            (Some(Frame::Metamath), _) => instruction(&Template::default()),
            (Some(Frame::Alpaca), _) => instruction(&Template::Alpaca {}),
            (_, Some(jinja)) => chat(jinja),
            (None, None) => Ok(Self::Missing),
            (Some(Frame::Chat), None) => Err(Failure::run("the model has no chat template")
                .with_hint("give one with --chat-template FILE")),
        }
    }

    /// The ids of the prompt that ends where the next answer begins.
    ///
    /// # Errors
    /// No template, a conversation that the template refuses, or special tokens in what is said.
    pub(crate) fn ids(
        &self,
        messages: &[Message],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, ApiError> {
        for (at, message) in messages.iter().enumerate() {
            refuse_specials(
                &message.content,
                &format!("messages[{at}].content"),
                tokenizer,
            )?;
        }
        match self {
            Self::Missing => Err(invalid(
                "this model has no chat template; start the server with --chat-template FILE or \
                 --template metamath, or send the whole prompt to /v1/completions",
            )),
            Self::Chat(template) => {
                let text = template.render(messages, true).map_err(refused)?;
                tokenizer.encode_with_specials(&text).map_err(refused)
            }
            Self::Instruction(renderer) => {
                let question = match messages {
                    [message] if message.role == "user" => message.content.clone(),
                    _ => {
                        return Err(invalid(
                            "this server's template takes one message of role `user`, because the \
                             model was trained on single questions",
                        ));
                    }
                };
                let row = Row::Pair {
                    instruction: question,
                    input: None,
                    response: String::new(),
                };
                let rendered = renderer.render(&row).map_err(refused)?;
                tokenizer.encode(&rendered.prompt, true).map_err(refused)
            }
        }
    }
}

/// In a text that a client sent, a special token would end or split what it is part of.
pub(crate) fn refuse_specials(
    text: &str,
    param: &str,
    tokenizer: &Tokenizer,
) -> Result<(), ApiError> {
    match tokenizer.special_in(text) {
        None => Ok(()),
        Some(token) => {
            let message = format!(
                "`{param}` contains the text of the special token `{token}`; token ids in `prompt` \
                 of /v1/completions may be special"
            );
            Err(ApiError::invalid(param, "special_token", message))
        }
    }
}

fn invalid(message: &str) -> ApiError {
    ApiError::invalid("messages", "chat_template", message)
}

/// What a template says is in the source of its error.
fn refused(error: DataError) -> ApiError {
    let reason = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    invalid(&reason)
}
