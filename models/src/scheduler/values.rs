//! From what the model predicts to the image and the noise.

use burn::tensor::{DType, Tensor};

use super::Prediction;

/// The two scales of a state x = αx0 + σε with α² + σ² = 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Level {
    pub(super) alpha: f64,
    pub(super) sigma: f64,
}

impl Level {
    /// From ᾱ.
    pub(super) fn from_alpha_bar(bar: f64) -> Self {
        Self {
            alpha: bar.sqrt(),
            sigma: (1.0 - bar).sqrt(),
        }
    }

    /// From σ/α, the noise level of Euler's parametrisation.
    pub(super) fn from_ratio(ratio: f64) -> Self {
        let alpha = 1.0 / ratio.hypot(1.0);
        let sigma = ratio * alpha;
        Self { alpha, sigma }
    }

    /// ᾱ.
    pub(super) fn bar(self) -> f64 {
        self.alpha * self.alpha
    }

    /// Half the logarithm of the signal-to-noise ratio; infinite without noise.
    pub(super) fn lambda(self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }

    /// The predicted image.
    pub(super) fn image(
        self,
        prediction: Prediction,
        x: &Tensor<4>,
        output: &Tensor<4>,
    ) -> Tensor<4> {
        let Self { alpha, sigma } = self;
        match prediction {
            Prediction::Epsilon => combine(&[(1.0 / alpha, x), (-sigma / alpha, output)]),
            Prediction::VPrediction => combine(&[(alpha, x), (-sigma, output)]),
            Prediction::Sample => output.clone(),
        }
    }

    /// The predicted noise.
    pub(super) fn noise(
        self,
        prediction: Prediction,
        x: &Tensor<4>,
        output: &Tensor<4>,
    ) -> Tensor<4> {
        let Self { alpha, sigma } = self;
        match prediction {
            Prediction::Epsilon => output.clone(),
            Prediction::VPrediction => combine(&[(alpha, output), (sigma, x)]),
            Prediction::Sample => combine(&[(1.0 / sigma, x), (-alpha / sigma, output)]),
        }
    }
}

/// `Σ scale · tensor`.
pub(super) fn combine(terms: &[(f64, &Tensor<4>)]) -> Tensor<4> {
    let mut sum: Option<Tensor<4>> = None;
    for (scale, tensor) in terms.iter().filter(|(scale, _)| *scale != 0.0) {
        let term = if *scale == 1.0 {
            (*tensor).clone()
        } else {
            (*tensor).clone().mul_scalar(*scale)
        };
        sum = Some(match sum {
            None => term,
            Some(sum) => sum + term,
        });
    }
    sum.unwrap_or_else(|| terms[0].1.zeros_like())
}

/// The tensor in f32.
pub(super) fn f32(tensor: Tensor<4>) -> Tensor<4> {
    if tensor.dtype() == DType::F32 {
        tensor
    } else {
        tensor.cast(DType::F32)
    }
}
