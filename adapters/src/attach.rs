//! From a PEFT configuration to trained layers of a model, and back to a PEFT directory.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Bytes, DType, Device, Tensor, TensorData};

use crate::peft::{
    AdapterConfig, AdapterFile, AdapterTensor, Bias, LoraConfig, Module, ModuleKind, OftConfig,
    PeftError, Slot, Target, TargetRule, resolve,
};
use crate::weights::{Dtype, HostTensor};
use crate::{
    AdaptedConv2d, AdaptedLinear, Adapter, Cayley, Lora, LoraSpec, Oft, OftSpec, Param, Parameters,
    RandomSource,
};

/// A model whose layers can be adapted.
pub trait Adaptable: Parameters {
    /// Every module with parameters, in model order.
    fn modules(&self) -> Vec<Module>;
    /// Calls `visit` on every linear layer.
    fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut AdaptedLinear));
    /// Calls `visit` on every convolution.
    fn visit_convs_mut(&mut self, _visit: &mut dyn FnMut(&mut AdaptedConv2d)) {}

    /// Folds every adapter into the weight of its layer.
    fn merge(&mut self) {
        self.visit_linears_mut(&mut AdaptedLinear::merge);
        self.visit_convs_mut(&mut AdaptedConv2d::merge);
    }

    /// Restores COFT's constraint on every layer: call after every change of the parameters.
    fn project(&mut self) {
        self.visit_linears_mut(&mut |linear| {
            linear.adapter_mut().into_iter().for_each(Adapter::project);
        });
        self.visit_convs_mut(&mut |conv| conv.adapter_mut().into_iter().for_each(Adapter::project));
    }
}

/// Attaches fresh adapters and leaves exactly what `config` names trainable: adapters, biases, `modules_to_save`.
///
/// Returns remarks for the log, such as adjusted block sizes.
///
/// # Errors
/// A configuration that contradicts itself or does not fit the model.
pub fn attach(
    model: &mut dyn Adaptable,
    config: &AdapterConfig,
    random: &RandomSource,
) -> Result<Vec<String>, PeftError> {
    config.validate()?;
    check_saved(config, &model.modules())?;
    let resolution = resolve(config, &model.modules())?.require_all()?;
    let targets = by_name(&resolution.targets);
    model.visit_mut(&mut |param| param.set_trainable(false));
    model.visit_linears_mut(&mut |linear| {
        let adapter = targets.get(linear.module()).map(|target| {
            let weight = linear
                .weight()
                .plain()
                .reshape([linear.weight().shape()[0] as i64, -1]);
            fresh(config, target, &weight, random)
        });
        linear.set_adapter(adapter);
    });
    model.visit_convs_mut(&mut |conv| {
        let adapter = targets.get(conv.module()).map(|target| {
            let weight = conv
                .weight()
                .plain()
                .reshape([conv.weight().shape()[0] as i64, -1]);
            fresh(config, target, &weight, random)
        });
        conv.set_adapter(adapter);
    });
    let trained = trained_names(config, &model.modules(), &targets);
    model.visit_mut(&mut |param| {
        param.set_trainable(trained.contains_key(param.name()) || is_adapter(param));
    });
    Ok(resolution.warnings)
}

/// Attaches the adapter of a directory, strictly: every tensor the configuration calls for, and no other.
///
/// # Errors
/// A configuration or tensors that do not fit the model.
pub fn attach_trained(
    model: &mut dyn Adaptable,
    file: &AdapterFile,
    random: &RandomSource,
) -> Result<Vec<String>, PeftError> {
    file.check(&model.modules())?.into_result()?;
    let warnings = attach(model, file.config(), random)?;

    let mut values: BTreeMap<String, &HostTensor> = BTreeMap::new();
    for tensor in file.tensors() {
        values.insert(parameter_name(tensor), &tensor.tensor);
    }
    let mut failure = None;
    model.visit_mut(&mut |param| {
        if let Some(tensor) = values.get(param.name()) {
            match tensor.to_f32() {
                Ok(floats) => {
                    let device = param.plain().device();
                    let n = floats.len();
                    param.set(Tensor::from_data(TensorData::new(floats, [n]), &device));
                }
                Err(error) => failure = Some(error),
            }
        }
    });
    model.project();
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(warnings),
    }
}

/// The adapter of `model` as PEFT stores it, in f32.
///
/// # Errors
/// When a tensor does not belong to `config`.
pub fn adapter_file(
    model: &dyn Adaptable,
    config: &AdapterConfig,
) -> Result<AdapterFile, PeftError> {
    let modules = model.modules();
    let resolution = resolve(config, &modules)?;
    let targets = by_name(&resolution.targets);
    let plain = trained_names(config, &modules, &targets);
    let mut tensors = Vec::new();
    model.visit(&mut |param| {
        let place = if is_adapter(param) {
            adapter_slot(param.name())
        } else {
            plain.get(param.name()).cloned()
        };
        if let Some((module, slot)) = place {
            tensors.push((module, slot, param.clone()));
        }
    });
    let tensors = tensors
        .into_iter()
        .map(|(module, slot, param)| {
            Ok(AdapterTensor {
                module,
                slot,
                tensor: host_tensor(&param)?,
            })
        })
        .collect::<Result<Vec<_>, PeftError>>()?;
    AdapterFile::new(config.clone(), tensors)
}

const PREFIX: &str = "base_model.model.";

fn is_adapter(param: &Param) -> bool {
    param.name().starts_with(PREFIX)
}

/// `base_model.model.fc1.lora_A.weight` to (`fc1`, A).
fn adapter_slot(name: &str) -> Option<(String, Slot)> {
    let name = name.strip_prefix(PREFIX)?;
    [
        (".oft_R.weight", Slot::OftR),
        (".lora_A.weight", Slot::LoraA),
        (".lora_B.weight", Slot::LoraB),
        (".lora_magnitude_vector", Slot::LoraMagnitude),
    ]
    .into_iter()
    .find_map(|(tail, slot)| Some((name.strip_suffix(tail)?.to_owned(), slot)))
}

pub(crate) fn parameter_name(tensor: &AdapterTensor) -> String {
    let module = &tensor.module;
    match &tensor.slot {
        Slot::OftR => format!("{PREFIX}{module}.oft_R.weight"),
        Slot::LoraA => format!("{PREFIX}{module}.lora_A.weight"),
        Slot::LoraB => format!("{PREFIX}{module}.lora_B.weight"),
        Slot::LoraMagnitude => format!("{PREFIX}{module}.lora_magnitude_vector"),
        Slot::Bias => format!("{module}.bias"),
        Slot::Saved(name) => format!("{module}.{name}"),
    }
}

/// Every entry of `modules_to_save` must name a module: one that names none would be ignored in silence, a container would be
/// saved in part.
fn check_saved(config: &AdapterConfig, modules: &[Module]) -> Result<(), PeftError> {
    for entry in config.common().modules_to_save.iter().flatten() {
        if !modules.iter().any(|module| is_named(&module.name, entry)) {
            let names = modules.iter().map(|module| module.name.as_str());
            let near = crate::weights::near::near(entry, names);
            return Err(PeftError::UnmatchedSaved {
                entry: entry.clone(),
                near,
            });
        }
    }
    Ok(())
}

/// PEFT's suffix rule: the whole name, or its last parts.
fn is_named(module: &str, entry: &str) -> bool {
    module == entry || module.ends_with(&format!(".{entry}"))
}

/// Names of the base model's parameters that are trained beside those of the adapter: biases, and modules stored whole. `targets` are
/// what `config` resolves to among `modules`. The `bias` of a stored module is named whether there is one or not.
///
/// # Errors
/// [`PeftError::UnmatchedSaved`] for an entry of `modules_to_save` that names no module.
pub fn trained_beside(
    config: &AdapterConfig,
    modules: &[Module],
    targets: &[Target],
) -> Result<BTreeSet<String>, PeftError> {
    check_saved(config, modules)?;
    let names = trained_names(config, modules, &by_name(targets));
    Ok(names.into_keys().collect())
}

fn by_name(targets: &[Target]) -> BTreeMap<&str, &Target> {
    let named = targets.iter().map(|target| (target.name.as_str(), target));
    named.collect()
}

/// Parameters of the base model that are trained along, by name.
fn trained_names(
    config: &AdapterConfig,
    modules: &[Module],
    targets: &BTreeMap<&str, &Target>,
) -> BTreeMap<String, (String, Slot)> {
    let common = config.common();
    let mut names = BTreeMap::new();
    for module in modules {
        let name = &module.name;
        let with_bias = match common.bias {
            Bias::None => false,
            Bias::All => true,
            Bias::Adapted => targets.contains_key(name.as_str()),
        };
        if with_bias && module.bias {
            names.insert(format!("{name}.bias"), (name.clone(), Slot::Bias));
        }
        let matches = |entry: &String| is_named(name, entry);
        if common.modules_to_save.iter().flatten().any(matches) {
            for part in ["weight", "bias"] {
                names.insert(
                    format!("{name}.{part}"),
                    (name.clone(), Slot::Saved(part.to_owned())),
                );
            }
        }
    }
    names
}

pub(crate) fn fresh(
    config: &AdapterConfig,
    target: &Target,
    weight: &Tensor<2>,
    random: &RandomSource,
) -> Adapter {
    let device: Device = weight.device();
    match (config, target.rule) {
        (AdapterConfig::Oft(config), TargetRule::Oft { block_size, blocks }) => {
            let spec = oft_spec(config, block_size, blocks);
            let width = block_size * blocks;
            Adapter::Oft(if config.init_weights {
                Oft::identity(&target.name, width, spec, &device)
            } else {
                Oft::random(&target.name, width, spec, &device, random)
            })
        }
        (AdapterConfig::Lora(config), TargetRule::Lora { rank, scale, .. }) => {
            let spec = lora_spec(config, rank, scale);
            let weight = weight.clone().cast(DType::F32);
            Adapter::Lora(match target.kind {
                ModuleKind::Conv2d { kernel, .. } => {
                    Lora::initial_conv(&target.name, &weight, kernel, spec, random)
                }
                _ => Lora::initial(&target.name, &weight, spec, random),
            })
        }
        _ => unreachable!("a rule follows from its configuration"),
    }
}

/// τ in PEFT's units: `eps / √r` for r separate blocks, `eps` for one shared block.
fn oft_spec(config: &OftConfig, block_size: usize, blocks: usize) -> OftSpec {
    let stored = if config.block_share { 1 } else { blocks };
    OftSpec {
        block_size,
        block_share: config.block_share,
        cayley: if config.use_cayley_neumann {
            Cayley::Neumann {
                terms: config.num_cayley_neumann_terms,
            }
        } else {
            Cayley::Exact
        },
        tau: config.coft.then(|| config.eps / (stored as f64).sqrt()),
    }
}

fn lora_spec(config: &LoraConfig, rank: usize, scaling: f64) -> LoraSpec {
    LoraSpec {
        rank,
        scaling,
        dropout: config.lora_dropout as f32,
        dora: config.use_dora,
    }
}

fn host_tensor(param: &Param) -> Result<HostTensor, PeftError> {
    let bytes: Bytes = param.plain().cast(DType::F32).into_data().into_bytes();
    Ok(HostTensor::new(
        Dtype::F32,
        param.shape().to_vec(),
        bytes.to_vec(),
    )?)
}
