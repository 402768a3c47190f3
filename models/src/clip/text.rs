//! The text encoder. Shapes: B texts, T tokens, C model width, P projection width.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use temper_adapters::{AdaptedLinear, Param, Parameters, RandomSource};

use super::{ClipLayout, ClipTextConfig};
use crate::encoder::EncoderLayer;
use crate::gradients::{collect, wide};
use crate::layers::{Norm, adapted_by_parts, walked_by_parts};
use crate::ops::plain;
use crate::weights::ParamSource;
use crate::{Gradients, ModelError};

/// A CLIP text encoder, with or without a projection.
///
/// # Examples
/// ```no_run
/// use burn::tensor::{Device, FloatDType};
/// use temper_models::ClipText;
///
/// let directory = std::path::Path::new("sd15/text_encoder");
/// let model = ClipText::load(directory, FloatDType::F32, &Device::flex())?;
/// let mut ids = vec![49406, 320, 1125, 539, 320, 1929];
/// ids.resize(77, 49407);
/// let output = model.forward(&ids, [1, 77])?;
/// assert_eq!(output.last_hidden_state.dims(), [1, 77, 768]);
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClipText {
    pub(super) config: ClipTextConfig,
    pub(super) layout: ClipLayout,
    token_embedding: Param,
    position_embedding: Param,
    layers: Vec<EncoderLayer>,
    final_layer_norm: Norm,
    text_projection: Option<AdaptedLinear>,
    compute: DType,
}

/// What the text encoder says about a batch of texts, in f32.
#[derive(Clone, Debug)]
pub struct ClipTextOutput {
    /// The embeddings, then the output of every layer, the last before the final norm: layers + 1 of `[B, T, C]`.
    pub hidden_states: Vec<Tensor<3>>,
    /// The output of the last layer after the final norm, `[B, T, C]`.
    pub last_hidden_state: Tensor<3>,
    /// Its state at the token that ends the text, `[B, C]`.
    pub pooler_output: Tensor<2>,
    /// The pooled state projected, `[B, P]`, if the model projects.
    pub text_embeds: Option<Tensor<2>>,
}

impl ClipTextOutput {
    /// What SDXL conditions on: the state before the last layer, and with `clip_skip` as many layers earlier, without norm.
    ///
    /// # Errors
    /// [`ModelError::ClipSkip`] when there are not that many layers.
    pub fn penultimate(&self, clip_skip: usize) -> Result<Tensor<3>, ModelError> {
        self.back(clip_skip, 1)
    }

    /// The state that is read when `unread` layers at the end never are, and `clip_skip` further ones are left out.
    fn back(&self, clip_skip: usize, unread: usize) -> Result<Tensor<3>, ModelError> {
        let layers = self.hidden_states.len().saturating_sub(1 + unread);
        let at = layers.checked_sub(clip_skip);
        at.and_then(|at| self.hidden_states.get(at))
            .cloned()
            .ok_or(ModelError::ClipSkip {
                skip: clip_skip,
                layers,
            })
    }
}

impl ClipText {
    pub(super) fn build(
        config: ClipTextConfig,
        layout: ClipLayout,
        compute: FloatDType,
        source: &ParamSource<'_>,
    ) -> Result<Self, ModelError> {
        let embedding =
            |part: &str| source.param(&format!("text_model.embeddings.{part}_embedding.weight"));
        let projection = config.projection.map(|_| source.linear("text_projection"));
        let norm = "text_model.final_layer_norm";
        Ok(Self {
            token_embedding: embedding("token")?,
            position_embedding: embedding("position")?,
            layers: config.plan().build(source)?,
            final_layer_norm: Norm::build(source, norm, config.encoder.layer_norm_eps)?,
            text_projection: projection.transpose()?,
            config,
            layout,
            compute: compute.into(),
        })
    }

    /// Fresh weights, as PyTorch initialises its layers, in the layout the newest library writes.
    ///
    /// # Errors
    /// None that a valid configuration causes.
    pub fn random(
        config: ClipTextConfig,
        compute: FloatDType,
        device: &Device,
        random: &RandomSource,
    ) -> Result<Self, ModelError> {
        let layout = if config.projection.is_some() {
            ClipLayout::Prefixed
        } else {
            ClipLayout::Bare
        };
        let source = ParamSource::random(config.tensors(), compute, device, random);
        Self::build(config, layout, compute, &source)
    }

    /// Its sizes.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// How its parameters are called on disk.
    pub fn layout(&self) -> ClipLayout {
        self.layout
    }

    /// The device of its weights.
    pub fn device(&self) -> Device {
        self.token_embedding.plain().device()
    }

    /// Encodes `ids` (row-major `[B, T]`, with the tokens that begin, end and pad them).
    ///
    /// A token attends itself and what stands before it; padding is not masked. The pooled state is the one at the first token
    /// equal to `eos_token_id`, at the first of all when there is none; with `eos_token_id` 2, at the first occurrence of
    /// the largest id.
    ///
    /// # Errors
    /// Ids outside the vocabulary, or more tokens than there are positions.
    ///
    /// # Panics
    /// When the number of ids is not B·T, or T is 0.
    pub fn forward(
        &self,
        ids: &[u32],
        [batch, tokens]: [usize; 2],
    ) -> Result<ClipTextOutput, ModelError> {
        assert!(ids.len() == batch * tokens && tokens > 0, "one id a token");
        let width = self.config.encoder.hidden_size;
        let mut states = vec![self.embed(ids, [batch, tokens])?];
        for layer in &self.layers {
            states.push(layer.forward(states[states.len() - 1].clone(), true));
        }
        let last = self
            .final_layer_norm
            .layer(states[states.len() - 1].clone());
        let ends = ids.chunks(tokens).enumerate().map(|(row, ids)| {
            let end = end_of_text(ids, self.config.eos_token_id);
            (row * tokens + end) as i32
        });
        let ends = self.indices(ends.collect());
        let pooled = last
            .clone()
            .reshape([batch * tokens, width])
            .select(0, ends);
        let text_embeds = self
            .text_projection
            .as_ref()
            .map(|projection| wide(projection.forward(pooled.clone())));
        Ok(ClipTextOutput {
            hidden_states: states.into_iter().map(wide).collect(),
            last_hidden_state: wide(last),
            pooler_output: wide(pooled),
            text_embeds,
        })
    }

    /// The state that conditions Stable Diffusion, `[B, T, C]`: `clip_skip` layers before the last, then the final norm.
    ///
    /// 0 is `last_hidden_state`. This is diffusers' count; the one called "clip skip" elsewhere is larger by one.
    ///
    /// # Errors
    /// [`ModelError::ClipSkip`] when there are not that many layers.
    pub fn skip(&self, output: &ClipTextOutput, clip_skip: usize) -> Result<Tensor<3>, ModelError> {
        if clip_skip == 0 {
            return Ok(output.last_hidden_state.clone());
        }
        Ok(self.final_layer_norm.layer(output.back(clip_skip, 0)?))
    }

    /// `loss` of the outputs for `ids`, and the gradient of every trained parameter, added to `sums`.
    ///
    /// `loss` makes a tensor of one value from the outputs, which are part of the graph here. To continue a gradient `d`
    /// that is known at one output (plain, of its shape) let it return `(output · d).sum()`.
    ///
    /// # Errors
    /// As [`Self::forward`], or whatever `loss` returns.
    pub fn accumulate(
        &self,
        ids: &[u32],
        shape: [usize; 2],
        loss: &dyn Fn(&ClipTextOutput) -> Result<Tensor<1>, ModelError>,
        sums: &mut Gradients,
    ) -> Result<Tensor<1>, ModelError> {
        let loss = loss(&self.forward(ids, shape)?)?;
        let value = plain(&loss);
        if loss.is_autodiff() {
            let mut gradients = loss.backward();
            self.visit(&mut |param| collect(param, &mut gradients, sums));
        }
        Ok(value)
    }

    fn embed(&self, ids: &[u32], [batch, tokens]: [usize; 2]) -> Result<Tensor<3>, ModelError> {
        let (vocabulary, limit) = (self.config.vocab_size, self.config.max_position_embeddings);
        if tokens > limit {
            let what = "max_position_embeddings";
            return Err(ModelError::TooLong {
                tokens,
                limit,
                what,
            });
        }
        if let Some(at) = ids.iter().position(|&id| id as usize >= vocabulary) {
            return Err(ModelError::TokenId {
                id: ids[at],
                row: at / tokens,
                column: at % tokens,
                vocabulary,
            });
        }
        let width = self.config.encoder.hidden_size;
        let ids = self.indices(ids.iter().map(|&id| id as i32).collect());
        let rows = self
            .token_embedding
            .get_as::<2>(self.compute)
            .select(0, ids);
        let positions = self.position_embedding.get_as::<2>(self.compute);
        let positions = positions.narrow(0, 0, tokens).reshape([1, tokens, width]);
        Ok(rows.reshape([batch, tokens, width]) + positions)
    }

    fn indices(&self, values: Vec<i32>) -> Tensor<1, Int> {
        let n = values.len();
        Tensor::from_data(TensorData::new(values, [n]), &self.device())
    }
}

/// Where the text `ids` ends, as the reference counts.
fn end_of_text(ids: &[u32], eos_token_id: u32) -> usize {
    let sought = if eos_token_id == 2 {
        ids.iter().max().copied().unwrap_or_default()
    } else {
        eos_token_id
    };
    ids.iter().position(|&id| id == sought).unwrap_or(0)
}

walked_by_parts!(ClipText {
    token_embedding,
    position_embedding,
    layers,
    final_layer_norm,
    text_projection
});
adapted_by_parts!(ClipText);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_at_its_first_end_token_or_at_its_largest_id() {
        assert_eq!(end_of_text(&[5, 7, 9, 7, 7], 7), 1);
        assert_eq!(end_of_text(&[5, 7, 9, 9, 1], 2), 2);
        assert_eq!(
            end_of_text(&[5, 6, 8], 7),
            0,
            "a text without end is pooled at its beginning"
        );
    }
}
