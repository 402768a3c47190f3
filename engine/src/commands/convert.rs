//! `temper convert`: an adapter under the names of another tool, read back and compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use temper_adapters::formats::{
    self, KohyaModel, as_in_transformers, write_diffusers_lora, write_kohya,
};
use temper_adapters::peft::{
    AdapterConfig, AdapterFile, Module, Slot, TargetRule, block_size_from_cols, resolve,
};
use temper_adapters::{Cayley, SkewPacking};

use super::output::{print, refuse_input};
use crate::Failure;
use crate::diffusion::{ModuleNames, TrainedWith, control_of, copy_folder, read_adapter};
use crate::hub;
use crate::run::note;

/// Arguments of `temper convert`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Adapter: PEFT directory, run directory, or file of diffusers, kohya or `OneTrainer`
    #[arg(long, value_name = "PATH")]
    adapter: PathBuf,
    /// The model it is for, a pipeline or UNet directory: its layers have the names. Weights are not read
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Layout to write
    #[arg(long, value_enum)]
    to: Layout,
    /// Directory (PEFT, diffusers) or `.safetensors` file (diffusers, kohya) to write
    #[arg(long, value_name = "PATH")]
    output: PathBuf,
    /// Replace what is there
    #[arg(long)]
    overwrite: bool,
}

/// A layout of adapter files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Layout {
    /// A directory with `adapter_config.json`; with several networks, one in a folder for each
    Peft,
    /// `pytorch_lora_weights.safetensors` in a directory, or a file of another name, for `LoRA`
    Diffusers,
    /// Keys `lora_unet_…`, for `LoRA` and OFT
    Kohya,
}

/// What a file holds for one network.
type Part = (formats::Component, AdapterFile);

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let output = args.place();
    if output.exists() && !args.overwrite {
        let message = format!("`{}` is there already", output.display());
        return Err(Failure::run(message).with_hint("choose another --output, or add --overwrite"));
    }
    let model = hub::resolve_model(&args.model)?;
    refuse_input(&output, [args.adapter.as_path(), &model])?;
    let names = ModuleNames::of(&model)?;
    let before = read_adapter(&args.adapter, &names.modules())?;
    for remark in write(args, &output, &before, &names)? {
        note(&format!("warning: {remark}"));
    }
    keep_control(args, &output)?;
    say_how_it_was_trained(args);
    print(format!("wrote {}", output.display()))?;
    let after = formats::read(&output, &names.modules())?.adapters;
    let comparison = Comparison::of(&before, &after, &names).map_err(|problem| {
        let file = output.display();
        Failure::run(format!("`{file}` reads back as another adapter: {problem}"))
    })?;
    let rotations = comparison.rotations.map_or(String::new(), |apart| {
        format!(
            "; rotations, computed another way there, differ by up to {apart:.1e} of their size"
        )
    });
    print(format!(
        "read back: {} layers, largest difference of a value {:.3e}{rotations}",
        comparison.layers, comparison.largest
    ))
}

impl Args {
    /// What is written: files of other tools have their ending, by which those tools know them.
    fn place(&self) -> PathBuf {
        let is_file = self.output.extension() == Some("safetensors".as_ref());
        match self.to {
            Layout::Kohya if !is_file => self.output.with_added_extension("safetensors"),
            Layout::Diffusers if !is_file => self.output.join("pytorch_lora_weights.safetensors"),
            _ => self.output.clone(),
        }
    }
}

/// Returns what the layout cannot say.
fn write(
    args: &Args,
    output: &Path,
    parts: &[Part],
    names: &ModuleNames,
) -> Result<Vec<String>, Failure> {
    let borrowed: Vec<_> = parts.iter().map(|(part, file)| (*part, file)).collect();
    match args.to {
        Layout::Peft => {
            for (part, file) in parts {
                let directory = match parts.len() {
                    1 => output.to_owned(),
                    _ => output.join(part.name()),
                };
                let file = match part {
                    formats::Component::Unet => file.clone(),
                    _ => as_in_transformers(file, names.modules().of(*part))?,
                };
                file.with_base_model(&args.model).save(&directory)?;
            }
            Ok(Vec::new())
        }
        Layout::Diffusers => {
            write_diffusers_lora(output, &borrowed)?;
            Ok(Vec::new())
        }
        Layout::Kohya => {
            let model: KohyaModel = names.kohya_model();
            Ok(write_kohya(output, &borrowed, model, &names.modules())?)
        }
    }
}

/// No layout says how the run saw its model.
fn say_how_it_was_trained(args: &Args) {
    let Some(trained) = TrainedWith::of(&args.adapter).filter(TrainedWith::is_of_note) else {
        return;
    };
    note(&format!(
        "warning: the run was trained with {trained}, which the new place cannot say: draw with {}",
        trained.flags()
    ));
}

/// The encoder of control pictures goes along where there is a directory for it; a file has no place.
fn keep_control(args: &Args, output: &Path) -> Result<(), Failure> {
    let Some(control) = control_of(&args.adapter) else {
        return Ok(());
    };
    let is_directory = match args.to {
        Layout::Peft => true,
        Layout::Diffusers => output != args.output,
        Layout::Kohya => false,
    };
    if !is_directory {
        note(&format!(
            "warning: `{}`, the encoder of control pictures, has no place in `{}`: keep it, and give it to `temper sample` with \
             --control-model",
            control.display(),
            output.display()
        ));
        return Ok(());
    }
    let to = args.output.join("control");
    if to == control {
        return Ok(());
    }
    copy_folder(&control, &to)?;
    print(format!("wrote {}", to.display()))
}

/// How two adapters differ.
struct Comparison {
    layers: usize,
    largest: f32,
    /// How far rotations are apart where the two files compute them in different ways: the Frobenius norm of the difference of
    /// two blocks in units of that of a rotation, √b; the largest.
    rotations: Option<f32>,
}

impl Comparison {
    fn of(before: &[Part], after: &[Part], names: &ModuleNames) -> Result<Self, String> {
        let mut found = Self {
            layers: 0,
            largest: 0.0,
            rotations: None,
        };
        if before.len() != after.len() {
            return Err(format!(
                "{} networks instead of {}",
                after.len(),
                before.len()
            ));
        }
        for ((part, before), (other, after)) in before.iter().zip(after) {
            if part != other {
                return Err(format!("a part for the {other} instead of the {part}"));
            }
            found.compare(before, after, names.modules().of(*part))?;
        }
        Ok(found)
    }

    fn compare(
        &mut self,
        before: &AdapterFile,
        after: &AdapterFile,
        modules: &[Module],
    ) -> Result<(), String> {
        let ways = [before, after].map(rotation_of);
        // The series approximates the transpose of the exact transform: packed values have the opposite sign.
        let sign = match ways {
            [Some(Cayley::Exact), Some(Cayley::Neumann { .. })]
            | [Some(Cayley::Neumann { .. }), Some(Cayley::Exact)] => -1.0,
            _ => 1.0,
        };
        if scales(before, modules)? != scales(after, modules)? {
            return Err("layers have other scales".to_owned());
        }
        if before.tensors().len() != after.tensors().len() {
            return Err(format!(
                "{} tensors instead of {}",
                after.tensors().len(),
                before.tensors().len()
            ));
        }
        for tensor in before.tensors() {
            let name = format!("{} of `{}`", tensor.slot.name(), tensor.module);
            let other = after
                .get(&tensor.module, &tensor.slot)
                .ok_or_else(|| format!("{name} is missing"))?;
            let is_rotation = tensor.slot == Slot::OftR;
            let sign = if is_rotation { sign } else { 1.0 };
            let [a, b] = [&tensor.tensor, other].map(|tensor| tensor.to_f32().unwrap_or_default());
            if tensor.tensor.shape() != other.shape() {
                return Err(format!("{name} has shape {:?}", other.shape()));
            }
            if let [Some(one), Some(two)] = ways
                && is_rotation
                && one != two
            {
                let apart = rotations_apart((one, &a), (two, &b), other.shape());
                self.rotations = Some(self.rotations.unwrap_or(0.0).max(apart));
            }
            let apart = a.iter().zip(&b).map(|(a, b)| (a - sign * b).abs());
            self.largest = apart.fold(self.largest, f32::max);
        }
        self.layers += before.adapted_modules().len();
        Ok(())
    }
}

/// How the rotations of an adapter are computed; `None` for other methods.
fn rotation_of(file: &AdapterFile) -> Option<Cayley> {
    let AdapterConfig::Oft(oft) = file.config() else {
        return None;
    };
    Some(if oft.use_cayley_neumann {
        Cayley::Neumann {
            terms: oft.num_cayley_neumann_terms,
        }
    } else {
        Cayley::Exact
    })
}

/// How far the rotations of packed values `[blocks, n]` are apart, the worst block, in units of √b.
fn rotations_apart(one: (Cayley, &[f32]), two: (Cayley, &[f32]), shape: &[usize]) -> f32 {
    let (device, [blocks, n]) = (Device::flex(), [shape[0], shape[1]]);
    let Some(b) = block_size_from_cols(n) else {
        return f32::NAN;
    };
    let packing = SkewPacking::new(b, &device);
    let [one, two] = [one, two].map(|(cayley, values)| {
        let packed = Tensor::from_data(TensorData::new(values.to_vec(), [blocks, n]), &device);
        cayley.rotation(packing.unpack(packed))
    });
    let squares = (one - two).square().reshape([blocks, b * b]).sum_dim(1);
    (squares.max().into_scalar::<f32>() / b as f32).sqrt()
}

/// What each layer's low-rank product is multiplied by, in millionths: alphas are rounded on their way.
fn scales(file: &AdapterFile, modules: &[Module]) -> Result<BTreeMap<String, i64>, String> {
    let resolution = resolve(file.config(), modules).map_err(|error| error.to_string())?;
    let scale = |target: temper_adapters::peft::Target| match target.rule {
        TargetRule::Lora { scale, .. } => Some((target.name, (scale * 1e6).round() as i64)),
        _ => None,
    };
    Ok(resolution.targets.into_iter().filter_map(scale).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_two_rotations_is_that_of_their_eigenvalues() {
        // A block of two turns by z = i/2: exactly (1 + z)/(1 − z) = 0.6 + 0.8i, by 1 + 2z + 2z² + 2z³ + z⁴ = 0.5625 + 0.75i.
        let series = Cayley::Neumann { terms: 5 };
        let apart = rotations_apart((Cayley::Exact, &[-0.5]), (series, &[0.5]), &[1, 1]);
        assert!((apart - 0.0625).abs() < 1e-6, "{apart}");
        // The worst of several blocks counts, and both signs matter.
        let apart = rotations_apart(
            (Cayley::Exact, &[0.0, -0.5]),
            (series, &[0.0, 0.5]),
            &[2, 1],
        );
        assert!((apart - 0.0625).abs() < 1e-6, "{apart}");
        let apart = rotations_apart((Cayley::Exact, &[0.5]), (series, &[0.5]), &[1, 1]);
        assert!(apart > 1.0, "{apart}");
    }
}
