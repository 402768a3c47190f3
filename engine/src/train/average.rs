//! Running means of the trained parameters: what a run arrived at, without the noise of its last steps.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use temper_adapters::{Adaptable, Param, Parameters};

/// Exponential moving averages, f32, by parameter name.
///
/// After update n the decay is `min(decay, n / (9 + n))` (as in diffusers' `EMAModel`), so that the mean forgets the start quickly.
#[derive(Clone, Debug)]
pub struct Averages {
    decay: f64,
    values: BTreeMap<String, Tensor<1>>,
}

impl Averages {
    /// Starts at the parameters as they are.
    pub fn new(decay: f64, model: &dyn Parameters) -> Self {
        let mut values = BTreeMap::new();
        model.visit(&mut |param| {
            if param.is_trainable() {
                values.insert(param.name().to_owned(), param.plain());
            }
        });
        Self { decay, values }
    }

    /// From saved means.
    pub(super) fn restored(values: BTreeMap<String, Tensor<1>>) -> Self {
        Self { decay: 0.0, values }
    }

    /// The same means with another decay.
    pub(super) fn with_decay(self, decay: f64) -> Self {
        Self { decay, ..self }
    }

    /// The means by parameter name.
    pub fn values(&self) -> &BTreeMap<String, Tensor<1>> {
        &self.values
    }

    /// Takes in the parameters after update number `updates`, counted from 1.
    pub fn update(&mut self, model: &dyn Parameters, updates: u64) {
        let done = updates.saturating_sub(1) as f64;
        let warm = if updates > 1 {
            (1.0 + done) / (10.0 + done)
        } else {
            0.0
        };
        let decay = self.decay.min(warm);
        model.visit(&mut |param| {
            if let Some(mean) = self.values.get_mut(param.name()) {
                let old = mean.clone();
                *mean = old.mul_scalar(decay) + param.plain().mul_scalar(1.0 - decay);
            }
        });
    }

    /// Exchanges means and parameters; the same again puts them back.
    pub fn swap(&mut self, model: &mut dyn Adaptable) {
        model.visit_mut(&mut |param: &mut Param| {
            if let Some(mean) = self.values.get_mut(param.name()) {
                let value = param.plain();
                param.set(std::mem::replace(mean, value));
            }
        });
    }
}
