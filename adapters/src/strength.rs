//! How strongly a trained adapter acts, and several adapters on one model.

use std::collections::BTreeMap;

use burn::tensor::{FloatDType, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::attach::{fresh, parameter_name};
use crate::peft::{AdapterConfig, AdapterFile, PeftError, Target, resolve};
use crate::{Adaptable, Adapter, Param, RandomSource};

impl Adapter {
    /// The same adapter with `strength` times its effect: 0 is none, 1 the trained one.
    ///
    /// `LoRA`: the update is multiplied. OFT: the skew matrices are, Q → strength · Q. The result stays a rotation at every
    /// strength, between the identity and the trained one along the way that training took; mixing the rotation itself with the
    /// identity, s(R − I) + I, as some tools do, is no rotation between 0 and 1. COFT's bound is dropped, as it is one of training.
    ///
    /// # Errors
    /// [`PeftError::OutOfRange`] when `strength` is not finite, or not 1 for `DoRA`, whose row norms belong to the whole update.
    pub fn scaled(&self, strength: f64) -> Result<Self, PeftError> {
        let refused = |expected| PeftError::OutOfRange {
            key: "strength",
            value: strength,
            expected,
        };
        if !strength.is_finite() {
            return Err(refused("a number"));
        }
        match self {
            Self::Oft(oft) => Ok(Self::Oft(oft.scaled(strength))),
            Self::Lora(lora) if lora.spec().dora && strength != 1.0 => Err(refused(
                "1, as DoRA's magnitudes belong to the whole update",
            )),
            Self::Lora(lora) => Ok(Self::Lora(lora.scaled(strength))),
        }
    }
}

/// Folds a trained adapter into the weights of `model` at `strength` (see [`Adapter::scaled`]). Called again, the next adapter acts
/// on what the ones before have made: order matters for rotations.
///
/// The fold is done in f32 and rounded to the weight's dtype, once for each adapter. Returns remarks for the log. Nothing is
/// changed when it fails.
///
/// # Errors
/// As [`attach_scaled`].
pub fn merge_into(
    model: &mut dyn Adaptable,
    file: &AdapterFile,
    strength: f64,
) -> Result<Vec<String>, PeftError> {
    let remarks = attach_scaled(model, file, strength)?;
    model.merge();
    Ok(remarks)
}

/// Attaches a trained adapter that acts with `strength` (see [`Adapter::scaled`]). Biases and modules stored whole move from the
/// model's to the adapter's by the same share. Returns remarks for the log. Nothing is changed when it fails.
///
/// # Errors
/// A configuration or tensors that do not fit the model, a strength that the adapter does not have, and
/// [`PeftError::Conflict`] while an adapter is attached.
pub fn attach_scaled(
    model: &mut dyn Adaptable,
    file: &AdapterFile,
    strength: f64,
) -> Result<Vec<String>, PeftError> {
    check(model, file, strength)?;
    let modules = model.modules();
    file.check(&modules)?.into_result()?;
    let resolution = resolve(file.config(), &modules)?.require_all()?;
    let mut values = BTreeMap::new();
    for tensor in file.tensors() {
        values.insert(parameter_name(tensor), tensor.tensor.to_f32()?);
    }
    // Before adapters are there, whose own parameters are not moved but scaled.
    model.visit_mut(&mut |param| {
        if let Some(saved) = values.get(param.name()) {
            move_towards(param, saved, strength);
        }
    });
    let targets: BTreeMap<&str, &Target> = resolution
        .targets
        .iter()
        .map(|target| (target.name.as_str(), target))
        .collect();
    let mut failure = None;
    let mut trained = |module: &str, weight: &Param| {
        let target = targets.get(module)?;
        let adapter = loaded(file.config(), target, weight, &values).scaled(strength);
        adapter.map_err(|error| failure = Some(error)).ok()
    };
    model.visit_linears_mut(&mut |linear| {
        if let Some(adapter) = trained(linear.module(), linear.weight()) {
            linear.set_adapter(Some(adapter));
        }
    });
    model.visit_convs_mut(&mut |conv| {
        if let Some(adapter) = trained(conv.module(), conv.weight()) {
            conv.set_adapter(Some(adapter));
        }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(resolution.warnings),
    }
}

/// What would fail halfway.
fn check(model: &dyn Adaptable, file: &AdapterFile, strength: f64) -> Result<(), PeftError> {
    let dora = matches!(file.config(), AdapterConfig::Lora(lora) if lora.use_dora);
    if !strength.is_finite() || (dora && strength != 1.0) {
        return Err(PeftError::OutOfRange {
            key: "strength",
            value: strength,
            expected: if dora { "1 for DoRA" } else { "a number" },
        });
    }
    let mut attached = false;
    model.visit(&mut |param| attached |= param.name().starts_with("base_model.model."));
    if attached {
        return Err(PeftError::Conflict {
            first: "an adapter with a strength",
            relation: "cannot be combined with",
            second: "an attached adapter; merge or remove that one first",
        });
    }
    Ok(())
}

/// The adapter of one layer with its trained values.
fn loaded(
    config: &AdapterConfig,
    target: &Target,
    weight: &Param,
    values: &BTreeMap<String, Vec<f32>>,
) -> Adapter {
    let flat = weight.plain();
    let device = flat.device();
    let flat = flat.reshape([weight.shape()[0] as i64, -1]);
    // Every value drawn is replaced below.
    let random = RandomSource::new(|_| ChaCha8Rng::from_seed([0; 32]));
    let mut adapter = fresh(config, target, &flat, &random);
    for param in adapter.parameters_mut() {
        if let Some(trained) = values.get(param.name()) {
            let data = TensorData::new(trained.clone(), [trained.len()]);
            param.set(Tensor::from_data(data, &device));
        }
    }
    adapter.project();
    adapter
}

fn move_towards(param: &mut Param, saved: &[f32], strength: f64) {
    let (dtype, base) = (param.dtype(), param.plain());
    let data = TensorData::new(saved.to_vec(), [saved.len()]);
    let saved = Tensor::<1>::from_data(data, &base.device());
    let base = base.cast(FloatDType::F32);
    let moved = base.mul_scalar(1.0 - strength) + saved.mul_scalar(strength);
    param.set(moved.cast(dtype));
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::peft::{
        AdapterTensor, Bias, Common, LoraConfig, Module, ModuleKind, ModulePattern, OftConfig, Slot,
    };
    use crate::weights::{Dtype, HostTensor};
    use crate::{AdaptedConv2d, AdaptedLinear, Cayley, Oft, OftSpec, Parameters};

    /// A linear layer and a convolution.
    struct Small {
        linear: AdaptedLinear,
        conv: AdaptedConv2d,
    }

    impl Parameters for Small {
        fn visit(&self, visit: &mut dyn FnMut(&Param)) {
            self.linear.visit(visit);
            self.conv.visit(visit);
        }

        fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut Param)) {
            self.linear.visit_mut(visit);
            self.conv.visit_mut(visit);
        }
    }

    impl Adaptable for Small {
        fn modules(&self) -> Vec<Module> {
            let kind = ModuleKind::Conv2d {
                inputs: 2,
                outputs: 3,
                kernel: [2, 2],
            };
            vec![
                Module::linear("fc", 8, 4).with_bias(),
                Module::new("conv", kind),
            ]
        }

        fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut AdaptedLinear)) {
            visit(&mut self.linear);
        }

        fn visit_convs_mut(&mut self, visit: &mut dyn FnMut(&mut AdaptedConv2d)) {
            visit(&mut self.conv);
        }
    }

    fn random() -> RandomSource {
        RandomSource::new(|purpose| ChaCha8Rng::seed_from_u64(purpose.len() as u64))
    }

    fn param(name: &str, shape: &[usize]) -> Param {
        let n = shape.iter().product();
        let values = random().normal(name, n, 0.5);
        Param::new(
            name,
            shape,
            Tensor::from_data(TensorData::new(values, [n]), &Device::flex()),
        )
    }

    fn small() -> Small {
        let linear = AdaptedLinear::new(
            "fc",
            param("fc.weight", &[4, 8]),
            Some(param("fc.bias", &[4])),
        );
        let conv = AdaptedConv2d::new(
            "conv",
            param("conv.weight", &[3, 2, 2, 2]),
            None,
            [1, 1],
            [0, 0],
        );
        Small { linear, conv }
    }

    fn weights(model: &Small) -> Vec<f32> {
        let mut values = Vec::new();
        model.visit(&mut |param| values.extend(param.plain().into_data().iter::<f32>()));
        values
    }

    fn file(config: AdapterConfig, slots: &[(&str, Slot, &[usize])]) -> AdapterFile {
        let tensor = |(module, slot, shape): &(&str, Slot, &[usize])| AdapterTensor {
            module: (*module).to_owned(),
            slot: slot.clone(),
            tensor: HostTensor::from_f32(
                Dtype::F32,
                shape.to_vec(),
                &random().normal(slot.name(), shape.iter().product(), 0.2),
            )
            .unwrap(),
        };
        AdapterFile::new(config, slots.iter().map(tensor).collect()).unwrap()
    }

    fn common(bias: Bias) -> Common {
        let names = ["fc", "conv"].map(str::to_owned).to_vec();
        Common {
            target_modules: Some(ModulePattern::Names(names)),
            bias,
            ..Common::default()
        }
    }

    fn oft() -> AdapterFile {
        let config = OftConfig {
            common: common(Bias::None),
            oft_block_size: 4,
            use_cayley_neumann: false,
            ..OftConfig::default()
        };
        file(
            AdapterConfig::Oft(config),
            &[("fc", Slot::OftR, &[2, 6]), ("conv", Slot::OftR, &[2, 6])],
        )
    }

    fn lora(use_dora: bool, bias: Bias) -> AdapterFile {
        let config = LoraConfig {
            common: common(bias),
            r: 2,
            lora_alpha: 6.0,
            use_dora,
            ..LoraConfig::default()
        };
        let mut slots: Vec<(&str, Slot, &[usize])> = vec![
            ("fc", Slot::LoraA, &[2, 8]),
            ("fc", Slot::LoraB, &[4, 2]),
            ("conv", Slot::LoraA, &[2, 2, 2, 2]),
            ("conv", Slot::LoraB, &[3, 2, 1, 1]),
        ];
        if use_dora {
            slots.push(("fc", Slot::LoraMagnitude, &[4]));
            slots.push(("conv", Slot::LoraMagnitude, &[1, 3, 1, 1]));
        }
        if bias == Bias::Adapted {
            slots.push(("fc", Slot::Bias, &[4]));
        }
        file(AdapterConfig::Lora(config), &slots)
    }

    fn merged(files: &[(&AdapterFile, f64)]) -> Vec<f32> {
        let mut model = small();
        for (file, strength) in files {
            merge_into(&mut model, file, *strength).unwrap();
        }
        weights(&model)
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    }

    #[test]
    fn strength_one_is_the_trained_adapter_and_strength_zero_the_base() {
        for adapter in [oft(), lora(false, Bias::Adapted)] {
            let mut attached = small();
            crate::attach_trained(&mut attached, &adapter, &random()).unwrap();
            attached.merge();
            assert!(apart(&merged(&[(&adapter, 1.0)]), &weights(&attached)) < 1e-6);
            let base = weights(&small());
            assert!(apart(&base, &weights(&attached)) > 1e-2);
            assert!(apart(&merged(&[(&adapter, 0.0)]), &base) < 1e-6);
        }
    }

    #[test]
    fn halves_of_a_low_rank_update_add_up_and_opposite_rotations_cancel() {
        let low = lora(false, Bias::None);
        let halves = merged(&[(&low, 0.25), (&low, 0.75)]);
        assert!(apart(&halves, &merged(&[(&low, 1.0)])) < 1e-6);
        let turned = oft();
        let back = merged(&[(&turned, 0.7), (&turned, -0.7)]);
        assert!(apart(&back, &weights(&small())) < 1e-5);
    }

    #[test]
    fn a_strength_scales_what_is_stored_once() {
        let turned = oft();
        let halved = turned.tensors().iter().map(|tensor| {
            let values = tensor.tensor.to_f32().unwrap();
            let values: Vec<f32> = values.iter().map(|value| value / 2.0).collect();
            let shape = tensor.tensor.shape().to_vec();
            AdapterTensor {
                tensor: HostTensor::from_f32(Dtype::F32, shape, &values).unwrap(),
                ..tensor.clone()
            }
        });
        let halved = AdapterFile::new(turned.config().clone(), halved.collect()).unwrap();
        let apart = apart(&merged(&[(&turned, 0.5)]), &merged(&[(&halved, 1.0)]));
        assert!(apart < 1e-6, "{apart}");
    }

    #[test]
    fn a_partial_rotation_is_a_rotation_and_a_constraint_does_not_hold_it_back() {
        for block_share in [false, true] {
            let spec = OftSpec {
                block_size: 4,
                block_share,
                cayley: Cayley::Exact,
                tau: Some(0.2),
            };
            let full = Oft::random("fc", 8, spec, &Device::flex(), &random());
            let norm = |adapter: &Adapter| -> f32 {
                let packed = adapter.parameters()[0].plain();
                packed.square().sum().sqrt().into_scalar()
            };
            let adapter = Adapter::Oft(full);
            for strength in [0.3, 0.7, 2.5] {
                let mut scaled = adapter.scaled(strength).unwrap();
                scaled.project();
                let share = norm(&scaled) / norm(&adapter);
                assert!((share - strength as f32).abs() < 1e-5, "{share}");
                let Adapter::Oft(scaled) = scaled else {
                    unreachable!()
                };
                assert!(scaled.orthogonality_error() < 1e-5);
            }
        }
    }

    #[test]
    fn what_has_no_strength_is_refused_and_changes_nothing() {
        let mut model = small();
        let before = weights(&model);
        let dora = lora(true, Bias::None);
        let message = merge_into(&mut model, &dora, 0.5).unwrap_err().to_string();
        assert!(message.contains("DoRA"), "{message}");
        assert!(merge_into(&mut model, &oft(), f64::NAN).is_err());
        assert_eq!(weights(&model), before);
        merge_into(&mut model, &dora, 1.0).unwrap();
        crate::attach_trained(&mut model, &oft(), &random()).unwrap();
        let message = merge_into(&mut model, &oft(), 1.0).unwrap_err().to_string();
        assert!(message.contains("attached"), "{message}");
    }
}
