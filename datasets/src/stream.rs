//! Text of generated ids, piece by piece.

use std::borrow::Borrow;

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Ids that may wait for the rest of a character; a UTF-8 character has at most four bytes.
const LONGEST_WAIT: usize = 8;

/// Turns ids into text as they arrive.
///
/// A character may be spread over several ids, and a leading space is part of a text only if something
/// comes before it. So the newest ids are decoded together with the ones before them, and only what is new
/// and complete is given out. Joined, the pieces are the decoded text of all ids.
///
/// ```no_run
/// # fn main() -> temper_datasets::Result<()> {
/// # let tokenizer = temper_datasets::Tokenizer::load("llama-2-7b")?;
/// let mut stream = tokenizer.stream();
/// for id in [15043, 445] {
///     if let Some(text) = stream.push(id)? {
///         print!("{text}");
///     }
/// }
/// print!("{}", stream.finish()?);
/// # Ok(())
/// # }
/// ```
///
/// `T` is what holds the tokenizer: a reference, or an `Arc` where the stream outlives its scope.
#[derive(Debug, Clone)]
pub struct DecodeStream<T> {
    tokenizer: T,
    skip_special: bool,
    /// Ids of the last piece given out, then those not given out yet.
    ids: Vec<u32>,
    /// How many of `ids` have been given out.
    given: usize,
}

impl<T: Borrow<Tokenizer>> DecodeStream<T> {
    /// A stream at the start of a text.
    pub fn new(tokenizer: T, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            ids: Vec::new(),
            given: 0,
        }
    }

    /// A stream that continues the text of `prompt`, so that a space between both is kept.
    pub fn after(tokenizer: T, prompt: &[u32], skip_special: bool) -> Self {
        let tail = prompt[prompt.len().saturating_sub(LONGEST_WAIT)..].to_vec();
        Self {
            tokenizer,
            skip_special,
            given: tail.len(),
            ids: tail,
        }
    }

    /// Takes the next id; returns the text that it completes, if any.
    ///
    /// # Errors
    /// If the id is outside the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.ids.push(id);
        let text = match self.pending() {
            Ok(text) => text,
            Err(error) => {
                self.ids.pop();
                return Err(error);
            }
        };
        if text.is_empty() {
            self.given = self.ids.len();
            return Ok(None);
        }
        if text.ends_with('\u{fffd}') && self.ids.len() - self.given < LONGEST_WAIT {
            return Ok(None);
        }
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(Some(text))
    }

    /// What is left: the text of bytes that never became a character. Usually empty.
    ///
    /// # Errors
    /// If decoding fails.
    pub fn finish(self) -> Result<String> {
        self.pending()
    }

    /// Text of the ids not given out yet.
    fn pending(&self) -> Result<String> {
        let before = self
            .tokenizer
            .borrow()
            .decode(&self.ids[..self.given], self.skip_special)?;
        let all = self
            .tokenizer
            .borrow()
            .decode(&self.ids, self.skip_special)?;
        Ok(match all.strip_prefix(before.as_str()) {
            Some(new) => new.to_owned(),
            // Bytes that looked complete turned out to belong to a broken sequence.
            None => all.chars().skip(before.chars().count()).collect(),
        })
    }
}
