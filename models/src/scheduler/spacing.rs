//! Which steps of the noise process a run visits, and their noise levels.

use super::{FinalSigma, SchedulerConfig, SchedulerKind, Spacing};

/// ᾱ that stands for a last step without signal where σ = √((1−ᾱ)/ᾱ) is needed: half precision's least positive number.
const LEAST_SIGNAL: f64 = 1.0 / (1 << 24) as f64;

/// Timesteps (fractional where the sampler has them so) and σ, of which there is one more.
#[derive(Debug)]
pub(super) struct Levels {
    pub(super) timesteps: Vec<f64>,
    pub(super) sigmas: Vec<f64>,
}

/// The visited steps in falling order, on a line of `points` (more than `steps` for samplers that leave out the last).
pub(super) fn timesteps(config: &SchedulerConfig, steps: usize, points: usize) -> Vec<f64> {
    let total = config.num_train_timesteps;
    match config.timestep_spacing {
        Spacing::Linspace => {
            let width = (total - 1) as f64 / (points - 1).max(1) as f64;
            let value = |point: usize| {
                if point == points - 1 && points > 1 {
                    (total - 1) as f64
                } else {
                    point as f64 * width
                }
            };
            (0..points).rev().take(steps).map(value).collect()
        }
        Spacing::Leading => {
            let value = |point: usize| (point * (total / points) + config.steps_offset) as f64;
            (0..points).rev().take(steps).map(value).collect()
        }
        Spacing::Trailing => {
            let total = total as f64;
            // The width as an array of the reference has it: second value minus first.
            let width = (total - total / steps as f64) - total;
            let value = |step: usize| (total + step as f64 * width).round_ties_even() - 1.0;
            (0..steps).map(value).collect()
        }
    }
}

/// As [`timesteps`], rounded to whole steps.
pub(super) fn whole_timesteps(config: &SchedulerConfig, steps: usize, points: usize) -> Vec<f64> {
    let exact = timesteps(config, steps, points);
    exact.into_iter().map(f64::round_ties_even).collect()
}

/// Timesteps and noise levels of the samplers that work on σ.
pub(super) fn levels(config: &SchedulerConfig, alphas: &[f64], steps: usize) -> Levels {
    let table = sigma_table(alphas);
    let multistep = matches!(
        config.kind,
        SchedulerKind::DpmSolverMultistep | SchedulerKind::UniPc
    );
    let mut timesteps = if multistep {
        whole_timesteps(config, steps, steps + 1)
    } else {
        // These pass on fractional steps, in f32.
        let exact = timesteps(config, steps, steps);
        exact.into_iter().map(|t| f64::from(t as f32)).collect()
    };
    let mut sigmas: Vec<f64> = timesteps.iter().map(|t| interpolate(&table, *t)).collect();
    let smallest = table.first().copied().unwrap_or_default();
    let mut last = match config.final_sigmas_type {
        FinalSigma::Zero => 0.0,
        FinalSigma::SigmaMin => smallest,
    };
    if config.use_karras_sigmas {
        // The multistep samplers go through the whole table, Euler and Heun from the first visited step to the last.
        let ends = if multistep {
            [smallest, table.last().copied().unwrap_or_default()]
        } else {
            [sigmas[steps - 1], sigmas[0]]
        };
        let bounded = matches!(config.kind, SchedulerKind::Euler | SchedulerKind::UniPc);
        let own = |bound: Option<f64>| bound.filter(|_| bounded);
        let low = own(config.sigma_min).unwrap_or(ends[0]);
        let high = own(config.sigma_max).unwrap_or(ends[1]);
        sigmas = karras(low, high, steps);
        timesteps = sigmas.iter().map(|sigma| step_of(&table, *sigma)).collect();
        if multistep {
            for t in &mut timesteps {
                *t = t.round_ties_even();
            }
        }
        if config.kind == SchedulerKind::UniPc && config.final_sigmas_type == FinalSigma::SigmaMin {
            last = low;
        }
    }
    if matches!(
        config.kind,
        SchedulerKind::EulerAncestral | SchedulerKind::Heun
    ) {
        last = 0.0;
    }
    sigmas.push(last);
    Levels { timesteps, sigmas }
}

/// σ = √((1−ᾱ)/ᾱ) of every step of the process.
fn sigma_table(alphas: &[f64]) -> Vec<f64> {
    let signal = |bar: &f64| if *bar > 0.0 { *bar } else { LEAST_SIGNAL };
    let sigma = |bar: &f64| ((1.0 - signal(bar)) / signal(bar)).sqrt();
    alphas.iter().map(sigma).collect()
}

/// `table` at a fractional position, linearly, the ends beyond it.
fn interpolate(table: &[f64], position: f64) -> f64 {
    let last = table.len() - 1;
    let low = (position.max(0.0) as usize).min(last);
    let high = (low + 1).min(last);
    let share = (position - low as f64).clamp(0.0, 1.0);
    table[low] + share * (table[high] - table[low])
}

/// `steps` levels from `high` to `low`, even in σ^(1/7) (arXiv 2206.00364, eq. 5).
fn karras(low: f64, high: f64, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (low, high) = (low.powf(1.0 / RHO), high.powf(1.0 / RHO));
    let share = |step: usize| step as f64 / (steps - 1).max(1) as f64;
    (0..steps)
        .map(|step| (high + share(step) * (low - high)).powf(RHO))
        .collect()
}

/// The fractional step with this noise level: linear in ln σ between the steps of `table`.
fn step_of(table: &[f64], sigma: f64) -> f64 {
    let wanted = sigma.max(1e-10).ln();
    let not_above = table.partition_point(|level| level.ln() <= wanted);
    let low = not_above
        .saturating_sub(1)
        .min(table.len().saturating_sub(2));
    let high = (low + 1).min(table.len() - 1);
    let (from, to) = (table[low].ln(), table[high].ln());
    let share = ((wanted - from) / (to - from)).clamp(0.0, 1.0);
    if share.is_nan() {
        return low as f64;
    }
    (1.0 - share) * low as f64 + share * high as f64
}
