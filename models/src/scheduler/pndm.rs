//! PNDM in its linear multistep form (PLMS; arXiv 2202.09778, eq. 9, 11 and 12).

use burn::tensor::Tensor;

use super::ddim::Pair;
use super::run::Solver;
use super::values::{Level, combine};
use super::{Prediction, SchedulerConfig};

/// Weights of the last predictions, newest first (Adams–Bashforth).
const WEIGHTS: [&[f64]; 3] = [
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// The first step is taken twice: once with the first prediction, then from the same state with the mean of the first two.
#[derive(Debug)]
pub(super) struct Plms {
    steps: Vec<Pair>,
    prediction: Prediction,
    /// Newest first, four at most.
    outputs: Vec<Tensor<4>>,
    first: Option<Tensor<4>>,
}

impl Plms {
    pub(super) fn new(config: &SchedulerConfig, steps: Vec<Pair>) -> Self {
        Self {
            steps,
            prediction: config.prediction_type,
            outputs: Vec::with_capacity(4),
            first: None,
        }
    }
}

impl Solver for Plms {
    fn step(&mut self, call: usize, output: Tensor<4>, x: Tensor<4>) -> Tensor<4> {
        let (mut x, mut output) = (x, output);
        if call == 1 {
            // Not kept: the state it belongs to is only provisional.
            if let (Some(start), Some(earlier)) = (self.first.take(), self.outputs.first()) {
                output = combine(&[(0.5, &output), (0.5, earlier)]);
                x = start;
            }
        } else {
            if call == 0 {
                self.first = Some(x.clone());
            }
            self.outputs.truncate(3);
            self.outputs.insert(0, output);
            output = match self.outputs.len() {
                1 => self.outputs[0].clone(),
                known => {
                    let weights = WEIGHTS[known - 2].iter().copied();
                    combine(&weights.zip(&self.outputs).collect::<Vec<_>>())
                }
            };
        }
        let Pair { from, to } = self.steps[call];
        transfer(from, to, &x, &from.noise(self.prediction, &x, &output))
    }
}

/// The step along the predicted noise (eq. 9).
fn transfer(from: Level, to: Level, x: &Tensor<4>, noise: &Tensor<4>) -> Tensor<4> {
    let denominator = from.bar() * to.sigma + (from.bar() * (1.0 - from.bar()) * to.bar()).sqrt();
    let change = (to.bar() - from.bar()) / denominator;
    combine(&[(to.alpha / from.alpha, x), (-change, noise)])
}
