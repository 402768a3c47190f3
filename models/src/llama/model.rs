//! The decoder. Shapes: B rows, T tokens, N = B·T, C model width, F feed-forward width, V vocabulary.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use temper_adapters::{AdaptedLinear, Param, RandomSource};

use super::LlamaConfig;
use crate::layers::{adapted_by_parts, walked_by_parts};
use crate::{Heads, Layout, ModelError, attention, rms_norm, swiglu};

/// One decoder block: attention and feed-forward, each on a normalised copy of the residual stream.
#[derive(Clone, Debug)]
pub struct Block {
    pub(super) input_layernorm: Param,
    pub(super) q_proj: AdaptedLinear,
    pub(super) k_proj: AdaptedLinear,
    pub(super) v_proj: AdaptedLinear,
    pub(super) o_proj: AdaptedLinear,
    pub(super) post_attention_layernorm: Param,
    pub(super) gate_proj: AdaptedLinear,
    pub(super) up_proj: AdaptedLinear,
    pub(super) down_proj: AdaptedLinear,
    pub(super) heads: Heads,
    pub(super) eps: f64,
}

impl Block {
    fn build<E>(
        config: &LlamaConfig,
        layer: usize,
        take: &mut impl FnMut(String) -> Result<Param, E>,
    ) -> Result<Self, E> {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        let mut linear = |name: &str| {
            Ok(AdaptedLinear::new(
                at(name),
                take(format!("{}.weight", at(name)))?,
                None,
            ))
        };
        let [q_proj, k_proj] = [linear("self_attn.q_proj")?, linear("self_attn.k_proj")?];
        let [v_proj, o_proj] = [linear("self_attn.v_proj")?, linear("self_attn.o_proj")?];
        let [gate_proj, up_proj, down_proj] = [
            linear("mlp.gate_proj")?,
            linear("mlp.up_proj")?,
            linear("mlp.down_proj")?,
        ];
        Ok(Self {
            input_layernorm: take(at("input_layernorm.weight"))?,
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            post_attention_layernorm: take(at("post_attention_layernorm.weight"))?,
            gate_proj,
            up_proj,
            down_proj,
            heads: Heads {
                query: config.num_attention_heads,
                key_value: config.num_key_value_heads,
                width: config.head_dim,
            },
            eps: config.rms_norm_eps,
        })
    }

    /// `x: [N, C]` to `[N, C]`.
    pub fn forward(&self, x: Tensor<2>, layout: &Layout) -> Tensor<2> {
        let h = self.normal(&self.input_layernorm, x.clone());
        let (q, k) = (
            self.q_proj.forward(h.clone()),
            self.k_proj.forward(h.clone()),
        );
        let context = attention(q, k, self.v_proj.forward(h), self.heads, layout);
        self.feed_forward(x + self.o_proj.forward(context))
    }

    pub(super) fn normal(&self, weight: &Param, x: Tensor<2>) -> Tensor<2> {
        rms_norm(x, &weight.get(), self.eps)
    }

    pub(super) fn feed_forward(&self, x: Tensor<2>) -> Tensor<2> {
        let h = self.normal(&self.post_attention_layernorm, x.clone());
        let gated = swiglu(self.gate_proj.forward(h.clone()), self.up_proj.forward(h));
        x + self.down_proj.forward(gated)
    }
}

walked_by_parts!(Block {
    input_layernorm,
    post_attention_layernorm,
    q_proj,
    k_proj,
    v_proj,
    o_proj,
    gate_proj,
    up_proj,
    down_proj
});

/// A causal language model of the LLaMA family.
///
/// # Examples
/// ```no_run
/// use burn::tensor::{Device, FloatDType};
/// use temper_models::Llama;
///
/// let directory = std::path::Path::new("assets/stories260k");
/// let model = Llama::load(directory, FloatDType::F32, &Device::flex())?;
/// let logits = model.logits(&[1, 403], [1, 2])?;
/// assert_eq!(logits.dims(), [2, 512]);
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Llama {
    pub(super) config: LlamaConfig,
    pub(super) embed_tokens: Param,
    pub(super) layers: Vec<Block>,
    pub(super) norm: Param,
    /// `None` when the head is the embedding.
    pub(super) lm_head: Option<AdaptedLinear>,
    pub(super) compute: DType,
}

impl Llama {
    /// Builds the tree, asking `parameter` for each tensor by name and shape.
    pub(super) fn build<E>(
        config: LlamaConfig,
        compute: FloatDType,
        mut parameter: impl FnMut(&str, &[usize]) -> Result<Param, E>,
    ) -> Result<Self, E> {
        let shapes: std::collections::HashMap<_, _> = config.tensors().into_iter().collect();
        let mut take = |name: String| parameter(&name, &shapes[&name]);
        let embed_tokens = take("model.embed_tokens.weight".to_owned())?;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Block::build(&config, layer, &mut take))
            .collect::<Result<Vec<_>, E>>()?;
        let norm = take("model.norm.weight".to_owned())?;
        let lm_head = if config.tie_word_embeddings {
            None
        } else {
            Some(AdaptedLinear::new(
                "lm_head",
                take("lm_head.weight".to_owned())?,
                None,
            ))
        };
        Ok(Self {
            config,
            embed_tokens,
            layers,
            norm,
            lm_head,
            compute: compute.into(),
        })
    }

    /// Random weights: matrices N(0, `initializer_range`²), norms 1.
    pub fn random(
        config: LlamaConfig,
        compute: FloatDType,
        device: &Device,
        random: &RandomSource,
    ) -> Self {
        let deviation = config.initializer_range as f32;
        let built = Self::build(config, compute, |name, shape| {
            let n = shape.iter().product();
            let values = if shape.len() == 1 {
                vec![1.0; n]
            } else {
                random.normal(name, n, deviation)
            };
            let value = Tensor::<1>::from_data(TensorData::new(values, [n]), device);
            let value = if shape.len() == 1 {
                value
            } else {
                value.cast(compute)
            };
            Ok::<_, std::convert::Infallible>(Param::new(name, shape, value))
        });
        match built {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }

    /// Its sizes.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The decoder blocks.
    pub fn layers(&self) -> &[Block] {
        &self.layers
    }

    /// The device of its weights.
    pub fn device(&self) -> Device {
        self.norm.plain().device()
    }

    /// The embeddings of `ids`, `[N, C]` in the compute dtype.
    ///
    /// # Errors
    /// [`ModelError::TokenId`] for an id outside the vocabulary.
    pub fn embed(&self, ids: &[u32], [_, tokens]: [usize; 2]) -> Result<Tensor<2>, ModelError> {
        let vocabulary = self.config.vocab_size;
        if let Some(at) = ids.iter().position(|&id| id as usize >= vocabulary) {
            let (row, column) = (at / tokens.max(1), at % tokens.max(1));
            return Err(ModelError::TokenId {
                id: ids[at],
                row,
                column,
                vocabulary,
            });
        }
        let indices: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let indices =
            Tensor::<1, Int>::from_data(TensorData::new(indices, [ids.len()]), &self.device());
        let rows = self.embed_tokens.get::<2>().select(0, indices);
        Ok(if rows.dtype() == self.compute {
            rows
        } else {
            rows.cast(self.compute)
        })
    }

    /// The final norm, on `[N, C]`.
    pub fn final_norm(&self, h: Tensor<2>) -> Tensor<2> {
        rms_norm(h, &self.norm.get(), self.config.rms_norm_eps)
    }

    /// The output head `[V, C]` in the compute dtype, with its adapter folded in.
    pub fn head_weight(&self) -> Tensor<2> {
        match &self.lm_head {
            None => self.embed_tokens.get_as(self.compute),
            Some(head) => {
                let weight = head.effective_weight();
                if weight.dtype() == self.compute {
                    weight
                } else {
                    weight.cast(self.compute)
                }
            }
        }
    }

    /// Hidden states: the embeddings, the output of every block but the last, and the last after the final norm.
    ///
    /// # Errors
    /// Ids outside the vocabulary, or more tokens than the model can place.
    pub fn hidden_states(
        &self,
        ids: &[u32],
        layout: &Layout,
    ) -> Result<Vec<Tensor<2>>, ModelError> {
        self.config.check_length(layout.tokens())?;
        let mut states = vec![self.embed(ids, [layout.batch(), layout.tokens()])?];
        for block in &self.layers {
            states.push(block.forward(states[states.len() - 1].clone(), layout));
        }
        if let Some(last) = states.pop() {
            states.push(self.final_norm(last));
        }
        Ok(states)
    }

    /// Logits `[N, V]` in f32 of hidden states after the final norm.
    pub fn project(&self, hidden: Tensor<2>) -> Tensor<2> {
        let logits = temper_adapters::ops::linear(hidden, &self.head_weight());
        if logits.dtype() == DType::F32 {
            logits
        } else {
            logits.cast(FloatDType::F32)
        }
    }

    /// Logits `[N, V]` in f32 of unpadded rows `[B, T]`.
    ///
    /// # Errors
    /// As [`Self::hidden_states`].
    pub fn logits(
        &self,
        ids: &[u32],
        [batch, tokens]: [usize; 2],
    ) -> Result<Tensor<2>, ModelError> {
        let positions: Vec<u32> = (0..batch).flat_map(|_| 0..tokens as u32).collect();
        let layout = Layout::new(
            [batch, tokens],
            &positions,
            &vec![0; batch * tokens],
            &self.config.rope(),
        );
        let mut states = self.hidden_states(ids, &layout)?;
        let Some(last) = states.pop() else {
            unreachable!("there is always a last state")
        };
        Ok(self.project(last))
    }
}

walked_by_parts!(Llama {
    embed_tokens,
    layers,
    norm,
    lm_head
});
adapted_by_parts!(Llama);
