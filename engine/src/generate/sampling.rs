//! The next token from one row of logits: temperature, then top-k, then top-p (Holtzman et al. 2020, arXiv 1904.09751 §3.1),
//! the order of the Hugging Face library.

use temper_datasets::random::{below, rng};

use super::GenerateError;

/// How tokens are chosen and when to end.
///
/// | field | meaning | default |
/// |---|---|---|
/// | `temperature` | logits are divided by it; 0 takes the likeliest token | 0 |
/// | `top_k` | only the k likeliest tokens (all that tie with the last) | all |
/// | `top_p` | only the likeliest tokens that together reach this probability | all |
/// | `seed` | with row and step the address of each random number | 0 |
/// | `max_new_tokens` | longest completion | 128 |
/// | `stop` | texts before which a completion ends | none |
///
/// # Examples
/// ```
/// use temper_engine::generate::Sampling;
///
/// let sampling = Sampling { temperature: 0.8, top_p: Some(0.95), ..Sampling::default() };
/// assert!(sampling.check().is_ok());
/// assert!(Sampling { top_p: Some(1.5), ..sampling }.check().is_err());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 for the likeliest token.
    pub temperature: f64,
    /// At least 1.
    pub top_k: Option<usize>,
    /// In (0, 1].
    pub top_p: Option<f64>,
    /// The same seed gives the same completions, in whatever batches.
    pub seed: u64,
    /// Longest completion, in tokens.
    pub max_new_tokens: usize,
    /// Texts that end a completion; they are no part of it.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            seed: 0,
            max_new_tokens: 128,
            stop: Vec::new(),
        }
    }
}

impl Sampling {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`GenerateError::Setting`] for the first value out of range.
    pub fn check(&self) -> Result<(), GenerateError> {
        let wrong = |name, found: String, expected| {
            Err(GenerateError::Setting {
                name,
                found,
                expected,
            })
        };
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return wrong(
                "temperature",
                self.temperature.to_string(),
                "0 (likeliest token) or a positive number",
            );
        }
        if self.top_k == Some(0) {
            return wrong("top_k", "0".to_owned(), "at least 1");
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return wrong("top_p", p.to_string(), "above 0 and at most 1");
        }
        if self.stop.iter().any(String::is_empty) {
            return wrong("stop", "an empty text".to_owned(), "a text");
        }
        Ok(())
    }

    /// The next token of `row`; `None` when the logits are not finite.
    pub(super) fn choose(&self, logits: &[f32], row: u64, step: usize) -> Option<u32> {
        let (best, highest) = likeliest(logits)?;
        if self.temperature == 0.0 {
            return Some(best);
        }
        let highest = f64::from(highest) / self.temperature;
        let mut choices: Vec<(u32, f64)> = (0..)
            .zip(logits)
            .map(|(id, &logit)| (id, (f64::from(logit) / self.temperature - highest).exp()))
            .collect();
        self.keep_top_k(&mut choices);
        self.keep_top_p(&mut choices);
        let uniform = below(&mut rng(self.seed, "sample", row, step as u64), 1 << 53) as f64
            / (1_u64 << 53) as f64;
        Some(draw(&choices, uniform).unwrap_or(best))
    }

    fn keep_top_k(&self, choices: &mut Vec<(u32, f64)>) {
        let Some(k) = self.top_k.filter(|k| *k < choices.len()) else {
            return;
        };
        let mut weights: Vec<f64> = choices.iter().map(|choice| choice.1).collect();
        let (_, &mut kth, _) = weights.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        choices.retain(|choice| choice.1 >= kth);
    }

    fn keep_top_p(&self, choices: &mut Vec<(u32, f64)>) {
        let Some(p) = self.top_p.filter(|p| *p < 1.0) else {
            return;
        };
        choices.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let wanted = p * choices.iter().map(|choice| choice.1).sum::<f64>();
        let mut before = 0.0;
        let mut kept = 0;
        for choice in choices.iter() {
            if kept > 0 && before >= wanted {
                break;
            }
            before += choice.1;
            kept += 1;
        }
        choices.truncate(kept);
    }
}

/// The first of the highest logits; `None` when one is no number or nothing is finite.
fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit.is_nan() {
            return None;
        }
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.1.is_finite().then_some(best)
}

/// The choice at `uniform` ∈ [0, 1) of the summed weights.
fn draw(choices: &[(u32, f64)], uniform: f64) -> Option<u32> {
    let target = uniform * choices.iter().map(|choice| choice.1).sum::<f64>();
    let mut sum = 0.0;
    choices
        .iter()
        .find(|choice| {
            sum += choice.1;
            sum > target
        })
        .map(|choice| choice.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1.
    fn logits() -> Vec<f32> {
        [0.125_f32, 0.5, 0.125, 0.25]
            .iter()
            .map(|p| p.ln())
            .collect()
    }

    fn counts(sampling: &Sampling) -> [usize; 4] {
        let mut counts = [0; 4];
        for step in 0..4000 {
            counts[sampling.choose(&logits(), 0, step).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn tokens_come_as_often_as_their_probability() {
        let counts = counts(&Sampling {
            temperature: 1.0,
            ..Sampling::default()
        });
        for (count, expected) in counts.iter().zip([500, 2000, 500, 1000]) {
            assert!(count.abs_diff(expected) < 120, "{counts:?}");
        }
    }

    #[test]
    fn temperature_sharpens_before_the_cuts() {
        // At 0.5 probabilities are squared: 0.25, 0.0625, 2 × 0.0156, that is 0.727, 0.182, 2 × 0.045.
        let sampling = Sampling {
            temperature: 0.5,
            top_p: Some(0.7),
            ..Sampling::default()
        };
        assert_eq!(counts(&sampling), [0, 4000, 0, 0]);
        let hotter = counts(&Sampling {
            temperature: 1.0,
            ..sampling
        });
        assert_eq!([hotter[0], hotter[2]], [0, 0]);
        assert!(hotter[3] > 1000);
    }

    #[test]
    fn top_k_keeps_ties_and_top_p_at_least_one() {
        let with = |top_k, top_p| {
            counts(&Sampling {
                temperature: 1.0,
                top_k,
                top_p,
                ..Sampling::default()
            })
        };
        assert_eq!(with(Some(1), None), [0, 4000, 0, 0]);
        assert!(
            with(Some(3), None).iter().all(|&count| count > 0),
            "third and fourth tie"
        );
        assert_eq!(with(None, Some(1e-9)), [0, 4000, 0, 0]);
        assert_eq!(with(Some(2), Some(0.99))[0], 0);
    }

    #[test]
    fn temperature_zero_takes_the_first_likeliest_and_broken_logits_are_noticed() {
        let greedy = Sampling::default();
        assert_eq!(
            greedy.choose(&[0.0, 3.0, 3.0, f32::NEG_INFINITY], 0, 0),
            Some(1)
        );
        assert_eq!(greedy.choose(&[0.0, f32::NAN], 0, 0), None);
        assert_eq!(greedy.choose(&[0.0, f32::INFINITY], 0, 0), None);
    }
}
