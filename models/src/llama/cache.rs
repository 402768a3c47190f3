//! Generation: keys and values of what was read are kept, so that each new token costs one row.

use burn::tensor::{Bool, Tensor, TensorData};

use super::{Block, Llama};
use crate::ops::{rotate_half, table_tensor};
use crate::{ModelError, attend};

/// Keys and values of every block for `B` rows of up to `capacity` tokens. Rows are aligned at their ends: shorter ones are
/// padded on the left.
#[derive(Clone, Debug)]
pub struct KeyValueCache {
    /// Per block keys and values, `[B, K, capacity, D]`.
    blocks: Vec<[Tensor<4>; 2]>,
    /// Left padding of each row.
    padding: Vec<usize>,
    length: usize,
    capacity: usize,
}

impl KeyValueCache {
    /// Tokens held so far, padding included.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// What one call adds: angles of the new tokens and what each may not attend.
struct Step {
    cos: Tensor<4>,
    sin: Tensor<4>,
    hidden: Tensor<4, Bool>,
    batch: usize,
    tokens: usize,
    first: usize,
}

impl Llama {
    /// An empty cache for rows with this left padding.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] when `capacity` exceeds what the model can place.
    pub fn cache(&self, padding: &[usize], capacity: usize) -> Result<KeyValueCache, ModelError> {
        self.config
            .check_length(capacity - padding.iter().min().copied().unwrap_or(0))?;
        let shape = [
            padding.len(),
            self.config.num_key_value_heads,
            capacity,
            self.config.head_dim,
        ];
        let device = self.device();
        let block = || [0; 2].map(|_| Tensor::<4>::zeros(shape, (&device, self.compute)));
        Ok(KeyValueCache {
            blocks: (0..self.layers.len()).map(|_| block()).collect(),
            padding: padding.to_vec(),
            length: 0,
            capacity,
        })
    }

    /// Reads `ids: [B, T]` behind what the cache holds; returns the logits `[B, V]` (f32) after the last token of each row.
    ///
    /// # Errors
    /// Ids outside the vocabulary, or more tokens than the cache was made for.
    pub fn read(&self, ids: &[u32], cache: &mut KeyValueCache) -> Result<Tensor<2>, ModelError> {
        let batch = cache.padding.len();
        let tokens = ids.len() / batch.max(1);
        let total = cache.length + tokens;
        if total > cache.capacity {
            return Err(ModelError::TooLong {
                tokens: total,
                limit: cache.capacity,
                what: "cache",
            });
        }
        let mut h = self.embed(ids, [batch, tokens])?;
        let step = self.step(cache, tokens);
        for (block, stored) in self.layers.iter().zip(&mut cache.blocks) {
            h = block.read(h, stored, &step);
        }
        cache.length = total;
        let width = self.config.hidden_size;
        let last = h
            .reshape([batch, tokens, width])
            .narrow(1, tokens - 1, 1)
            .reshape([batch, width]);
        Ok(self.project(self.final_norm(last)))
    }

    fn step(&self, cache: &KeyValueCache, tokens: usize) -> Step {
        let (first, total, batch) = (cache.length, cache.length + tokens, cache.padding.len());
        let device = self.device();
        let place = |padding: usize, t: usize| (first + t).saturating_sub(padding) as u32;
        let positions: Vec<u32> = cache
            .padding
            .iter()
            .flat_map(|&p| (0..tokens).map(move |t| place(p, t)))
            .collect();
        let (cos, sin) = self.config.rope().table(&positions);
        let mut hidden = Vec::with_capacity(batch * tokens * total);
        for &padding in &cache.padding {
            for own in first..total {
                // A padding token attends itself, so that no row of scores is empty.
                hidden.extend((0..total).map(|key| key > own || (key < padding && key != own)));
            }
        }
        Step {
            cos: table_tensor(&cos, [batch, tokens], &device),
            sin: table_tensor(&sin, [batch, tokens], &device),
            hidden: Tensor::from_data(TensorData::new(hidden, [batch, 1, tokens, total]), &device),
            batch,
            tokens,
            first,
        }
    }
}

impl Block {
    fn read(&self, x: Tensor<2>, stored: &mut [Tensor<4>; 2], step: &Step) -> Tensor<2> {
        let h = self.normal(&self.input_layernorm, x.clone());
        let heads = self.heads;
        let split = |y: Tensor<2>, count: usize| {
            y.reshape([step.batch, step.tokens, count, heads.width])
                .swap_dims(1, 2)
        };
        let q = rotate_half(
            split(self.q_proj.forward(h.clone()), heads.query),
            &step.cos,
            &step.sin,
        );
        let k = rotate_half(
            split(self.k_proj.forward(h.clone()), heads.key_value),
            &step.cos,
            &step.sin,
        );
        let v = split(self.v_proj.forward(h), heads.key_value);
        let [keys, values] = &mut *stored;
        store(keys, k, step);
        store(values, v, step);
        let total = step.first + step.tokens;
        let [k, v] = [&*keys, &*values].map(|tensor| tensor.clone().narrow(2, 0, total));
        let context = attend(q, k, v, step.hidden.clone());
        let context = context
            .swap_dims(1, 2)
            .reshape([step.batch * step.tokens, heads.query * heads.width]);
        self.feed_forward(x + self.o_proj.forward(context))
    }
}

/// Writes new keys or values behind the stored ones, in place where the device allows.
fn store(stored: &mut Tensor<4>, new: Tensor<4>, step: &Step) {
    let [batch, heads, _, width] = stored.dims();
    let empty = Tensor::empty([0, 0, 0, 0], &new.device());
    let owned = std::mem::replace(stored, empty);
    *stored = owned.slice_assign(
        [
            0..batch,
            0..heads,
            step.first..step.first + step.tokens,
            0..width,
        ],
        new,
    );
}
