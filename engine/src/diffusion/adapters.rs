//! Adapters on the networks of a pipeline: read in any layout, several at once, of any strength, folded into the weights.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use temper_adapters::formats::{self, Imported, Modules};
use temper_adapters::peft::{AdapterFile, Module, Slot};
use temper_adapters::{Adaptable, merge_into};

use super::{Component, DiffusionError, Pipeline};
use crate::run::{ADAPTERS, adapters_at, check_is_adapter, note};

/// An adapter and how strongly it acts: `PATH` or `PATH:STRENGTH`.
///
/// # Examples
/// ```
/// use temper_engine::diffusion::AdapterChoice;
///
/// let choice: AdapterChoice = "runs/dog/adapter:0.8".parse().unwrap();
/// assert_eq!((choice.path.to_str(), choice.strength), (Some("runs/dog/adapter"), 0.8));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterChoice {
    /// A PEFT directory, a run directory, or a file of another tool.
    pub path: PathBuf,
    /// 0 leaves the model as it is, 1 is the adapter as it was trained.
    pub strength: f64,
}

impl FromStr for AdapterChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = Self {
            path: text.into(),
            strength: 1.0,
        };
        let Some((path, strength)) = text.rsplit_once(':').filter(|_| !whole.path.exists()) else {
            return Ok(whole);
        };
        match strength.parse::<f64>() {
            Ok(strength) if strength.is_finite() && !path.is_empty() => Ok(Self {
                path: path.into(),
                strength,
            }),
            // A colon may well be part of a path that was misspelt.
            _ if strength.contains(['/', '\\']) => Ok(whole),
            _ => Err(format!(
                "`{strength}` is not a strength; write PATH:NUMBER, such as `{path}:0.8`"
            )),
        }
    }
}

/// The name of the network that an adapter's part belongs to.
pub(crate) fn network_of(part: formats::Component) -> Component {
    match part {
        formats::Component::TextEncoder => Component::TextEncoder,
        formats::Component::TextEncoder2 => Component::TextEncoder2,
        formats::Component::Unet => Component::Unet,
    }
}

/// Reads an adapter in any layout, or those of a run, against the modules of a model, and says what is odd about it.
///
/// # Errors
/// [`DiffusionError::Adapter`].
pub(crate) fn read_adapter(
    path: &Path,
    modules: &Modules<'_>,
) -> Result<Vec<(formats::Component, AdapterFile)>, DiffusionError> {
    check_is_adapter(path)?;
    let mut found = Vec::new();
    for place in adapters_at(path) {
        found.extend(read_place(&place, modules)?);
    }
    if let Some(run) = left_behind(path) {
        note(&format!(
            "warning: `{}`: the run also trained a text encoder, whose adapter stands beside it: give `{}` to take both",
            path.display(),
            run.display()
        ));
    }
    Ok(found)
}

fn read_place(
    path: &Path,
    modules: &Modules<'_>,
) -> Result<Vec<(formats::Component, AdapterFile)>, DiffusionError> {
    let modules = match of_folder(path) {
        Some(part) if !modules.of(part).is_empty() => modules.only(part),
        _ => *modules,
    };
    let read =
        formats::read(path, &modules).map_err(|source| DiffusionError::adapter(path, source));
    let Imported { adapters, remarks } = read?;
    let say = |what: &str| note(&format!("warning: `{}`: {what}", path.display()));
    for remark in &remarks {
        say(remark);
    }
    if adapters.iter().all(|(_, file)| file.changes_nothing()) {
        say("this adapter changes nothing: all its values are zero, as before training");
    }
    Ok(adapters)
}

/// The text encoder whose adapter a run keeps under this name: two encoders may have the same layers.
fn of_folder(path: &Path) -> Option<formats::Component> {
    let [_, first, second] = ADAPTERS;
    match path.file_name()? {
        name if name == first => Some(formats::Component::TextEncoder),
        name if name == second => Some(formats::Component::TextEncoder2),
        _ => None,
    }
}

/// The adapter of one network that stands alone.
///
/// # Errors
/// [`DiffusionError::Adapter`]; [`DiffusionError::NoPart`] when the adapter is for other networks.
pub(crate) fn read_part(
    path: &Path,
    component: Component,
    modules: &[Module],
) -> Result<AdapterFile, DiffusionError> {
    check_is_adapter(path)?;
    let (all, folder) = match component {
        Component::Unet => (
            Modules {
                unet: modules,
                ..Modules::default()
            },
            ADAPTERS[0],
        ),
        _ => (
            Modules {
                text_encoder: modules,
                ..Modules::default()
            },
            ADAPTERS[1],
        ),
    };
    let own = path.join(folder);
    let in_run = adapters_at(path).contains(&own);
    let parts = read_place(if in_run { &own } else { path }, &all)?;
    let parts = parts.into_iter();
    let parts: Vec<_> = parts.map(|(part, file)| (network_of(part), file)).collect();
    let names: Vec<&str> = parts.iter().map(|(part, _)| part.name()).collect();
    let error = DiffusionError::NoPart {
        path: path.to_owned(),
        wanted: component.name(),
        found: names.join(", "),
    };
    let mut fitting = parts.into_iter().filter(|(part, _)| *part == component);
    fitting.next().map(|(_, file)| file).ok_or(error)
}

/// The run whose adapter of the UNet this is, when it left others beside it that a user would miss.
fn left_behind(path: &Path) -> Option<PathBuf> {
    let run = path.parent()?;
    let is_of_unet = path.file_name()? == "adapter" && run.join("recipe.toml").is_file();
    let other = run.join(ADAPTERS[1]).join("adapter_config.json");
    (is_of_unet && other.is_file()).then(|| run.to_owned())
}

/// The encoder of control pictures that was trained with an adapter: `control` in its directory, in its run or beside it.
pub(crate) fn control_of(adapter: &Path) -> Option<PathBuf> {
    let inside = adapter.join("control");
    let beside = adapter.parent().map(|run| run.join("control"));
    let mut places = std::iter::once(inside).chain(beside);
    places.find(|directory| directory.join("config.json").is_file())
}

/// Folds `choices` into the weights of `pipeline`, so that they act on the input of a layer in the order in which they are given.
/// Returns remarks for the log.
///
/// # Errors
/// [`DiffusionError::Adapter`] when one cannot be read or does not fit the pipeline.
pub fn apply_adapters(
    pipeline: &mut Pipeline,
    choices: &[AdapterChoice],
) -> Result<Vec<String>, DiffusionError> {
    let (mut remarks, mut stored) = (Vec::new(), BTreeSet::new());
    // What acts first on the input stands farthest from the weight, and is folded last.
    for choice in choices.iter().rev() {
        for (component, file) in pipeline.read_adapter(&choice.path)? {
            let names = stored_whole(component, &file);
            let twice = names.iter().filter(|name| stored.contains(*name)).count();
            if twice > 0 && choice.strength == 1.0 {
                remarks.push(format!(
                    "{twice} biases or whole modules stored by `{}` take the place of those of adapters named after it: they do not add up",
                    choice.path.display()
                ));
            }
            stored.extend(names);
            let merged = merge_into(pipeline.adaptable(component)?, &file, choice.strength);
            remarks.extend(merged.map_err(|error| DiffusionError::adapter(&choice.path, error))?);
        }
    }
    Ok(remarks)
}

/// Names of the parameters that an adapter replaces instead of changing.
fn stored_whole(component: Component, file: &AdapterFile) -> Vec<String> {
    let whole = |slot: &Slot| matches!(slot, Slot::Bias | Slot::Saved(_));
    let tensors = file.tensors().iter().filter(|tensor| whole(&tensor.slot));
    let name = component.name();
    tensors
        .map(|tensor| format!("{name}.{}.{}", tensor.module, tensor.slot.name()))
        .collect()
}

impl Pipeline {
    /// The adapter at `path`, in any layout that is known: a part for each network that it changes. A run directory stands for all
    /// that the run left.
    ///
    /// # Errors
    /// [`DiffusionError::Adapter`].
    pub fn read_adapter(
        &self,
        path: &Path,
    ) -> Result<Vec<(Component, AdapterFile)>, DiffusionError> {
        let unet = self.unet.modules();
        let texts: Vec<Vec<Module>> = self.text_encoders.iter().map(Adaptable::modules).collect();
        let text = |number: usize| texts.get(number).map_or(&[][..], Vec::as_slice);
        let modules = Modules {
            unet: &unet,
            text_encoder: text(0),
            text_encoder_2: text(1),
        };
        let parts = read_adapter(path, &modules)?.into_iter();
        Ok(parts.map(|(part, file)| (network_of(part), file)).collect())
    }

    /// A network, to change it.
    ///
    /// # Errors
    /// [`DiffusionError::NoSuchNetwork`] when the pipeline does not have it.
    pub fn adaptable(
        &mut self,
        component: Component,
    ) -> Result<&mut dyn Adaptable, DiffusionError> {
        let number = match component {
            Component::Unet => return Ok(&mut self.unet),
            Component::Vae => return Ok(&mut self.vae),
            Component::TextEncoder => 0,
            Component::TextEncoder2 => 1,
            _ => usize::MAX,
        };
        match self.text_encoders.get_mut(number) {
            Some(encoder) => Ok(encoder),
            None => Err(DiffusionError::NoSuchNetwork {
                component: component.name(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use temper_adapters::peft::{AdapterConfig, AdapterTensor, LoraConfig, ModulePattern, Slot};
    use temper_adapters::weights::{Dtype, HostTensor};

    use super::*;

    #[test]
    fn adapters_of_a_run_go_to_the_encoder_of_their_folder_when_both_have_the_same_layers() {
        let name = "text_model.encoder.layers.0.self_attn.q_proj";
        let modules = [Module::linear(name, 2, 2)];
        let both = Modules {
            text_encoder: &modules,
            text_encoder_2: &modules,
            ..Modules::default()
        };
        let tensor = |slot, shape: [usize; 2]| AdapterTensor {
            module: name.to_owned(),
            slot,
            tensor: HostTensor::from_f32(Dtype::F32, shape.to_vec(), &[0.5; 2]).unwrap(),
        };
        let mut config = LoraConfig {
            r: 1,
            ..LoraConfig::default()
        };
        config.common.target_modules = Some(ModulePattern::Names(vec!["q_proj".to_owned()]));
        let tensors = vec![tensor(Slot::LoraA, [1, 2]), tensor(Slot::LoraB, [2, 1])];
        let file = AdapterFile::new(AdapterConfig::Lora(config), tensors).unwrap();
        let run = tempfile::tempdir().unwrap();
        for (folder, component) in ADAPTERS[1..].iter().zip([
            formats::Component::TextEncoder,
            formats::Component::TextEncoder2,
        ]) {
            let place = run.path().join(folder);
            file.save(&place).unwrap();
            let found = read_place(&place, &both).unwrap();
            let parts: Vec<_> = found.into_iter().map(|(part, _)| part).collect();
            assert_eq!(parts, [component]);
        }
    }
}
