//! The learning rate of each step.

use std::f64::consts::PI;

use crate::recipe::Schedule;

/// Warm-up, then a decay, counted as Hugging Face counts: step 0 is before the first update, so with a warm-up its rate is 0.
///
/// # Examples
/// ```
/// use temper_engine::recipe::Schedule;
/// use temper_engine::train::LearningRate;
///
/// // MetaMath: peak 2e-5, 278 of 9,258 steps of warm-up.
/// let rate = LearningRate { peak: 2e-5, schedule: Schedule::Cosine, warmup: 278, total: 9258, min_ratio: 0.0 };
/// assert_eq!(rate.at(0), 0.0);
/// assert!((rate.at(4768) - 1e-5).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LearningRate {
    /// Rate after the warm-up.
    pub peak: f64,
    /// Shape of the decay.
    pub schedule: Schedule,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Steps of the run.
    pub total: u64,
    /// Rate at the end, as a share of the peak.
    pub min_ratio: f64,
}

impl LearningRate {
    /// The rate of update `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let span = self.total.saturating_sub(self.warmup).max(1);
        let progress = ((step - self.warmup) as f64 / span as f64).min(1.0);
        let share = match self.schedule {
            Schedule::Constant => return self.peak,
            Schedule::Linear => 1.0 - progress,
            Schedule::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        };
        self.peak * (self.min_ratio + (1.0 - self.min_ratio) * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_of_the_papers_run_are_those_of_its_scheduler() {
        let rate = LearningRate {
            peak: 2e-5,
            schedule: Schedule::Cosine,
            warmup: 278,
            total: 9258,
            min_ratio: 0.0,
        };
        for (step, expected) in [
            (0, 0.0),
            (1, 7.1942e-8),
            (277, 1.992_806e-5),
            (278, 2e-5),
            (4768, 1e-5),
            (9257, 6.119e-13),
        ] {
            let found = rate.at(step);
            assert!(
                (found - expected).abs() <= 1e-4 * expected,
                "step {step}: {found:e}, expected {expected:e}"
            );
        }
    }

    #[test]
    fn linear_reaches_its_floor_and_constant_never_falls() {
        let mut rate = LearningRate {
            peak: 1.0,
            schedule: Schedule::Linear,
            warmup: 0,
            total: 10,
            min_ratio: 0.1,
        };
        assert_eq!(rate.at(0), 1.0);
        assert!((rate.at(10) - 0.1).abs() < 1e-12 && rate.at(50) == rate.at(10));
        rate.schedule = Schedule::Constant;
        assert_eq!(rate.at(9), 1.0);
    }
}
