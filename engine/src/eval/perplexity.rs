//! Perplexity: how surprised a model is by the tokens of a file.
//!
//! The loss is the mean of −ln p(token) over all targets of all rows, each token with equal weight; perplexity is its exponential.
//! Every row is read alone, so nothing depends on which rows share a batch.

use serde::{Deserialize, Serialize};
use temper_adapters::Parameters;
use temper_datasets::{Dataset, Tokenizer};
use temper_models::{Llama, TokenBatch};

use super::directory::OutputDir;
use super::report::{Report, render_perplexity};
use super::traces::{Indexed, TraceFile};
use super::{EvalConfig, EvalError};
use crate::generate::GenerateError;
use crate::run::{Progress, Verbosity};

/// One row of the data and its loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RowLoss {
    /// Number among the rows that are used.
    pub(crate) index: u64,
    /// Predicted tokens.
    pub(crate) tokens: u64,
    /// Sum of −ln p over them.
    pub(crate) nats: f64,
    /// Their text.
    pub(crate) text: String,
}

impl Indexed for RowLoss {
    fn index(&self) -> u64 {
        self.index
    }
}

impl RowLoss {
    /// Mean loss of the row.
    pub(crate) fn loss(&self) -> f64 {
        self.nats / (self.tokens as f64).max(1.0)
    }
}

/// The content of `summary.json` of a perplexity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerplexitySummary {
    /// `perplexity`.
    pub task: String,
    /// Rows read.
    pub rows: u64,
    /// Rows left out because nothing in them is predicted.
    pub skipped: u64,
    /// Rows that were too long and lost their end.
    pub cut: u64,
    /// Predicted tokens.
    pub tokens: u64,
    /// Mean of −ln p over them, in nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
}

impl PerplexitySummary {
    /// Adds the rows up.
    pub(crate) fn of(config: &EvalConfig, rows: &[RowLoss]) -> Self {
        let tokens: u64 = rows.iter().map(|row| row.tokens).sum();
        let nats: f64 = rows.iter().map(|row| row.nats).sum();
        let loss = nats / (tokens as f64).max(1.0);
        Self {
            task: super::PERPLEXITY.to_owned(),
            rows: rows.len() as u64,
            skipped: config.data.skipped,
            cut: config.rows.as_ref().map_or(0, |rows| rows.cut),
            tokens,
            loss,
            perplexity: loss.exp(),
        }
    }
}

/// Measures the rows of the shard that are not measured yet, and completes the directory.
pub(crate) fn measure(
    model: &Llama,
    tokenizer: &Tokenizer,
    rows: &Dataset,
    config: &EvalConfig,
    directory: &OutputDir,
) -> Result<PerplexitySummary, EvalError> {
    let model = model.frozen();
    let mut traces: TraceFile<RowLoss> = TraceFile::open(&directory.traces())?;
    let mine: Vec<usize> = (0..rows.len())
        .filter(|&row| config.shard.holds(row))
        .collect();
    let mut progress = Progress::new("perplexity", mine.len() as u64, Verbosity::Normal);
    for (done, &row) in mine.iter().enumerate() {
        if !traces.has(row as u64) {
            traces.append(measure_row(&model, tokenizer, rows, row)?)?;
        }
        progress.update(done as u64 + 1, "");
    }
    progress.finish();
    complete(traces.finish()?, config, directory)
}

/// Leaves summary and report of rows that are all there.
pub(crate) fn complete(
    rows: Vec<RowLoss>,
    config: &EvalConfig,
    directory: &OutputDir,
) -> Result<PerplexitySummary, EvalError> {
    let summary = PerplexitySummary::of(config, &rows);
    directory.complete(
        &summary,
        &render_perplexity(
            &Report {
                config,
                summary: &summary,
            },
            rows,
        )?,
    )?;
    Ok(summary)
}

fn measure_row(
    model: &Llama,
    tokenizer: &Tokenizer,
    rows: &Dataset,
    row: usize,
) -> Result<RowLoss, EvalError> {
    let example = rows.example(row);
    let mut batch = TokenBatch::unpadded([1, example.len()], example.input_ids.to_vec());
    batch.labels = example.labels.to_vec();
    let nats = model
        .loss(&batch, 1.0)
        .map_err(GenerateError::from)?
        .into_scalar::<f32>();
    if !nats.is_finite() {
        return Err(GenerateError::NotFinite {
            row: row as u64,
            step: 0,
        }
        .into());
    }
    // Rows made of ids alone may come without a tokenizer that knows texts.
    let text = tokenizer
        .decode(example.input_ids, true)
        .unwrap_or_default();
    Ok(RowLoss {
        index: row as u64,
        tokens: batch.targets() as u64,
        nats: f64::from(nats),
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;

    fn row(index: u64, tokens: u64, loss: f64) -> RowLoss {
        RowLoss {
            index,
            tokens,
            nats: loss * tokens as f64,
            text: String::new(),
        }
    }

    #[test]
    fn every_token_weighs_the_same() {
        let summary = PerplexitySummary::of(&config(), &[row(0, 30, 1.0), row(1, 10, 3.0)]);
        assert_eq!((summary.rows, summary.tokens), (2, 40));
        assert!((summary.loss - 1.5).abs() < 1e-12);
        assert!((summary.perplexity - 1.5_f64.exp()).abs() < 1e-12);
    }
}
