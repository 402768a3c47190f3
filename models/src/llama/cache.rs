//! Generation: keys and values of what was read are kept, so that each new token costs one row.

use burn::tensor::{DType, Tensor, s};
use temper_adapters::ops::{HostView, Updated};

use super::{Block, Llama, LlamaConfig};
use crate::ModelError;
use crate::ops::{CachedStep, Span, cached_attention};

/// Keys and values of every block for a fixed number of slots, each one sequence of up to `capacity` tokens.
///
/// # Examples
/// ```no_run
/// use burn::tensor::{Device, FloatDType};
/// use temper_models::{Llama, Segment};
///
/// let model = Llama::load("assets/stories260k".as_ref(), FloatDType::F32, &Device::flex())?;
/// let mut cache = model.cache(2, 64)?;
/// // Two sequences, of three tokens and of one: the logits after each.
/// let new = [Segment { slot: 0, ids: &[1, 403, 407] }, Segment { slot: 1, ids: &[1] }];
/// assert_eq!(model.read(&new, &mut cache)?.dims(), [2, 512]);
/// assert_eq!(cache.len(0), 3);
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeyValueCache {
    /// Per block keys and values, `[slots · capacity · K·D]` flat.
    blocks: Vec<[Tensor<1>; 2]>,
    /// Tokens in each slot.
    lengths: Vec<usize>,
    capacity: usize,
    /// K·D.
    width: usize,
}

/// Tokens that follow what a slot holds.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The slot.
    pub slot: usize,
    /// At least one token; a slot comes once a call.
    pub ids: &'a [u32],
}

impl KeyValueCache {
    /// Bytes that a model of this shape keeps for one token.
    pub fn bytes_per_token(config: &LlamaConfig, dtype: DType) -> u64 {
        let values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
        (values * dtype.size()) as u64
    }

    /// Sequences it holds at once.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens a slot holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens in `slot`.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Whether `slot` holds nothing.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.lengths[slot] == 0
    }

    /// Keeps the first `tokens` of `slot` and forgets the rest.
    pub fn truncate(&mut self, slot: usize, tokens: usize) {
        self.lengths[slot] = self.lengths[slot].min(tokens);
    }

    /// Makes the first `tokens` of slot `from` the whole of slot `to`: a beginning that two sequences share is read once.
    ///
    /// # Panics
    /// When `from` holds fewer.
    pub fn share(&mut self, from: usize, to: usize, tokens: usize) {
        assert!(tokens <= self.lengths[from], "a slot shares what it holds");
        if from != to {
            let place = |slot: usize| slot * self.capacity * self.width;
            let (source, target, count) = (place(from), place(to), tokens * self.width);
            for tensor in self.blocks.iter_mut().flatten() {
                copy(tensor, [source, target, count]);
            }
        }
        self.lengths[to] = tokens;
    }
}

/// Copies `count` values from `source` to `target`, in place where the device allows.
fn copy(tensor: &mut Tensor<1>, [source, target, count]: [usize; 3]) {
    let empty = Tensor::empty([0], &tensor.device());
    let all = std::mem::replace(tensor, empty);
    let moved = |values: &mut [f32]| values.copy_within(source..source + count, target);
    *tensor = match HostView::update(all, moved) {
        Updated::Changed(all) => all,
        Updated::Elsewhere(all) => {
            let copied = all.clone().narrow(0, source, count);
            all.slice_assign(s![target..target + count], copied)
        }
    };
}

impl Llama {
    /// An empty cache of `slots` sequences of up to `capacity` tokens.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] when `capacity` exceeds what the model can place.
    pub fn cache(&self, slots: usize, capacity: usize) -> Result<KeyValueCache, ModelError> {
        self.config.check_length(capacity)?;
        let width = self.config.num_key_value_heads * self.config.head_dim;
        let device = self.device();
        let block = || {
            [0; 2].map(|_| Tensor::<1>::zeros([slots * capacity * width], (&device, self.compute)))
        };
        Ok(KeyValueCache {
            blocks: (0..self.layers.len()).map(|_| block()).collect(),
            lengths: vec![0; slots],
            capacity,
            width,
        })
    }

    /// Bytes that a cache of this model keeps for one token.
    pub fn cache_bytes_per_token(&self) -> u64 {
        KeyValueCache::bytes_per_token(&self.config, self.compute)
    }

    /// Reads new tokens of some slots; returns the logits `[segments, V]` (f32) after the last token of each.
    ///
    /// On `cpu` in f32 the logits of a segment depend on its sequence alone, to the bit: not on what else is read, nor on how a
    /// sequence was cut into calls.
    ///
    /// # Errors
    /// Ids outside the vocabulary, or more tokens than a slot holds.
    ///
    /// # Panics
    /// When a segment is empty, or a slot comes twice or does not exist.
    pub fn read(
        &self,
        segments: &[Segment<'_>],
        cache: &mut KeyValueCache,
    ) -> Result<Tensor<2>, ModelError> {
        let spans = spans(segments, cache)?;
        let ids: Vec<u32> = segments
            .iter()
            .flat_map(|segment| segment.ids)
            .copied()
            .collect();
        let mut h = self.embed(&ids, [1, ids.len()])?;
        let device = self.device();
        let host = HostView::view(&h).is_some();
        let step = CachedStep::new(spans, cache.capacity, &self.config.rope(), &device, host);
        for (block, stored) in self.layers.iter().zip(&mut cache.blocks) {
            h = block.read(h, stored, &step);
        }
        for segment in segments {
            cache.lengths[segment.slot] += segment.ids.len();
        }
        let last = h.select(0, step.last_tokens(&device));
        Ok(self.project(self.final_norm(last)))
    }
}

fn spans(segments: &[Segment<'_>], cache: &KeyValueCache) -> Result<Vec<Span>, ModelError> {
    let mut first = 0;
    let mut used = vec![false; cache.slots()];
    let span = |segment: &Segment<'_>| {
        let (slot, count) = (segment.slot, segment.ids.len());
        assert!(
            count > 0 && !std::mem::replace(&mut used[slot], true),
            "one segment a slot, with tokens"
        );
        let past = cache.lengths[slot];
        if past + count > cache.capacity {
            return Err(ModelError::TooLong {
                tokens: past + count,
                limit: cache.capacity,
                what: "cache",
            });
        }
        let span = Span {
            slot,
            past,
            first,
            count,
        };
        first += count;
        Ok(span)
    };
    segments.iter().map(span).collect()
}

impl Block {
    fn read(&self, x: Tensor<2>, stored: &mut [Tensor<1>; 2], step: &CachedStep) -> Tensor<2> {
        let h = self.normal(&self.input_layernorm, x.clone());
        let (q, k) = (
            self.q_proj.forward(h.clone()),
            self.k_proj.forward(h.clone()),
        );
        let context = cached_attention([q, k, self.v_proj.forward(h)], stored, self.heads, step);
        self.feed_forward(x + self.o_proj.forward(context))
    }
}
