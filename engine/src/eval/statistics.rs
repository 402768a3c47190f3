//! How sure a measured accuracy is, and whether two runs differ.

use serde::{Deserialize, Serialize};

/// Standard error of an accuracy: `√(p(1 − p) / (n − 1))`, the spread of the mean of `n` outcomes that are 0 or 1.
/// `None` below two problems, where there is no spread.
///
/// ```
/// assert_eq!(temper_engine::eval::standard_error(1, 2), Some(0.5));
/// assert_eq!(temper_engine::eval::standard_error(1, 1), None);
/// ```
pub fn standard_error(correct: u64, problems: u64) -> Option<f64> {
    if problems < 2 {
        return None;
    }
    let p = correct as f64 / problems as f64;
    Some((p * (1.0 - p) / (problems - 1) as f64).sqrt())
}

/// The same problems solved by two runs: what changed, and whether chance explains it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Problems that both solved.
    pub problems: u64,
    /// Solved by both.
    pub both: u64,
    /// Solved by the first alone.
    pub first_only: u64,
    /// Solved by the second alone.
    pub second_only: u64,
}

impl Paired {
    /// Counts one problem.
    pub fn add(&mut self, first: bool, second: bool) {
        self.problems += 1;
        match (first, second) {
            (true, true) => self.both += 1,
            (true, false) => self.first_only += 1,
            (false, true) => self.second_only += 1,
            (false, false) => {}
        }
    }

    /// Accuracy of the second run minus that of the first.
    pub fn difference(&self) -> f64 {
        (self.second_only as f64 - self.first_only as f64) / (self.problems as f64).max(1.0)
    }

    /// Standard error of [`Self::difference`], from the changed problems alone: `√(b + c − (b − c)²/n) / n`.
    pub fn standard_error(&self) -> Option<f64> {
        let (b, c, n) = (
            self.first_only as f64,
            self.second_only as f64,
            self.problems as f64,
        );
        (self.problems > 1).then(|| (b + c - (b - c) * (b - c) / n).max(0.0).sqrt() / n)
    }

    /// McNemar's exact test, two-sided: how likely a split of the changed problems at least as uneven as this one is when either
    /// run is as good as the other (McNemar 1947; binomial with probability ½ over the changed problems).
    ///
    /// ```
    /// let mut paired = temper_engine::eval::Paired::default();
    /// (0..6).for_each(|_| paired.add(false, true));
    /// assert!((paired.p_value() - 2.0 / 64.0).abs() < 1e-12);
    /// ```
    pub fn p_value(&self) -> f64 {
        let changed = self.first_only + self.second_only;
        let fewer = self.first_only.min(self.second_only);
        // ln(C(n, i) / 2ⁿ), from i = 0 upwards.
        let mut log_term = -(changed as f64) * std::f64::consts::LN_2;
        let mut tail = log_term.exp();
        for i in 0..fewer {
            log_term += (((changed - i) as f64) / ((i + 1) as f64)).ln();
            tail += log_term.exp();
        }
        (2.0 * tail).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(first_only: u64, second_only: u64) -> Paired {
        Paired {
            problems: 2000,
            first_only,
            second_only,
            both: 0,
        }
    }

    #[test]
    fn standard_error_is_that_of_a_mean_of_zeros_and_ones() {
        // 3 of 4: variance with n − 1 is 0.25, divided by 4.
        let error = standard_error(3, 4).unwrap();
        assert!((error - 0.25).abs() < 1e-15, "{error}");
        assert_eq!(standard_error(0, 10), Some(0.0));
        assert_eq!(standard_error(0, 0), None);
    }

    #[test]
    fn mcnemar_is_the_binomial_tail() {
        // Values of a two-sided binomial test at one half, counted by hand for the first three.
        for (b, c, p) in [
            (0, 0, 1.0),
            (0, 1, 1.0),
            (1, 4, 0.375),
            (2, 10, 0.038_574_218_75),
            (5, 5, 1.0),
        ] {
            let found = split(b, c).p_value();
            assert!((found - p).abs() < 1e-12, "{b} and {c}: {found}");
            assert_eq!(found, split(c, b).p_value());
        }
    }

    #[test]
    fn many_changed_problems_neither_overflow_nor_underflow() {
        // Near the middle the test is far from certain; far from it the value is tiny, not negative and not NaN.
        assert!(split(1000, 1000).p_value() > 0.97);
        let p = split(100, 1900).p_value();
        assert!((0.0..1e-300).contains(&p), "{p}");
        // 900 of 2000: z = −4.45 with the correction for continuity, so about 8.5e-6.
        let p = split(900, 1100).p_value();
        assert!((8.4e-6..8.8e-6).contains(&p), "{p}");
    }

    #[test]
    fn a_difference_has_the_error_of_the_changed_problems_alone() {
        let mut paired = Paired::default();
        for (first, second, times) in [
            (true, true, 5),
            (false, true, 3),
            (true, false, 1),
            (false, false, 1),
        ] {
            (0..times).for_each(|_| paired.add(first, second));
        }
        assert_eq!((paired.problems, paired.both), (10, 5));
        assert!((paired.difference() - 0.2).abs() < 1e-15);
        // Differences: three of +1, one of −1, six of 0: variance 0.4 − 0.04.
        assert!((paired.standard_error().unwrap() - (0.36_f64 / 10.0).sqrt()).abs() < 1e-12);
    }
}
