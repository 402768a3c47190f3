//! What a run will be, said before any weight is read.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use temper_datasets::Dataset;
use temper_models::LlamaConfig;

use super::plan::{MemoryPlan, PlanInput, grouped, size};
use super::setup::{architecture, checked_adapter, random_architecture};
use crate::Failure;
use crate::data_source::{load_tokenizer, train_and_eval_sets};
use crate::device::{self, Backend};
use crate::recipe::{Compute, Init, Length, Recipe};
use crate::run::{Verbosity, available_bytes};

/// Prints parameters, steps, tokens and memory of a run without reading a weight.
///
/// # Errors
/// What would also keep the run from starting, as far as it shows without weights.
pub fn dry_run(recipe: &Recipe) -> Result<(), Failure> {
    let config = known_architecture(recipe)?;
    let adapter = checked_adapter(recipe, &config)?;
    let data = DataPlan::new(recipe)?;
    let on_host =
        device::open(&recipe.device).map_or(recipe.device == "cpu", |d| d.backend == Backend::Cpu);
    let half = match recipe.precision.compute {
        Compute::Bf16 | Compute::F16 => true,
        Compute::Auto => !on_host,
        Compute::F32 => false,
    };
    let batch = recipe.train.batch_size.min(data.rows.max(1));
    let micro_batch = recipe.train.micro_batch_size.min(batch);
    let plan = MemoryPlan::new(&PlanInput {
        config: &config,
        adapter: adapter.as_ref(),
        micro_batch,
        tokens: data.longest,
        targets: micro_batch * data.longest_targets,
        compute_bytes: if half { 2 } else { 4 },
        recompute: recipe.train.gradient_checkpointing,
        on_host,
        data_bytes: data.bytes,
    })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{plan}")?;
    let total = match recipe.train.length() {
        Length::Steps(steps) => steps,
        Length::Epochs(epochs) => {
            (epochs * (data.rows as f64 / batch as f64).ceil()).ceil() as usize
        }
    };
    let tokens = total as f64 * batch as f64 * data.mean_tokens;
    writeln!(
        out,
        "rows                  {:>16}  ({})",
        grouped(data.rows as u64),
        data.source
    )?;
    writeln!(
        out,
        "optimizer steps       {:>16}  ({} of warm-up)",
        grouped(total as u64),
        recipe.train.warmup(total)
    )?;
    writeln!(out, "tokens                {:>16}", grouped(tokens as u64))?;
    if let (true, Some(available)) = (on_host, available_bytes())
        && plan.total() > available
    {
        writeln!(out, "this does not fit: {} are available", size(available))?;
    }
    Ok(())
}

/// The sizes without the network: a preset, a random model's config, or a local directory.
fn known_architecture(recipe: &Recipe) -> Result<LlamaConfig, Failure> {
    if recipe.model.init == Init::Random {
        return random_architecture(recipe);
    }
    let local = recipe
        .model
        .path
        .as_deref()
        .map(Path::new)
        .filter(|path| path.is_dir());
    match (local, &recipe.model.preset) {
        (Some(directory), _) => Ok(LlamaConfig::load(directory)?),
        (None, Some(preset)) => Ok(LlamaConfig::preset(preset)?),
        (None, None) => Ok(architecture(recipe)?.0),
    }
}

/// What the dry run knows of the data.
struct DataPlan {
    rows: usize,
    longest: usize,
    longest_targets: usize,
    mean_tokens: f64,
    bytes: u64,
    source: String,
}

/// Published data sets whose size is known without a download: name, rows, tokens a row with the LLaMA tokenizer and MetaMath's template.
const PUBLISHED: [(&str, usize, f64); 1] = [("meta-math/MetaMathQA", 395_000, 250.0)];

impl DataPlan {
    fn new(recipe: &Recipe) -> Result<Self, Failure> {
        let length = recipe.data.max_length;
        if let [spec] = recipe.data.path.as_slice()
            && let Some(&(name, rows, mean_tokens)) = PUBLISHED
                .iter()
                .find(|(name, ..)| spec.split('@').next() == Some(name))
            && !Path::new(spec).exists()
        {
            let rows = if recipe.data.limit > 0 {
                rows.min(recipe.data.limit)
            } else {
                rows
            };
            let source = format!("{name} as published, about {mean_tokens} tokens a row; not read");
            return Ok(Self {
                rows,
                longest: length,
                longest_targets: length,
                mean_tokens,
                bytes: (rows as f64 * mean_tokens * 8.0) as u64,
                source,
            });
        }
        let tokenizer = load_tokenizer(recipe)?;
        let (train, _eval): (Arc<Dataset>, _) =
            train_and_eval_sets(recipe, &tokenizer, Verbosity::Silent)?;
        let report = train.report();
        let targets = |i: usize| {
            train
                .example(i)
                .labels
                .iter()
                .filter(|&&label| label >= 0)
                .count()
        };
        let longest = if recipe.data.packing {
            length
        } else {
            report.longest
        };
        Ok(Self {
            rows: train.len(),
            longest,
            longest_targets: if recipe.data.packing {
                length
            } else {
                (0..train.len()).map(targets).max().unwrap_or(0)
            },
            mean_tokens: report.tokens as f64 / train.len().max(1) as f64,
            bytes: report.tokens * 8,
            source: "after tokenisation".to_owned(),
        })
    }
}
