//! Rotary position embedding (RoFormer, arXiv 2104.09864) in the half-rotation layout of Hugging Face checkpoints.

use burn::tensor::{Device, Tensor, TensorData};

/// A change of the frequencies for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// Divisor of the long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` are kept.
        high_freq_factor: f64,
        /// Context length before the change.
        original_max_position_embeddings: f64,
    },
}

/// The frequencies of one head.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    inverse_frequencies: Vec<f32>,
}

impl Rope {
    /// Frequencies `theta^(−2i/d)` for a head of width `head_dim`, scaled.
    ///
    /// # Examples
    /// ```
    /// let rope = temper_models::Rope::new(8, 10_000.0, None);
    /// let (cos, sin) = rope.row(0);
    /// assert_eq!((cos[0], sin[0]), (1.0, 0.0));
    /// ```
    pub fn new(head_dim: usize, theta: f64, scaling: Option<RopeScaling>) -> Self {
        let scale = |inverse: f32| match scaling {
            None => inverse,
            Some(RopeScaling::Linear { factor }) => inverse / factor as f32,
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            }) => {
                let inverse = f64::from(inverse);
                let wavelength = std::f64::consts::TAU / inverse;
                let ramp = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                ((1.0 - ramp) * inverse / factor + ramp * inverse) as f32
            }
        };
        let frequency = |i: usize| {
            (theta as f32)
                .powf(2.0 * i as f32 / head_dim as f32)
                .recip()
        };
        Self {
            inverse_frequencies: (0..head_dim / 2).map(|i| scale(frequency(i))).collect(),
        }
    }

    /// Cosines and sines at one position, `head_dim / 2` each.
    pub fn row(&self, position: u32) -> (Vec<f32>, Vec<f32>) {
        self.inverse_frequencies
            .iter()
            .map(|f| (position as f32 * f).sin_cos())
            .map(|(s, c)| (c, s))
            .unzip()
    }

    /// Cosines and sines for every token, `[N · d/2]` row-major each.
    pub fn table(&self, positions: &[u32]) -> (Vec<f32>, Vec<f32>) {
        let half = self.inverse_frequencies.len();
        let (mut cos, mut sin) = (
            Vec::with_capacity(positions.len() * half),
            Vec::with_capacity(positions.len() * half),
        );
        for &position in positions {
            let (c, s) = self.row(position);
            cos.extend(c);
            sin.extend(s);
        }
        (cos, sin)
    }
}

/// A table of [`Rope::table`] as a tensor `[B, 1, T, d/2]`.
pub(crate) fn table_tensor(
    values: &[f32],
    [batch, tokens]: [usize; 2],
    device: &Device,
) -> Tensor<4> {
    let half = values.len() / (batch * tokens);
    Tensor::from_data(
        TensorData::new(values.to_vec(), [batch, 1, tokens, half]),
        device,
    )
}

/// Rotates `x: [B, H, T, D]` by the angles of `cos, sin: [B, 1, T, D/2]`, in the dtype of `x`.
pub(crate) fn rotate_half(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
    let width = x.dims()[3];
    let (cos, sin) = (cos.clone().cast(x.dtype()), sin.clone().cast(x.dtype()));
    let first = x.clone().narrow(3, 0, width / 2);
    let second = x.narrow(3, width / 2, width / 2);
    let left = first.clone() * cos.clone() - second.clone() * sin.clone();
    let right = second * cos + first * sin;
    Tensor::cat(vec![left, right], 3)
}

/// Rotates one head in place; `backwards` turns by the opposite angles (the transpose, for gradients).
#[inline(always)]
pub(crate) fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32], backwards: bool) {
    let (first, second) = head.split_at_mut(cos.len());
    let sign = if backwards { -1.0 } else { 1.0 };
    for i in 0..cos.len() {
        let (a, b, s) = (first[i], second[i], sin[i] * sign);
        first[i] = a * cos[i] - b * s;
        second[i] = b * cos[i] + a * s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_keeps_short_wavelengths_and_divides_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let (plain, scaled) = (
            Rope::new(128, 5e5, None),
            Rope::new(128, 5e5, Some(scaling)),
        );
        assert_eq!(plain.inverse_frequencies[0], scaled.inverse_frequencies[0]);
        let (last, scaled_last) = (
            plain.inverse_frequencies[63],
            scaled.inverse_frequencies[63],
        );
        assert!((last / scaled_last - 8.0).abs() < 1e-4);
        // Between the two limits the ramp is used: wavelength 2π/f with f at index 32 is about 4443 tokens.
        let ratio = plain.inverse_frequencies[32] / scaled.inverse_frequencies[32];
        assert!(ratio > 1.0 && ratio < 8.0, "{ratio}");
    }

    #[test]
    fn head_rotation_backwards_undoes_it() {
        let rope = Rope::new(8, 1e4, None);
        let (cos, sin) = rope.row(17);
        let start: Vec<f32> = (0..8).map(|i| i as f32 - 3.0).collect();
        let mut head = start.clone();
        rotate_head(&mut head, &cos, &sin, false);
        assert!((head[0] - (start[0] * cos[0] - start[4] * sin[0])).abs() < 1e-6);
        rotate_head(&mut head, &cos, &sin, true);
        assert!(head.iter().zip(&start).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
