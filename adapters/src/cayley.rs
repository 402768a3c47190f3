//! From packed skew-symmetric parameters to rotations (OFT, arXiv 2306.07280; OFTv2, arXiv 2506.19847).
//!
//! Shapes: B blocks stored, b block size, n = b (b − 1) / 2 packed values per block.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use crate::ops::{HostView, erase, with_gradient};

/// How a rotation is computed from its skew matrix `Q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cayley {
    /// `R = (I − Q)(I + Q)⁻¹`, orthogonal to rounding.
    Exact,
    /// The Neumann series with this number of terms K. It approximates `(I + Q)(I − Q)⁻¹`, the TRANSPOSE of
    /// [`Cayley::Exact`]: PEFT's sign convention, so that its adapters load. K ≤ 1 is the identity, K = 2 is
    /// `I + 2Q`, K ≥ 3 has degree m = max(3, K − 1): `I + 2Q + … + 2Q^{m−1} + Q^m` (so K = 3 and K = 4 are the same).
    Neumann {
        /// Number of terms K.
        terms: usize,
    },
}

impl Cayley {
    /// The rotations `[B, b, b]` of skew matrices `q: [B, b, b]`.
    pub fn rotation(self, q: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Exact => exact(q),
            Self::Neumann { terms } => neumann(q, terms),
        }
    }
}

/// Fills skew matrices from packed values: strict upper triangle in row-major order, `Q[i,j] = v`, `Q[j,i] = −v`.
///
/// `packed: [B, n]` gives `[B, b, b]`.
#[derive(Clone, Debug)]
pub struct SkewPacking {
    /// For each of the b² entries the index of its packed value; the diagonal points at index 0 and has sign 0.
    index: Tensor<1, Int>,
    sign: Tensor<2>,
    /// For each packed value the flat index of its upper entry and of its lower one.
    upper: Tensor<1, Int>,
    lower: Tensor<1, Int>,
    b: usize,
}

impl SkewPacking {
    /// The packing for blocks of `b`.
    ///
    /// # Examples
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use temper_adapters::SkewPacking;
    ///
    /// let packing = SkewPacking::new(3, &Device::flex());
    /// let q = packing.unpack(Tensor::<2>::from_data([[1.0, 2.0, 3.0]], &Device::flex()));
    /// let expected: [f32; 9] = [0.0, 1.0, 2.0, -1.0, 0.0, 3.0, -2.0, -3.0, 0.0];
    /// assert_eq!(q.into_data().try_to_vec::<f32>().unwrap(), expected);
    /// ```
    pub fn new(b: usize, device: &Device) -> Self {
        let mut index = vec![0_i32; b * b];
        let mut sign = vec![0.0_f32; b * b];
        let (mut upper, mut lower) = (Vec::new(), Vec::new());
        for i in 0..b {
            for j in i + 1..b {
                let (above, below) = (i * b + j, j * b + i);
                let k = upper.len() as i32;
                (index[above], index[below]) = (k, k);
                (sign[above], sign[below]) = (1.0, -1.0);
                upper.push(above as i32);
                lower.push(below as i32);
            }
        }
        let indices = |values: Vec<i32>| {
            let length = values.len();
            Tensor::from_data(TensorData::new(values, [length]), device)
        };
        Self {
            index: indices(index),
            sign: Tensor::from_data(TensorData::new(sign, [1, b * b]), device),
            upper: indices(upper),
            lower: indices(lower),
            b,
        }
    }

    /// `[B, n]` to `[B, b, b]`.
    ///
    /// # Panics
    /// When n is not `b (b − 1) / 2`.
    pub fn unpack(&self, packed: Tensor<2>) -> Tensor<3> {
        let [blocks, n] = packed.dims();
        let b = self.b;
        assert_eq!(n, b * (b - 1) / 2, "packed columns of a block of {b}");
        let plain = if packed.is_autodiff() {
            packed.clone().inner()
        } else {
            packed.clone()
        };
        let q = plain
            .select(1, self.index.clone())
            .mul(self.sign.clone())
            .reshape([blocks, b, b]);
        let (upper, lower) = (self.upper.clone(), self.lower.clone());
        with_gradient(q, [&packed], move |dq, _| {
            let flat = dq.reshape([blocks, b * b]);
            [Some(erase(
                flat.clone().select(1, upper) - flat.select(1, lower),
            ))]
        })
    }
}

fn identity(like: &Tensor<3>) -> Tensor<3> {
    let [_, b, _] = like.dims();
    Tensor::<2>::eye(b, &plain(like).device()).unsqueeze()
}

fn plain(tensor: &Tensor<3>) -> Tensor<3> {
    if tensor.is_autodiff() {
        tensor.clone().inner()
    } else {
        tensor.clone()
    }
}

/// The truncated series. Its gradient is written out: with `R = Σ c_k Q^k`, `∂L/∂Q = Σ_k c_k Σ_{i<k} (Qᵀ)^i G (Qᵀ)^{k−1−i}`,
/// evaluated by Horner's scheme in the powers already at hand.
fn neumann(q: Tensor<3>, terms: usize) -> Tensor<3> {
    let value = plain(&q);
    let eye = identity(&value);
    let degree = match terms {
        0 | 1 => return value.zeros_like() + eye,
        2 => 1,
        _ => (terms - 1).max(3),
    };
    let coefficient = move |k: usize| if k == degree && degree > 1 { 1.0 } else { 2.0 };
    // Horner from the top: H_m = c_m I, H_{k} = c_k I + Q H_{k+1}; R = I + Q H_1.
    let mut partial = vec![eye.clone().mul_scalar(coefficient(degree)) + value.zeros_like()];
    for k in (1..degree).rev() {
        let below = value.clone().matmul(partial[partial.len() - 1].clone());
        partial.push(eye.clone().mul_scalar(coefficient(k)) + below);
    }
    let r = eye + value.clone().matmul(partial[partial.len() - 1].clone());
    with_gradient(r, [&q], move |g, _| {
        // R = I + Q H_1, H_k = c_k I + Q H_{k+1}: dQ gathers G_k H_kᵀ, and G_{k+1} = Qᵀ G_k.
        let qt = value.transpose();
        let mut upstream = g;
        let mut gradient: Option<Tensor<3>> = None;
        for (step, h) in partial.into_iter().rev().enumerate() {
            if step > 0 {
                upstream = qt.clone().matmul(upstream);
            }
            let term = upstream.clone().matmul(h.transpose());
            gradient = Some(match gradient {
                Some(sum) => sum + term,
                None => term,
            });
        }
        [gradient.map(erase)]
    })
}

/// `R = (I − Q) A` with `A = (I + Q)⁻¹`; `dR = −(I + R) dQ A`, so `∂L/∂Q = −(I + R)ᵀ G Aᵀ`.
fn exact(q: Tensor<3>) -> Tensor<3> {
    let value = plain(&q);
    let eye = identity(&value);
    let a = inverse(eye.clone() + value.clone());
    let r = (eye.clone() - value).matmul(a.clone());
    let kept = r.clone();
    with_gradient(r, [&q], move |g, _| {
        let left = (eye + kept).transpose();
        [Some(erase(left.matmul(g).matmul(a.transpose()).neg()))]
    })
}

/// Inverts each matrix of `m: [B, b, b]`.
///
/// On `cpu` by elimination in f64; elsewhere by Newton–Schulz, which needs products alone: from `X = Mᵀ / (‖M‖₁ ‖M‖_∞)`,
/// `X ← X (2I − M X)` converges quadratically for every invertible M.
pub(crate) fn inverse(m: Tensor<3>) -> Tensor<3> {
    let shape = m.dims();
    if let Some(values) = HostView::view(&m) {
        let size = shape[1] * shape[2];
        let mut result = values.as_slice().to_vec();
        result
            .par_chunks_mut(size.max(1))
            .for_each(|block| invert_in_place(block, shape[1]));
        return HostView::tensor(result, shape);
    }
    let eye = identity(&m).mul_scalar(2.0);
    let rows = m.clone().abs().sum_dim(2).max_dim(1);
    let cols = m.clone().abs().sum_dim(1).max_dim(2);
    let mut x = m.clone().transpose() / (rows * cols);
    for _ in 0..NEWTON_STEPS {
        x = x.clone().matmul(eye.clone() - m.clone().matmul(x));
    }
    x
}

/// Enough for condition numbers beyond 1e4; each step past convergence changes nothing.
const NEWTON_STEPS: usize = 24;

/// Gauss–Jordan with partial pivoting, in f64. `I + Q` with skew `Q` is never singular (|det| ≥ 1).
fn invert_in_place(block: &mut [f32], b: usize) {
    let mut work = vec![0.0_f64; b * 2 * b];
    for i in 0..b {
        for j in 0..b {
            work[i * 2 * b + j] = f64::from(block[i * b + j]);
        }
        work[i * 2 * b + b + i] = 1.0;
    }
    for column in 0..b {
        let size = |row: usize| work[row * 2 * b + column].abs();
        let pivot = (column..b)
            .max_by(|&i, &j| size(i).total_cmp(&size(j)))
            .unwrap_or(column);
        for j in 0..2 * b {
            work.swap(column * 2 * b + j, pivot * 2 * b + j);
        }
        let scale = 1.0 / work[column * 2 * b + column];
        let pivot_row: Vec<f64> = work[column * 2 * b..(column + 1) * 2 * b]
            .iter()
            .map(|value| value * scale)
            .collect();
        work[column * 2 * b..(column + 1) * 2 * b].copy_from_slice(&pivot_row);
        for row in (0..b).filter(|&row| row != column) {
            let target = &mut work[row * 2 * b..(row + 1) * 2 * b];
            let factor = target[column];
            if factor != 0.0 {
                target
                    .iter_mut()
                    .zip(&pivot_row)
                    .for_each(|(value, pivot)| *value -= factor * pivot);
            }
        }
    }
    for i in 0..b {
        for j in 0..b {
            block[i * b + j] = work[i * 2 * b + b + j] as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    fn skew(b: usize, blocks: usize, size: f64, device: &Device) -> (Tensor<2>, Tensor<3>) {
        device.seed(11);
        let packed = Tensor::<2>::random(
            [blocks, b * (b - 1) / 2],
            Distribution::Normal(0.0, size),
            device,
        );
        let packed = if device.is_autodiff() {
            packed.require_grad()
        } else {
            packed
        };
        let q = SkewPacking::new(b, &device.clone().inner()).unpack(packed.clone());
        (packed, q)
    }

    fn orthogonality_error(r: Tensor<3>) -> f32 {
        let eye = identity(&r);
        (r.clone().transpose().matmul(r) - eye)
            .abs()
            .max()
            .into_scalar()
    }

    #[test]
    fn exact_rotation_is_orthogonal_even_far_from_identity() {
        for size in [0.05, 0.5, 3.0] {
            let (_, q) = skew(16, 3, size, &Device::flex());
            let error = orthogonality_error(exact(q));
            assert!(error < 1e-5, "|RᵀR − I| = {error:e} at size {size}");
        }
    }

    #[test]
    fn series_is_the_transpose_of_the_exact_rotation() {
        let (_, q) = skew(8, 2, 0.02, &Device::flex());
        let tolerance = Tolerance::<f32>::absolute(1e-6);
        let series = neumann(q.clone(), 8);
        series
            .clone()
            .into_data()
            .assert_approx_eq(&exact(q.clone()).transpose().into_data(), tolerance);
        series
            .into_data()
            .assert_approx_eq(&exact(q.neg()).into_data(), tolerance);
    }

    #[test]
    fn three_and_four_terms_are_the_same_series_and_even_degrees_are_less_orthogonal() {
        let (_, q) = skew(8, 2, 0.08, &Device::flex());
        let [three, four] = [3, 4].map(|terms| neumann(q.clone(), terms).into_data());
        assert_eq!(three, four);
        // Degree 4 (K = 5) loses to degree 3 (K = 4): RᵀR = I − Q^{2m} for odd m, I − 2Q^m + Q^{2m} for even m.
        assert!(
            orthogonality_error(neumann(q.clone(), 5)) > orthogonality_error(neumann(q.clone(), 4))
        );
        assert!(orthogonality_error(neumann(q.clone(), 6)) < orthogonality_error(neumann(q, 5)));
    }

    #[test]
    fn newton_schulz_agrees_with_elimination() {
        let (_, q) = skew(8, 2, 0.7, &Device::flex());
        let m = identity(&q) + q;
        let direct = inverse(m.clone());
        let product = direct.matmul(m.clone());
        product.into_data().assert_approx_eq(
            &(identity(&m) + m.zeros_like()).into_data(),
            Tolerance::<f32>::absolute(1e-5),
        );
    }

    #[test]
    fn written_gradients_match_finite_differences() {
        for cayley in [
            Cayley::Exact,
            Cayley::Neumann { terms: 5 },
            Cayley::Neumann { terms: 2 },
        ] {
            let device = Device::flex().autodiff();
            let (packed, q) = skew(5, 2, 0.3, &device);
            let weights =
                Tensor::<3>::random([2, 5, 5], Distribution::Normal(0.0, 1.0), &Device::flex());
            let loss = |q: Tensor<3>| (cayley.rotation(q) * weights.clone()).sum();
            let grads = (cayley.rotation(q) * Tensor::from_inner(weights.clone()))
                .sum()
                .backward();
            let gradient = packed
                .grad(&grads)
                .expect("gradient")
                .into_data()
                .try_to_vec::<f32>()
                .expect("f32");
            let values = packed.inner().into_data().try_to_vec::<f32>().expect("f32");
            let packing = SkewPacking::new(5, &Device::flex());
            for index in [0, 7, 13, 19] {
                let at = |delta: f32| -> f32 {
                    let mut moved = values.clone();
                    moved[index] += delta;
                    let moved =
                        Tensor::<1>::from_data(moved.as_slice(), &Device::flex()).reshape([2, 10]);
                    loss(packing.unpack(moved)).into_scalar()
                };
                let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
                let error = (numeric - gradient[index]).abs();
                assert!(
                    error < 2e-3 * (1.0 + numeric.abs()),
                    "{cayley:?}[{index}]: {numeric} vs {}",
                    gradient[index]
                );
            }
        }
    }
}
