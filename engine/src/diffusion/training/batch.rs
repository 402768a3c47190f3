//! What the U-Net sees of one step, and the random numbers of it.
//!
//! Shapes: B rows (the instance, then the class), C latent channels, h × w latents, H × W pixels, T tokens, D width of the text.

use burn::tensor::{Device, Tensor, TensorData};
use temper_adapters::RandomSource;
use temper_datasets::random;

use crate::diffusion::Conditioning;

/// One step.
#[derive(Debug)]
pub(super) struct Batch {
    /// Scaled latents `[B, C, h, w]`, f32.
    pub(super) latents: Tensor<4>,
    /// What the model learns to see in the noise `[B, C, h, w]`.
    pub(super) noise: Tensor<4>,
    /// The noise of the input, where it differs.
    pub(super) input_noise: Option<Tensor<4>>,
    /// A timestep a row.
    pub(super) timesteps: Vec<usize>,
    /// Which rows show the class.
    pub(super) is_class: Vec<bool>,
    /// The texts.
    pub(super) text: Texts,
    /// SDXL: original size, place of the crop and size, `[B, 6]`.
    pub(super) time_ids: Option<Tensor<2>>,
    /// Weights of the loss `[B, 1, h, w]`.
    pub(super) masks: Option<Tensor<4>>,
    /// Images to follow `[B, 3, H, W]`, 0 to 1.
    pub(super) hints: Option<Tensor<4>>,
}

/// The texts of a step.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a step")]
pub(super) enum Texts {
    /// Encoded, because the encoder is frozen.
    Encoded(Conditioning),
    /// To be encoded, because it is trained.
    Prompts(Vec<String>),
}

impl Batch {
    pub(super) fn rows(&self) -> usize {
        self.timesteps.len()
    }
}

/// Rows `start..start + count` of a tensor.
pub(super) fn rows<const D: usize>(tensor: &Tensor<D>, start: usize, count: usize) -> Tensor<D> {
    tensor.clone().narrow(0, start, count)
}

/// Standard normal numbers `[B, shape…]`: row i of step s is drawn at (seed, purpose, s, i), whatever stands beside it.
pub(super) fn normal(
    seed: u64,
    purpose: &'static str,
    step: u64,
    rows: usize,
    shape: [usize; 3],
    device: &Device,
) -> Tensor<4> {
    let count = shape.iter().product();
    let mut values = Vec::with_capacity(rows * count);
    for row in 0..rows as u64 {
        let source = RandomSource::new(move |purpose| random::rng(seed, purpose, step, row));
        values.extend(source.normal(purpose, count, 1.0));
    }
    let [c, h, w] = shape;
    Tensor::from_data(TensorData::new(values, [rows, c, h, w]), device)
}

/// A timestep below `bound` for every row, uniform, at (seed, "timestep", step, row).
pub(super) fn timesteps(seed: u64, step: u64, rows: usize, bound: usize) -> Vec<usize> {
    let draw = |row| {
        let mut rng = random::rng(seed, "timestep", step, row);
        random::below(&mut rng, bound as u64) as usize
    };
    (0..rows as u64).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let device = Device::flex();
        let many = normal(1, "noise", 3, 4, [2, 2, 2], &device);
        let few = normal(1, "noise", 3, 2, [2, 2, 2], &device);
        assert_eq!(rows(&many, 0, 2).into_data(), few.into_data());
        let other = normal(1, "noise", 4, 4, [2, 2, 2], &device);
        assert_ne!(many.into_data(), other.into_data());
        assert_eq!(timesteps(1, 3, 4, 1000)[..2], timesteps(1, 3, 2, 1000));
    }

    #[test]
    fn timesteps_are_uniform() {
        let drawn: Vec<usize> = (0..500)
            .flat_map(|step| timesteps(7, step, 4, 1000))
            .collect();
        let mean = drawn.iter().sum::<usize>() as f64 / drawn.len() as f64;
        assert!((mean - 499.5).abs() < 30.0, "{mean}");
        assert!(drawn.iter().all(|t| *t < 1000));
        assert!(drawn.iter().any(|t| *t < 20) && drawn.iter().any(|t| *t > 979));
    }
}
