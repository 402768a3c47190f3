//! `temper merge`: adapters folded into their model, as a plain directory in the layout of the peer library.

mod diffusion;
mod language;

use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use temper_adapters::weights::Dtype;

use crate::Failure;
use crate::diffusion::{AdapterChoice, Place};
use crate::hub;
use crate::loading::Precision;

/// Arguments of `temper merge`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model directory, diffusion pipeline (directory or one file), UNet directory, or `org/name[@revision]` on the hub
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Adapter or run; of diffusion models `:0.8` behind it is its strength, and there may be several
    #[arg(long, value_name = "DIR[:STRENGTH]", required = true)]
    adapter: Vec<AdapterChoice>,
    /// Device: auto, cpu, cuda[:N], metal, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    device: String,
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
    check_output(args)?;
    let path = hub::resolve_model(&args.model)?;
    check_distinct(&args.output, &path)?;
    if let Ok(place) = Place::of(&path) {
        return diffusion::pipeline(args, &path, &place);
    }
    let text = std::fs::read_to_string(path.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    if config.get("_class_name").is_some() {
        return diffusion::unet(args, &path);
    }
    language::merge(args, path)
}

/// Two runs of the same input: `before` with the adapter beside the weights, `after` with it folded in.
struct Comparison<'a> {
    what: &'static str,
    adapter: &'a str,
    before: &'a [f32],
    after: &'a [f32],
}

impl Comparison<'_> {
    /// Says how far apart they are.
    fn report(&self, output: &Path) -> Result<(), Failure> {
        let what = self.what;
        let pairs = self.after.iter().zip(self.before);
        let worst = pairs.fold(0.0, |worst: f32, (a, b)| {
            let d = (a - b).abs();
            if d.is_nan() { d } else { worst.max(d) }
        });
        let scale = self
            .before
            .iter()
            .fold(0.0, |scale: f32, x| scale.max(x.abs()));
        if !worst.is_finite() {
            let message = format!(
                "the merged model in `{}` gives {what}s that are not finite",
                output.display()
            );
            return Err(Failure::run(message)
                .with_hint("write it with --dtype f32 or bf16: f16 overflows above 65504"));
        }
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "max {what} difference, {} against merged: {worst:.3e} (largest {what} {scale:.3e})",
            self.adapter
        )?;
        Ok(())
    }
}

fn check_output(args: &Args) -> Result<(), Failure> {
    let output = &args.output;
    if output.exists() && !output.is_dir() {
        return Err(Failure::run(format!(
            "`{}` is a file, expected a directory",
            output.display()
        )));
    }
    for adapter in &args.adapter {
        check_distinct(output, &adapter.path)?;
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

fn file_dtype(dtype: FloatDType) -> Dtype {
    match dtype {
        FloatDType::BF16 => Dtype::BF16,
        FloatDType::F16 => Dtype::F16,
        _ => Dtype::F32,
    }
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
