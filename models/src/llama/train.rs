//! Loss and gradients of one micro-batch.

use burn::tensor::{Device, Tensor};
use temper_adapters::Parameters;

use super::Llama;
use crate::gradients::{backward_from, collect};
use crate::layers;
use crate::ops::plain;
use crate::{Gradients, IGNORE, Layout, ModelError, cross_entropy_sum};

/// A micro-batch of token ids `[B, T]`, row-major.
///
/// # Examples
/// ```
/// let batch = temper_models::TokenBatch::unpadded([1, 3], vec![1, 7, 2]);
/// assert_eq!(batch.targets(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// `[B, T]`.
    pub shape: [usize; 2],
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// The token expected AT each position, −100 where none is (not shifted, as in Hugging Face).
    pub labels: Vec<i32>,
    /// Column of the first token each token may attend.
    pub starts: Vec<u32>,
    /// Rotary positions.
    pub positions: Vec<u32>,
}

impl TokenBatch {
    /// Full rows whose every token is a target.
    pub fn unpadded(shape: [usize; 2], input_ids: Vec<u32>) -> Self {
        let labels = input_ids.iter().map(|&id| id as i32).collect();
        let positions = (0..shape[0]).flat_map(|_| 0..shape[1] as u32).collect();
        Self {
            shape,
            labels,
            starts: vec![0; input_ids.len()],
            positions,
            input_ids,
        }
    }

    /// For each position the token it must predict: the label of the next column.
    pub fn shifted_labels(&self) -> Vec<i32> {
        let tokens = self.shape[1];
        let next = |i: usize| {
            if i % tokens + 1 < tokens {
                self.labels[i + 1]
            } else {
                IGNORE
            }
        };
        (0..self.labels.len()).map(next).collect()
    }

    /// Number of positions with a target.
    pub fn targets(&self) -> usize {
        self.shifted_labels()
            .iter()
            .filter(|&&label| label != IGNORE)
            .count()
    }
}

impl Llama {
    /// The layout of a micro-batch.
    ///
    /// # Errors
    /// [`ModelError::TooLong`].
    pub fn layout(&self, batch: &TokenBatch) -> Result<Layout, ModelError> {
        self.config.check_length(batch.shape[1])?;
        Ok(Layout::new(
            batch.shape,
            &batch.positions,
            &batch.starts,
            &self.config.rope(),
        ))
    }

    /// `scale · Σ −log p(target)` over the micro-batch, a tensor of one value.
    ///
    /// # Errors
    /// Ids outside the vocabulary, or more tokens than the model can place.
    pub fn loss(&self, batch: &TokenBatch, scale: f64) -> Result<Tensor<1>, ModelError> {
        let layout = self.layout(batch)?;
        let mut h = self.embed(&batch.input_ids, batch.shape)?;
        for block in &self.layers {
            h = block.forward(h, &layout);
        }
        Ok(self.head_loss(h, batch, scale))
    }

    fn head_loss(&self, h: Tensor<2>, batch: &TokenBatch, scale: f64) -> Tensor<1> {
        cross_entropy_sum(
            self.final_norm(h),
            &self.head_weight(),
            &batch.shifted_labels(),
            scale,
        )
    }

    /// Loss as [`Self::loss`], and the gradient of every trained parameter, added to `sums`.
    ///
    /// With `recompute` only the input of each block is kept and its inside is computed again in the backward pass: the memory of
    /// one block instead of all, for one more forward pass. The gradients are the same.
    ///
    /// # Errors
    /// As [`Self::loss`].
    pub fn accumulate(
        &self,
        batch: &TokenBatch,
        scale: f64,
        recompute: bool,
        sums: &mut Gradients,
    ) -> Result<Tensor<1>, ModelError> {
        if recompute {
            return self.accumulate_by_segments(batch, scale, sums);
        }
        let loss = self.loss(batch, scale)?;
        let value = plain(&loss);
        if loss.is_autodiff() {
            let mut gradients = loss.backward();
            self.visit(&mut |param| collect(param, &mut gradients, sums));
        }
        Ok(value)
    }

    fn accumulate_by_segments(
        &self,
        batch: &TokenBatch,
        scale: f64,
        sums: &mut Gradients,
    ) -> Result<Tensor<1>, ModelError> {
        let layout = self.layout(batch)?;
        let still = self.frozen();
        let mut inputs = vec![still.embed(&batch.input_ids, batch.shape)?];
        for block in &still.layers {
            inputs.push(block.forward(inputs[inputs.len() - 1].clone(), &layout));
        }
        let mut upstream = None;
        let mut value = None;
        if let Some(last) = inputs.pop() {
            let leaf = Tensor::from_inner(last).require_grad();
            let loss = self.head_loss(leaf.clone(), batch, scale);
            value = Some(plain(&loss));
            let mut gradients = loss.backward();
            upstream = leaf.grad_remove(&mut gradients);
            collect(&self.norm, &mut gradients, sums);
            match &self.lm_head {
                None => collect(&self.embed_tokens, &mut gradients, sums),
                Some(head) => head.visit(&mut |param| collect(param, &mut gradients, sums)),
            }
        }
        let lowest = self.lowest_trained_block();
        for (index, block) in self.layers.iter().enumerate().rev() {
            let (Some(input), Some(g)) = (inputs.pop(), upstream.take()) else {
                break;
            };
            if lowest.is_none_or(|lowest| index < lowest) {
                break;
            }
            let leaf = Tensor::from_inner(input).require_grad();
            let mut gradients = backward_from(block.forward(leaf.clone(), &layout), g);
            upstream = leaf.grad_remove(&mut gradients);
            layers::visit(block, &mut |param| collect(param, &mut gradients, sums));
        }
        if let (true, Some(g)) = (self.embed_tokens.is_trainable(), upstream) {
            let mut gradients = backward_from(self.embed(&batch.input_ids, batch.shape)?, g);
            collect(&self.embed_tokens, &mut gradients, sums);
        }
        let Some(value) = value else {
            unreachable!("the embedding is always an input")
        };
        Ok(value)
    }

    /// The first block that needs a backward pass; `None` when none does.
    fn lowest_trained_block(&self) -> Option<usize> {
        if self.embed_tokens.is_trainable() {
            return Some(0);
        }
        self.layers
            .iter()
            .position(|block| layers::is_trained(block))
    }

    /// A device tensor of zeros, for callers that sum losses.
    pub fn zero(&self) -> Tensor<1> {
        let device: Device = self.device();
        Tensor::zeros([1], &device)
    }
}
