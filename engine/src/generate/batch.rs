//! One batch of rows, from their prompts to their ends.

use burn::tensor::Tensor;
use temper_datasets::Tokenizer;
use temper_models::{KeyValueCache, Llama, LlamaConfig, ModelError};

use super::text::{CompletionText, Piece};
use super::{Completion, Finish, GenerateError, Prompt, Sampling};

/// Columns of the prompts read at a time; bounds the memory of the attention scores.
const CHUNK: usize = 512;

/// What a left-padded column holds; nothing attends it.
const PADDING: u32 = 0;

/// What all rows share: how tokens are chosen and what ends a row.
#[derive(Debug)]
pub(super) struct Ends<'a> {
    tokenizer: Option<&'a Tokenizer>,
    sampling: &'a Sampling,
    eos: Vec<u32>,
    /// Stop strings that are special tokens: they never become text.
    stop: Vec<u32>,
}

impl<'a> Ends<'a> {
    pub(super) fn new(
        config: &LlamaConfig,
        tokenizer: Option<&'a Tokenizer>,
        sampling: &'a Sampling,
    ) -> Self {
        let mut eos = config.eos_token_ids.clone();
        let mut stop = Vec::new();
        if let Some(tokenizer) = tokenizer {
            eos.extend_from_slice(tokenizer.stop_ids());
            let special = sampling
                .stop
                .iter()
                .filter(|text| tokenizer.special_in(text) == Some(text.as_str()));
            stop.extend(special.filter_map(|text| tokenizer.id(text)));
        }
        Self {
            tokenizer,
            sampling,
            eos,
            stop,
        }
    }
}

/// One row while it grows.
#[derive(Debug)]
struct Row<'a> {
    number: u64,
    ends: &'a Ends<'a>,
    /// Tokens it may still get in all.
    room: usize,
    ids: Vec<u32>,
    text: Option<CompletionText<'a>>,
    finish: Option<Finish>,
}

impl<'a> Row<'a> {
    fn new(prompt: &Prompt, ends: &'a Ends<'a>, context: usize) -> Self {
        let room = ends
            .sampling
            .max_new_tokens
            .min(context.saturating_sub(prompt.ids.len()));
        let text = |tokenizer| CompletionText::new(tokenizer, &prompt.ids, &ends.sampling.stop);
        Self {
            number: prompt.row,
            ends,
            room,
            ids: Vec::new(),
            text: ends.tokenizer.map(text),
            finish: (room == 0).then_some(Finish::Length),
        }
    }

    /// Takes the token that `logits` give; returns its id and the text to show.
    fn advance(&mut self, logits: &[f32]) -> Result<(u32, String), GenerateError> {
        let (row, step) = (self.number, self.ids.len());
        let id = self
            .ends
            .sampling
            .choose(logits, row, step)
            .ok_or(GenerateError::NotFinite { row, step })?;
        self.ids.push(id);
        let mut shown = String::new();
        if self.ends.eos.contains(&id) {
            self.finish = Some(Finish::Eos);
        } else if self.ends.stop.contains(&id) {
            self.finish = Some(Finish::Stop);
        } else if let Some(text) = &mut self.text {
            let Piece { text, stopped } = text.push(id)?;
            shown = text;
            if stopped {
                self.finish = Some(Finish::Stop);
                return Ok((id, shown));
            }
        }
        if self.finish.is_none() && self.ids.len() >= self.room {
            self.finish = Some(Finish::Length);
        }
        if let (Some(_), Some(text)) = (self.finish, &mut self.text) {
            let Piece { text, stopped } = text.end()?;
            shown.push_str(&text);
            if stopped {
                self.finish = Some(Finish::Stop);
            }
        }
        Ok((id, shown))
    }

    fn into_completion(self) -> Completion {
        Completion {
            text: self.text.map(CompletionText::into_text).unwrap_or_default(),
            ids: self.ids,
            finish: self.finish.unwrap_or(Finish::Length),
        }
    }
}

/// Completes prompts that fit into the context together.
pub(super) fn run_batch(
    model: &Llama,
    ends: &Ends<'_>,
    prompts: &[Prompt],
    context: usize,
    on_token: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Completion>, GenerateError> {
    let mut rows: Vec<Row<'_>> = prompts
        .iter()
        .map(|prompt| Row::new(prompt, ends, context))
        .collect();
    let steps = rows.iter().map(|row| row.room).max().unwrap_or(0);
    if steps > 0 {
        let (mut cache, mut logits) = read_prompts(model, prompts, steps)?;
        loop {
            let next = advance(&mut rows, logits, on_token)?;
            if rows.iter().all(|row| row.finish.is_some()) {
                break;
            }
            logits = model.read(&next, &mut cache)?;
        }
    }
    Ok(rows.into_iter().map(Row::into_completion).collect())
}

/// One token for every row that has not ended; padding for the others.
fn advance(
    rows: &mut [Row<'_>],
    logits: Tensor<2>,
    on_token: &mut dyn FnMut(usize, &str),
) -> Result<Vec<u32>, GenerateError> {
    let [_, vocabulary] = logits.dims();
    let Ok(values) = logits.into_data().try_to_vec::<f32>() else {
        unreachable!("logits are f32")
    };
    let mut next = vec![PADDING; rows.len()];
    for (index, (row, values)) in rows.iter_mut().zip(values.chunks(vocabulary)).enumerate() {
        if row.finish.is_none() {
            let (id, text) = row.advance(values)?;
            next[index] = id;
            if !text.is_empty() {
                on_token(index, &text);
            }
        }
    }
    Ok(next)
}

/// Reads the prompts, padded on the left to one length, some columns at a time.
fn read_prompts(
    model: &Llama,
    prompts: &[Prompt],
    steps: usize,
) -> Result<(KeyValueCache, Tensor<2>), ModelError> {
    let longest = prompts
        .iter()
        .map(|prompt| prompt.ids.len())
        .max()
        .unwrap_or(0);
    let padding: Vec<usize> = prompts
        .iter()
        .map(|prompt| longest - prompt.ids.len())
        .collect();
    let mut cache = model.cache(&padding, longest + steps)?;
    let column = |prompt: &Prompt, at: usize| {
        let skipped = longest - prompt.ids.len();
        at.checked_sub(skipped).map_or(PADDING, |at| prompt.ids[at])
    };
    let mut read = |first: usize| {
        let last = (first + CHUNK).min(longest);
        let ids: Vec<u32> = prompts
            .iter()
            .flat_map(|prompt| (first..last).map(move |at| column(prompt, at)))
            .collect();
        model.read(&ids, &mut cache)
    };
    let mut logits = read(0)?;
    for first in (CHUNK..longest).step_by(CHUNK) {
        logits = read(first)?;
    }
    Ok((cache, logits))
}
