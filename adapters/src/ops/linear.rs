//! The affine product, with weights as checkpoints store them.

use burn::tensor::Tensor;

use super::{HostView, Matrix, erase, rows_product, with_gradient};

/// `y = x Wᵀ`: `x: [N, in]`, `weight: [out, in]` as in PyTorch and every checkpoint, `y: [N, out]`. One dtype for all.
///
/// The weight is read through a transposed view, never copied. The input is kept for the backward pass only when the
/// weight is trained. Outside a graph, on `cpu` in f32, each row of `y` depends on its row of `x` alone, to the bit.
pub fn linear(x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    if !x.is_autodiff() && !weight.is_autodiff() {
        return untracked(x, weight);
    }
    let w = plain(weight);
    let trained = weight.is_autodiff() && weight.is_tracked();
    let value = plain(&x);
    let output = value.clone().matmul(w.clone().transpose());
    let kept = trained.then_some(value);
    with_gradient(output, [&x, weight], move |dy, wanted| {
        let dw = wanted[1]
            .then(|| kept.map(|x| erase(dy.clone().transpose().matmul(x))))
            .flatten();
        let dx = wanted[0].then(|| erase(dy.matmul(w)));
        [dx, dw]
    })
}

fn untracked(x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    let (Some(values), Some(w)) = (HostView::view(&x), HostView::view(weight)) else {
        return x.matmul(weight.clone().transpose());
    };
    let ([rows, inner], [outputs, _]) = (x.dims(), weight.dims());
    let x = Matrix::rows(values.as_slice(), 0, [rows, inner], inner);
    let w = Matrix::rows(w.as_slice(), 0, [outputs, inner], inner);
    HostView::tensor(rows_product(x, w), [rows, outputs])
}

/// The value of `tensor` outside any graph (no copy).
fn plain<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() {
        tensor.clone().inner()
    } else {
        tensor.clone()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;

    #[test]
    fn gradients_equal_those_of_composed_operations() {
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::from_data([[1.0, -2.0, 0.5], [0.3, 4.0, 1.0]], &device).require_grad();
        let w = Tensor::<2>::from_data([[0.1, 0.2, 0.3], [1.0, -1.0, 2.0]], &device).require_grad();
        let weights = Tensor::<2>::from_data([[1.0, 3.0], [-2.0, 0.5]], &Device::flex());
        let ours = linear(x.clone(), &w);
        let grads = (ours.clone() * Tensor::from_inner(weights.clone()))
            .sum()
            .backward();
        let reference = x.clone().matmul(w.clone().transpose());
        let expected = (reference.clone() * Tensor::from_inner(weights))
            .sum()
            .backward();
        let tolerance = Tolerance::<f32>::absolute(1e-6);
        ours.inner()
            .into_data()
            .assert_approx_eq(&reference.inner().into_data(), tolerance);
        for (input, name) in [(&x, "x"), (&w, "w")] {
            let got = input.grad(&grads).expect(name).into_data();
            got.assert_approx_eq(&input.grad(&expected).expect(name).into_data(), tolerance);
        }
    }
}
