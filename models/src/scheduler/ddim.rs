//! DDIM (arXiv 2010.02502) and DDPM's ancestral sampling (arXiv 2006.11239).

use burn::tensor::Tensor;

use super::run::Solver;
use super::values::{Level, combine};
use super::{Prediction, SchedulerConfig, Variance};

/// One step of either: where from, where to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) from: Level,
    pub(super) to: Level,
}

impl Pair {
    /// 1 − `ᾱ_from/ᾱ_to`: the β of this step, however many steps of the process it spans.
    fn beta(self) -> f64 {
        1.0 - self.from.bar() / self.to.bar()
    }

    /// β̃, the variance of the step back when the image is known (DDPM eq. 7).
    fn posterior_variance(self) -> f64 {
        let share = (1.0 - self.to.bar()) / (1.0 - self.from.bar());
        share * self.beta()
    }
}

/// The image that the model predicts, clipped if the configuration says so.
fn clipped(range: Option<f64>, image: Tensor<4>) -> Tensor<4> {
    match range {
        Some(range) => image.clamp(-range, range),
        None => image,
    }
}

fn clip_range(config: &SchedulerConfig) -> Option<f64> {
    config.clip_sample.then_some(config.clip_sample_range)
}

/// DDIM's update (its eq. 12 with σ = η √β̃).
#[derive(Debug)]
pub(super) struct Ddim {
    steps: Vec<Pair>,
    prediction: Prediction,
    clip: Option<f64>,
    eta: f64,
}

impl Ddim {
    pub(super) fn new(config: &SchedulerConfig, steps: Vec<Pair>) -> Self {
        Self {
            steps,
            prediction: config.prediction_type,
            clip: clip_range(config),
            eta: config.eta,
        }
    }

    fn deviation(&self, call: usize) -> f64 {
        self.eta * self.steps[call].posterior_variance().max(0.0).sqrt()
    }
}

impl Solver for Ddim {
    fn noise_scale(&self, call: usize) -> f64 {
        self.deviation(call)
    }

    fn step(&mut self, call: usize, output: Tensor<4>, x: Tensor<4>) -> Tensor<4> {
        let Pair { from, to } = self.steps[call];
        // The noise is what the model says, also when the image is clipped.
        let noise = from.noise(self.prediction, &x, &output);
        let image = clipped(self.clip, from.image(self.prediction, &x, &output));
        let direction = (1.0 - to.bar() - self.deviation(call).powi(2)).max(0.0);
        combine(&[(to.alpha, &image), (direction.sqrt(), &noise)])
    }
}

/// DDPM's update: the posterior mean given the predicted image (eq. 7), plus noise.
#[derive(Debug)]
pub(super) struct Ddpm {
    steps: Vec<Pair>,
    prediction: Prediction,
    clip: Option<f64>,
    variance: Variance,
}

impl Ddpm {
    pub(super) fn new(config: &SchedulerConfig, steps: Vec<Pair>) -> Self {
        Self {
            steps,
            prediction: config.prediction_type,
            clip: clip_range(config),
            variance: config.variance_type,
        }
    }
}

impl Solver for Ddpm {
    fn noise_scale(&self, call: usize) -> f64 {
        let pair = self.steps[call];
        let variance = match self.variance {
            // Never zero in the reference, which takes logarithms of it elsewhere.
            Variance::FixedSmall => pair.posterior_variance().max(1e-20),
            Variance::FixedLarge => pair.beta(),
        };
        // The last call ends at the clean image.
        if pair.to.sigma == 0.0 {
            0.0
        } else {
            variance.sqrt()
        }
    }

    fn step(&mut self, call: usize, output: Tensor<4>, x: Tensor<4>) -> Tensor<4> {
        let pair = self.steps[call];
        let image = clipped(self.clip, pair.from.image(self.prediction, &x, &output));
        let noise = 1.0 - pair.from.bar();
        let keep = (1.0 - pair.beta()).sqrt() * (1.0 - pair.to.bar()) / noise;
        combine(&[(pair.to.alpha * pair.beta() / noise, &image), (keep, &x)])
    }
}
