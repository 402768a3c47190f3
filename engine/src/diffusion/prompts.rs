//! From prompts to what the UNet reads.
//!
//! Shapes: B prompts, T tokens (77), D width of the text, P width of the pooled text.

use burn::tensor::Tensor;

use super::{DiffusionError, Pipeline};

/// Prompts as ids, a list for each text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptIds {
    /// For each encoder `[B·T]`, row by row.
    pub ids: Vec<Vec<u32>>,
    /// For each encoder T.
    pub tokens: Vec<usize>,
    /// Number of prompts.
    pub rows: usize,
    /// Prompts that did not fit, with what was left out: row and text.
    pub truncated: Vec<(usize, String)>,
}

/// What the UNet attends to.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// `[B, T, D]`.
    pub hidden: Tensor<3>,
    /// SDXL: `[B, P]`.
    pub pooled: Option<Tensor<2>>,
}

impl Conditioning {
    /// The same, all zeros: what an empty negative prompt is to SDXL.
    #[must_use]
    pub fn zeros(&self) -> Self {
        Self {
            hidden: self.hidden.zeros_like(),
            pooled: self.pooled.as_ref().map(Tensor::zeros_like),
        }
    }

    /// Row `row` alone, `count` times.
    #[must_use]
    pub fn repeat(&self, row: usize, count: usize) -> Self {
        let hidden = self.hidden.clone().narrow(0, row, 1);
        Self {
            hidden: hidden.repeat_dim(0, count),
            pooled: self
                .pooled
                .clone()
                .map(|pooled| pooled.narrow(0, row, 1).repeat_dim(0, count)),
        }
    }

    /// Rows of several, one after another.
    ///
    /// # Panics
    /// When there is none.
    pub fn cat(parts: &[Self]) -> Self {
        let hidden = parts.iter().map(|part| part.hidden.clone()).collect();
        let pooled: Vec<_> = parts
            .iter()
            .filter_map(|part| part.pooled.clone())
            .collect();
        Self {
            hidden: Tensor::cat(hidden, 0),
            pooled: (!pooled.is_empty()).then(|| Tensor::cat(pooled, 0)),
        }
    }
}

impl Pipeline {
    /// Prompts as ids, padded and cut to the length that the encoders take.
    ///
    /// # Errors
    /// [`DiffusionError::NoPrompt`]; what a tokenizer refuses.
    pub fn tokenize(&self, prompts: &[String]) -> Result<PromptIds, DiffusionError> {
        if prompts.is_empty() {
            return Err(DiffusionError::NoPrompt);
        }
        let mut found = PromptIds {
            ids: Vec::new(),
            tokens: Vec::new(),
            rows: prompts.len(),
            truncated: Vec::new(),
        };
        for (number, tokenizer) in self.tokenizers.iter().enumerate() {
            let mut all = Vec::new();
            for (row, prompt) in prompts.iter().enumerate() {
                let tokens = tokenizer.encode(prompt)?;
                // Both tokenizers of SDXL cut at the same place.
                if let (0, Some(text)) = (number, tokens.truncated) {
                    found.truncated.push((row, text));
                }
                all.extend(tokens.ids);
            }
            found.tokens.push(all.len() / prompts.len());
            found.ids.push(all);
        }
        Ok(found)
    }

    /// What the UNet attends to, in the graph of the text encoders' trained parameters.
    ///
    /// One encoder: its last state after the final norm; `clip_skip` leaves out that many last layers. Two encoders (SDXL): the
    /// states before the last layer side by side, without norm, and the pooled text of the second.
    ///
    /// # Errors
    /// What the encoders refuse; a `clip_skip` of more layers than there are.
    pub fn encode_ids(
        &self,
        ids: &PromptIds,
        clip_skip: usize,
    ) -> Result<Conditioning, DiffusionError> {
        let mut hidden = Vec::new();
        let mut pooled = None;
        let lists = ids.ids.iter().zip(&ids.tokens);
        for (encoder, (list, tokens)) in self.text_encoders.iter().zip(lists) {
            let output = encoder.forward(list, [ids.rows, *tokens])?;
            hidden.push(if self.is_xl() {
                output.penultimate(clip_skip)?
            } else {
                encoder.skip(&output, clip_skip)?
            });
            pooled = output.text_embeds;
        }
        Ok(Conditioning {
            hidden: Tensor::cat(hidden, 2),
            pooled: pooled.filter(|_| self.is_xl()),
        })
    }

    /// [`Self::tokenize`] and [`Self::encode_ids`] in one.
    ///
    /// # Errors
    /// As theirs.
    pub fn encode_prompts(
        &self,
        prompts: &[String],
        clip_skip: usize,
    ) -> Result<Conditioning, DiffusionError> {
        self.encode_ids(&self.tokenize(prompts)?, clip_skip)
    }
}
