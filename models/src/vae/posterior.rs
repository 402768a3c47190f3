//! What the encoder says about the latents of an image.

use burn::tensor::Tensor;

/// A normal distribution with diagonal covariance over latents, `[B, Z, h, w]`, in f32.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use temper_models::Posterior;
///
/// let device = Device::flex();
/// let moments = Tensor::<4>::zeros([1, 8, 2, 2], &device);
/// let posterior = Posterior::from_moments(moments);
/// assert_eq!(posterior.mean.dims(), [1, 4, 2, 2]);
/// assert_eq!(posterior.kl().into_scalar::<f32>(), 0.0);
/// ```
#[derive(Clone, Debug)]
pub struct Posterior {
    /// Its mean, also its mode.
    pub mean: Tensor<4>,
    /// Logarithm of its variance, between −30 and 20.
    pub logvar: Tensor<4>,
}

impl Posterior {
    /// From the encoder's output `[B, 2Z, h, w]`: mean, then log-variance.
    pub fn from_moments(moments: Tensor<4>) -> Self {
        let channels = moments.dims()[1] / 2;
        Self {
            mean: moments.clone().narrow(1, 0, channels),
            logvar: moments.narrow(1, channels, channels).clamp(-30.0, 20.0),
        }
    }

    /// Its standard deviation, `exp(logvar / 2)`.
    pub fn std(&self) -> Tensor<4> {
        self.logvar.clone().mul_scalar(0.5).exp()
    }

    /// `mean + std · eps`, for `eps` normal of the shape of the mean (arXiv 1312.6114, eq. 4).
    pub fn sample(&self, eps: Tensor<4>) -> Tensor<4> {
        self.mean.clone() + self.std() * eps
    }

    /// The divergence from the standard normal of each image, `½ Σ (mean² + var − 1 − logvar)`, `[B]`.
    pub fn kl(&self) -> Tensor<1> {
        let [batch, channels, height, width] = self.mean.dims();
        let terms =
            self.mean.clone().square() + self.logvar.clone().exp() - self.logvar.clone() - 1.0;
        terms
            .reshape([batch, channels * height * width])
            .sum_dim(1)
            .reshape([batch])
            .mul_scalar(0.5)
    }
}
