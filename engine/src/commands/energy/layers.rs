//! Energies of the layers of a model, as it is and with adapters.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::{FloatDType, Tensor, TensorData};
use temper_adapters::energy::he_mean_half;
use temper_adapters::peft::AdapterConfig;
use temper_adapters::weights::{Checkpoint, WeightsError};
use temper_adapters::{Adaptable, RandomSource, attach, attach_scaled};
use temper_datasets::random::rng;
use temper_models::single_file::is_single_file;
use temper_models::{Llama, Unet};

use crate::Failure;
use crate::device::{self, OpenDevice};
use crate::diffusion::{
    AdapterChoice, Component, DiffusionError, ModelIndex, read_part, unet_of_file,
};
use crate::hub;
use crate::loading::read_adapter;
use crate::run::{model_at, verify};

/// Energy of each layer, in the order of the network: linear layers, then convolutions.
#[derive(Clone, Debug, Default)]
pub(super) struct Energies(pub(super) Vec<(String, f64)>);

impl Energies {
    /// All layers together.
    pub(super) fn total(&self) -> f64 {
        self.0.iter().map(|(_, energy)| energy).sum()
    }

    /// The energy of one layer, if it was measured.
    pub(super) fn get(&self, module: &str) -> Option<f64> {
        let found = self.0.iter().find(|(name, _)| name == module);
        found.map(|(_, energy)| *energy)
    }

    /// All layers of `before` together, with those measured here in their place.
    pub(super) fn total_over(&self, before: &Self) -> f64 {
        let now = |(module, energy): &(String, f64)| self.get(module).unwrap_or(*energy);
        before.0.iter().map(now).sum()
    }

    /// Relative change of each layer that `after` measured, with the layer's number.
    pub(super) fn changes(&self, after: &Self) -> Vec<(f64, f64)> {
        let numbered = (1..).zip(&self.0);
        numbered
            .filter_map(|(number, (module, energy))| {
                let now = after.get(module)?;
                Some((f64::from(number), (now - energy) / energy))
            })
            .collect()
    }

    /// The relative change of the layer that changes most.
    pub(super) fn largest_change(&self, after: &Self) -> f64 {
        let changes = self.changes(after).into_iter().map(|(_, change)| change);
        changes.fold(0.0, |most: f64, change| {
            if change.abs() > most.abs() {
                change
            } else {
                most
            }
        })
    }
}

/// A model whose layers can be measured.
#[derive(Clone, Debug)]
enum Network {
    Unet(Box<Unet>),
    Language(Box<Llama>),
}

impl Network {
    fn load(directory: &Path, device: &OpenDevice) -> Result<Self, Failure> {
        if directory.is_file() {
            let unet = unet_of_file(directory, FloatDType::F32, device)?;
            return Ok(Self::Unet(Box::new(unet)));
        }
        let text = std::fs::read_to_string(directory.join("config.json")).unwrap_or_default();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let (compute, device) = (FloatDType::F32, &device.device);
        Ok(if config.get("_class_name").is_some() {
            Self::Unet(Box::new(Unet::load(directory, compute, device)?))
        } else {
            Self::Language(Box::new(Llama::load(directory, compute, device)?))
        })
    }

    fn adaptable(&mut self) -> &mut dyn Adaptable {
        match self {
            Self::Unet(unet) => unet.as_mut(),
            Self::Language(llama) => llama.as_mut(),
        }
    }

    fn energies(&mut self, wanted: impl Fn(&str) -> bool) -> Energies {
        let mut found = Energies::default();
        let model = self.adaptable();
        model.visit_linears_mut(&mut |layer| {
            if wanted(layer.module()) {
                let energy = he_mean_half(&layer.effective_weight());
                found.0.push((layer.module().to_owned(), energy));
            }
        });
        model.visit_convs_mut(&mut |layer| {
            if wanted(layer.module()) {
                let energy = he_mean_half(&layer.effective_weight());
                found.0.push((layer.module().to_owned(), energy));
            }
        });
        found
    }
}

/// The model that adapters are compared with.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) directory: PathBuf,
    device: OpenDevice,
    network: Network,
}

impl Base {
    pub(super) fn load(spec: &str, device: &str) -> Result<Self, Failure> {
        let device = device::open(device)?;
        let mut directory = hub::resolve_model(spec)?;
        if ModelIndex::is_pipeline(&directory) {
            directory.push("unet");
        }
        Ok(Self {
            network: Network::load(&directory, &device)?,
            device,
            directory,
        })
    }

    /// Energies of the base's layers that are `wanted`.
    pub(super) fn energies(&self, wanted: impl Fn(&str) -> bool) -> Energies {
        self.network.clone().energies(wanted)
    }

    /// Energies of the layers that an adapter changes; of a model trained in full, of all layers.
    pub(super) fn with_adapter(&self, choice: &AdapterChoice) -> Result<Energies, Failure> {
        let path = choice.path.as_path();
        // A run that trained all weights stands for the model it left.
        let model = model_at(path.to_owned()).unwrap_or_else(|_| path.to_owned());
        let full = [model.join("unet"), model]
            .into_iter()
            .find(|place| place.join("config.json").is_file() || is_whole_model(place));
        if let Some(directory) = full {
            if choice.strength != 1.0 {
                let message = format!("`{}` is a model, which has no strength", path.display());
                return Err(Failure::usage(message));
            }
            let mut network = Network::load(&directory, &self.device)?;
            if network.adaptable().modules() != self.network.clone().adaptable().modules() {
                let (path, base) = (path.display(), self.directory.display());
                let message = format!("`{path}` has other layers than the base `{base}`");
                return Err(Failure::usage(message)
                    .with_hint("give the model that it was trained from as --model"));
            }
            return Ok(network.energies(|_| true));
        }
        let mut network = self.network.clone();
        let file = match &network {
            Network::Unet(unet) => read_part(path, Component::Unet, &unet.modules())?,
            Network::Language(_) => read_adapter(path)?,
        };
        attach_scaled(network.adaptable(), &file, choice.strength)
            .map_err(|error| DiffusionError::adapter(path, error))?;
        let adapted = file.adapted_modules();
        Ok(network.energies(|module| adapted.contains(module)))
    }

    /// Energies at each checkpoint of a run, in order of steps.
    pub(super) fn with_run(&self, path: &Path) -> Result<Vec<(u64, Energies)>, Failure> {
        let config = run_config(path)?;
        let mut steps = Vec::new();
        for directory in checkpoints(path)? {
            let manifest = verify(&directory)?;
            let mut network = self.network.clone();
            let model = network.adaptable();
            if let Some(config) = &config {
                attach(model, config, &no_random())?;
            }
            // Where a run keeps running means, they are its result.
            let means = directory.join("averages.safetensors");
            let trained = directory.join("trained.safetensors");
            let values = if means.is_file() { means } else { trained };
            let changed = restore(model, &Checkpoint::open(values)?)?;
            let energies = network.energies(|module| changed.contains(module));
            steps.push((manifest.step, energies));
        }
        if steps.is_empty() {
            let message = format!("the run `{}` has no checkpoint", path.display());
            return Err(Failure::run(message).with_hint("train with `train.save_every` set"));
        }
        steps.sort_by_key(|(step, _)| *step);
        Ok(steps)
    }
}

/// Whether this is a checkpoint in one file, and not an adapter.
fn is_whole_model(path: &Path) -> bool {
    path.is_file() && Checkpoint::open(path).is_ok_and(|file| is_single_file(&file))
}

fn no_random() -> RandomSource {
    // Every value drawn here is replaced by one of a file.
    RandomSource::new(|purpose| rng(0, purpose, 0, 0))
}

/// The configuration of a run's adapter; `None` for a run that trains all weights.
fn run_config(path: &Path) -> Result<Option<AdapterConfig>, Failure> {
    let directory = path.join("adapter");
    if directory.join("adapter_config.json").is_file() {
        let file = directory.join("adapter_config.json");
        let text = std::fs::read(&file)?;
        return Ok(Some(AdapterConfig::parse(&text, &file)?.0));
    }
    if path.join("model").is_dir() {
        return Ok(None);
    }
    let message = format!("`{}` has neither `adapter` nor `model`", path.display());
    Err(Failure::run(message).with_hint("name the directory of a run that came to its end"))
}

/// The directories `step-…`.
fn checkpoints(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = path.join("checkpoints");
    let failed = |error| Failure::run(format!("cannot list `{}`: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.starts_with("step-")) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Puts the trained values of a checkpoint into the model. Returns the modules they belong to.
fn restore(
    model: &mut dyn Adaptable,
    trained: &Checkpoint,
) -> Result<BTreeSet<String>, WeightsError> {
    let mut changed = BTreeSet::new();
    let mut outcome = Ok(());
    model.visit_mut(&mut |param| {
        // Runs that train several networks put the network's name in front.
        let names = [param.name().to_owned(), format!("unet.{}", param.name())];
        let found = names.into_iter().find(|name| trained.info(name).is_some());
        let Some(name) = found.filter(|_| outcome.is_ok()) else {
            return;
        };
        // Running means are kept as rows of values.
        let row = [param.numel()];
        let is_row = trained.info(&name).is_some_and(|info| info.shape == row);
        let shape = if is_row { &row } else { param.shape() };
        outcome = trained
            .expect(&name, shape)
            .and_then(|_| trained.read_f32(&name))
            .map(|values| {
                let data = TensorData::new(values, [param.numel()]);
                param.set(Tensor::from_data(data, &param.plain().device()));
            });
        changed.insert(module_of(param.name()).to_owned());
    });
    outcome.map(|()| changed)
}

/// `base_model.model.fc.oft_R.weight` and `fc.weight` belong to `fc`.
fn module_of(parameter: &str) -> &str {
    let name = parameter
        .strip_prefix("base_model.model.")
        .unwrap_or(parameter);
    let name = [".weight", ".bias", ".lora_magnitude_vector"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    [".oft_R", ".lora_A", ".lora_B"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::module_of;

    #[test]
    fn trained_values_belong_to_the_module_they_change() {
        let adapted = [
            "oft_R.weight",
            "lora_A.weight",
            "lora_B.weight",
            "lora_magnitude_vector",
        ];
        for end in adapted {
            assert_eq!(
                module_of(&format!("base_model.model.a.to_q.{end}")),
                "a.to_q"
            );
        }
        for plain in ["a.to_out.0.weight", "a.to_out.0.bias"] {
            assert_eq!(module_of(plain), "a.to_out.0");
        }
    }
}
