//! `temper merge`: an adapter folded into its model, as a plain Hugging Face directory.

use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use temper_adapters::Adaptable;
use temper_adapters::weights::{Checkpoint, Dtype};
use temper_datasets::random::{below, rng};
use temper_models::{Llama, ModelError};

use crate::device::OpenDevice;
use crate::loading::{LoadOptions, LoadedModel, ModelArgs, Precision};
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

/// Arguments of `temper merge`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Directory to write
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Precision of the merged weights; by default that of the base
    #[arg(long, value_enum)]
    dtype: Option<Precision>,
    /// Largest file, such as 5GB, 500MB or 2GiB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    max_shard_size: u64,
    /// Write into a directory that has files
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let options = args.model.options(None);
    if options.adapter.is_none() {
        return Err(Failure::usage("`temper merge` needs --adapter DIR"));
    }
    check_output(args, &options)?;
    let directory = options.resolve()?;
    check_distinct(&args.output, &directory)?;
    let base = base_dtype(&directory)?;
    let target = args.dtype.map_or(base, FloatDType::from);
    let precisions = device::open(&options.device)?.precisions();
    // The fold is f32 in any case. Holding the weights in the target's precision halves the memory, and rounds once.
    let held = if target == base && precisions.contains(&base) {
        base
    } else {
        FloatDType::F32
    };

    let loaded = LoadOptions {
        dtype: Some(held),
        ..options
    }
    .load_from(directory)?;
    let LoadedModel {
        mut model,
        directory,
        device,
        dtype,
    } = loaded;
    let probe = Probe::new(&model);
    let expected = probe.logits(&model)?;
    run::note("merging");
    Adaptable::merge(&mut model);
    model.save(&args.output, file_dtype(target), args.max_shard_size)?;
    drop(model);
    copy_companions(&directory, &args.output)?;
    report(&args.output, dtype, &device, &probe, &expected)
}

/// Loads what was written and compares it with the adapter.
fn report(
    output: &Path,
    dtype: FloatDType,
    device: &OpenDevice,
    probe: &Probe,
    expected: &[f32],
) -> Result<(), Failure> {
    let merged = probe.logits(&Llama::load(output, dtype, &device.device)?)?;
    let difference = |(a, b): (&f32, &f32)| (a - b).abs();
    let worst = merged
        .iter()
        .zip(expected)
        .map(difference)
        .fold(
            0.0,
            |worst: f32, d| if d.is_nan() { d } else { worst.max(d) },
        );
    let scale = expected
        .iter()
        .fold(0.0, |scale: f32, logit| scale.max(logit.abs()));
    if !worst.is_finite() {
        let message = format!(
            "the merged model in `{}` gives logits that are not finite",
            output.display()
        );
        return Err(Failure::run(message)
            .with_hint("write it with --dtype f32 or bf16: f16 overflows above 65504"));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "wrote {}", output.display())?;
    writeln!(
        out,
        "max logit difference, adapter against merged: {worst:.3e} (largest logit {scale:.3e})"
    )?;
    Ok(())
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

fn check_output(args: &Args, options: &LoadOptions) -> Result<(), Failure> {
    let output = &args.output;
    if output.exists() && !output.is_dir() {
        return Err(Failure::run(format!(
            "`{}` is a file, expected a directory",
            output.display()
        )));
    }
    if let Some(adapter) = &options.adapter {
        check_distinct(output, adapter)?;
    }
    let occupied = output.is_dir() && std::fs::read_dir(output)?.next().is_some();
    if occupied && !args.overwrite {
        return Err(Failure::run(format!("`{}` is not empty", output.display()))
            .with_hint("choose another --output, or add --overwrite"));
    }
    Ok(())
}

/// The merged model must not replace what it is made from.
fn check_distinct(output: &Path, source: &Path) -> Result<(), Failure> {
    let same = match (output.canonicalize(), source.canonicalize()) {
        (Ok(output), Ok(source)) => output == source,
        _ => false,
    };
    if same {
        return Err(
            Failure::run(format!("--output `{}` is also an input", output.display()))
                .with_hint("choose another --output"),
        );
    }
    Ok(())
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

fn file_dtype(dtype: FloatDType) -> Dtype {
    match dtype {
        FloatDType::BF16 => Dtype::BF16,
        FloatDType::F16 => Dtype::F16,
        _ => Dtype::F32,
    }
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

/// `5GB`, `500 MB`, `2GiB` or a number of bytes.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 8] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim();
    let factor = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| *factor);
    let bytes = digits
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "expected a size such as 5GB, 500MB or 2GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        assert_eq!(size("5GB"), Ok(5_000_000_000));
        assert_eq!(size("2 GiB"), Ok(2 << 30));
        assert_eq!(size("100000"), Ok(100_000));
        for wrong in ["", "GB", "0MB", "-1GB", "5XB", "99999999999GB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
