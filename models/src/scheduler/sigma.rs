//! Euler's method, its ancestral form and Heun's, on the state x = x0 + σε (arXiv 2206.00364).

use burn::tensor::Tensor;

use super::run::Solver;
use super::values::{Level, combine};
use super::{Prediction, SchedulerConfig};

/// dx/dσ = (x − x0)/σ (eq. 1 with s = 1).
fn slope(
    prediction: Prediction,
    sigma: f64,
    x: &Tensor<4>,
    output: &Tensor<4>,
    clip: Option<f64>,
) -> Tensor<4> {
    if prediction == Prediction::Epsilon && clip.is_none() {
        return output.clone();
    }
    // The model saw the state scaled to keep its variance.
    let level = Level::from_ratio(sigma);
    let scaled = x.clone().mul_scalar(level.alpha);
    let image = level.image(prediction, &scaled, output);
    let image = match clip {
        Some(range) => image.clamp(-range, range),
        None => image,
    };
    combine(&[(1.0 / sigma, x), (-1.0 / sigma, &image)])
}

/// Euler's method; ancestral: to a lower level than wanted, and back up with fresh noise.
#[derive(Debug)]
pub(super) struct Euler {
    sigmas: Vec<f64>,
    prediction: Prediction,
    ancestral: bool,
}

impl Euler {
    pub(super) fn new(config: &SchedulerConfig, sigmas: Vec<f64>, ancestral: bool) -> Self {
        Self {
            sigmas,
            prediction: config.prediction_type,
            ancestral,
        }
    }
}

impl Solver for Euler {
    fn input_sigma(&self, call: usize) -> Option<f64> {
        Some(self.sigmas[call])
    }

    /// The part `σ_up` of the next level that is fresh noise: `σ_down²` + `σ_up²` = `σ_next²`.
    fn noise_scale(&self, call: usize) -> f64 {
        let (from, to) = (self.sigmas[call].powi(2), self.sigmas[call + 1].powi(2));
        if self.ancestral {
            (to * (from - to) / from).max(0.0).sqrt()
        } else {
            0.0
        }
    }

    fn step(&mut self, call: usize, output: Tensor<4>, x: Tensor<4>) -> Tensor<4> {
        let (sigma, next) = (self.sigmas[call], self.sigmas[call + 1]);
        let down = (next.powi(2) - self.noise_scale(call).powi(2))
            .max(0.0)
            .sqrt();
        let target = if self.ancestral { down } else { next };
        let slope = slope(self.prediction, sigma, &x, &output, None);
        combine(&[(1.0, &x), (target - sigma, &slope)])
    }
}

/// Heun's method: Euler's step, then the same step again with the mean of both slopes; the last step is Euler's.
#[derive(Debug)]
pub(super) struct Heun {
    sigmas: Vec<f64>,
    prediction: Prediction,
    clip: Option<f64>,
    /// Start and slope of the step being corrected.
    start: Option<(Tensor<4>, Tensor<4>)>,
}

impl Heun {
    pub(super) fn new(config: &SchedulerConfig, sigmas: Vec<f64>) -> Self {
        Self {
            sigmas,
            prediction: config.prediction_type,
            clip: config.clip_sample.then_some(config.clip_sample_range),
            start: None,
        }
    }
}

impl Solver for Heun {
    fn input_sigma(&self, call: usize) -> Option<f64> {
        Some(self.sigmas[call.div_ceil(2)])
    }

    fn step(&mut self, call: usize, output: Tensor<4>, x: Tensor<4>) -> Tensor<4> {
        let at = self.sigmas[call.div_ceil(2)];
        let slope = slope(self.prediction, at, &x, &output, self.clip);
        let (from, to) = (self.sigmas[call / 2], self.sigmas[call / 2 + 1]);
        match self.start.take() {
            None => {
                let next = combine(&[(1.0, &x), (to - from, &slope)]);
                self.start = Some((x, slope));
                next
            }
            Some((start, first)) => {
                let half = (to - from) / 2.0;
                combine(&[(1.0, &start), (half, &first), (half, &slope)])
            }
        }
    }
}
