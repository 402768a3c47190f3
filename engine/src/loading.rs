//! From a name on the command line or in a recipe to a model that computes.

use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use temper_adapters::peft::AdapterFile;
use temper_adapters::{Adaptable, RandomSource, attach_trained};
use temper_models::Llama;

use crate::device::{self, OpenDevice};
use crate::generate::{Limits, Order, Sampling};
use crate::recipe::Compute;
use crate::{Failure, hub, run};

/// Arguments shared by the commands that load a model.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Model directory, or `org/name[@revision]` on the hub
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Adapter directory (PEFT layout), or run directory
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Device: auto, cpu, cuda[:N], metal, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    device: String,
}

/// Precision of weights and matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Precision {
    F32,
    Bf16,
    F16,
}

/// How the commands that generate text choose tokens.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct SamplingArgs {
    /// Divides the logits; 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Sample among the K likeliest tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample among the likeliest tokens that together have probability P
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Seed of the random numbers; a row's draws depend on seed and row alone
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl SamplingArgs {
    pub(crate) fn ending(&self, max_new_tokens: usize, stop: Vec<String>) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
            max_new_tokens,
            stop,
        }
    }
}

/// How many sequences the commands that generate text run at once.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct BatchArgs {
    /// Sequences that run at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch_size: u32,
    /// Memory for keys and values, like `4GiB`; fewer sequences run at once when it is short
    #[arg(long, value_name = "SIZE")]
    pub(crate) cache_memory: Option<bytesize::ByteSize>,
    /// Which prompt starts next; changes the speed, never the text
    #[arg(long, value_enum, default_value_t = StartOrder::Arrival)]
    pub(crate) order: StartOrder,
}

/// Which prompt starts next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StartOrder {
    /// The first of the file
    Arrival,
    /// The longest
    Longest,
}

impl BatchArgs {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_sequences: self.batch_size as usize,
            cache_bytes: self.cache_memory.map(|size| size.as_u64()),
            order: match self.order {
                StartOrder::Arrival => Order::Arrival,
                StartOrder::Longest => Order::Longest,
            },
            ..Limits::default()
        }
    }
}

impl From<Precision> for FloatDType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::BF16,
            Precision::F16 => Self::F16,
        }
    }
}

/// The precision that a recipe names; `None` takes what suits the device.
pub(crate) fn dtype_of(compute: Compute) -> Option<FloatDType> {
    match compute {
        Compute::Auto => None,
        Compute::F32 => Some(FloatDType::F32),
        Compute::Bf16 => Some(FloatDType::BF16),
        Compute::F16 => Some(FloatDType::F16),
    }
}

impl ModelArgs {
    pub(crate) fn options(&self, dtype: Option<Precision>) -> LoadOptions {
        LoadOptions {
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            device: self.device.clone(),
            dtype: dtype.map(FloatDType::from),
        }
    }
}

/// What to load, and where to.
#[derive(Clone, Debug)]
pub(crate) struct LoadOptions {
    /// A directory, or `org/name[@revision]`.
    pub(crate) model: String,
    /// A PEFT directory.
    pub(crate) adapter: Option<PathBuf>,
    /// A device name.
    pub(crate) device: String,
    /// Precision of weights and products; `None` takes what suits the device.
    pub(crate) dtype: Option<FloatDType>,
}

/// A model with its adapter on a device, frozen.
#[derive(Debug)]
pub(crate) struct LoadedModel {
    pub(crate) model: Llama,
    /// Where its tokenizer and configuration lie.
    pub(crate) directory: PathBuf,
    pub(crate) device: OpenDevice,
    /// Of weights and matrix products.
    pub(crate) dtype: FloatDType,
}

impl LoadOptions {
    /// Finds the model directory, from the hub if need be.
    pub(crate) fn resolve(&self) -> Result<PathBuf, Failure> {
        Ok(hub::resolve_model(&self.model)?)
    }

    /// Opens the device and checks that it computes in the precision asked for.
    pub(crate) fn open(&self) -> Result<(OpenDevice, FloatDType), Failure> {
        let device = device::open(&self.device)?;
        let dtype = device.precision(self.dtype)?;
        Ok((device, dtype))
    }

    /// Resolves and loads.
    pub(crate) fn load(&self) -> Result<LoadedModel, Failure> {
        self.load_from(self.resolve()?)
    }

    /// Loads from a directory that [`Self::resolve`] found.
    pub(crate) fn load_from(&self, directory: PathBuf) -> Result<LoadedModel, Failure> {
        let (device, dtype) = self.open()?;
        let adapter = self.adapter.as_deref().map(read_adapter).transpose()?;
        let mut model = Llama::load(&directory, dtype, &device.device)?;
        if let (Some(file), Some(path)) = (&adapter, &self.adapter) {
            attach_to(&mut model, file, path)?;
        }
        Ok(LoadedModel {
            model,
            directory,
            device,
            dtype,
        })
    }
}

/// Reads an adapter, or that of a run, before the model, so that what is wrong with it is said at once.
pub(crate) fn read_adapter(path: &Path) -> Result<AdapterFile, Failure> {
    run::check_is_adapter(path).map_err(Failure::run)?;
    let directory = &run::adapters_at(path)[0];
    let (file, warnings) = AdapterFile::load(directory)?;
    for warning in warnings {
        run::note(&format!("warning: `{}`: {warning}", directory.display()));
    }
    if file.changes_nothing() {
        run::note(&format!(
            "warning: the adapter `{}` changes nothing: all its values are zero, as before training",
            directory.display()
        ));
    }
    Ok(file)
}

pub(crate) fn attach_to(
    model: &mut dyn Adaptable,
    file: &AdapterFile,
    path: &Path,
) -> Result<(), Failure> {
    // Every value drawn here is replaced by one of the file.
    let random = RandomSource::new(|purpose| temper_datasets::random::rng(0, purpose, 0, 0));
    let attached = attach_trained(model, file, &random);
    let remarks = attached.map_err(|error| {
        let hint = format!(
            "`{}` was made for another model than the one given",
            path.display()
        );
        Failure::run(error).with_hint(hint)
    })?;
    for remark in remarks {
        run::note(&format!("warning: `{}`: {remark}", path.display()));
    }
    model.visit_mut(&mut |param| param.set_trainable(false));
    Ok(())
}
