//! Text from a model: many sequences at once over one cache, each as if it were alone.
//!
//! What a row gets depends on its prompt, its number and the seed, not on the rows beside it: random numbers are addressed by
//! row and step, every sequence has its own place in the cache, and a row ends when its own end comes.

mod engine;
mod error;
mod request;
mod sampling;
mod sequence;
mod text;

use std::collections::HashMap;
use std::sync::Arc;

use temper_datasets::Tokenizer;
use temper_models::Llama;

pub use engine::Engine;
pub use error::GenerateError;
pub use request::{Event, Limits, Order, Request, RequestId, Statistics};
pub use sampling::Sampling;

/// The beginning of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Number of the row in its file: part of the address of its random numbers, and its name in errors.
    pub row: u64,
    /// Its tokens, the begin token included.
    pub ids: Vec<u32>,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// A stop string came.
    Stop,
    /// `max_new_tokens` or the model's context was reached.
    Length,
    /// The model ended it.
    Eos,
}

/// What a model added to a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Its text, without end token and stop string; empty when there is no tokenizer.
    pub text: String,
    /// Every id generated, the end token and those of a stop string included.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Completes `prompts`; the completions come in the order of the prompts.
///
/// `on_token` is given the index of a prompt and the text that a token completed. Joined, the pieces of a prompt are the text of its
/// completion. Without a tokenizer nothing is decoded.
///
/// # Errors
/// Settings out of range, a prompt that is empty or fills the context (naming its row), logits that are not finite.
///
/// # Examples
/// ```no_run
/// use std::sync::Arc;
/// use burn::tensor::{Device, FloatDType};
/// use temper_datasets::Tokenizer;
/// use temper_engine::generate::{Limits, Prompt, Sampling, generate};
/// use temper_models::Llama;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = std::path::Path::new("assets/stories260k");
/// let model = Llama::load(directory, FloatDType::F32, &Device::flex())?;
/// let tokenizer = Arc::new(Tokenizer::load(directory)?);
/// let prompt = Prompt { row: 0, ids: tokenizer.encode("Once upon a time", true)? };
/// let (sampling, limits) = (Sampling::default(), Limits::default());
/// let done = generate(&model, Some(&tokenizer), &[prompt], &sampling, limits, &mut |_, _| ())?;
/// assert!(done[0].text.starts_with(", there was"));
/// # Ok(())
/// # }
/// ```
pub fn generate(
    model: &Llama,
    tokenizer: Option<&Arc<Tokenizer>>,
    prompts: &[Prompt],
    sampling: &Sampling,
    limits: Limits,
    on_token: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Completion>, GenerateError> {
    let mut completions: Vec<Option<Completion>> = vec![None; prompts.len()];
    complete(
        model,
        tokenizer,
        prompts,
        sampling,
        limits,
        &mut |progress| match progress {
            Progress::Text(index, text) => on_token(index, text),
            Progress::Done(index, completion) => completions[index] = Some(completion),
        },
    )?;
    Ok(completions.into_iter().flatten().collect())
}

/// What [`complete`] reports, with the index of the prompt.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A token completed this text.
    Text(usize, &'a str),
    /// A prompt is complete. The short ones come first, whatever their order.
    Done(usize, Completion),
}

/// As [`generate`], handing each completion over as soon as it is there. Returns what was done.
///
/// # Errors
/// As [`generate`]; completions that were handed over stay valid.
pub fn complete(
    model: &Llama,
    tokenizer: Option<&Arc<Tokenizer>>,
    prompts: &[Prompt],
    sampling: &Sampling,
    limits: Limits,
    on_progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Statistics, GenerateError> {
    let context = limits
        .max_length
        .unwrap_or(usize::MAX)
        .min(engine::context(model.config()));
    let longest = prompts
        .iter()
        .map(|prompt| prompt.ids.len())
        .max()
        .unwrap_or(0);
    let limits = Limits {
        max_sequences: limits.max_sequences.min(prompts.len()),
        max_length: Some(longest.saturating_add(sampling.max_new_tokens).min(context)),
        ..limits
    };
    let mut engine = Engine::new(model, tokenizer.cloned(), limits)?;
    let mut indices = HashMap::with_capacity(prompts.len());
    for (index, prompt) in prompts.iter().enumerate() {
        let request = Request {
            prompt: prompt.clone(),
            sampling: sampling.clone(),
        };
        indices.insert(engine.submit(request)?, index);
    }
    while !engine.is_idle() {
        for event in engine.step()? {
            match event {
                Event::Token { id, text } => on_progress(Progress::Text(indices[&id], &text)),
                Event::Done { id, completion } => {
                    on_progress(Progress::Done(indices[&id], completion));
                }
                Event::Failed { error, .. } => return Err(error),
            }
        }
    }
    Ok(engine.statistics())
}

#[cfg(test)]
mod tests;
