//! Block-wise rotation of activations: the product that makes OFT cheap.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::rows::rows_product_into;
use super::{HostView, Matrix, MatrixMut, erase, matmul_into, with_gradient};

/// Rotates each row of `x: [N, d]` block by block: `y[:, k·b..] = x[:, k·b..] R_k` (row vector times matrix).
///
/// `r: [blocks, b, b]` with `blocks · b = d`, or `[1, b, b]` for one rotation shared by all blocks. This is the
/// input-side form of `x (R W)` (OFTv2, arXiv 2506.19847 §3): no weight-sized temporary, no weight-sized gradient.
pub fn rotate(x: Tensor<2>, r: &Tensor<3>) -> Tensor<2> {
    match (HostView::view(&x), HostView::view(r)) {
        (Some(values), Some(rotations)) => rotate_on_host(x, r, values, rotations),
        _ => rotate_composed(x, r),
    }
}

/// The same with Burn operations, for devices other than `cpu`.
fn rotate_composed(x: Tensor<2>, r: &Tensor<3>) -> Tensor<2> {
    let [rows, width] = x.dims();
    let [stored, b, _] = r.dims();
    if stored == 1 {
        let flat = x.reshape([rows * (width / b), b]);
        return flat
            .matmul(r.clone().reshape([b, b]))
            .reshape([rows, width]);
    }
    let blocks = x.reshape([rows, stored, b]).swap_dims(0, 1); // [blocks, N, b]
    blocks
        .matmul(r.clone())
        .swap_dims(0, 1)
        .reshape([rows, width])
}

fn rotate_on_host(x: Tensor<2>, r: &Tensor<3>, values: HostView, rotations: HostView) -> Tensor<2> {
    let geometry = Geometry::new(&x, r);
    if !x.is_autodiff() && !r.is_autodiff() {
        let output = geometry.apply_untracked(values.as_slice(), rotations.as_slice());
        return HostView::tensor(output, [geometry.rows, geometry.width]);
    }
    let output = geometry.apply(values.as_slice(), rotations.as_slice(), false);
    let trained = r.is_autodiff() && r.is_tracked();
    let kept = trained.then_some(values);
    let output = HostView::tensor(output, [geometry.rows, geometry.width]);
    with_gradient(output, [&x, r], move |dy, wanted| {
        let Some(dy) = HostView::view(&dy) else {
            unreachable!("a gradient leaves its device")
        };
        let dx = wanted[0].then(|| {
            let dx = geometry.apply(dy.as_slice(), rotations.as_slice(), true);
            erase(HostView::tensor(dx, [geometry.rows, geometry.width]))
        });
        let dr = wanted[1]
            .then(|| kept.map(|x| geometry.rotation_gradient(x.as_slice(), dy.as_slice())));
        [dx, dr.flatten().map(erase)]
    })
}

#[derive(Clone, Copy)]
struct Geometry {
    rows: usize,
    width: usize,
    stored: usize,
    b: usize,
}

impl Geometry {
    fn new(x: &Tensor<2>, r: &Tensor<3>) -> Self {
        let [rows, width] = x.dims();
        let [stored, b, _] = r.dims();
        assert!(
            width.is_multiple_of(b) && (stored == 1 || stored * b == width),
            "blocks tile the width"
        );
        Self {
            rows,
            width,
            stored,
            b,
        }
    }

    fn rotation<'a>(&self, rotations: &'a [f32], block: usize) -> Matrix<'a> {
        let index = if self.stored == 1 { 0 } else { block };
        Matrix::rows(rotations, index * self.b * self.b, [self.b, self.b], self.b)
    }

    /// `x_k R_k` for each block, or `x_k R_kᵀ`. Threads share the rows.
    fn apply(&self, x: &[f32], rotations: &[f32], transpose: bool) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let chunk = self
            .rows
            .div_ceil(rayon::current_num_threads())
            .clamp(16, 512);
        y.par_chunks_mut(chunk * self.width)
            .enumerate()
            .for_each(|(index, y)| {
                let offset = index * chunk * self.width;
                let rows = y.len() / self.width;
                for block in 0..self.width / self.b {
                    let x = Matrix::rows(x, offset + block * self.b, [rows, self.b], self.width);
                    let r = self.rotation(rotations, block);
                    let dst = &mut MatrixMut {
                        data: y,
                        offset: block * self.b,
                        row_stride: self.width,
                    };
                    matmul_into(
                        dst,
                        x,
                        if transpose { r.transposed() } else { r },
                        1.0,
                        false,
                    );
                }
            });
        y
    }

    /// `x_k R_k` for each block, each row by itself to the bit.
    fn apply_untracked(&self, x: &[f32], rotations: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let mut rest: Vec<&mut [f32]> = y.chunks_mut(self.width).collect();
        for block in 0..self.width / self.b {
            let mut output = Vec::with_capacity(self.rows);
            for row in &mut rest {
                let (head, tail) = std::mem::take(row).split_at_mut(self.b);
                output.push(head);
                *row = tail;
            }
            let x = Matrix::rows(x, block * self.b, [self.rows, self.b], self.width);
            let turned = self.transposed(rotations, block);
            let r = Matrix::rows(&turned, 0, [self.b, self.b], self.b);
            rows_product_into(x, r, &mut output);
        }
        y
    }

    fn transposed(&self, rotations: &[f32], block: usize) -> Vec<f32> {
        let r = self.rotation(rotations, block);
        let entry = |i: usize, j: usize| rotations[r.offset + j * self.b + i];
        (0..self.b * self.b)
            .map(|at| entry(at / self.b, at % self.b))
            .collect()
    }

    /// `∂L/∂R_k = x_kᵀ dy_k`, summed over blocks when the rotation is shared.
    fn rotation_gradient(&self, x: &[f32], dy: &[f32]) -> Tensor<3> {
        let size = self.b * self.b;
        let block_gradient = |dst: &mut [f32], block: usize, accumulate: bool| {
            let view = |data| Matrix::rows(data, block * self.b, [self.rows, self.b], self.width);
            let dst = &mut MatrixMut {
                data: dst,
                offset: 0,
                row_stride: self.b,
            };
            matmul_into(dst, view(x).transposed(), view(dy), 1.0, accumulate);
        };
        let mut gradient = vec![0.0; self.stored * size];
        if self.stored == 1 {
            (0..self.width / self.b).for_each(|block| block_gradient(&mut gradient, block, true));
        } else {
            gradient
                .par_chunks_mut(size)
                .enumerate()
                .for_each(|(block, dst)| {
                    block_gradient(dst, block, false);
                });
        }
        HostView::tensor(gradient, [self.stored, self.b, self.b])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    fn check(stored: usize, blocks: usize, b: usize) {
        let device = Device::flex().autodiff();
        device.seed(3);
        let random =
            |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let x = random([37, blocks * b]).require_grad();
        let r = random([stored * b, b])
            .reshape([stored, b, b])
            .detach()
            .require_grad();
        let weights = random([37, blocks * b]);
        let ours = rotate(x.clone(), &r);
        let grads = (ours.clone() * weights.clone()).sum().backward();
        let reference = rotate_composed(x.clone(), &r);
        let expected = (reference.clone() * weights).sum().backward();
        let tolerance = Tolerance::<f32>::rel_abs(1e-4, 1e-4);
        ours.inner()
            .into_data()
            .assert_approx_eq(&reference.inner().into_data(), tolerance);
        let dx = x.grad(&grads).expect("dx").into_data();
        dx.assert_approx_eq(&x.grad(&expected).expect("dx").into_data(), tolerance);
        let dr = r.grad(&grads).expect("dr").into_data();
        dr.assert_approx_eq(&r.grad(&expected).expect("dr").into_data(), tolerance);
    }

    #[test]
    fn host_loops_equal_composed_operations_and_their_gradients() {
        check(4, 4, 8);
        check(3, 3, 5);
    }

    #[test]
    fn a_shared_rotation_gathers_the_gradient_of_all_blocks() {
        check(1, 4, 8);
    }
}
