//! Reading an adapter of any known layout.

use std::collections::BTreeMap;
use std::path::Path;

use super::build::{Parts, adapter};
use super::diffusers::configurations;
use super::keys::{self, Part};
use super::kohya::{rotation_options, rotation_remark};
use super::names::{Component, Modules, Names};
use super::text_names::{self, renamed};
use super::{Format, FormatError, detect};
use crate::peft::{AdapterFile, PeftError};
use crate::weights::Checkpoint;

/// What [`read`] found.
#[derive(Clone, Debug)]
pub struct Imported {
    /// An adapter for each component that has one.
    pub adapters: Vec<(Component, AdapterFile)>,
    /// What the user should know: ignored options, assumptions.
    pub remarks: Vec<String>,
}

/// Reads the adapter at `path`, in any layout that [`detect`] knows, and checks it against the modules of the pipeline.
///
/// # Errors
/// Those of [`detect`]; [`FormatError::Keys`] with every tensor that has no place; [`FormatError::Peft`] when the adapter does not
/// fit the model.
///
/// # Examples
/// ```
/// use temper_adapters::formats::{Component, KohyaModel, Modules, read, write_kohya};
/// use temper_adapters::peft::{AdapterConfig, AdapterFile, AdapterTensor, Common, LoraConfig, Module, ModulePattern, Slot};
/// use temper_adapters::weights::{Dtype, HostTensor};
///
/// let unet = [Module::linear("mid_block.attn.to_q", 4, 3)];
/// let modules = Modules { unet: &unet, ..Modules::default() };
/// let tensor = |slot, shape: [usize; 2]| {
///     let values = vec![0.5; shape[0] * shape[1]];
///     let tensor = HostTensor::from_f32(Dtype::F32, shape.to_vec(), &values)?;
///     Ok::<_, Box<dyn std::error::Error>>(AdapterTensor { module: unet[0].name.clone(), slot, tensor })
/// };
/// let targets = Some(ModulePattern::Names(vec!["to_q".into()]));
/// let common = Common { target_modules: targets, ..Common::default() };
/// let config = AdapterConfig::Lora(LoraConfig { common, r: 2, lora_alpha: 6.0, ..LoraConfig::default() });
/// let lora = AdapterFile::new(config, vec![tensor(Slot::LoraA, [2, 4])?, tensor(Slot::LoraB, [3, 2])?])?;
///
/// let directory = tempfile::tempdir()?;
/// let file = directory.path().join("subject.safetensors");
/// write_kohya(&file, &[(Component::Unet, &lora)], KohyaModel::Sd1, &modules)?;
/// let again = read(&file, &modules)?;
/// assert_eq!(again.adapters[0].1.tensors(), lora.tensors());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read(path: &Path, modules: &Modules<'_>) -> Result<Imported, FormatError> {
    match detect(path)? {
        Format::Peft(directory) => {
            let (file, warnings) = AdapterFile::load(&directory)?;
            let (component, file, others) = modules.owner(&file);
            file.check(modules.of(component))?.into_result()?;
            let mut remarks: Vec<_> = warnings.iter().map(ToString::to_string).collect();
            remarks.extend(others.iter().map(|other| {
                format!("it fits the {component} and the {other}, and is taken for that of the {component}")
            }));
            Ok(Imported {
                adapters: vec![(component, file)],
                remarks,
            })
        }
        Format::PeftPerComponent(parts) => {
            let (mut adapters, mut remarks) = (Vec::new(), Vec::new());
            for (component, directory) in parts {
                let (file, warnings) = AdapterFile::load(&directory)?;
                let file = text_names::as_in(&file, modules.of(component))?;
                file.check(modules.of(component))?.into_result()?;
                remarks.extend(
                    warnings
                        .iter()
                        .map(|warning| format!("{component}: {warning}")),
                );
                adapters.push((component, file));
            }
            Ok(Imported { adapters, remarks })
        }
        Format::Diffusers(file) | Format::Kohya(file) => from_file(&file, modules),
    }
}

fn from_file(path: &Path, modules: &Modules<'_>) -> Result<Imported, FormatError> {
    let file = Checkpoint::open(path)?;
    let metadata = file.metadata();
    let mut problems = Vec::new();
    let found = sort(&file, modules, &mut problems)?;
    if !problems.is_empty() {
        let file = path.to_owned();
        return Err(FormatError::Keys { file, problems });
    }
    check_finite(path, &file)?;
    let (mut given, mut remarks) = configurations(path, &metadata)?;
    let series = rotation_options(&metadata);
    let mut adapters = Vec::new();
    for (component, parts) in found {
        let config = given.remove(&component);
        let config =
            config.map(|config| renamed(config, text_names::is_prefixed(modules.of(component))));
        remarks.extend(rotation_remark(&parts, &metadata));
        let adapter = adapter(path, parts, config, series, modules.of(component))?;
        adapter.check(modules.of(component))?.into_result()?;
        adapters.push((component, adapter));
    }
    for component in given.keys() {
        remarks.push(format!(
            "the file describes an adapter of the {component} but holds none"
        ));
    }
    Ok(Imported { adapters, remarks })
}

/// An alpha that is no number is a problem of its own.
fn check_finite(path: &Path, file: &Checkpoint) -> Result<(), FormatError> {
    let mut keys = Vec::new();
    for key in file
        .names()
        .filter(|key| key.rsplit('.').next() != Some("alpha"))
    {
        if !file.read(key)?.is_finite() {
            keys.push(key.to_owned());
        }
    }
    if keys.is_empty() {
        return Ok(());
    }
    let file = path.to_owned();
    Err(PeftError::NotFinite { file, keys }.into())
}

/// Problems for which names alike are looked up.
const HINTS: usize = 4;

type Found<'a> = BTreeMap<Component, BTreeMap<String, Parts<'a>>>;

/// Every tensor of the file by component and module.
fn sort<'a>(
    file: &Checkpoint,
    modules: &Modules<'a>,
    problems: &mut Vec<String>,
) -> Result<Found<'a>, FormatError> {
    let names = Component::ALL.map(|component| Names::new(component, modules.of(component)));
    let mut found = Found::new();
    for key in file.names() {
        let parsed = match keys::parse(key) {
            Ok(parsed) => parsed,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let names = &names[parsed.component as usize];
        let module = if parsed.flat {
            names.flat(&parsed.module, problems.len() < HINTS)
        } else {
            names.dotted(&parsed.module, problems.len() < HINTS)
        };
        match module {
            Err(problem) => problems.push(problem),
            Ok(module) => {
                let parts = found.entry(parsed.component).or_default();
                let parts = parts
                    .entry(module.name.clone())
                    .or_insert_with(|| Parts::new(module));
                let tensor = file.read(key)?;
                if parts.put(parsed.part, tensor).is_some() {
                    problems.push(format!(
                        "`{key}` gives a parameter of `{}` a second time",
                        module.name
                    ));
                }
                if parsed.part == Part::Rotation && parts.is_convolution() {
                    problems.push(format!(
                        "`{key}` rotates a convolution, which tools do not agree on (some rotate the other way); \
                         only linear layers can be read from this layout"
                    ));
                }
            }
        }
    }
    Ok(found)
}
