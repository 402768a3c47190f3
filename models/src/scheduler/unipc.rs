//! UniPC (arXiv 2302.04867): a predictor and, with the same call of the model, a corrector of the state before.
//!
//! Both are x' = (σ'/σ) x − α'(e^{−h} − 1) m₀ − α' B(h) Σ `ρ_k` `D_k` with `D_k` = (`m_k` − `m₀)/r_k`, where m₀ is the image predicted at
//! the start, `m_k` those predicted before it (the corrector adds the one at the end, r = 1), and ρ solves the order conditions
//! Σ `r_k^{n−1`} `ρ_k` = `b_n` (eq. 9 and its appendix, data prediction).

use burn::tensor::Tensor;

use super::run::Solver;
use super::values::{Level, combine};
use super::{Prediction, SchedulerConfig, SolverType};

#[derive(Debug)]
pub(super) struct UniPc {
    levels: Vec<Level>,
    prediction: Prediction,
    order: usize,
    linear_b: bool,
    lower_order_final: bool,
    uncorrected: Vec<usize>,
    /// Images predicted so far, newest first, `order` at most.
    images: Vec<Tensor<4>>,
    /// The corrected state of the last call, and the order of its predictor.
    last: Option<(Tensor<4>, usize)>,
}

impl UniPc {
    pub(super) fn new(config: &SchedulerConfig, sigmas: &[f64]) -> Self {
        Self {
            levels: sigmas
                .iter()
                .map(|ratio| Level::from_ratio(*ratio))
                .collect(),
            prediction: config.prediction_type,
            order: config.solver_order,
            linear_b: config.solver_type == SolverType::Bh1,
            lower_order_final: config.lower_order_final,
            uncorrected: config.disable_corrector.clone(),
            images: Vec::new(),
            last: None,
        }
    }

    /// From level `at` to the next one, with `self.images` predicted at `at` and before. `end` is the image predicted at the next
    /// level (the corrector), without it this is the predictor.
    fn update(&self, at: usize, order: usize, x: &Tensor<4>, end: Option<&Tensor<4>>) -> Tensor<4> {
        let (from, to) = (self.levels[at], self.levels[at + 1]);
        let width = |level: usize| self.levels[level].lambda() - from.lambda();
        let h = width(at + 1);
        if h == 0.0 {
            return x.clone();
        }
        let gain = (-h).exp_m1();
        let start = &self.images[0];
        let mut terms = vec![(to.sigma / from.sigma, x), (-to.alpha * gain, start)];
        let mut ratios: Vec<f64> = (1..order).map(|back| width(at - back) / h).collect();
        let mut others: Vec<&Tensor<4>> = self.images[1..].iter().take(order - 1).collect();
        let corrected = end.is_some();
        if let Some(end) = end {
            ratios.push(1.0);
            others.push(end);
        }
        let factor = -to.alpha * if self.linear_b { -h } else { gain };
        let weights = self.weights(&ratios, h, corrected);
        let mut of_start = 0.0;
        for ((ratio, weight), image) in ratios.iter().zip(weights).zip(others) {
            let scale = factor * weight / ratio;
            of_start -= scale;
            terms.push((scale, image));
        }
        terms.push((of_start, start));
        combine(&terms)
    }

    /// ρ: one value per ratio. The lowest orders use 1/2, as the paper's code does (the limit for small h).
    fn weights(&self, ratios: &[f64], h: f64, corrector: bool) -> Vec<f64> {
        let orders = ratios.len();
        let simple = if corrector { orders == 1 } else { orders <= 1 };
        if simple {
            return vec![0.5; orders];
        }
        let hh = -h;
        let scale = if self.linear_b { hh } else { hh.exp_m1() };
        // φ_{n+1}(hh) · n!, by its recursion from φ_1.
        let (mut phi, mut factorial) = (hh.exp_m1() / hh - 1.0, 1.0);
        let mut rows = Vec::with_capacity(orders);
        for n in 1..=orders {
            let powers = ratios.iter().map(|ratio| ratio.powi(n as i32 - 1));
            let mut row: Vec<f64> = powers.collect();
            row.push(phi * factorial / scale);
            rows.push(row);
            factorial *= (n + 1) as f64;
            phi = phi / hh - 1.0 / factorial;
        }
        solve(rows)
    }
}

impl Solver for UniPc {
    fn step(&mut self, call: usize, output: Tensor<4>, x: Tensor<4>) -> Tensor<4> {
        let image = self.levels[call].image(self.prediction, &x, &output);
        let x = match self.last.take() {
            Some((before, order)) if !self.uncorrected.contains(&(call - 1)) => {
                self.update(call - 1, order, &before, Some(&image))
            }
            _ => x,
        };
        self.images.truncate(self.order - 1);
        self.images.insert(0, image);
        let left = self.levels.len() - 1 - call;
        let highest = if self.lower_order_final {
            left
        } else {
            usize::MAX
        };
        let order = self.order.min(highest).min(call + 1);
        let next = self.update(call, order, &x, None);
        self.last = Some((x, order));
        next
    }
}

/// Solves a small linear system, rows `[coefficients | right side]`, by elimination with the largest pivot.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for column in 0..n {
        let largest =
            (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
        rows.swap(column, largest.unwrap_or(column));
        let pivot = rows[column].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != column) {
            let factor = row[column] / pivot[column];
            row.iter_mut()
                .zip(&pivot)
                .for_each(|(value, above)| *value -= factor * above);
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}
