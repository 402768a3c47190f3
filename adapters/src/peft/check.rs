//! An adapter compared with the model it should fit.

use std::collections::BTreeMap;
use std::fmt;

use super::common::Bias;
use super::keys::{Slot, key};
use super::matching::Matcher;
use super::resolve::{Module, ModuleKind, Target, resolve};
use super::{AdapterConfig, AdapterFile, PeftError};

/// Which tensors of an adapter fit a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// Keys that fit.
    pub matched: Vec<String>,
    /// Keys that the model and the configuration call for, and the file lacks.
    pub missing: Vec<String>,
    /// Keys in the file that belong to nothing in the model.
    pub unexpected: Vec<String>,
    /// Keys whose shape is wrong: key, expected shape, shape found.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl CheckReport {
    /// Whether the adapter fits.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shape.is_empty()
    }

    /// Nothing, if the adapter fits.
    ///
    /// # Errors
    /// [`PeftError::Mismatch`] with this report.
    pub fn into_result(self) -> Result<(), PeftError> {
        if self.is_clean() {
            Ok(())
        } else {
            Err(PeftError::Mismatch(Box::new(self)))
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tensors match, {} missing, {} unexpected, {} of another shape",
            self.matched.len(),
            self.missing.len(),
            self.unexpected.len(),
            self.wrong_shape.len()
        )?;
        for (what, keys) in [("missing", &self.missing), ("unexpected", &self.unexpected)] {
            for key in keys.iter().take(4) {
                write!(f, "; {what} `{key}`")?;
            }
        }
        for (key, expected, found) in self.wrong_shape.iter().take(4) {
            write!(f, "; `{key}` has shape {found:?}, expected {expected:?}")?;
        }
        Ok(())
    }
}

/// Shapes by key; `None` when any shape will do.
type Expected = BTreeMap<String, Option<Vec<usize>>>;

impl AdapterFile {
    /// Compares with the modules of a model, both ways: what the configuration calls for must be
    /// in the file, and everything in the file must belong somewhere.
    ///
    /// # Errors
    /// As [`resolve`]: the configuration itself does not fit. A misfit of the tensors is in the
    /// report; turn it into an error with [`CheckReport::into_result`].
    pub fn check(&self, modules: &[Module]) -> Result<CheckReport, PeftError> {
        let mut expected = Expected::new();
        let targets = resolve(self.config(), modules)?.targets;
        for target in &targets {
            expect_adapter(self.config(), target, &mut expected)?;
        }
        self.expect_plain(modules, &targets, &mut expected)?;
        let mut report = CheckReport::default();
        for (key, tensor) in self.keyed() {
            match expected.remove(&key) {
                None => report.unexpected.push(key),
                Some(Some(shape)) if shape != tensor.shape() => {
                    report
                        .wrong_shape
                        .push((key, shape, tensor.shape().to_vec()));
                }
                Some(_) => report.matched.push(key),
            }
        }
        report.missing = expected.into_keys().collect();
        Ok(report)
    }

    /// Biases, and the modules stored whole.
    fn expect_plain(
        &self,
        modules: &[Module],
        targets: &[Target],
        expected: &mut Expected,
    ) -> Result<(), PeftError> {
        let common = self.config().common();
        let matcher = Matcher::new(common)?;
        for module in modules {
            let name = module.name.as_str();
            let adapted = targets.iter().any(|target| target.name == module.name);
            if matcher.saves(name) {
                self.expect_saved(module, expected);
            } else if module.bias
                && (common.bias == Bias::All || (adapted && common.bias == Bias::Adapted))
            {
                let shape = module.kind.outputs().map(|outputs| vec![outputs]);
                expected.insert(key(name, &Slot::Bias, adapted), shape);
            }
        }
        Ok(())
    }

    fn expect_saved(&self, module: &Module, expected: &mut Expected) {
        let mut expect = |name: &str, shape: Option<Vec<usize>>| {
            let slot = Slot::Saved(name.to_owned());
            expected.insert(key(&module.name, &slot, false), shape);
        };
        let weight = match module.kind {
            ModuleKind::Linear { inputs, outputs } => vec![outputs, inputs],
            ModuleKind::Conv2d {
                inputs,
                outputs,
                kernel: [height, width],
            } => {
                vec![outputs, inputs, height, width]
            }
            // Their parameters are not known here: what the file has is taken, but not nothing.
            ModuleKind::Embedding | ModuleKind::Other => {
                let stored = self
                    .tensors()
                    .iter()
                    .filter(|tensor| tensor.module == module.name);
                let names: Vec<&str> = stored.map(|tensor| tensor.slot.name()).collect();
                if names.is_empty() {
                    expect("weight", None);
                }
                for name in names {
                    expect(name, None);
                }
                return;
            }
        };
        if module.bias {
            expect("bias", Some(vec![weight[0]]));
        }
        expect("weight", Some(weight));
    }
}

/// The tensors of one adapted module.
fn expect_adapter(
    config: &AdapterConfig,
    target: &Target,
    expected: &mut Expected,
) -> Result<(), PeftError> {
    let mut expect = |slot: Slot, shape: Vec<usize>| {
        expected.insert(key(&target.name, &slot, true), Some(shape));
    };
    match (config, target.kind) {
        (AdapterConfig::Oft(oft), kind) => {
            let inputs = kind.rotated_inputs().unwrap_or_default();
            expect(Slot::OftR, oft.packed_shape(inputs)?.to_vec());
        }
        (AdapterConfig::Lora(lora), kind) => {
            let rank = lora.rank(&target.name)?;
            let (a, b) = match kind {
                ModuleKind::Linear { inputs, outputs } => (vec![rank, inputs], vec![outputs, rank]),
                ModuleKind::Conv2d {
                    inputs,
                    outputs,
                    kernel: [height, width],
                } => (vec![rank, inputs, height, width], vec![outputs, rank, 1, 1]),
                ModuleKind::Embedding | ModuleKind::Other => return Ok(()),
            };
            if lora.use_dora {
                let outputs = b[0];
                let shape = if b.len() == 2 {
                    vec![outputs]
                } else {
                    vec![1, outputs, 1, 1]
                };
                expect(Slot::LoraMagnitude, shape);
            }
            expect(Slot::LoraA, a);
            expect(Slot::LoraB, b);
        }
    }
    Ok(())
}
