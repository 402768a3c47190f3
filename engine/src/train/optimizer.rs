//! AdamW (arXiv 1711.05101) with PyTorch's semantics, and clipping by the global norm.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use rayon::prelude::*;
use temper_adapters::ops::simd::dot;
use temper_adapters::ops::{HostView, Updated};
use temper_adapters::vectorized;
use temper_adapters::{Param, Parameters};
use temper_models::Gradients;

use super::average::Averages;

/// Settings that stay the same during a run.
///
/// | name | default | purpose |
/// |---|---|---|
/// | `beta1` | 0.9 | decay of the first moment |
/// | `beta2` | 0.999 | decay of the second moment |
/// | `epsilon` | 1e-8 | added to the root of the corrected second moment |
/// | `weight_decay` | 0 | decoupled: `p ← p (1 − lr · wd)` |
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the corrected second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// First and second moment of one parameter, f32.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a parameter, never moved")]
pub enum Moments {
    /// In host memory, updated in one pass with the parameter.
    Host {
        /// Mean of the gradients.
        m: Vec<f32>,
        /// Mean of their squares.
        v: Vec<f32>,
    },
    /// On the device of the parameter.
    Device {
        /// Mean of the gradients.
        m: Tensor<1>,
        /// Mean of their squares.
        v: Tensor<1>,
    },
}

/// The optimizer's state: moments by parameter name and the number of updates made.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use temper_adapters::Param;
/// use temper_engine::train::{AdamW, OptimizerState};
///
/// let mut param = Param::new("w", &[1], Tensor::from_data([1.0], &Device::flex()));
/// param.set_trainable(true);
/// let mut state = OptimizerState::default();
/// state.begin_update();
/// state.update(&AdamW::default(), 0.1, &mut param, Tensor::from_data([3.0], &Device::flex()));
/// // The first update of Adam moves by the learning rate, whatever the size of the gradient.
/// assert!((param.plain().into_scalar::<f32>() - 0.9).abs() < 1e-6);
/// ```
#[derive(Clone, Debug, Default)]
pub struct OptimizerState {
    /// By parameter name.
    pub moments: BTreeMap<String, Moments>,
    /// Updates made so far.
    pub updates: u64,
    /// Running means of the parameters, where a recipe asks for them.
    pub averages: Option<Averages>,
}

impl OptimizerState {
    /// Counts one update; call once before the parameters of a step.
    pub fn begin_update(&mut self) {
        self.updates += 1;
    }

    /// Applies one update to one parameter. `gradient` is flat and plain.
    pub fn update(&mut self, adam: &AdamW, lr: f64, param: &mut Param, gradient: Tensor<1>) {
        let rule = Rule::new(adam, lr, self.updates);
        let n = param.numel();
        let moments = self.moments.entry(param.name().to_owned());
        let moments = moments.or_insert_with(|| match HostView::view(&gradient) {
            Some(_) => Moments::Host {
                m: vec![0.0; n],
                v: vec![0.0; n],
            },
            None => Moments::Device {
                m: gradient.zeros_like(),
                v: gradient.zeros_like(),
            },
        });
        let value = param.take();
        let updated = match moments {
            Moments::Host { m, v } => update_on_host(&rule, value, &gradient, m, v),
            Moments::Device { m, v } => rule.composed(value, gradient, m, v),
        };
        param.set(updated);
    }
}

fn update_on_host(
    rule: &Rule,
    value: Tensor<1>,
    gradient: &Tensor<1>,
    m: &mut [f32],
    v: &mut [f32],
) -> Tensor<1> {
    let Some(gradient) = HostView::view(gradient) else {
        unreachable!("host moments follow a host gradient")
    };
    let updated = HostView::update(value, |p| rule.host(p, gradient.as_slice(), m, v));
    let Updated::Changed(updated) = updated else {
        unreachable!("parameter and gradient share a device")
    };
    updated
}

/// The constants of one update.
struct Rule {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    keep: f32,
    step_size: f32,
    root_correction: f32,
}

impl Rule {
    fn new(adam: &AdamW, lr: f64, updates: u64) -> Self {
        let count = i32::try_from(updates).unwrap_or(i32::MAX);
        Self {
            beta1: adam.beta1 as f32,
            beta2: adam.beta2 as f32,
            epsilon: adam.epsilon as f32,
            keep: (1.0 - lr * adam.weight_decay) as f32,
            step_size: (lr / (1.0 - adam.beta1.powi(count))) as f32,
            root_correction: (1.0 - adam.beta2.powi(count)).sqrt() as f32,
        }
    }

    fn host(&self, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        const CHUNK: usize = 1 << 15;
        let state = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
        p.par_chunks_mut(CHUNK)
            .zip(g.par_chunks(CHUNK))
            .zip(state)
            .for_each(|((p, g), (m, v))| {
                update_chunk(self, [p, m, v], g);
            });
    }

    fn composed(
        &self,
        p: Tensor<1>,
        g: Tensor<1>,
        m: &mut Tensor<1>,
        v: &mut Tensor<1>,
    ) -> Tensor<1> {
        *m = m.clone().mul_scalar(self.beta1) + g.clone().mul_scalar(1.0 - self.beta1);
        *v = v.clone().mul_scalar(self.beta2) + (g.clone() * g).mul_scalar(1.0 - self.beta2);
        let root = v
            .clone()
            .sqrt()
            .div_scalar(self.root_correction)
            .add_scalar(self.epsilon);
        p.mul_scalar(self.keep) - m.clone().mul_scalar(self.step_size) / root
    }
}

vectorized! {
    /// One update of parameters `state[0]` and moments `state[1]`, `state[2]`.
    fn update_chunk<'a>(rule: &'a Rule, state: [&'a mut [f32]; 3], g: &'a [f32]) -> () {
        let [p, m, v] = state;
        for ((p, g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
            *m += (1.0 - rule.beta1) * (g - *m);
            *v = rule.beta2 * *v + (1.0 - rule.beta2) * g * g;
            let root = v.sqrt() / rule.root_correction + rule.epsilon;
            *p = *p * rule.keep - rule.step_size * *m / root;
        }
    }

    fn square_sum<'a>(values: &'a [f32]) -> f32 {
        dot(values, values)
    }
}

/// The Euclidean norm of all gradients together, and the first tensor that is not finite, if any.
pub fn global_norm(gradients: &Gradients) -> (f64, Option<String>) {
    let mut total = 0.0;
    let mut broken = None;
    for (name, gradient) in gradients {
        let square = match HostView::view(gradient) {
            Some(values) => values
                .as_slice()
                .par_chunks(1 << 15)
                .map(|chunk| f64::from(square_sum(chunk)))
                .sum(),
            None => f64::from(gradient.clone().square().sum().into_scalar::<f32>()),
        };
        if !square.is_finite() && broken.is_none() {
            broken = Some(name.clone());
        }
        total += square;
    }
    (total.sqrt(), broken)
}

/// Scales all gradients so that their global norm is at most `max_norm`: the factor is `min(1, max_norm / (norm + 1e-6))`, as in PyTorch.
pub fn clip(gradients: &mut Gradients, norm: f64, max_norm: f64) {
    let factor = max_norm / (norm + 1e-6);
    if max_norm > 0.0 && factor < 1.0 {
        let scaled = std::mem::take(gradients)
            .into_iter()
            .map(|(name, gradient)| {
                let gradient = HostView::update(gradient, |values| {
                    values
                        .par_iter_mut()
                        .with_min_len(1 << 14)
                        .for_each(|value| *value *= factor as f32);
                });
                let gradient = match gradient {
                    Updated::Changed(gradient) => gradient,
                    Updated::Elsewhere(gradient) => gradient.mul_scalar(factor),
                };
                (name, gradient)
            });
        *gradients = scaled.collect();
    }
}

/// The trained parameters that got no gradient: each would silently stay as it is.
pub fn without_gradient(model: &dyn Parameters, gradients: &Gradients) -> Vec<String> {
    let mut missing = Vec::new();
    model.visit(&mut |param| {
        if param.is_trainable() && !gradients.contains_key(param.name()) {
            missing.push(param.name().to_owned());
        }
    });
    missing
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;

    /// Ten steps of `torch.optim.AdamW(lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)` on p = [1, −2, 0.5] with
    /// `g_t = sin(t + i) · (i + 1)`, recomputed here in f64 from the definition.
    fn reference(steps: i32) -> Vec<f64> {
        let mut p = [1.0, -2.0, 0.5];
        let (mut m, mut v) = ([0.0; 3], [0.0; 3]);
        for t in 1..=steps {
            for i in 0..3 {
                let g = f64::from(t + i as i32).sin() * (i + 1) as f64;
                p[i] *= 1.0 - 0.01 * 0.1;
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                let (mh, vh) = (
                    m[i] / (1.0 - 0.9_f64.powi(t)),
                    v[i] / (1.0 - 0.99_f64.powi(t)),
                );
                p[i] -= 0.01 * mh / (vh.sqrt() + 1e-8);
            }
        }
        p.to_vec()
    }

    fn gradient(t: i32) -> Tensor<1> {
        let values: Vec<f32> = (0..3)
            .map(|i| (f64::from(t + i).sin() * f64::from(i + 1)) as f32)
            .collect();
        Tensor::from_data(values.as_slice(), &Device::flex())
    }

    #[test]
    fn both_forms_follow_the_definition_for_ten_steps() {
        let adam = AdamW {
            beta2: 0.99,
            weight_decay: 0.1,
            ..AdamW::default()
        };
        let mut param = Param::new(
            "w",
            &[3],
            Tensor::from_data([1.0, -2.0, 0.5], &Device::flex()),
        );
        param.set_trainable(true);
        let mut state = OptimizerState::default();
        let mut composed = param.plain();
        let (mut m, mut v) = (composed.zeros_like(), composed.zeros_like());
        for t in 1..=10 {
            state.begin_update();
            state.update(&adam, 0.01, &mut param, gradient(t));
            composed =
                Rule::new(&adam, 0.01, t as u64).composed(composed, gradient(t), &mut m, &mut v);
        }
        let expected: Vec<f32> = reference(10)
            .into_iter()
            .map(|value| value as f32)
            .collect();
        let expected = burn::tensor::TensorData::new(expected, [3]);
        param
            .plain()
            .into_data()
            .assert_approx_eq(&expected, Tolerance::<f32>::relative(1e-5));
        composed
            .into_data()
            .assert_approx_eq(&expected, Tolerance::<f32>::relative(1e-5));
    }

    #[test]
    fn clipping_uses_one_norm_for_all_tensors() {
        let tensor = |values: &[f32]| Tensor::<1>::from_data(values, &Device::flex());
        let mut gradients = Gradients::from([
            ("a".to_owned(), tensor(&[3.0])),
            ("b".to_owned(), tensor(&[0.0, 4.0])),
        ]);
        let (norm, broken) = global_norm(&gradients);
        assert!((norm - 5.0).abs() < 1e-9 && broken.is_none());
        clip(&mut gradients, norm, 1.0);
        let (norm, _) = global_norm(&gradients);
        assert!((norm - 5.0 / (5.0 + 1e-6)).abs() < 1e-6, "{norm}");
        gradients.insert("c".to_owned(), tensor(&[f32::NAN]));
        assert_eq!(global_norm(&gradients).1.as_deref(), Some("c"));
    }
}
