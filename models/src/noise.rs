//! The noise process of a diffusion model and the loss trained on it.
//!
//! `x_t = √ᾱ_t x0 + √(1 − ᾱ_t) ε` (DDPM, arXiv 2006.11239, eq. 4), for t from 0 to T − 1. Shapes: B samples, C channels, H × W
//! latents; a timestep per sample.
//!
//! β and 1 − β are rounded to f32 and ᾱ is their product summed in f64 and rounded to f32: what the reference library computes, so
//! that a model meets the noise levels it was trained on. Everything after that is f64 on the host.

use burn::tensor::{DType, Tensor, TensorData};

use crate::ModelError;
use crate::scheduler::{BetaSchedule, Prediction, SchedulerConfig};

/// ᾱ of every step of a noise process, and what follows from it.
///
/// # Examples
/// ```
/// use temper_models::{NoiseSchedule, SchedulerConfig};
///
/// let noise = NoiseSchedule::new(&SchedulerConfig::stable_diffusion("ddpm")?)?;
/// assert_eq!(noise.alphas_cumprod().len(), 1000);
/// assert!(noise.snr(0)? > 1000.0 && noise.snr(999)? < 0.005);
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f64>,
    prediction: Prediction,
}

impl NoiseSchedule {
    /// The process that `config` describes, with `rescale_betas_zero_snr` applied.
    ///
    /// # Errors
    /// [`ModelError::Key`] when a β is not above 0 and at most 1.
    pub fn new(config: &SchedulerConfig) -> Result<Self, ModelError> {
        let betas = betas(config);
        let good = |beta: &f32| beta.is_finite() && *beta > 0.0 && *beta < 1.0;
        if let Some((step, beta)) = betas.iter().enumerate().find(|(_, beta)| !good(beta)) {
            let given = config.trained_betas.is_some();
            return Err(ModelError::Key {
                key: if given {
                    "trained_betas"
                } else {
                    "beta_start` and `beta_end"
                }
                .to_owned(),
                found: format!("β = {beta} at step {step}"),
                expected: "every β between 0 and 1",
            });
        }
        let betas = if config.rescale_betas_zero_snr {
            without_terminal_signal(&betas)
        } else {
            betas
        };
        let alphas: Vec<f32> = betas.iter().map(|beta| 1.0 - beta).collect();
        let alphas_cumprod = products(&alphas).into_iter().map(f64::from).collect();
        Ok(Self {
            alphas_cumprod,
            prediction: config.prediction_type,
        })
    }

    /// ᾱ of every step.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// What the model is trained to predict.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// Signal-to-noise ratio ᾱ / (1 − ᾱ) at step `t`.
    ///
    /// # Errors
    /// [`ModelError::Timestep`] outside of the process.
    pub fn snr(&self, t: usize) -> Result<f64, ModelError> {
        let alpha = self.alpha(t)?;
        Ok(alpha / (1.0 - alpha))
    }

    /// `x_t`, in f32. `x0`, `eps`: `[B, C, H, W]`; a step per sample.
    ///
    /// # Errors
    /// [`ModelError::Timestep`] outside of the process, or when there is not one step per sample.
    pub fn add_noise(
        &self,
        x0: &Tensor<4>,
        eps: &Tensor<4>,
        timesteps: &[usize],
    ) -> Result<Tensor<4>, ModelError> {
        let [signal, noise] = self.scales(x0, timesteps)?;
        Ok(f32(x0) * signal + f32(eps) * noise)
    }

    /// `v = √ᾱ ε − √(1 − ᾱ) x0` (arXiv 2202.00512), shapes and errors as [`Self::add_noise`].
    ///
    /// # Errors
    /// As [`Self::add_noise`].
    pub fn velocity(
        &self,
        x0: &Tensor<4>,
        eps: &Tensor<4>,
        timesteps: &[usize],
    ) -> Result<Tensor<4>, ModelError> {
        let [signal, noise] = self.scales(x0, timesteps)?;
        Ok(f32(eps) * signal - f32(x0) * noise)
    }

    /// What the model must predict: ε, v or x0, in f32.
    ///
    /// # Errors
    /// As [`Self::add_noise`].
    pub fn target(
        &self,
        x0: &Tensor<4>,
        eps: &Tensor<4>,
        timesteps: &[usize],
    ) -> Result<Tensor<4>, ModelError> {
        match self.prediction {
            Prediction::Epsilon => Ok(f32(eps)),
            Prediction::Sample => Ok(f32(x0)),
            Prediction::VPrediction => self.velocity(x0, eps, timesteps),
        }
    }

    /// Weight of a sample's squared error at step `t`: 1 without `gamma`, else min-SNR-γ (arXiv 2303.09556): min(SNR, γ) divided by
    /// SNR for ε, by SNR + 1 for v, by 1 for x0.
    ///
    /// # Errors
    /// [`ModelError::Timestep`] outside of the process.
    pub fn loss_weight(
        &self,
        t: usize,
        gamma: Option<f64>,
        prediction: Prediction,
    ) -> Result<f64, ModelError> {
        let snr = self.snr(t)?;
        let Some(gamma) = gamma else { return Ok(1.0) };
        Ok(match prediction {
            // Written so that a step without signal has weight 1, not 0/0.
            Prediction::Epsilon if snr <= gamma => 1.0,
            Prediction::Epsilon => gamma / snr,
            Prediction::VPrediction => snr.min(gamma) / (snr + 1.0),
            Prediction::Sample => snr.min(gamma),
        })
    }

    fn alpha(&self, t: usize) -> Result<f64, ModelError> {
        let steps = self.alphas_cumprod.len();
        let found = self.alphas_cumprod.get(t).copied();
        found.ok_or_else(|| ModelError::Timestep {
            found: format!("step {t}"),
            expected: format!("0 to {}", steps - 1),
        })
    }

    /// √ᾱ and √(1−ᾱ) of each sample, `[B, 1, 1, 1]`.
    fn scales(&self, x: &Tensor<4>, timesteps: &[usize]) -> Result<[Tensor<4>; 2], ModelError> {
        let batch = x.dims()[0];
        if timesteps.len() != batch {
            return Err(ModelError::Timestep {
                found: format!("{} steps", timesteps.len()),
                expected: format!("one for each of {batch} samples"),
            });
        }
        let alphas = timesteps
            .iter()
            .map(|t| self.alpha(*t))
            .collect::<Result<Vec<_>, _>>()?;
        let device = x.device();
        let column = |scale: fn(f64) -> f64| {
            let values: Vec<f32> = alphas.iter().map(|alpha| scale(*alpha) as f32).collect();
            Tensor::<1>::from_data(TensorData::new(values, [batch]), &device)
                .reshape([batch, 1, 1, 1])
        };
        Ok([column(f64::sqrt), column(|alpha| (1.0 - alpha).sqrt())])
    }
}

/// Noise with a part that is the same for all pixels of a channel: `eps + strength · offset` (typically 0.05 to 0.1; lets a model
/// change the mean brightness). `eps`: `[B, C, H, W]`, `offset`: `[B, C, 1, 1]`, both standard normal.
pub fn offset_noise(eps: Tensor<4>, offset: Tensor<4>, strength: f64) -> Tensor<4> {
    eps + offset.mul_scalar(strength)
}

/// The noise of the input under input perturbation (arXiv 2301.11706): `eps + strength · extra`, while the target keeps `eps`.
/// All `[B, C, H, W]`; typically 0.1.
pub fn perturbed_noise(eps: Tensor<4>, extra: Tensor<4>, strength: f64) -> Tensor<4> {
    eps + extra.mul_scalar(strength)
}

/// Weight of each sample such that the loss of a step is `mean over the instance + prior_weight · mean over the class` (DreamBooth,
/// arXiv 2208.12242, eq. 2). `is_class` has an entry for each sample of the whole step; slice the result for micro-batches.
///
/// # Examples
/// ```
/// assert_eq!(temper_models::group_weights(&[false, false, true], 0.5), [0.5, 0.5, 0.5]);
/// ```
pub fn group_weights(is_class: &[bool], prior_weight: f64) -> Vec<f64> {
    let class = is_class.iter().filter(|class| **class).count();
    let instance = is_class.len() - class;
    let weight = |is_class: &bool| {
        if *is_class {
            prior_weight / class as f64
        } else {
            1.0 / instance as f64
        }
    };
    is_class.iter().map(weight).collect()
}

/// `Σ_b weights[b] · mean over the elements of sample b of (prediction − target)²`, one value in f32, in the graph of `prediction`.
///
/// `prediction`, `target`: `[B, C, H, W]`. With a `mask` (`[B, 1, H, W]` or `[B, C, H, W]`, not negative) the mean is weighted by
/// it: `Σ m e² / Σ m`, so a mask of ones changes nothing, a small mask does not make its sample count less, and a sample whose
/// mask is empty adds 0. The caller's weights carry everything else: one over the number of samples, [`group_weights`], min-SNR.
///
/// # Panics
/// When the shapes or the number of weights differ.
pub fn diffusion_loss(
    prediction: Tensor<4>,
    target: Tensor<4>,
    weights: &[f64],
    mask: Option<Tensor<4>>,
) -> Tensor<1> {
    let [batch, channels, height, width] = prediction.dims();
    assert_eq!(target.dims(), prediction.dims(), "a target for each value");
    assert_eq!(weights.len(), batch, "a weight for each sample");
    let error = (f32(&prediction) - f32(&target)).square();
    let elements = [batch, channels * height * width];
    let means = match mask {
        None => error.reshape(elements).mean_dim(1),
        Some(mask) => {
            let mask = f32(&mask).expand([batch, channels, height, width]);
            let share = mask.clone().reshape(elements).sum_dim(1);
            let sum = (error * mask).reshape(elements).sum_dim(1);
            sum / share.clamp_min(f32::MIN_POSITIVE)
        }
    };
    let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    let weights = Tensor::<2>::from_data(
        TensorData::new(weights, [batch, 1]),
        &plain(&means).device(),
    );
    (means * weights).sum()
}

fn plain(tensor: &Tensor<2>) -> Tensor<2> {
    if tensor.is_autodiff() {
        tensor.clone().inner()
    } else {
        tensor.clone()
    }
}

fn f32(tensor: &Tensor<4>) -> Tensor<4> {
    if tensor.dtype() == DType::F32 {
        tensor.clone()
    } else {
        tensor.clone().cast(DType::F32)
    }
}

/// β of every step, before the rescaling.
fn betas(config: &SchedulerConfig) -> Vec<f32> {
    if let Some(betas) = &config.trained_betas {
        return betas.iter().map(|beta| *beta as f32).collect();
    }
    let (steps, start, end) = (
        config.num_train_timesteps,
        config.beta_start,
        config.beta_end,
    );
    match config.beta_schedule {
        BetaSchedule::Linear => line(start, end, steps),
        BetaSchedule::ScaledLinear => line(start.sqrt(), end.sqrt(), steps)
            .into_iter()
            .map(|root| root * root)
            .collect(),
        BetaSchedule::SquaredcosCapV2 => {
            let bar = |step: usize| {
                let share = step as f64 / steps as f64;
                let angle = (share + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2;
                angle.cos().powi(2)
            };
            let beta = |step| (1.0 - bar(step + 1) / bar(step)).min(0.999) as f32;
            (0..steps).map(beta).collect()
        }
    }
}

/// `steps` values from `start` to `end` in f32, built from both ends as the reference library does.
fn line(start: f64, end: f64, steps: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let width = (end - start) / (steps.max(2) - 1) as f32;
    let value = |step: usize| {
        if step < steps / 2 || steps == 1 {
            start + width * step as f32
        } else {
            end - width * (steps - 1 - step) as f32
        }
    };
    (0..steps).map(value).collect()
}

/// Running products, summed up in f64.
fn products(factors: &[f32]) -> Vec<f32> {
    let running = factors.iter().scan(1.0_f64, |product, factor| {
        *product *= f64::from(*factor);
        Some(*product as f32)
    });
    running.collect()
}

/// Zero terminal signal-to-noise ratio (arXiv 2305.08891, algorithm 1): shifts √ᾱ so that the last is 0 and scales it so that the
/// first stays.
fn without_terminal_signal(betas: &[f32]) -> Vec<f32> {
    let alphas: Vec<f32> = betas.iter().map(|beta| 1.0 - beta).collect();
    let roots: Vec<f32> = products(&alphas).into_iter().map(f32::sqrt).collect();
    let (Some(first), Some(last)) = (roots.first(), roots.last()) else {
        return Vec::new();
    };
    let scale = first / (first - last);
    let bars: Vec<f32> = roots
        .iter()
        .map(|root| ((root - last) * scale).powi(2))
        .collect();
    let previous = std::iter::once(&1.0).chain(&bars);
    bars.iter()
        .zip(previous)
        .map(|(bar, previous)| 1.0 - bar / previous)
        .collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn images(values: Vec<f32>, shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn zero_snr() -> NoiseSchedule {
        let mut config = SchedulerConfig::stable_diffusion("ddim").unwrap();
        config.rescale_betas_zero_snr = true;
        config.prediction_type = Prediction::VPrediction;
        NoiseSchedule::new(&config).unwrap()
    }

    #[test]
    fn rescaling_leaves_no_signal_at_the_end_and_the_first_step_alone() {
        let (plain, zero) = (
            NoiseSchedule::new(&SchedulerConfig::stable_diffusion("ddim").unwrap()).unwrap(),
            zero_snr(),
        );
        assert_eq!(zero.snr(999).unwrap(), 0.0);
        let first = zero.alphas_cumprod()[0] - plain.alphas_cumprod()[0];
        assert!(first.abs() < 1e-6, "{first}");
        for (prediction, wanted) in [
            (Prediction::Epsilon, 1.0),
            (Prediction::VPrediction, 0.0),
            (Prediction::Sample, 0.0),
        ] {
            let weight = zero.loss_weight(999, Some(5.0), prediction).unwrap();
            assert_eq!(weight, wanted, "{prediction:?}");
        }
    }

    #[test]
    fn a_state_without_signal_is_noise_and_its_velocity_is_the_image_negated() {
        let device = Device::flex();
        let [x0, eps] = [1.0, 2.0].map(|value| images(vec![value; 4], [1, 1, 2, 2], &device));
        let noise = zero_snr();
        let state = noise.add_noise(&x0, &eps, &[999]).unwrap();
        assert_eq!(state.into_data(), eps.to_data());
        let target = noise.target(&x0, &eps, &[999]).unwrap();
        assert_eq!(target.into_data(), x0.neg().into_data());
    }

    #[test]
    fn steps_outside_the_process_are_errors() {
        let noise = zero_snr();
        let x = Tensor::<4>::zeros([2, 1, 1, 1], &Device::flex());
        for steps in [&[0, 1000][..], &[0], &[]] {
            let error = noise.add_noise(&x, &x, steps).unwrap_err();
            assert!(matches!(error, ModelError::Timestep { .. }), "{error}");
        }
    }

    #[test]
    fn the_loss_is_the_instance_mean_plus_the_weighted_class_mean() {
        let device = Device::flex();
        let prediction = images(vec![1.0, 1.0, 2.0, 4.0], [4, 1, 1, 1], &device);
        let target = prediction.zeros_like();
        let weights = group_weights(&[false, false, true, true], 0.5);
        let loss: f32 = diffusion_loss(prediction, target, &weights, None).into_scalar();
        assert_eq!(loss, 1.0 + 0.5 * (4.0 + 16.0) / 2.0);
    }

    #[test]
    fn a_mask_of_ones_changes_nothing_and_masked_places_have_no_gradient() {
        let device = Device::flex().autodiff();
        let values: Vec<f32> = (0..16).map(|i| i as f32 / 4.0).collect();
        let tracked = |values: Vec<f32>| images(values, [2, 2, 2, 2], &device).require_grad();
        let target = Tensor::<4>::ones([2, 2, 2, 2], &Device::flex());
        let loss = |mask: Option<Vec<f32>>| {
            let prediction = tracked(values.clone());
            let mask = mask.map(|mask| images(mask, [2, 1, 2, 2], &Device::flex()));
            let loss = diffusion_loss(prediction.clone(), target.clone(), &[0.5, 0.5], mask);
            let value: f32 = loss.clone().inner().into_scalar();
            let gradients = loss.backward();
            let gradient: Vec<f32> = prediction
                .grad(&gradients)
                .unwrap()
                .into_data()
                .try_to_vec()
                .unwrap();
            (value, gradient)
        };
        let (whole, gradient) = loss(None);
        let (ones, masked_gradient) = loss(Some(vec![1.0; 8]));
        assert!((whole - ones).abs() < 1e-6 * whole);
        for (a, b) in gradient.iter().zip(&masked_gradient) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
        // One pixel of the first sample, nothing of the second.
        let (one, gradient) = loss(Some(vec![0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
        let error = |i: usize| (values[i] - 1.0).powi(2);
        assert!((one - 0.5 * (error(1) + error(5)) / 2.0).abs() < 1e-6);
        let touched: Vec<usize> = (0..16).filter(|i| gradient[*i] != 0.0).collect();
        assert_eq!(touched, [1, 5]);
    }

    #[test]
    fn offset_noise_moves_whole_channels() {
        let device = Device::flex();
        let eps = Tensor::<4>::zeros([1, 2, 2, 2], &device);
        let offset = images(vec![1.0, -2.0], [1, 2, 1, 1], &device);
        let moved: Vec<f32> = offset_noise(eps, offset, 0.5)
            .into_data()
            .try_to_vec()
            .unwrap();
        assert_eq!(moved, [0.5, 0.5, 0.5, 0.5, -1.0, -1.0, -1.0, -1.0]);
    }
}
