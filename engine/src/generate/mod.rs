//! Text from a model: batches padded on the left, keys and values kept, one token a row at a time.
//!
//! What a row gets depends on its prompt, its number and the seed, not on the rows beside it: random numbers are addressed by
//! row and step, positions count real tokens, and a row ends when its own end comes.

mod batch;
mod error;
mod sampling;
mod text;

use temper_adapters::Parameters;
use temper_datasets::Tokenizer;
use temper_models::{Llama, LlamaConfig};

pub use error::GenerateError;
pub use sampling::Sampling;

use batch::{Ends, run_batch};

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

/// Completes `prompts`, up to `batch_size` at a time; the completions come in the order of the prompts.
///
/// `on_token` is given the index of a prompt and the text that a token completed. Joined, the pieces of a prompt are the text of its
/// completion. Without a tokenizer nothing is decoded.
///
/// # Errors
/// Settings out of range, a prompt that is empty or fills the context (naming its row), logits that are not finite.
///
/// # Examples
/// ```no_run
/// use burn::tensor::{Device, FloatDType};
/// use temper_datasets::Tokenizer;
/// use temper_engine::generate::{Prompt, Sampling, generate};
/// use temper_models::Llama;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = std::path::Path::new("assets/stories260k");
/// let model = Llama::load(directory, FloatDType::F32, &Device::flex())?;
/// let tokenizer = Tokenizer::load(directory)?;
/// let prompt = Prompt { row: 0, ids: tokenizer.encode("Once upon a time", true)? };
/// let done = generate(&model, Some(&tokenizer), &[prompt], &Sampling::default(), 1, &mut |_, _| ())?;
/// assert!(done[0].text.starts_with(", there was"));
/// # Ok(())
/// # }
/// ```
pub fn generate(
    model: &Llama,
    tokenizer: Option<&Tokenizer>,
    prompts: &[Prompt],
    sampling: &Sampling,
    batch_size: usize,
    on_token: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Completion>, GenerateError> {
    sampling.check()?;
    if tokenizer.is_none() && !sampling.stop.is_empty() {
        return Err(GenerateError::StopWithoutTokenizer);
    }
    let context = context(model.config());
    prompts
        .iter()
        .try_for_each(|prompt| check(prompt, model.config(), context))?;
    let model = model.frozen();
    let ends = Ends::new(model.config(), tokenizer, sampling);
    let mut completions = Vec::with_capacity(prompts.len());
    while completions.len() < prompts.len() {
        let first = completions.len();
        let rest = &prompts[first..];
        let count = batch_rows(rest, batch_size, context, sampling.max_new_tokens);
        let mut show = |index: usize, text: &str| on_token(first + index, text);
        completions.extend(run_batch(
            &model,
            &ends,
            &rest[..count],
            context,
            &mut show,
        )?);
    }
    Ok(completions)
}

/// Tokens that the model can place.
fn context(config: &LlamaConfig) -> usize {
    config
        .max_position_embeddings
        .min(config.sliding_window.unwrap_or(usize::MAX))
}

fn check(prompt: &Prompt, config: &LlamaConfig, context: usize) -> Result<(), GenerateError> {
    let (row, tokens, vocabulary) = (prompt.row, prompt.ids.len(), config.vocab_size);
    if tokens == 0 {
        return Err(GenerateError::EmptyPrompt { row });
    }
    if tokens >= context {
        return Err(GenerateError::TooLong {
            row,
            tokens,
            limit: context,
        });
    }
    match prompt.ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(&id) => Err(GenerateError::TokenId {
            row,
            id,
            vocabulary,
        }),
        None => Ok(()),
    }
}

/// How many of the next prompts share a batch. The longest prompt and the longest answer must fit the context together: a row that
/// is short of room gets a batch in which nobody needs more than it has.
fn batch_rows(prompts: &[Prompt], batch_size: usize, context: usize, max_new: usize) -> usize {
    let (mut longest, mut most) = (0, 0);
    let fits = |prompt: &&Prompt| {
        longest = longest.max(prompt.ids.len());
        most = most.max(max_new.min(context - prompt.ids.len()));
        longest + most <= context
    };
    prompts
        .iter()
        .take(batch_size.max(1))
        .take_while(fits)
        .count()
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(lengths: &[usize]) -> Vec<Prompt> {
        lengths
            .iter()
            .map(|&length| Prompt {
                row: 0,
                ids: vec![1; length],
            })
            .collect()
    }

    #[test]
    fn a_row_short_of_room_does_not_shorten_its_neighbours() {
        assert_eq!(batch_rows(&prompts(&[4, 5, 6, 7]), 3, 64, 20), 3);
        assert_eq!(
            batch_rows(&prompts(&[4, 60, 6]), 3, 64, 20),
            1,
            "60 + 20 tokens do not fit"
        );
        assert_eq!(batch_rows(&prompts(&[60, 4]), 3, 64, 20), 1);
        assert_eq!(
            batch_rows(&prompts(&[60, 60]), 3, 64, 20),
            2,
            "both have room for 4"
        );
        assert_eq!(batch_rows(&prompts(&[4]), 0, 64, 20), 1);
    }
}
