//! DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2; its stochastic form, eq. 18 and following).
//!
//! With λ = ln(α/σ) and h the step in λ, the state follows x' = (σ'/σ) x − α' ∫ of the predicted image, which is taken as constant
//! (order 1) or as a line through the last two predictions (order 2).

use burn::tensor::Tensor;

use super::run::Solver;
use super::values::{Level, combine};
use super::{Algorithm, FinalSigma, Prediction, SchedulerConfig, SolverType};

/// Runs this long need no lower order at the end to be stable.
const LONG_RUN: usize = 15;

#[derive(Debug)]
pub(super) struct DpmSolver {
    levels: Vec<Level>,
    config: Settings,
    /// The image predicted at the call before.
    earlier: Option<Tensor<4>>,
}

#[derive(Debug)]
struct Settings {
    prediction: Prediction,
    order: usize,
    heun: bool,
    stochastic: bool,
    first_order_at_end: bool,
}

impl DpmSolver {
    pub(super) fn new(config: &SchedulerConfig, sigmas: &[f64]) -> Self {
        let steps = sigmas.len() - 1;
        Self {
            levels: sigmas
                .iter()
                .map(|ratio| Level::from_ratio(*ratio))
                .collect(),
            config: Settings {
                prediction: config.prediction_type,
                order: config.solver_order,
                heun: config.solver_type == SolverType::Heun,
                stochastic: config.algorithm_type == Algorithm::SdeDpmSolverPlusPlus,
                first_order_at_end: config.euler_at_final
                    || (config.lower_order_final && steps < LONG_RUN)
                    || config.final_sigmas_type == FinalSigma::Zero,
            },
            earlier: None,
        }
    }

    /// The step in λ; infinite when the last level has no noise.
    fn width(&self, call: usize) -> f64 {
        self.levels[call + 1].lambda() - self.levels[call].lambda()
    }
}

impl Solver for DpmSolver {
    fn noise_scale(&self, call: usize) -> f64 {
        if !self.config.stochastic {
            return 0.0;
        }
        let shrink = -(-2.0 * self.width(call)).exp_m1();
        self.levels[call + 1].sigma * shrink.max(0.0).sqrt()
    }

    fn step(&mut self, call: usize, output: Tensor<4>, x: Tensor<4>) -> Tensor<4> {
        let (from, to) = (self.levels[call], self.levels[call + 1]);
        let h = self.width(call);
        let image = from.image(self.config.prediction, &x, &output);
        let earlier = self.earlier.replace(image.clone());
        if h == 0.0 {
            // `final_sigmas_type` sigma_min after Karras levels: the last level stands twice.
            return x;
        }
        // The stochastic equation has twice the drift.
        let drift = if self.config.stochastic { 2.0 * h } else { h };
        let gain = -(-drift).exp_m1();
        let decay = to.sigma / from.sigma
            * if self.config.stochastic {
                (-h).exp()
            } else {
                1.0
            };
        let last = call + 2 == self.levels.len();
        let first_order = self.config.order == 1 || last && self.config.first_order_at_end;
        let Some(earlier) = earlier.filter(|_| !first_order) else {
            return combine(&[(decay, &x), (to.alpha * gain, &image)]);
        };
        let ratio = self.width(call - 1) / h;
        let curve = if self.config.heun {
            to.alpha * (1.0 - gain / drift)
        } else {
            to.alpha * gain / 2.0
        };
        let slope = curve / ratio;
        combine(&[
            (decay, &x),
            (to.alpha * gain + slope, &image),
            (-slope, &earlier),
        ])
    }
}
