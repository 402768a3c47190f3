//! What is served: one base model under its name, and adapters under theirs.

use std::path::PathBuf;
use std::sync::Arc;

use temper_datasets::Tokenizer;
use tokio::sync::Semaphore;

use super::api::{ApiError, Asked, Endpoint, Input, PromptInput};
use super::framing::{Framing, refuse_specials};
use crate::generate::{Prompt, Request, Sampling};

/// Answers of `/v1/completions` are this long unless the client says how long, as in the OpenAI API.
const DEFAULT_COMPLETION: usize = 16;

/// An adapter of the command line: `NAME=DIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedAdapter {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
}

impl std::str::FromStr for NamedAdapter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, directory)) if !name.is_empty() && !directory.is_empty() => Ok(Self {
                name: name.to_owned(),
                directory: directory.into(),
            }),
            _ => Err("expected NAME=DIR".to_owned()),
        }
    }
}

/// A name that clients may ask for.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) name: String,
    /// The base model of an adapter.
    pub(crate) parent: Option<String>,
    /// One permit for every sequence that may run or wait.
    pub(crate) places: Arc<Semaphore>,
}

/// Everything about the models that answering needs, except the models.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) models: Vec<Served>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) framing: Framing,
    /// Tokens that prompt and answer may have together.
    pub(crate) context: usize,
    /// Rows of the embedding.
    pub(crate) vocabulary: usize,
    /// Longest answer that a client may ask for, if the context has room for it.
    pub(crate) max_tokens: usize,
    /// Sequences of one model that may run or wait.
    pub(crate) places: usize,
    /// What decides about answers besides model and request.
    pub(crate) fingerprint: String,
    /// When the server began, in seconds since 1970.
    pub(crate) created: u64,
}

impl Catalog {
    /// The number of a model.
    ///
    /// # Errors
    /// 404 naming the models there are.
    pub(crate) fn find(&self, name: &str) -> Result<usize, ApiError> {
        let found = self.models.iter().position(|model| model.name == name);
        found.ok_or_else(|| {
            let names: Vec<String> = self
                .models
                .iter()
                .map(|model| format!("`{}`", model.name))
                .collect();
            let message = format!(
                "the model `{}` does not exist; there is {}",
                shortened(name),
                names.join(", ")
            );
            ApiError::unknown_model(message)
        })
    }

    /// What the engine is to do for a request: one task for each answer.
    ///
    /// # Errors
    /// A prompt that is empty, too long or made of tokens the model does not have, or an answer that does not fit.
    pub(crate) fn requests(
        &self,
        endpoint: Endpoint,
        asked: &Asked,
    ) -> Result<Vec<Request>, ApiError> {
        let prompts = match &asked.input {
            Input::Messages(messages) => vec![self.framing.ids(messages, &self.tokenizer)?],
            Input::Prompts(prompts) => prompts
                .iter()
                .map(|prompt| self.prompt(prompt))
                .collect::<Result<_, _>>()?,
        };
        let mut requests = Vec::with_capacity(asked.sequences());
        for ids in prompts {
            let max_new_tokens = self.room(endpoint, asked, ids.len())?;
            for _ in 0..asked.n {
                requests.push(Request {
                    prompt: Prompt {
                        row: requests.len() as u64,
                        ids: ids.clone(),
                    },
                    sampling: Sampling {
                        max_new_tokens,
                        ..asked.sampling.clone()
                    },
                });
            }
        }
        Ok(requests)
    }

    fn prompt(&self, prompt: &PromptInput) -> Result<Vec<u32>, ApiError> {
        let invalid = |message| ApiError::invalid("prompt", "invalid_value", message);
        let ids = match prompt {
            PromptInput::Ids(ids) => ids.clone(),
            PromptInput::Text(text) => {
                refuse_specials(text, "prompt", &self.tokenizer)?;
                let ids = self.tokenizer.encode(text, true);
                ids.map_err(|error| invalid(error.to_string()))?
            }
        };
        if ids.is_empty() {
            return Err(invalid("`prompt` has no tokens".to_owned()));
        }
        match ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            None => Ok(ids),
            Some(id) => Err(invalid(format!(
                "`prompt` has token id {id}, which is outside the vocabulary of {}",
                self.vocabulary
            ))),
        }
    }

    /// Tokens that the answer to a prompt of so many tokens may have.
    fn room(&self, endpoint: Endpoint, asked: &Asked, prompt: usize) -> Result<usize, ApiError> {
        let (wanted, param) = match asked.max_tokens {
            Some((wanted, param)) if wanted > self.max_tokens => {
                let most = self.max_tokens;
                let message =
                    format!("`{param}` is {wanted}, and this server writes at most {most} tokens");
                return Err(ApiError::invalid(param, "invalid_value", message));
            }
            Some(given) => given,
            None => (1, "max_tokens"),
        };
        let total = prompt.saturating_add(wanted);
        if total > self.context {
            let input = match endpoint {
                Endpoint::Chat => "messages",
                Endpoint::Completions => "prompt",
            };
            let message = format!(
                "this model's context is {} tokens, and this request needs {total}: {prompt} in \
                 `{input}`, {wanted} for the answer (`{param}`)",
                self.context
            );
            return Err(ApiError::invalid(input, "context_length_exceeded", message));
        }
        let default = match endpoint {
            Endpoint::Chat => self.max_tokens,
            Endpoint::Completions => self.max_tokens.min(DEFAULT_COMPLETION),
        };
        Ok(asked
            .max_tokens
            .map_or_else(|| default.min(self.context - prompt), |(wanted, _)| wanted))
    }
}

/// The beginning of something a client sent, to be sent back.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}
