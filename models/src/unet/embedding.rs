//! Time steps and SDXL's extra conditions as one vector per image.
//!
//! Shapes: B images, T width of the time embedding.

use burn::tensor::{DType, Device, Tensor, TensorData};
use temper_adapters::AdaptedLinear;

use super::{AddedConditions, UnetConfig};
use crate::layers::walked_by_parts;
use crate::ops::plain;
use crate::weights::ParamSource;
use crate::{ModelError, silu};

/// `linear_2(SiLU(linear_1(x)))`.
#[derive(Clone, Debug)]
struct TimestepMlp {
    linear_1: AdaptedLinear,
    linear_2: AdaptedLinear,
}

impl TimestepMlp {
    fn build(source: &ParamSource, name: &str) -> Result<Self, ModelError> {
        Ok(Self {
            linear_1: source.linear(&format!("{name}.linear_1"))?,
            linear_2: source.linear(&format!("{name}.linear_2"))?,
        })
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear_2.forward(silu(self.linear_1.forward(x)))
    }
}

walked_by_parts!(TimestepMlp { linear_1, linear_2 });

/// `time_embedding` and, for SDXL, `add_embedding`.
#[derive(Clone, Debug)]
pub(super) struct Embeddings {
    time_embedding: TimestepMlp,
    add_embedding: Option<TimestepMlp>,
    sinusoid: Sinusoid,
    /// Width of the sinusoids of the time step.
    width: usize,
    /// Width of those of one time id.
    id_width: usize,
}

impl Embeddings {
    pub(super) fn build(source: &ParamSource, config: &UnetConfig) -> Result<Self, ModelError> {
        let addition = config.addition;
        let added = addition.map(|_| TimestepMlp::build(source, "add_embedding"));
        Ok(Self {
            time_embedding: TimestepMlp::build(source, "time_embedding")?,
            add_embedding: added.transpose()?,
            sinusoid: Sinusoid {
                cosines_first: config.flip_sin_to_cos,
                freq_shift: config.freq_shift,
            },
            width: config.block_out_channels[0],
            id_width: addition.map_or(0, |addition| addition.time_embed_dim),
        })
    }

    /// The output of `time_embedding`, `[B, T]`; the sinusoids are computed in f32 from fractional time steps.
    pub(super) fn time(&self, timesteps: &[f32], device: &Device, compute: DType) -> Tensor<2> {
        let table = self.sinusoid.table(timesteps, self.width, device);
        self.time_embedding.forward(table.cast(compute))
    }

    /// What the residual blocks see: `SiLU(time + add_embedding([text | ids]))`, `[B, T]`.
    pub(super) fn combine(
        &self,
        time: Tensor<2>,
        added: Option<&AddedConditions>,
        compute: DType,
    ) -> Tensor<2> {
        let (Some(layers), Some(added)) = (&self.add_embedding, added) else {
            return silu(time);
        };
        let text = added.text_embeds.clone().cast(DType::F32);
        let ids = plain(&added.time_ids);
        let [batch, count] = ids.dims();
        let values: Vec<f32> = ids.into_data().iter::<f32>().collect();
        let table = self
            .sinusoid
            .table(&values, self.id_width, &plain(&text).device());
        let table = table.reshape([batch, count * self.id_width]);
        let both = Tensor::cat(vec![text, table], 1).cast(compute);
        silu(time + layers.forward(both))
    }
}

walked_by_parts!(Embeddings {
    time_embedding,
    add_embedding
});

/// Sines and cosines of geometrically spaced frequencies (Vaswani et al. 2017, §3.5; `get_timestep_embedding` of diffusers).
#[derive(Clone, Copy, Debug)]
struct Sinusoid {
    cosines_first: bool,
    freq_shift: f64,
}

impl Sinusoid {
    /// `[N, width]` for N values: with `half = width / 2`, angle i is `value · exp(−ln 10000 · i / (half − freq_shift))`.
    fn table(self, values: &[f32], width: usize, device: &Device) -> Tensor<2> {
        let half = width / 2;
        // Rounded to f32 at the same places as in the reference: angles reach a thousand.
        let (slope, count) = (-(1e4_f64.ln()) as f32, half as f32 - self.freq_shift as f32);
        let frequency = |i: usize| (slope * i as f32 / count).exp();
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let mut table = Vec::with_capacity(values.len() * width);
        for value in values {
            let angles = frequencies.iter().map(|f| f64::from(value * f));
            let cosines = angles.clone().map(|angle| angle.cos() as f32);
            let sines = angles.map(|angle| angle.sin() as f32);
            if self.cosines_first {
                table.extend(cosines.chain(sines));
            } else {
                table.extend(sines.chain(cosines));
            }
        }
        Tensor::from_data(TensorData::new(table, [values.len(), width]), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinusoids_follow_the_formula_in_both_orders() {
        let table = |cosines_first, freq_shift| -> Vec<f32> {
            let sinusoid = Sinusoid {
                cosines_first,
                freq_shift,
            };
            let table = sinusoid.table(&[2.5], 4, &Device::flex());
            table.into_data().try_to_vec().unwrap()
        };
        let angles = [2.5_f32, 2.5 * 0.01];
        let close = |got: &[f32], expected: [f32; 4]| {
            got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
        };
        let [c0, c1] = angles.map(f32::cos);
        let [s0, s1] = angles.map(f32::sin);
        assert!(close(&table(true, 0.0), [c0, c1, s0, s1]));
        assert!(close(&table(false, 0.0), [s0, s1, c0, c1]));
        let shifted = (2.5_f32 * 1e-4).cos();
        assert!(close(
            &table(true, 1.0),
            [c0, shifted, s0, (2.5_f32 * 1e-4).sin()]
        ));
    }
}
