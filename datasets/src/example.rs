//! One row as ids and labels.

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::reader::RowLocation;
use crate::record::Row;
use crate::template::{Renderer, special_in_row};
use crate::tokenizer::Tokenizer;

/// Label of a position that is not trained.
pub const IGNORED: i32 = -100;

/// Which part of a row is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// The response and the end token.
    #[default]
    Response,
    /// Everything but the first token, which nothing predicts.
    All,
}

/// What happens to a row that is longer than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverLength {
    /// The row is left out and counted.
    #[default]
    Drop,
    /// The end is cut off, as in `MetaMath`, and counted. The row loses its end token, so many such rows
    /// teach a model not to stop.
    Truncate,
    /// Preparation stops and names the row.
    Error,
}

/// Ids and labels of one row; both have the same length.
///
/// Labels are not shifted: `labels[t]` is `input_ids[t]` where position `t` is trained, that is, predicted
/// from the positions before it, and [`IGNORED`] elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Example {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// The target at each position.
    pub labels: Vec<i32>,
}

impl Example {
    /// Borrows the example.
    pub fn as_ref(&self) -> ExampleRef<'_> {
        ExampleRef {
            input_ids: &self.input_ids,
            labels: &self.labels,
        }
    }

    /// Ids of which the first `untrained` are not targets. The first position never is one.
    fn masked(input_ids: Vec<u32>, untrained: usize) -> Self {
        let untrained = untrained.max(1);
        let label = |(at, id): (usize, &u32)| if at < untrained { IGNORED } else { *id as i32 };
        let labels = input_ids.iter().enumerate().map(label).collect();
        Self { input_ids, labels }
    }
}

/// A borrowed [`Example`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExampleRef<'a> {
    /// Token ids.
    pub input_ids: &'a [u32],
    /// The target at each position.
    pub labels: &'a [i32],
}

impl ExampleRef<'_> {
    /// Number of ids.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Number of positions that are trained.
    pub fn targets(&self) -> usize {
        self.labels
            .iter()
            .skip(1)
            .filter(|label| **label != IGNORED)
            .count()
    }

    /// Copies the example.
    pub fn to_owned(&self) -> Example {
        Example {
            input_ids: self.input_ids.to_vec(),
            labels: self.labels.to_vec(),
        }
    }
}

/// Turns rows into examples.
#[derive(Debug)]
pub(crate) struct ExampleBuilder<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) renderer: Renderer,
    pub(crate) loss_on: LossOn,
    pub(crate) max_length: usize,
    pub(crate) over_length: OverLength,
    pub(crate) allow_special_text: bool,
}

/// What became of a row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is kept; `cut_from` is its length before truncation.
    Kept {
        example: Example,
        cut_from: Option<usize>,
    },
    /// It was too long.
    TooLong { tokens: usize },
    /// Nothing in it would be trained; `cut_from` is its length before truncation.
    NoTarget {
        tokens: usize,
        cut_from: Option<usize>,
    },
}

impl ExampleBuilder<'_> {
    /// The example of a row, within the length limit.
    pub(crate) fn build(&self, row: &Row, location: &RowLocation) -> Result<Outcome> {
        let example = match row {
            Row::Tokens { input_ids, labels } => {
                self.given(input_ids, labels.as_deref(), location)?
            }
            _ => self.tokenised(row, location)?,
        };
        self.fit(example, location)
    }

    /// Prompt and response are tokenised as one text; the prompt alone tells how many tokens to mask.
    fn tokenised(&self, row: &Row, location: &RowLocation) -> Result<Example> {
        // Text is never templated, so special tokens in it are text.
        let specials = self.renderer.writes_specials() && !matches!(row, Row::Text(_));
        if specials && !self.allow_special_text {
            special_in_row(row, self.tokenizer, location)?;
        }
        let rendered = self.renderer.render(row)?;
        let mut untrained = self.ids(&rendered.prompt, specials)?.len();
        let mut ids = self.ids(&(rendered.prompt + &rendered.response), specials)?;
        let answer = ids.get(untrained..).unwrap_or_default();
        let stops = self.tokenizer.stop_ids();
        // A chat template usually writes its own end token.
        if !(specials && answer.iter().any(|id| stops.contains(id))) {
            ids.push(self.tokenizer.eos().ok_or(DataError::NoEndToken)?);
        }
        if self.loss_on == LossOn::All {
            untrained = 0;
        }
        Ok(Example::masked(ids, untrained))
    }

    fn ids(&self, text: &str, specials: bool) -> Result<Vec<u32>> {
        if !specials {
            return self.tokenizer.encode(text, true);
        }
        let mut ids = self.tokenizer.encode_with_specials(text)?;
        if let Some(bos) = self
            .tokenizer
            .required_bos()
            .filter(|bos| ids.first() != Some(bos))
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Checks ids made elsewhere against the vocabulary.
    fn given(
        &self,
        input_ids: &[u32],
        labels: Option<&[i32]>,
        location: &RowLocation,
    ) -> Result<Example> {
        let size = self.tokenizer.vocab_size();
        let outside = |id: &i64| *id < 0 || *id >= size as i64;
        let given = labels
            .unwrap_or_default()
            .iter()
            .filter(|label| **label != IGNORED);
        let mut all = input_ids
            .iter()
            .map(|id| i64::from(*id))
            .chain(given.map(|id| i64::from(*id)));
        if let Some(id) = all.find(outside) {
            let reason = format!("id {id} is outside the vocabulary of {size}");
            return Err(DataError::broken(location, reason));
        }
        let mut example = Example::masked(input_ids.to_vec(), 0);
        if let (Some(labels), LossOn::Response) = (labels, self.loss_on) {
            example.labels = labels.to_vec();
            if let Some(first) = example.labels.first_mut() {
                *first = IGNORED;
            }
        }
        Ok(example)
    }

    fn fit(&self, mut example: Example, location: &RowLocation) -> Result<Outcome> {
        let tokens = example.input_ids.len();
        let mut cut_from = None;
        if tokens > self.max_length {
            match self.over_length {
                OverLength::Drop => return Ok(Outcome::TooLong { tokens }),
                OverLength::Error => {
                    let (location, max_length) = (location.clone(), self.max_length);
                    return Err(DataError::OverLength {
                        location,
                        tokens,
                        max_length,
                    });
                }
                OverLength::Truncate => {
                    cut_from = Some(tokens);
                    example.input_ids.truncate(self.max_length);
                    example.labels.truncate(self.max_length);
                }
            }
        }
        if example.as_ref().targets() == 0 {
            return Ok(Outcome::NoTarget { tokens, cut_from });
        }
        Ok(Outcome::Kept { example, cut_from })
    }
}
