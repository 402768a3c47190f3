//! Random numbers by address: whoever runs the model decides where they come from.

use std::fmt;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

/// A source of generators, one per purpose: the same purpose always gives the same numbers.
///
/// The caller folds seed, epoch and step into the source; layers add their own name as the purpose. Numbers are drawn on the host,
/// so every device sees the same ones, and nothing about randomness needs saving.
///
/// # Examples
/// ```
/// use rand_chacha::ChaCha8Rng;
/// use rand_chacha::rand_core::SeedableRng;
/// use temper_adapters::RandomSource;
///
/// let source = RandomSource::new(|purpose| ChaCha8Rng::seed_from_u64(purpose.len() as u64));
/// assert_eq!(source.uniform("q_proj", 4, 1.0), source.uniform("q_proj", 4, 1.0));
/// ```
#[derive(Clone)]
pub struct RandomSource(Arc<dyn Fn(&str) -> ChaCha8Rng + Send + Sync>);

impl fmt::Debug for RandomSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RandomSource")
    }
}

impl RandomSource {
    /// A source from a function of the purpose.
    pub fn new(generator: impl Fn(&str) -> ChaCha8Rng + Send + Sync + 'static) -> Self {
        Self(Arc::new(generator))
    }

    /// The generator for `purpose`.
    pub fn generator(&self, purpose: &str) -> ChaCha8Rng {
        (self.0)(purpose)
    }

    /// `n` values uniform in (−bound, bound).
    pub fn uniform(&self, purpose: &str, n: usize, bound: f32) -> Vec<f32> {
        let mut rng = self.generator(purpose);
        (0..n)
            .map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound)
            .collect()
    }

    /// `n` values normal with this standard deviation (Box–Muller).
    pub fn normal(&self, purpose: &str, n: usize, deviation: f32) -> Vec<f32> {
        let mut rng = self.generator(purpose);
        let mut pair = || {
            let radius = (-2.0 * f64::from(1.0 - unit(&mut rng)).ln()).sqrt();
            let angle = std::f64::consts::TAU * f64::from(unit(&mut rng));
            [radius * angle.cos(), radius * angle.sin()]
        };
        let mut values = Vec::with_capacity(n + 1);
        while values.len() < n {
            values.extend(pair().map(|value| value as f32 * deviation));
        }
        values.truncate(n);
        values
    }

    /// A `[n]` mask that keeps with probability `1 − drop` and scales what it keeps by `1 / (1 − drop)`.
    pub fn dropout_mask(&self, purpose: &str, n: usize, drop: f32, device: &Device) -> Tensor<1> {
        let mut rng = self.generator(purpose);
        let scale = 1.0 / (1.0 - drop);
        let mask: Vec<f32> = (0..n)
            .map(|_| if unit(&mut rng) < drop { 0.0 } else { scale })
            .collect();
        Tensor::from_data(TensorData::new(mask, [n]), device)
    }
}

fn unit(rng: &mut impl Rng) -> f32 {
    rng.random::<f32>()
}
