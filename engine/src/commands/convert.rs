//! `temper convert`: an adapter under the names of another tool, read back and compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use temper_adapters::formats::{self, KohyaModel, write_diffusers_lora, write_kohya};
use temper_adapters::peft::{AdapterConfig, AdapterFile, Module, Slot, TargetRule, resolve};

use super::output::print;
use crate::Failure;
use crate::diffusion::{ModuleNames, control_of, copy_folder, read_adapter};
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
    let names = ModuleNames::of(&hub::resolve_model(&args.model)?)?;
    let before = read_adapter(&args.adapter, &names.modules())?;
    for remark in write(args, &output, &before, &names)? {
        note(&format!("warning: {remark}"));
    }
    keep_control(args, &output)?;
    print(format!("wrote {}", output.display()))?;
    let after = formats::read(&output, &names.modules())?.adapters;
    let comparison = Comparison::of(&before, &after, &names).map_err(|problem| {
        let file = output.display();
        Failure::run(format!("`{file}` reads back as another adapter: {problem}"))
    })?;
    print(format!(
        "read back: {} layers, largest difference of a value {:.3e}{}",
        comparison.layers,
        comparison.largest,
        if comparison.turned {
            "; rotations were turned into the series, whose truncation is not part of this"
        } else {
            ""
        }
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
                file.clone().with_base_model(&args.model).save(&directory)?;
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
    /// The exact transform became the series, or the reverse: packed values have the opposite sign.
    turned: bool,
}

impl Comparison {
    fn of(before: &[Part], after: &[Part], names: &ModuleNames) -> Result<Self, String> {
        let mut found = Self {
            layers: 0,
            largest: 0.0,
            turned: false,
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
        let sign = if series(before) == series(after) {
            1.0
        } else {
            self.turned = true;
            -1.0
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
            let sign = if tensor.slot == Slot::OftR { sign } else { 1.0 };
            let [a, b] = [&tensor.tensor, other].map(|tensor| tensor.to_f32().unwrap_or_default());
            if tensor.tensor.shape() != other.shape() {
                return Err(format!("{name} has shape {:?}", other.shape()));
            }
            let apart = a.iter().zip(&b).map(|(a, b)| (a - sign * b).abs());
            self.largest = apart.fold(self.largest, f32::max);
        }
        self.layers += before.adapted_modules().len();
        Ok(())
    }
}

/// Terms of the series; `None` for the exact transform, and for methods without one.
fn series(file: &AdapterFile) -> Option<usize> {
    match file.config() {
        AdapterConfig::Oft(oft) if oft.use_cayley_neumann => Some(oft.num_cayley_neumann_terms),
        _ => None,
    }
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
