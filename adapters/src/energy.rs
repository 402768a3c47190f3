//! Hyperspherical energy of a layer (OFT, arXiv 2306.07280, §3.1): how evenly its neurons point in all directions.
//!
//! A neuron is a row of the stored weight `[out, in]` (a convolution's is `[out, in·kh·kw]`, see [`Param::matrix`](crate::Param::matrix)).
//! OFT and COFT turn all rows together, so every pairwise angle and with it the energy stays; LoRA and full fine-tuning move it.
//!
//! Two measures, because the paper's formula and its released code differ: [`he_sum`] is the formula, [`he_mean_half`] the code,
//! with which the paper's curve was drawn. Both cost n² dot products of f32 rows, summed in f64, and memory for one strip of
//! products per thread. Pairs that are nearly parallel, where 1 − cos loses its digits, are computed in f64 from their difference.

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::ops::{Matrix, MatrixMut, matmul_into};
use crate::{Adaptable, Adapter, Param};

/// Rows whose products are computed at once.
const STRIP: usize = 64;
/// From this |cosine| on, a pair is computed from its difference.
const NEARLY_PARALLEL: f32 = 0.99;
/// Added to the squared norm by the released code.
const NORM_FLOOR: f64 = 1e-4;

/// `Σ_{i≠j} ‖ŵ_i − ŵ_j‖⁻¹` over the rows of `weight: [n, d]`, ŵ = w/‖w‖. Rows of zeros have no direction and are left out; two rows
/// with the same direction make it infinite.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use temper_adapters::energy::he_sum;
///
/// let opposite = Tensor::<2>::from_data([[3.0, 0.0], [-1.0, 0.0]], &Device::flex());
/// assert_eq!(he_sum(&opposite), 1.0); // two ordered pairs, 2 apart
/// ```
pub fn he_sum(weight: &Tensor<2>) -> f64 {
    let rows = Rows::new(weight, 0.0, true);
    2.0 * rows.sum_pairs(|direct, _| direct.sqrt().recip())
}

/// The mean of `(2 − 2cos)^(−1/2)` over all pairs of the 2n vectors ±w, with `‖w‖ = √(Σw² + 1e-4)`: the half-space energy of the
/// released code. A layer's value; the code adds them up over the layers.
pub fn he_mean_half(weight: &Tensor<2>) -> f64 {
    let rows = Rows::new(weight, NORM_FLOOR, false);
    let n = rows.count();
    if n == 0 {
        return 0.0;
    }
    // Each pair of rows stands for four of the ± vectors; each row also meets its own negative.
    let pairs =
        2.0 * rows.sum_pairs(|direct, mirrored| direct.sqrt().recip() + mirrored.sqrt().recip());
    let own: f64 = rows
        .slack
        .iter()
        .map(|slack| (4.0 - 2.0 * slack).sqrt().recip())
        .sum();
    let n = n as f64;
    (pairs + own) / (n * (2.0 * n - 1.0))
}

/// `measure` of the effective weight (adapter folded in) of every linear layer and convolution, by module.
///
/// # Examples
/// The paper's curve is the sum over layers of [`he_mean_half`] after every so many steps:
/// ```
/// use temper_adapters::{Adaptable, energy};
///
/// fn energy(model: &mut dyn Adaptable) -> f64 {
///     energy::by_layer(model, energy::he_mean_half).iter().map(|(_, value)| value).sum()
/// }
/// ```
pub fn by_layer(model: &mut dyn Adaptable, measure: fn(&Tensor<2>) -> f64) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    model.visit_linears_mut(&mut |linear| {
        let value = measure(&effective(linear.weight(), linear.adapter()));
        values.push((linear.module().to_owned(), value));
    });
    model.visit_convs_mut(&mut |conv| {
        let value = measure(&plain(conv.effective_weight()));
        values.push((conv.module().to_owned(), value));
    });
    values
}

fn effective(weight: &Param, adapter: Option<&Adapter>) -> Tensor<2> {
    let flat = weight.matrix();
    plain(match adapter {
        None => flat,
        Some(adapter) => adapter.merge(flat),
    })
}

fn plain(tensor: Tensor<2>) -> Tensor<2> {
    if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    }
}

/// Rows of a weight, scaled to (nearly) unit length.
struct Rows {
    unit: Vec<f32>,
    width: usize,
    /// 1 − ‖row‖², above zero when the norm had a floor.
    slack: Vec<f64>,
}

impl Rows {
    fn new(weight: &Tensor<2>, floor: f64, skip_zeros: bool) -> Self {
        let width = weight.dims()[1];
        let data = plain(weight.clone()).cast(DType::F32).into_data();
        let values: Vec<f32> = data.iter::<f32>().collect();
        let (mut unit, mut slack) = (Vec::with_capacity(values.len()), Vec::new());
        for row in values.chunks_exact(width.max(1)) {
            let square: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
            if square + floor == 0.0 && skip_zeros {
                continue;
            }
            let scale = (square + floor).sqrt().recip();
            unit.extend(row.iter().map(|value| (f64::from(*value) * scale) as f32));
            slack.push(floor / (square + floor));
        }
        Self { unit, width, slack }
    }

    fn count(&self) -> usize {
        self.slack.len()
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.unit[i * self.width..][..self.width]
    }

    /// `Σ_{i<j} value(2 − 2cos, 2 + 2cos)`.
    fn sum_pairs(&self, value: impl Fn(f64, f64) -> f64 + Sync) -> f64 {
        let strips: Vec<usize> = (0..self.count()).step_by(STRIP).collect();
        // Collected in order before they are added, so that the sum does not depend on the threads.
        let sums: Vec<f64> = strips
            .into_par_iter()
            .map(|first| self.sum_strip(first, &value))
            .collect();
        sums.into_iter().sum()
    }

    /// The pairs whose first row is one of the strip's.
    fn sum_strip(&self, first: usize, value: &impl Fn(f64, f64) -> f64) -> f64 {
        let n = self.count();
        let rows = STRIP.min(n - first);
        let rest = n - first;
        let mut cosines = vec![0.0; rows * rest];
        let strip = |count| {
            Matrix::rows(
                &self.unit,
                first * self.width,
                [count, self.width],
                self.width,
            )
        };
        let mut target = MatrixMut {
            data: &mut cosines,
            offset: 0,
            row_stride: rest,
        };
        matmul_into(
            &mut target,
            strip(rows),
            strip(rest).transposed(),
            1.0,
            false,
        );
        let mut sum = 0.0;
        for (i, line) in cosines.chunks_exact(rest).enumerate() {
            for (j, cosine) in line.iter().enumerate().skip(i + 1) {
                let twice = 2.0 * f64::from(*cosine);
                let (direct, mirrored) = if cosine.abs() > NEARLY_PARALLEL {
                    self.exactly(first + i, first + j)
                } else {
                    (2.0 - twice, 2.0 + twice)
                };
                sum += value(direct, mirrored);
            }
        }
        sum
    }

    /// 2 − 2cos and 2 + 2cos as ‖a ∓ b‖² plus what both rows lack to unit length.
    fn exactly(&self, i: usize, j: usize) -> (f64, f64) {
        let (mut direct, mut mirrored) = (0.0, 0.0);
        for (a, b) in self.row(i).iter().zip(self.row(j)) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            direct += (a - b).powi(2);
            mirrored += (a + b).powi(2);
        }
        let slack = self.slack[i] + self.slack[j];
        (direct + slack, mirrored + slack)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::{AdaptedConv2d, Cayley, Lora, LoraSpec, Oft, OftSpec, RandomSource};

    const ROWS: usize = 150; // more than two strips
    const WIDTH: usize = 24;

    fn random() -> RandomSource {
        RandomSource::new(|purpose| ChaCha8Rng::seed_from_u64(purpose.len() as u64))
    }

    fn matrix(values: Vec<f32>, width: usize) -> Tensor<2> {
        let rows = values.len() / width;
        Tensor::from_data(TensorData::new(values, [rows, width]), &Device::flex())
    }

    fn values() -> Vec<f32> {
        let mut values = random().normal("weight", ROWS * WIDTH, 0.3);
        // Two nearly parallel rows, two nearly opposite ones, each in different strips.
        for (from, to, scale) in [(3, 140, 1.0), (5, 100, -2.0)] {
            for column in 0..WIDTH {
                let near = values[from * WIDTH + column] * scale;
                values[to * WIDTH + column] = near + 1e-3 * (column % 3) as f32;
            }
        }
        values
    }

    /// Both measures as their definitions read.
    fn brute_force(values: &[f32], width: usize) -> [f64; 2] {
        let rows: Vec<Vec<f64>> = values
            .chunks(width)
            .map(|row| row.iter().map(|value| f64::from(*value)).collect())
            .collect();
        let square = |row: &[f64]| row.iter().map(|value| value * value).sum::<f64>();
        let mut sum = 0.0;
        for (i, a) in rows.iter().enumerate() {
            for b in rows
                .iter()
                .enumerate()
                .filter(|(j, _)| *j != i)
                .map(|(_, b)| b)
            {
                let (na, nb) = (square(a).sqrt(), square(b).sqrt());
                let gap: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / na - b / nb).collect();
                sum += 1.0 / square(&gap).sqrt();
            }
        }
        let mirrored = rows
            .iter()
            .map(|row| row.iter().map(|value| -value).collect());
        let both: Vec<Vec<f64>> = rows.iter().cloned().chain(mirrored).collect();
        let (mut mean, mut pairs) = (0.0, 0.0);
        for (i, a) in both.iter().enumerate() {
            for b in &both[i + 1..] {
                let norms = ((square(a) + 1e-4) * (square(b) + 1e-4)).sqrt();
                let cosine = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / norms;
                mean += (2.0 - 2.0 * cosine).powf(-0.5);
                pairs += 1.0;
            }
        }
        [sum, mean / pairs]
    }

    fn both(weight: &Tensor<2>) -> [f64; 2] {
        [he_sum(weight), he_mean_half(weight)]
    }

    fn change(before: [f64; 2], after: [f64; 2]) -> f64 {
        let relative = |i: usize| (after[i] / before[i] - 1.0).abs();
        relative(0).max(relative(1))
    }

    #[test]
    fn both_measures_are_their_definitions() {
        let values = values();
        let ours = both(&matrix(values.clone(), WIDTH));
        assert!(change(brute_force(&values, WIDTH), ours) < 1e-6, "{ours:?}");
    }

    #[test]
    fn rows_without_direction_are_left_out_of_the_sum_and_empty_weights_have_no_energy() {
        let weight = matrix(vec![0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 2);
        assert!((he_sum(&weight) - 2.0 / 2.0_f64.sqrt()).abs() < 1e-6);
        assert!(he_mean_half(&weight).is_finite());
        assert_eq!(both(&matrix(Vec::new(), 2)), [0.0, 0.0]);
        assert_eq!(he_sum(&matrix(vec![1.0, 2.0, 2.0, 4.0], 2)), f64::INFINITY);
    }

    #[test]
    fn no_rotation_moves_the_energy_and_low_rank_updates_do() {
        let weight = matrix(values(), WIDTH);
        let before = both(&weight);
        for (block_share, tau) in [(false, None), (true, None), (false, Some(0.1))] {
            for cayley in [Cayley::Exact, Cayley::Neumann { terms: 8 }] {
                let spec = OftSpec {
                    block_size: 6,
                    block_share,
                    cayley,
                    tau,
                };
                let oft = Oft::random("fc", WIDTH, spec, &Device::flex(), &random());
                let moved = change(before, both(&oft.merge(weight.clone())));
                assert!(moved < 1e-4, "{block_share} {tau:?}: {moved}");
            }
        }
        let spec = LoraSpec {
            rank: 4,
            scaling: 1.0,
            dropout: 0.0,
            dora: false,
        };
        let mut lora = Lora::initial("fc", &weight, spec, &random());
        let b = random().normal("b", ROWS * 4, 0.3);
        lora.parameters_mut()[1].set(Tensor::from_data(
            TensorData::new(b, [ROWS * 4]),
            &Device::flex(),
        ));
        assert!(change(before, both(&lora.merge(weight))) > 1e-3);
    }

    #[test]
    fn a_rotated_convolution_keeps_its_energy() {
        let kernel = [20, 6, 2, 2];
        let flat = Tensor::<1>::from_data(
            TensorData::new(random().normal("kernel", 480, 0.2), [480]),
            &Device::flex(),
        );
        let mut conv = AdaptedConv2d::new(
            "conv",
            Param::new("conv.weight", &kernel, flat),
            None,
            [1, 1],
            [0, 0],
        );
        let before = both(&conv.effective_weight());
        let spec = OftSpec {
            block_size: 8,
            block_share: false,
            cayley: Cayley::Exact,
            tau: None,
        };
        let oft = Oft::random("conv", 24, spec, &Device::flex(), &random());
        conv.set_adapter(Some(Adapter::Oft(oft)));
        let difference: f32 = (conv.effective_weight() - conv.weight().matrix())
            .abs()
            .max()
            .into_scalar();
        assert!(difference > 1e-2, "the rotation does something");
        assert!(change(before, both(&conv.effective_weight())) < 1e-4);
    }
}
