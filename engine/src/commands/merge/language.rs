//! An adapter folded into a language model.

use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use temper_adapters::Adaptable;
use temper_adapters::weights::{Checkpoint, Dtype};
use temper_datasets::random::{below, rng};
use temper_models::{Llama, ModelError};

use super::{Args, Comparison, file_dtype};
use crate::commands::output::print;
use crate::loading::{LoadOptions, LoadedModel};
use crate::{Failure, device, run};

/// What lies beside the weights and belongs to the model.
const COMPANIONS: [&str; 11] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
];

/// Writes the merged model to `args.output`.
pub(super) fn merge(args: &Args, directory: PathBuf) -> Result<(), Failure> {
    let [adapter] = args.adapter.as_slice() else {
        return Err(Failure::usage("a language model takes one adapter"));
    };
    if adapter.strength != 1.0 {
        return Err(Failure::usage(
            "adapters of language models have no strength",
        ));
    }
    let base = base_dtype(&directory)?;
    let target = args.dtype.map_or(base, FloatDType::from);
    let precisions = device::open(&args.device)?.precisions();
    // The fold is f32 in any case. Holding the weights in the target's precision halves the memory, and rounds once.
    let held = if target == base && precisions.contains(&base) {
        base
    } else {
        FloatDType::F32
    };
    let options = LoadOptions {
        model: args.model.clone(),
        adapter: Some(adapter.path.clone()),
        device: args.device.clone(),
        dtype: Some(held),
    };
    let LoadedModel {
        mut model,
        directory,
        device,
        dtype,
    } = options.load_from(directory)?;
    let probe = Probe::new(&model);
    let before = probe.logits(&model)?;
    run::note("merging");
    Adaptable::merge(&mut model);
    model.save(&args.output, file_dtype(target), args.max_shard_size)?;
    drop(model);
    copy_companions(&directory, &args.output)?;
    print(format!("wrote {}", args.output.display()))?;
    let after = probe.logits(&Llama::load(&args.output, dtype, &device.device)?)?;
    let comparison = Comparison {
        what: "logit",
        adapter: "adapter",
        before: &before,
        after: &after,
    };
    comparison.report(&args.output)
}

/// A few rows of ids, the same for both models.
struct Probe {
    ids: Vec<u32>,
    shape: [usize; 2],
}

impl Probe {
    fn new(model: &Llama) -> Self {
        let config = model.config();
        let shape = [2, config.max_position_embeddings.min(16)];
        let mut random = rng(0, "merge-probe", 0, 0);
        let ids = (0..shape[0] * shape[1])
            .map(|_| below(&mut random, config.vocab_size as u64) as u32)
            .collect();
        Self { ids, shape }
    }

    fn logits(&self, model: &Llama) -> Result<Vec<f32>, ModelError> {
        let data = model.logits(&self.ids, self.shape)?.into_data();
        let Ok(values) = data.try_to_vec::<f32>() else {
            unreachable!("logits are f32")
        };
        Ok(values)
    }
}

/// The precision in which the base is stored.
fn base_dtype(directory: &Path) -> Result<FloatDType, Failure> {
    let checkpoint = Checkpoint::open(directory)?;
    let stored = checkpoint
        .info("model.embed_tokens.weight")
        .map(|info| info.dtype);
    Ok(match stored {
        Some(Dtype::BF16) => FloatDType::BF16,
        Some(Dtype::F16) => FloatDType::F16,
        _ => FloatDType::F32,
    })
}

fn copy_companions(from: &Path, to: &Path) -> Result<(), Failure> {
    for name in COMPANIONS {
        let source = from.join(name);
        if source.is_file() {
            run::write_atomic(&to.join(name), &std::fs::read(&source)?)?;
        }
    }
    Ok(())
}
