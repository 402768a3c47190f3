//! Continuous batching: sequences join and leave between steps, over a cache of fixed size.

use std::collections::VecDeque;
use std::sync::Arc;

use burn::tensor::Tensor;
use rayon::prelude::*;
use temper_adapters::Parameters;
use temper_datasets::Tokenizer;
use temper_models::{KeyValueCache, Llama, LlamaConfig, Segment};

use super::sequence::{Sequence, Step};
use super::{Event, Finish, GenerateError, Limits, Order, Prompt, Request, RequestId, Statistics};

/// Prompt tokens read in one step, of all sequences together: bounds memory, and how long running sequences wait.
const CHUNK: usize = 512;
/// A beginning this long is worth copying, or waiting for while another sequence reads it.
const WORTH_SHARING: usize = 16;
/// How many waiting sequences are looked at when a slot is free.
const LOOK_AHEAD: usize = 256;

/// Completes requests, many at a time. Call [`Self::step`] until it [is idle](Self::is_idle).
///
/// Every running sequence has a slot of the cache. A step reads one token of each sequence that is growing and a piece of the
/// prompts that are not read yet; a sequence that ends frees its slot for the next. Prompts that begin alike are read once: a new
/// sequence takes over the keys of the longest beginning that a slot holds, and waits for one that is being read. On `cpu` in
/// f32 a completion does not depend on what else runs, to the bit.
///
/// # Examples
/// ```no_run
/// use std::sync::Arc;
/// use burn::tensor::{Device, FloatDType};
/// use temper_datasets::Tokenizer;
/// use temper_engine::generate::{Engine, Event, Limits, Prompt, Request, Sampling};
/// use temper_models::Llama;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = std::path::Path::new("assets/stories260k");
/// let model = Llama::load(directory, FloatDType::F32, &Device::flex())?;
/// let tokenizer = Arc::new(Tokenizer::load(directory)?);
/// let ids = tokenizer.encode("Once upon a time", true)?;
/// let mut engine = Engine::new(&model, Some(tokenizer), Limits::default())?;
/// let request = Request { prompt: Prompt { row: 0, ids }, sampling: Sampling::default() };
/// engine.submit(request)?;
/// while !engine.is_idle() {
///     for event in engine.step()? {
///         if let Event::Token { text, .. } = event {
///             print!("{text}");
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Engine {
    model: Llama,
    tokenizer: Option<Arc<Tokenizer>>,
    /// Tokens that end every sequence.
    ends: Vec<u32>,
    cache: KeyValueCache,
    slots: Vec<Slot>,
    waiting: VecDeque<Sequence>,
    order: Order,
    /// Events that no step brought: requests for nothing.
    ready: Vec<Event>,
    next: RequestId,
    statistics: Statistics,
}

/// One sequence's place in the cache.
#[derive(Debug, Default)]
struct Slot {
    /// The tokens whose keys the cache holds, also after the sequence has ended.
    held: Vec<u32>,
    running: Option<Sequence>,
}

impl Engine {
    /// An engine with an empty cache. The weights are shared with `model`, not copied.
    ///
    /// # Errors
    /// [`GenerateError::CacheTooSmall`] when not even one sequence fits into `limits.cache_bytes`.
    pub fn new(
        model: &Llama,
        tokenizer: Option<Arc<Tokenizer>>,
        limits: Limits,
    ) -> Result<Self, GenerateError> {
        let model = model.frozen();
        let context = context(model.config());
        let capacity = limits
            .max_length
            .map_or(context, |limit| limit.clamp(1, context));
        let needed = capacity as u64 * model.cache_bytes_per_token();
        let mut slots = limits.max_sequences.max(1);
        if let Some(bytes) = limits.cache_bytes {
            if bytes < needed {
                return Err(GenerateError::CacheTooSmall {
                    bytes,
                    needed,
                    tokens: capacity,
                });
            }
            slots = slots.min((bytes / needed) as usize);
        }
        let mut ends = model.config().eos_token_ids.clone();
        ends.extend(tokenizer.iter().flat_map(|tokenizer| tokenizer.stop_ids()));
        Ok(Self {
            cache: model.cache(slots, capacity)?,
            model,
            tokenizer,
            ends,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            waiting: VecDeque::new(),
            order: limits.order,
            ready: Vec::new(),
            next: 0,
            statistics: Statistics::default(),
        })
    }

    /// Queues a request.
    ///
    /// # Errors
    /// Settings out of range, a prompt that is empty, too long or outside the vocabulary (naming its row).
    pub fn submit(&mut self, request: Request) -> Result<RequestId, GenerateError> {
        request.sampling.check()?;
        if self.tokenizer.is_none() && !request.sampling.stop.is_empty() {
            return Err(GenerateError::StopWithoutTokenizer);
        }
        let capacity = self.cache.capacity();
        check(&request.prompt, self.model.config(), capacity)?;
        let id = self.next;
        self.next += 1;
        let room = capacity - request.prompt.ids.len();
        let sequence = Sequence::new(id, request, self.tokenizer.as_ref(), room);
        if sequence.has_room() {
            self.waiting.push_back(sequence);
        } else {
            let completion = sequence.into_completion(Finish::Length);
            self.ready.push(Event::Done { id, completion });
        }
        Ok(id)
    }

    /// Forgets a request, waiting or running.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|sequence| sequence.id != id);
        for slot in &mut self.slots {
            slot.running.take_if(|sequence| sequence.id == id);
        }
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.waiting.is_empty() && self.running() == 0
    }

    /// Sequences in a slot.
    pub fn running(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.running.is_some())
            .count()
    }

    /// Sequences without a slot yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that can run at once.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Longest sequence in tokens, prompt and completion together.
    pub fn max_length(&self) -> usize {
        self.cache.capacity()
    }

    /// Bytes of the cache.
    pub fn cache_bytes(&self) -> u64 {
        (self.cache.slots() * self.cache.capacity()) as u64 * self.model.cache_bytes_per_token()
    }

    /// Tokens of running sequences that the cache holds.
    pub fn cached_tokens(&self) -> usize {
        let running = self.slots.iter().filter(|slot| slot.running.is_some());
        running.map(|slot| slot.held.len()).sum()
    }

    /// What was done so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// One pass through the model, for every sequence that has a slot.
    ///
    /// # Errors
    /// When the model refuses; nothing is lost then, but the same step will fail again.
    pub fn step(&mut self) -> Result<Vec<Event>, GenerateError> {
        let mut events = std::mem::take(&mut self.ready);
        self.admit();
        let plan = self.plan();
        if plan.is_empty() {
            return Ok(events);
        }
        let logits = self.read(&plan)?;
        self.statistics.steps += 1;
        let chosen = self.choose(&plan, logits);
        for ((slot, count), token) in plan.into_iter().zip(chosen) {
            self.advance(slot, count, token, &mut events);
        }
        Ok(events)
    }

    /// How many tokens of which slots are read next.
    fn plan(&self) -> Vec<(usize, usize)> {
        let running = |index: usize| self.slots[index].running.as_ref();
        let mut order: Vec<usize> = (0..self.slots.len())
            .filter(|&index| running(index).is_some())
            .collect();
        order.sort_by_key(|&index| {
            running(index).map(|sequence| (sequence.pending.len() > 1, sequence.id))
        });
        let mut left = CHUNK;
        let mut plan = Vec::with_capacity(order.len());
        for index in order {
            let pending = running(index).map_or(0, |sequence| sequence.pending.len());
            let count = if pending == 1 { 1 } else { pending.min(left) };
            if count > 0 {
                plan.push((index, count));
            }
            if pending > 1 {
                left -= count;
            }
        }
        plan
    }

    /// The logits after the planned tokens, one row a slot.
    fn read(&mut self, plan: &[(usize, usize)]) -> Result<Tensor<2>, GenerateError> {
        let segments: Vec<Segment<'_>> = plan
            .iter()
            .filter_map(|&(slot, count)| {
                let sequence = self.slots[slot].running.as_ref()?;
                Some(Segment {
                    slot,
                    ids: &sequence.pending[..count],
                })
            })
            .collect();
        Ok(self.model.read(&segments, &mut self.cache)?)
    }

    /// The next token of every slot whose prompt is read with this step; an error where the logits are none.
    fn choose(
        &self,
        plan: &[(usize, usize)],
        logits: Tensor<2>,
    ) -> Vec<Result<Option<u32>, GenerateError>> {
        let [_, vocabulary] = logits.dims();
        let Ok(values) = logits.into_data().try_to_vec::<f32>() else {
            unreachable!("logits are f32")
        };
        let choose = |(&(slot, count), logits): (&(usize, usize), &[f32])| {
            let Some(sequence) = self.slots[slot]
                .running
                .as_ref()
                .filter(|s| s.pending.len() == count)
            else {
                return Ok(None);
            };
            let (row, step) = (sequence.row, sequence.generated());
            let id = sequence.sampling.choose(logits, row, step);
            id.map(Some).ok_or(GenerateError::NotFinite { row, step })
        };
        plan.par_iter()
            .zip(values.par_chunks(vocabulary))
            .map(choose)
            .collect()
    }

    /// Notes that `count` tokens of `slot` were read, and takes the token that follows, if one was chosen.
    fn advance(
        &mut self,
        slot: usize,
        count: usize,
        token: Result<Option<u32>, GenerateError>,
        events: &mut Vec<Event>,
    ) {
        let slot = &mut self.slots[slot];
        let Some(mut sequence) = slot.running.take() else {
            return;
        };
        if sequence.generated() == 0 {
            self.statistics.prompt_tokens += count as u64;
        }
        slot.held.extend(sequence.pending.drain(..count));
        let id = sequence.id;
        let step = match token {
            Ok(None) => {
                slot.running = Some(sequence);
                return;
            }
            Ok(Some(token)) => {
                self.statistics.generated_tokens += 1;
                sequence.take(token, &self.ends)
            }
            Err(error) => Err(error),
        };
        match step {
            Err(error) => events.push(Event::Failed { id, error }),
            Ok(Step { text, finish }) => {
                if !text.is_empty() {
                    events.push(Event::Token { id, text });
                }
                match finish {
                    None => slot.running = Some(sequence),
                    Some(finish) => {
                        let completion = sequence.into_completion(finish);
                        events.push(Event::Done { id, completion });
                    }
                }
            }
        }
    }

    /// Gives free slots to waiting sequences.
    fn admit(&mut self) {
        let mut looked_at = 0;
        while looked_at < LOOK_AHEAD.min(self.waiting.len()) && self.running() < self.slots.len() {
            let Some(index) = self.candidate(looked_at) else {
                break;
            };
            if self.begins_like_one_being_read(index) {
                // Its turn comes when that beginning is there.
                self.waiting.swap(looked_at, index);
                looked_at += 1;
            } else if let Some(sequence) = self.waiting.remove(index) {
                self.start(sequence);
            }
        }
    }

    /// The next to start among the waiting sequences from `first` on.
    fn candidate(&self, first: usize) -> Option<usize> {
        match self.order {
            Order::Arrival => (first < self.waiting.len()).then_some(first),
            Order::Longest => {
                let length =
                    |&index: &usize| (self.waiting[index].pending.len(), usize::MAX - index);
                (first..self.waiting.len()).max_by_key(length)
            }
        }
    }

    /// Whether a running sequence will soon hold a longer part of this prompt than any slot does now.
    fn begins_like_one_being_read(&self, index: usize) -> bool {
        let prompt = beginning(&self.waiting[index]);
        let held = self
            .slots
            .iter()
            .map(|slot| common(prompt, &slot.held))
            .max()
            .unwrap_or(0);
        self.slots.iter().any(|slot| {
            let length = common(prompt, &slot.held);
            let coming = slot.running.as_ref().filter(|_| length == slot.held.len());
            let more = coming.map_or(0, |sequence| common(&prompt[length..], &sequence.pending));
            length + more >= held + WORTH_SHARING
        })
    }

    /// Puts a sequence into a free slot, with what another slot already holds of its prompt.
    fn start(&mut self, mut sequence: Sequence) {
        let prompt = beginning(&sequence);
        let lengths: Vec<usize> = self
            .slots
            .iter()
            .map(|slot| common(prompt, &slot.held))
            .collect();
        let free = |&index: &usize| self.slots[index].running.is_none();
        let all = 0..self.slots.len();
        let Some(longest) = all.clone().max_by_key(|&index| lengths[index]) else {
            return;
        };
        let shared = if lengths[longest] >= WORTH_SHARING {
            lengths[longest]
        } else {
            0
        };
        // The slot that is lost least: one that holds just this beginning, else the one that holds the fewest tokens.
        let lost = |&index: &usize| {
            let held = self.slots[index].held.len();
            held - if shared > 0 && lengths[index] == shared {
                shared
            } else {
                0
            }
        };
        let Some(slot) = all.filter(free).min_by_key(lost) else {
            self.waiting.push_front(sequence);
            return;
        };
        let donor = if lengths[slot] == shared {
            slot
        } else {
            longest
        };
        self.cache.share(donor, slot, shared);
        self.statistics.shared_tokens += shared as u64;
        let held = sequence.pending.drain(..shared).collect();
        self.slots[slot] = Slot {
            held,
            running: Some(sequence),
        };
    }
}

/// The part of a prompt that another sequence may read for it: its last token must be read to choose the next.
fn beginning(sequence: &Sequence) -> &[u32] {
    &sequence.pending[..sequence.pending.len() - 1]
}

/// Tokens that two sequences begin with alike.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Tokens that the model can place.
pub(super) fn context(config: &LlamaConfig) -> usize {
    config
        .max_position_embeddings
        .min(config.sliding_window.unwrap_or(usize::MAX))
}

fn check(prompt: &Prompt, config: &LlamaConfig, capacity: usize) -> Result<(), GenerateError> {
    let (row, tokens, vocabulary) = (prompt.row, prompt.ids.len(), config.vocab_size);
    if tokens == 0 {
        return Err(GenerateError::EmptyPrompt { row });
    }
    if tokens >= capacity {
        return Err(GenerateError::TooLong {
            row,
            tokens,
            limit: capacity,
        });
    }
    match prompt.ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(&id) => Err(GenerateError::TokenId {
            row,
            id,
            vocabulary,
        }),
        None => Ok(()),
    }
}
