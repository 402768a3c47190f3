//! `temper forward`: named tensors through a model, to compare with another framework.
//!
//! What the model is, its `config.json` says; each kind has its own inputs and outputs, with the names of the peer libraries.

mod clip;
mod diffusion;
mod language;
mod tensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use temper_adapters::Adaptable;
use temper_adapters::weights::{HostTensor, save_safetensors};

use super::output::refuse_input;
use crate::Failure;
use crate::diffusion::{Component, ModelIndex, read_part};
use crate::loading::{LoadOptions, ModelArgs, Precision, attach_to};

/// Arguments of `temper forward`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Fold the adapter into the weights first
    #[arg(long, requires = "adapter")]
    merge: bool,
    /// Precision of weights and products; outputs are always f32
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Precision,
    /// Safetensors file of inputs: `input_ids` (language models, CLIP), `sample`, `timestep` and `encoder_hidden_states` (UNet),
    /// `sample` or `latent` (VAE), `pixel_values` (vision)
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Safetensors file to write: `logits`, `sample`, `last_hidden_state`, … and `loss` with labels
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Also write `hidden_states.N`: embeddings, blocks, final norm
    #[arg(long)]
    hidden_states: bool,
    /// Of a UNet: also write `act.MODULE`, the outputs of its main modules
    #[arg(long)]
    activations: bool,
}

/// Named outputs.
type Outputs = Vec<(String, HostTensor)>;

/// The architectures, by what their configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Architecture {
    Language,
    Unet,
    Vae,
    ClipText,
    ClipVision,
    /// Both of the above; the input tells which is run.
    Clip,
    Vit,
}

impl Architecture {
    /// `_class_name` of diffusers, else `model_type` of transformers. What is neither is read as a language model, whose
    /// configuration says what it lacks.
    fn of(directory: &Path) -> Result<Self, Failure> {
        if directory.join("model_index.json").is_file() {
            let index = ModelIndex::load(directory)?;
            let parts: Vec<String> = ["unet", "vae", "text_encoder", "text_encoder_2"]
                .into_iter()
                .filter(|part| index.json().contains_key(*part))
                .map(|part| format!("`{}`", directory.join(part).display()))
                .collect();
            let message = format!(
                "`{}` is a whole pipeline, and `temper forward` runs one network",
                directory.display()
            );
            let hint = format!("give one of its parts as --model: {}", parts.join(", "));
            return Err(Failure::usage(message).with_hint(hint));
        }
        let text = std::fs::read_to_string(directory.join("config.json")).unwrap_or_default();
        let config: Value = serde_json::from_str(&text).unwrap_or_default();
        let name = |key| config.get(key).and_then(Value::as_str);
        Ok(match (name("_class_name"), name("model_type")) {
            (Some("UNet2DConditionModel"), _) => Self::Unet,
            (Some("AutoencoderKL"), _) => Self::Vae,
            (_, Some("clip_text_model")) => Self::ClipText,
            (_, Some("clip_vision_model")) => Self::ClipVision,
            (_, Some("clip")) => Self::Clip,
            (_, Some("vit")) => Self::Vit,
            _ => Self::Language,
        })
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let options = args.model.options(Some(args.dtype));
    let directory = options.resolve()?;
    let read = [args.input.as_path(), &directory];
    refuse_input(
        &args.output,
        read.into_iter().chain(options.adapter.as_deref()),
    )?;
    let architecture = Architecture::of(&directory)?;
    if args.activations && architecture != Architecture::Unet {
        return Err(Failure::usage("--activations is for a UNet"));
    }
    let job = Job {
        args,
        options,
        directory,
    };
    let outputs = match architecture {
        Architecture::Language => language::outputs(job)?,
        Architecture::Unet => diffusion::unet(&job)?,
        Architecture::Vae => diffusion::vae(&job)?,
        Architecture::ClipText => clip::text(&job)?,
        Architecture::ClipVision => clip::vision(&job)?,
        Architecture::Clip => clip::either(&job)?,
        Architecture::Vit => clip::vit(&job)?,
    };
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(save_safetensors(&args.output, &outputs, &metadata)?)
}

/// What to run.
struct Job<'a> {
    args: &'a Args,
    options: LoadOptions,
    directory: PathBuf,
}

impl Job<'_> {
    /// Attaches the adapter's part for one network, or folds it in.
    fn adapt(&self, model: &mut dyn Adaptable, component: Component) -> Result<(), Failure> {
        let Some(path) = &self.options.adapter else {
            return Ok(());
        };
        let file = read_part(path, component, &model.modules())?;
        attach_to(model, &file, path)?;
        if self.args.merge {
            model.merge();
        }
        Ok(())
    }

    /// For networks that adapters are not made for.
    fn refuse_adapter(&self) -> Result<(), Failure> {
        match &self.options.adapter {
            None => Ok(()),
            Some(_) => Err(Failure::usage("this network takes no adapter")
                .with_hint("adapters are for language models, UNets and text encoders")),
        }
    }
}
