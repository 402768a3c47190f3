//! One sequence from its prompt to its end.

use std::sync::Arc;

use temper_datasets::Tokenizer;

use super::text::{CompletionText, Piece};
use super::{Completion, Finish, GenerateError, Request, RequestId, Sampling};

/// A request, waiting or running.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: RequestId,
    /// Number of the row: part of the address of its random numbers.
    pub(super) row: u64,
    pub(super) sampling: Sampling,
    /// Tokens to read before the next one can be chosen: at first the prompt, later the last choice.
    pub(super) pending: Vec<u32>,
    /// Tokens that end it, besides those of the model.
    stop_ids: Vec<u32>,
    /// Tokens it may still get in all.
    room: usize,
    ids: Vec<u32>,
    text: Option<CompletionText>,
}

/// What a token did to its sequence.
#[derive(Debug)]
pub(super) struct Step {
    /// Text to show.
    pub(super) text: String,
    pub(super) finish: Option<Finish>,
}

impl Sequence {
    /// `room`: tokens that fit behind the prompt.
    pub(super) fn new(
        id: RequestId,
        request: Request,
        tokenizer: Option<&Arc<Tokenizer>>,
        room: usize,
    ) -> Self {
        let Request { prompt, sampling } = request;
        let text = tokenizer.map(|tokenizer| {
            CompletionText::new(Arc::clone(tokenizer), &prompt.ids, sampling.stop.clone())
        });
        Self {
            id,
            row: prompt.row,
            pending: prompt.ids,
            // Stop strings that are special tokens never become text.
            stop_ids: tokenizer.map_or_else(Vec::new, |tokenizer| {
                special_stops(tokenizer, &sampling.stop)
            }),
            room: room.min(sampling.max_new_tokens),
            sampling,
            ids: Vec::new(),
            text,
        }
    }

    /// Tokens chosen so far.
    pub(super) fn generated(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.ids.len() < self.room
    }

    /// Takes the next token. `ends`: the model's end tokens.
    pub(super) fn take(&mut self, id: u32, ends: &[u32]) -> Result<Step, GenerateError> {
        self.ids.push(id);
        self.pending = vec![id];
        let mut shown = String::new();
        let mut finish = None;
        if ends.contains(&id) {
            finish = Some(Finish::Eos);
        } else if self.stop_ids.contains(&id) {
            finish = Some(Finish::Stop);
        } else if let Some(text) = &mut self.text {
            let Piece { text, stopped } = text.push(id)?;
            shown = text;
            if stopped {
                return Ok(Step {
                    text: shown,
                    finish: Some(Finish::Stop),
                });
            }
        }
        if finish.is_none() && !self.has_room() {
            finish = Some(Finish::Length);
        }
        if let (Some(_), Some(text)) = (finish, &mut self.text) {
            let Piece { text, stopped } = text.end()?;
            shown.push_str(&text);
            if stopped {
                finish = Some(Finish::Stop);
            }
        }
        Ok(Step {
            text: shown,
            finish,
        })
    }

    pub(super) fn into_completion(self, finish: Finish) -> Completion {
        Completion {
            text: self.text.map(CompletionText::into_text).unwrap_or_default(),
            ids: self.ids,
            finish,
        }
    }
}

fn special_stops(tokenizer: &Tokenizer, stop: &[String]) -> Vec<u32> {
    stop.iter()
        .filter(|text| tokenizer.special_in(text) == Some(text.as_str()))
        .filter_map(|text| tokenizer.id(text))
        .collect()
}
