//! A data set, tokenised once.

use std::path::PathBuf;

use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::arithmetic::{self, Arithmetic};
use crate::bytes::{hash_file, hash_part, hex};
use crate::cache::{self, CacheSlot};
use crate::error::{DataError, Result};
use crate::example::{ExampleBuilder, ExampleRef, LossOn, Outcome, OverLength};
use crate::reader::{DataKind, RowLocation, data_files, read_rows};
use crate::record::Row;
use crate::report::{CacheStatus, DataReport};
use crate::template::{Renderer, Template};
use crate::tokenizer::Tokenizer;

/// Rows tokenised between two reports of progress.
const CHUNK: usize = 1024;

/// What to train on.
///
/// | Setting | Default | Meaning |
/// |---|---|---|
/// | `paths` | none | files and directories, read in this order |
/// | `kind` | `metamathqa` | what the rows are |
/// | `template` | `metamath` | how a row becomes text |
/// | `max_length` | 512 | tokens per row, special tokens included |
/// | `over_length` | `drop` | what happens to longer rows |
/// | `loss_on` | `response` | what is trained |
/// | `limit` | none | use only the first rows |
/// | `cache` | `true` | keep the ids on disk |
/// | `cache_dir` | none | where; else `.temper-cache` beside the first file |
/// | `allow_special_text` | `false` | let texts in conversations write control tokens |
/// | `generated` | none | make rows instead of reading them |
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataConfig {
    /// Files and directories, read in this order.
    pub paths: Vec<PathBuf>,
    /// What the rows are.
    pub kind: DataKind,
    /// How a row becomes text.
    pub template: Template,
    /// Tokens per row, special tokens included.
    pub max_length: usize,
    /// What happens to longer rows.
    pub over_length: OverLength,
    /// What is trained.
    pub loss_on: LossOn,
    /// Use only the first rows.
    pub limit: Option<usize>,
    /// Keep the ids on disk.
    pub cache: bool,
    /// Where to keep them; else `.temper-cache` beside the first file.
    pub cache_dir: Option<PathBuf>,
    /// Let the texts of conversations contain special tokens, which then act as control tokens.
    pub allow_special_text: bool,
    /// Make the rows instead of reading them; `paths` and `kind` are not used then.
    pub generated: Option<Arithmetic>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            kind: DataKind::default(),
            template: Template::default(),
            max_length: 512,
            over_length: OverLength::default(),
            loss_on: LossOn::default(),
            limit: None,
            cache: true,
            cache_dir: None,
            allow_special_text: false,
            generated: None,
        }
    }
}

impl DataConfig {
    fn check(&self) -> Result<()> {
        let bad = |field, reason: &str| {
            Err(DataError::BadSetting {
                field,
                reason: reason.into(),
            })
        };
        match &self.generated {
            Some(generated) => generated.check()?,
            None if self.paths.is_empty() => return bad("paths", "is empty"),
            None => {}
        }
        if self.max_length < 2 {
            return bad(
                "max_length",
                "must be at least 2: one token and one to predict",
            );
        }
        if self.limit == Some(0) {
            return bad("limit", "must be at least 1");
        }
        Ok(())
    }

    /// Identifies the prepared data: contents of the files, tokenizer and every setting that matters.
    fn fingerprint(&self, files: &[PathBuf], tokenizer: &Tokenizer) -> Result<String> {
        let mut hasher = Sha256::new();
        hasher.update(cache::VERSION.to_le_bytes());
        hash_part(&mut hasher, tokenizer.fingerprint().as_bytes());
        let settings = (
            self.kind,
            &self.template,
            self.max_length,
            self.over_length,
            self.loss_on,
            self.limit,
            self.allow_special_text,
        );
        hash_part(&mut hasher, format!("{settings:?}").as_bytes());
        if let Some(generated) = &self.generated {
            let made = (arithmetic::VERSION, generated);
            hash_part(&mut hasher, format!("{made:?}").as_bytes());
        }
        for file in files {
            let extension = file.extension().unwrap_or_default().to_string_lossy();
            hash_part(&mut hasher, extension.as_bytes());
            hasher.update(hash_file(file)?);
        }
        Ok(hex(&hasher.finalize()))
    }
}

/// Ids and labels of all rows, in reading order.
///
/// See [the crate](crate) for an example.
#[derive(Debug)]
pub struct Dataset {
    pub(crate) input_ids: Vec<u32>,
    pub(crate) labels: Vec<i32>,
    /// Row `i` is `offsets[i]..offsets[i + 1]`.
    pub(crate) offsets: Vec<u64>,
    pub(crate) report: DataReport,
}

impl Dataset {
    /// Reads, renders and tokenises the rows, or takes the result from the cache.
    ///
    /// `progress` is told how many rows of how many are done; it is not called if the cache is used.
    ///
    /// # Errors
    /// If a file or a row is broken, if a row is too long and the policy is to stop, or if no row is left.
    pub fn prepare(
        config: &DataConfig,
        tokenizer: &Tokenizer,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self> {
        config.check()?;
        let files = match &config.generated {
            Some(_) => Vec::new(),
            None => data_files(&config.paths)?,
        };
        let fingerprint = config.fingerprint(&files, tokenizer)?;
        // What is made needs no cache: making it is as fast.
        let slot = (config.cache && config.generated.is_none())
            .then(|| CacheSlot::new(config.cache_dir.as_deref(), &files, &fingerprint));
        let damage = match slot.as_ref().map(CacheSlot::load) {
            Some(Ok(Some(mut dataset))) => {
                dataset.report.cache = CacheStatus::Hit;
                return Ok(dataset);
            }
            Some(Err(reason)) => Some(reason),
            None | Some(Ok(None)) => None,
        };
        let rows = match &config.generated {
            Some(generated) => generated.training_rows(config.limit)?,
            None => read_rows(&files, config.kind, config.limit)?,
        };
        let mut dataset = Self::tokenise(config, tokenizer, &rows, progress)?;
        dataset.report.fingerprint = fingerprint;
        if let Some(slot) = slot {
            dataset.report.cache = match (slot.save(&dataset), damage) {
                (Err(reason), _) => CacheStatus::Unwritable { reason },
                (Ok(()), Some(reason)) => CacheStatus::Rebuilt { reason },
                (Ok(()), None) => CacheStatus::Written,
            };
        }
        Ok(dataset)
    }

    fn tokenise(
        config: &DataConfig,
        tokenizer: &Tokenizer,
        rows: &[(RowLocation, Row)],
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self> {
        let builder = ExampleBuilder {
            tokenizer,
            renderer: Renderer::new(&config.template, tokenizer)?,
            loss_on: config.loss_on,
            max_length: config.max_length,
            over_length: config.over_length,
            allow_special_text: config.allow_special_text,
        };
        let mut dataset = Self::empty(config.max_length);
        let mut done = 0;
        for chunk in rows.chunks(CHUNK) {
            let outcomes: Vec<Result<Outcome>> = chunk
                .par_iter()
                .map(|(location, row)| builder.build(row, location))
                .collect();
            // In reading order, so that the first broken row is the one that is named.
            for (outcome, (location, _)) in outcomes.into_iter().zip(chunk) {
                dataset.add(&outcome?, location);
            }
            done += chunk.len();
            progress(done, rows.len());
        }
        if dataset.is_empty() {
            return Err(DataError::NothingToTrain(Box::new(dataset.report)));
        }
        Ok(dataset)
    }

    fn empty(max_length: usize) -> Self {
        let report = DataReport {
            max_length,
            ..DataReport::default()
        };
        Self {
            input_ids: Vec::new(),
            labels: Vec::new(),
            offsets: vec![0],
            report,
        }
    }

    fn add(&mut self, outcome: &Outcome, location: &RowLocation) {
        self.report.count(outcome, location);
        if let Outcome::Kept { example, .. } = outcome {
            self.input_ids.extend_from_slice(&example.input_ids);
            self.labels.extend_from_slice(&example.labels);
            self.offsets.push(self.input_ids.len() as u64);
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no rows; never so for a prepared data set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row `index`, in reading order of the kept rows.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len), as slices do.
    pub fn example(&self, index: usize) -> ExampleRef<'_> {
        let range = self.offsets[index] as usize..self.offsets[index + 1] as usize;
        ExampleRef {
            input_ids: &self.input_ids[range.clone()],
            labels: &self.labels[range],
        }
    }

    /// Number of tokens of row `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len), as slices do.
    pub fn example_len(&self, index: usize) -> usize {
        (self.offsets[index + 1] - self.offsets[index]) as usize
    }

    /// What became of the rows.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// Sha256 of files, tokenizer and settings, as hexadecimal. Equal fingerprints mean equal rows.
    pub fn fingerprint(&self) -> &str {
        &self.report.fingerprint
    }
}
