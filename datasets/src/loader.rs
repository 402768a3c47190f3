//! Batches, as a pure function of the seed and the step.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::dataset::Dataset;
use crate::error::{DataError, Result};
use crate::example::IGNORED;
use crate::packing::pack;
use crate::random::permutation;

/// How rows become batches.
///
/// | Setting | Default | Meaning |
/// |---|---|---|
/// | `seed` | 0 | decides the order |
/// | `batch_size` | 1 | rows per optimizer step |
/// | `micro_batch_size` | 1 | rows per forward pass |
/// | `packing` | `false` | several documents in one row |
/// | `max_length` | 512 | tokens per packed row |
/// | `shuffle` | `true` | a new order in every epoch |
/// | `pad_id` | 0 | id at unused positions |
/// | `pad_to_multiple_of` | 1 | rows are padded to a multiple of this, but not beyond `max_length` |
/// | `drop_last` | `false` | leave out the incomplete last step of an epoch |
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoaderConfig {
    /// Decides the order.
    pub seed: u64,
    /// Rows per optimizer step. With packing, packed rows.
    pub batch_size: usize,
    /// Rows per forward pass. It changes memory and time, never which rows a step has.
    pub micro_batch_size: usize,
    /// Several documents in one row.
    pub packing: bool,
    /// Tokens per packed row.
    pub max_length: usize,
    /// A new order in every epoch.
    pub shuffle: bool,
    /// Id at unused positions; they are neither attended to nor trained, so any id will do.
    pub pad_id: u32,
    /// Rows are padded to a multiple of this, but not beyond `max_length`.
    pub pad_to_multiple_of: usize,
    /// Leave out the incomplete last step of an epoch.
    pub drop_last: bool,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            batch_size: 1,
            micro_batch_size: 1,
            packing: false,
            max_length: 512,
            shuffle: true,
            pad_id: 0,
            pad_to_multiple_of: 1,
            drop_last: false,
        }
    }
}

/// Rows for one forward pass. All vectors but `example_ids` have `rows * cols` elements, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// Positions per row.
    pub cols: usize,
    /// Token ids, padded at the end.
    pub input_ids: Vec<u32>,
    /// Labels, not shifted: the target at column `c` is predicted from column `c - 1`. [`IGNORED`] at
    /// padding and at the first token of every document, so no document predicts the next one.
    pub labels: Vec<i32>,
    /// First column that a position may attend to: where its document begins. At padding, its own column.
    pub starts: Vec<u32>,
    /// Position within the document; 0 at padding.
    pub positions: Vec<u32>,
    /// The examples in each row, in order.
    pub example_ids: Vec<Vec<usize>>,
}

/// The rows of one optimizer step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepBatch {
    /// Forward passes.
    pub micro: Vec<Batch>,
    /// Positions that are trained, in all forward passes: the divisor of the step's loss.
    pub target_tokens: u64,
    /// Tokens without padding.
    pub tokens: u64,
    /// Epochs completed when this step is done.
    pub epoch: f64,
}

/// Rows of one epoch: which examples each holds.
#[derive(Debug)]
struct Plan {
    epoch: u64,
    rows: Vec<Vec<usize>>,
}

/// What has been worked out about epochs so far; nothing here changes a result.
#[derive(Debug, Default)]
struct Known {
    /// Steps of epochs 0 to `e`, inclusive.
    steps_until: Vec<u64>,
    plan: Option<Arc<Plan>>,
}

/// Gives out the batches of a training run.
///
/// See [the crate](crate) for an example.
#[derive(Debug)]
pub struct Loader {
    dataset: Arc<Dataset>,
    config: LoaderConfig,
    known: Mutex<Known>,
}

impl Loader {
    /// A loader of `dataset`.
    ///
    /// # Errors
    /// If a size is zero, if an example does not fit into a packed row, or if `drop_last` leaves no step.
    pub fn new(dataset: Arc<Dataset>, config: LoaderConfig) -> Result<Self> {
        let bad = |field, reason: String| Err(DataError::BadSetting { field, reason });
        let sizes = [
            ("batch_size", config.batch_size),
            ("micro_batch_size", config.micro_batch_size),
            ("pad_to_multiple_of", config.pad_to_multiple_of),
        ];
        if let Some((field, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return bad(field, "must be at least 1".into());
        }
        let longest = dataset.report().longest;
        if config.packing && longest > config.max_length {
            let limit = config.max_length;
            return bad(
                "max_length",
                format!("is {limit}, but an example has {longest} tokens"),
            );
        }
        let loader = Self {
            dataset,
            config,
            known: Mutex::default(),
        };
        if loader.steps_per_epoch() == 0 {
            let reason = format!(
                "is larger than an epoch ({} rows) and `drop_last` is set",
                loader.plan(0).rows.len()
            );
            return bad("batch_size", reason);
        }
        Ok(loader)
    }

    /// The settings.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Optimizer steps in the first epoch. With packing, other epochs may have a few more or fewer.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_until(0)
    }

    /// Optimizer steps in `epochs` epochs; a part of an epoch is rounded up to whole steps.
    pub fn total_steps(&self, epochs: f64) -> u64 {
        let whole = epochs.max(0.0).floor();
        let before = if whole >= 1.0 {
            self.steps_until(whole as u64 - 1)
        } else {
            0
        };
        let part = epochs.max(0.0) - whole;
        if part <= 0.0 {
            return before;
        }
        let next = self.steps_until(whole as u64) - before;
        // 1.1 epochs of 10 steps are 11 steps, although 1.1 - 1 is a little more than 0.1.
        before + (part * next as f64 - 1e-6).ceil() as u64
    }

    /// The batch of step `step`, counted from 0 over all epochs.
    ///
    /// It depends on the data, the settings and `step` alone, not on what was asked for before.
    ///
    /// # Errors
    /// None today; loaders that read while training may fail.
    pub fn step(&self, step: u64) -> Result<StepBatch> {
        let (epoch, within, steps) = self.locate(step);
        let plan = self.plan(epoch);
        let first = within as usize * self.config.batch_size;
        let last = (first + self.config.batch_size).min(plan.rows.len());
        let chunks = plan.rows[first..last].chunks(self.config.micro_batch_size);
        let micro: Vec<Batch> = chunks.map(|rows| self.batch(rows)).collect();
        let targets = |batch: &Batch| batch.labels.iter().filter(|l| **l != IGNORED).count() as u64;
        let examples = micro
            .iter()
            .flat_map(|batch| batch.example_ids.iter().flatten());
        Ok(StepBatch {
            target_tokens: micro.iter().map(targets).sum(),
            tokens: examples
                .map(|id| self.dataset.example_len(*id) as u64)
                .sum(),
            epoch: epoch as f64 + (within + 1) as f64 / steps as f64,
            micro,
        })
    }

    /// Epoch of a step, its number within the epoch, and the number of steps of the epoch.
    fn locate(&self, step: u64) -> (u64, u64, u64) {
        let mut epoch = if self.config.packing {
            0
        } else {
            step / self.steps_per_epoch()
        };
        while self.steps_until(epoch) <= step {
            epoch += 1;
        }
        let before = if epoch == 0 {
            0
        } else {
            self.steps_until(epoch - 1)
        };
        (epoch, step - before, self.steps_until(epoch) - before)
    }

    /// Steps of epochs 0 to `epoch`, inclusive.
    fn steps_until(&self, epoch: u64) -> u64 {
        if !self.config.packing {
            return epoch
                .saturating_add(1)
                .saturating_mul(self.steps_of(self.dataset.len()));
        }
        loop {
            let (next, before) = {
                let known = self.known();
                if let Some(steps) = known.steps_until.get(epoch as usize) {
                    return *steps;
                }
                (
                    known.steps_until.len(),
                    known.steps_until.last().copied().unwrap_or(0),
                )
            };
            let steps = before + self.steps_of(self.plan(next as u64).rows.len());
            let mut known = self.known();
            // Another thread may have been faster.
            if known.steps_until.len() == next {
                known.steps_until.push(steps);
            }
        }
    }

    fn steps_of(&self, rows: usize) -> u64 {
        let size = self.config.batch_size;
        (if self.config.drop_last {
            rows / size
        } else {
            rows.div_ceil(size)
        }) as u64
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic elsewhere cannot leave it half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, epoch: u64) -> Arc<Plan> {
        if let Some(plan) = self
            .known()
            .plan
            .as_ref()
            .filter(|plan| plan.epoch == epoch)
        {
            return plan.clone();
        }
        let rows = self.dataset.len();
        let order = if self.config.shuffle {
            permutation(self.config.seed, epoch, rows)
        } else {
            (0..rows).collect()
        };
        let rows = if self.config.packing {
            pack(
                &order,
                |id| self.dataset.example_len(id),
                self.config.max_length,
            )
        } else {
            order.into_iter().map(|id| vec![id]).collect()
        };
        let plan = Arc::new(Plan { epoch, rows });
        self.known().plan = Some(plan.clone());
        plan
    }

    fn batch(&self, rows: &[Vec<usize>]) -> Batch {
        let width = |row: &Vec<usize>| row.iter().map(|id| self.dataset.example_len(*id)).sum();
        let longest: usize = rows.iter().map(width).max().unwrap_or(0);
        let rounded = longest.next_multiple_of(self.config.pad_to_multiple_of);
        let cols = rounded.min(self.config.max_length).max(longest);
        let mut batch = Batch::padding(rows.len(), cols, self.config.pad_id);
        for (row, ids) in rows.iter().enumerate() {
            let mut column = 0;
            for id in ids {
                batch.place(&self.dataset, *id, row, column);
                column += self.dataset.example_len(*id);
            }
        }
        batch.example_ids = rows.to_vec();
        batch
    }
}

impl Batch {
    fn padding(rows: usize, cols: usize, pad_id: u32) -> Self {
        let own_column = (0..rows).flat_map(|_| 0..cols as u32);
        Self {
            rows,
            cols,
            input_ids: vec![pad_id; rows * cols],
            labels: vec![IGNORED; rows * cols],
            starts: own_column.collect(),
            positions: vec![0; rows * cols],
            example_ids: Vec::new(),
        }
    }

    /// Writes a document into `row`, beginning at `column`.
    fn place(&mut self, dataset: &Dataset, id: usize, row: usize, column: usize) {
        let example = dataset.example(id);
        let first = row * self.cols + column;
        let range = first..first + example.len();
        self.input_ids[range.clone()].copy_from_slice(example.input_ids);
        self.labels[range.clone()].copy_from_slice(example.labels);
        self.labels[first] = IGNORED;
        self.starts[range.clone()].fill(column as u32);
        for (position, slot) in self.positions[range].iter_mut().enumerate() {
            *slot = position as u32;
        }
    }
}
