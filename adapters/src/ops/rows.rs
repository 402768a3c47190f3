//! `x Wᵀ` on host memory, each result computed the same way whatever stands beside it.
//!
//! A general matrix product chooses its blocking by the shapes, so that a row of the result changes in its last bits with the
//! number of rows. Generation must not: what a sequence becomes may not depend on the batch it runs in. Here every result is one
//! sum over the inner dimension in a fixed order: lanes of the vector unit first, then their sum.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Matrix;
use super::simd::dispatch;

/// Floats of `x` that stay in the second-level cache while all of `W` passes by.
const RESIDENT: usize = 96 * 1024;
/// Rows of `W` handed to a thread at a time, at most.
const COLUMNS: usize = 256;

/// `x Wᵀ` for `x: [m, k]` and `w: [n, k]`, both with contiguous rows; `[m, n]` row-major.
///
/// Row `i` of the result depends on row `i` of `x` alone, to the bit: not on `m`, not on the number of threads.
///
/// # Examples
/// ```
/// use temper_adapters::ops::{Matrix, rows_product};
/// let x = Matrix::rows(&[1.0, 2.0], 0, [1, 2], 2);
/// let w = Matrix::rows(&[1.0, 0.0, 3.0, 4.0], 0, [2, 2], 2);
/// assert_eq!(rows_product(x, w), [1.0, 11.0]);
/// ```
///
/// # Panics
/// When the inner dimensions disagree, a matrix is transposed or reaches outside its slice.
pub fn rows_product(x: Matrix<'_>, w: Matrix<'_>) -> Vec<f32> {
    let mut output = vec![0.0; x.rows * w.rows];
    let mut rows: Vec<&mut [f32]> = output.chunks_mut(w.rows.max(1)).collect();
    rows_product_into(x, w, &mut rows);
    output
}

/// As [`rows_product`], into one slice of `w.rows` values for each row of `x`.
pub(super) fn rows_product_into(x: Matrix<'_>, w: Matrix<'_>, output: &mut [&mut [f32]]) {
    assert!(
        x.cols == w.cols && x.col_stride == 1 && w.col_stride == 1 && output.len() == x.rows,
        "rows of one length"
    );
    if x.rows == 0 || w.rows == 0 {
        return;
    }
    let threads = rayon::current_num_threads();
    let columns = w
        .rows
        .div_ceil(w.rows.div_ceil(threads * COLUMNS) * threads);
    let mut parts: Vec<Part<'_, '_>> = Vec::with_capacity(w.rows.div_ceil(columns));
    let mut rest: Vec<&mut [f32]> = output.iter_mut().map(|row| &mut **row).collect();
    for first in (0..w.rows).step_by(columns) {
        let count = columns.min(w.rows - first);
        let mut taken = Vec::with_capacity(rest.len());
        for row in &mut rest {
            let (head, tail) = std::mem::take(row).split_at_mut(count);
            taken.push(head);
            *row = tail;
        }
        let w = Matrix {
            offset: w.offset + first * w.row_stride,
            rows: count,
            ..w
        };
        parts.push(Part {
            x,
            w,
            output: taken,
        });
    }
    if x.rows * w.rows * x.cols < 1 << 16 {
        for part in parts {
            dispatch(part);
        }
    } else {
        parts.into_par_iter().for_each(dispatch);
    }
}

/// Some rows of `W` against all of `x`.
struct Part<'a, 'b> {
    x: Matrix<'a>,
    w: Matrix<'a>,
    output: Vec<&'b mut [f32]>,
}

impl WithSimd for Part<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, w, mut output } = self;
        let block = (RESIDENT / x.cols.max(1)).clamp(16, 4096) / 6 * 6;
        for (index, output) in output.chunks_mut(block).enumerate() {
            let x = Matrix {
                offset: x.offset + index * block * x.row_stride,
                rows: output.len(),
                ..x
            };
            if S::REGISTER_COUNT >= 32 {
                block_product::<S, 4>(simd, x, w, output);
            } else {
                block_product::<S, 2>(simd, x, w, output);
            }
        }
    }
}

/// Groups of `W` rows, each against all rows of `x`, six at a time.
#[inline(always)]
fn block_product<S: Simd, const N: usize>(
    simd: S,
    x: Matrix<'_>,
    w: Matrix<'_>,
    output: &mut [&mut [f32]],
) {
    let mut column = 0;
    while column + N <= w.rows {
        strip::<S, N>(simd, x, w, output, column);
        column += N;
    }
    while column < w.rows {
        strip::<S, 1>(simd, x, w, output, column);
        column += 1;
    }
}

#[inline(always)]
fn strip<S: Simd, const N: usize>(
    simd: S,
    x: Matrix<'_>,
    w: Matrix<'_>,
    output: &mut [&mut [f32]],
    column: usize,
) {
    let mut row = 0;
    while row + 6 <= x.rows {
        tile::<S, 6, N>(simd, x, w, output, [row, column]);
        row += 6;
    }
    match x.rows - row {
        5 => tile::<S, 5, N>(simd, x, w, output, [row, column]),
        4 => tile::<S, 4, N>(simd, x, w, output, [row, column]),
        3 => tile::<S, 3, N>(simd, x, w, output, [row, column]),
        2 => tile::<S, 2, N>(simd, x, w, output, [row, column]),
        1 => tile::<S, 1, N>(simd, x, w, output, [row, column]),
        _ => (),
    }
}

/// `M` rows of `x` against `N` rows of `W`, in registers.
#[inline(always)]
fn tile<S: Simd, const M: usize, const N: usize>(
    simd: S,
    x: Matrix<'_>,
    w: Matrix<'_>,
    output: &mut [&mut [f32]],
    [row, column]: [usize; 2],
) {
    let x_rows: [_; M] = std::array::from_fn(|i| S::as_simd_f32s(x.row(row + i)));
    let w_rows: [_; N] = std::array::from_fn(|j| S::as_simd_f32s(w.row(column + j)));
    let steps = x_rows[0].0.len();
    let x_wide: [_; M] = std::array::from_fn(|i| &x_rows[i].0[..steps]);
    let w_wide: [_; N] = std::array::from_fn(|j| &w_rows[j].0[..steps]);
    let mut sums = [[simd.splat_f32s(0.0); N]; M];
    for step in 0..steps {
        let w_step: [_; N] = std::array::from_fn(|j| w_wide[j][step]);
        for i in 0..M {
            let x_step = x_wide[i][step];
            for j in 0..N {
                sums[i][j] = simd.mul_add_e_f32s(x_step, w_step[j], sums[i][j]);
            }
        }
    }
    if !x_rows[0].1.is_empty() {
        let w_step: [_; N] = std::array::from_fn(|j| simd.partial_load_f32s(w_rows[j].1));
        for i in 0..M {
            let x_step = simd.partial_load_f32s(x_rows[i].1);
            for j in 0..N {
                sums[i][j] = simd.mul_add_e_f32s(x_step, w_step[j], sums[i][j]);
            }
        }
    }
    for i in 0..M {
        for j in 0..N {
            output[row + i][column + j] = simd.reduce_sum_f32s(sums[i][j]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{MatrixMut, matmul_into};

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let value = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32;
        (0..n as u32)
            .map(|i| value(i) / (1 << 23) as f32 - 1.0)
            .collect()
    }

    fn check([m, n, k]: [usize; 3]) {
        let (x, w) = (values(m * k, 1), values(n * k, 7));
        let (x, w) = (
            Matrix::rows(&x, 0, [m, k], k),
            Matrix::rows(&w, 0, [n, k], k),
        );
        let ours = rows_product(x, w);
        let mut expected = vec![0.0; m * n];
        let dst = &mut MatrixMut {
            data: &mut expected,
            offset: 0,
            row_stride: n,
        };
        matmul_into(dst, x, w.transposed(), 1.0, false);
        for (index, (a, b)) in ours.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() < 1e-5 * k as f32, "{index}: {a} {b}");
        }
        for row in 0..m {
            let alone = rows_product(
                Matrix {
                    offset: row * k,
                    rows: 1,
                    ..x
                },
                w,
            );
            assert_eq!(
                alone,
                ours[row * n..(row + 1) * n],
                "row {row} of {m}, to the bit"
            );
        }
    }

    #[test]
    fn equals_the_general_product_and_no_row_depends_on_its_neighbours() {
        for shape in [
            [1, 1, 1],
            [2, 3, 5],
            [6, 4, 16],
            [7, 9, 33],
            [13, 300, 40],
            [40, 515, 288],
        ] {
            check(shape);
        }
    }
}
