//! Two-dimensional convolution with weights as checkpoints store them.

mod backward;
mod forward;
mod geometry;

use burn::tensor::Tensor;
use burn::tensor::module::conv2d as burn_conv2d;
use burn::tensor::ops::ConvOptions;
use rayon::prelude::*;

use self::geometry::Geometry;
use super::{Erased, HostView, erase, with_gradient};

/// `x: [B, C, H, W]`, `weight: [O, C, kh, kw]`, `bias: [O]` to `[B, O, H', W']` with `H' = (H + 2p − kh) / s + 1`. One dtype for all.
///
/// Each gradient is computed only when it is wanted. For a frozen weight nothing but the weight itself is kept for the backward
/// pass; for a trained one the input is kept as well. Patches (`im2col`) never exist for more than a few hundred pixels.
///
/// # Panics
/// When the shapes disagree or the kernel is larger than the padded image.
pub fn conv2d(
    x: Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: [usize; 2],
    padding: [usize; 2],
) -> Tensor<4> {
    let views = (HostView::view(&x), HostView::view(weight));
    let bias_view = bias.as_ref().map(HostView::view);
    let (Some(x_values), Some(w_values)) = views else {
        return composed(x, weight, bias, stride, padding);
    };
    let geometry = geometry(&x, weight, stride, padding);
    let Some(bias) = bias else {
        return on_host([&x, weight], [x_values, w_values], geometry);
    };
    let Some(Some(bias_values)) = bias_view else {
        return composed(x, weight, Some(bias), stride, padding);
    };
    on_host_with_bias(
        [&x, weight],
        &bias,
        [x_values, w_values, bias_values],
        geometry,
    )
}

fn composed(
    x: Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: [usize; 2],
    padding: [usize; 2],
) -> Tensor<4> {
    let options = ConvOptions::new(stride, padding, [1, 1], 1);
    burn_conv2d(x, weight.clone(), bias, options)
}

fn geometry(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    stride: [usize; 2],
    padding: [usize; 2],
) -> Geometry {
    let [batch, inputs, height, width] = x.dims();
    let [outputs, depth, rows, columns] = weight.dims();
    assert_eq!(inputs, depth, "channels of the input and of the weight");
    assert!(
        height + 2 * padding[0] >= rows && width + 2 * padding[1] >= columns,
        "a kernel larger than its image"
    );
    Geometry {
        batch,
        inputs,
        outputs,
        size: [height, width],
        kernel: [rows, columns],
        stride,
        padding,
    }
}

fn on_host(
    [x, weight]: [&Tensor<4>; 2],
    [x_values, w_values]: [HostView; 2],
    geometry: Geometry,
) -> Tensor<4> {
    let output = forward::convolve(x_values.as_slice(), w_values.as_slice(), None, geometry);
    let saved = Saved::new([x, weight], [x_values, w_values], geometry);
    let output = HostView::tensor(output, output_shape(geometry));
    with_gradient(output, [x, weight], move |dy, wanted| {
        let dy = host(&dy);
        [
            wanted[0].then(|| saved.input(dy.as_slice())),
            wanted[1].then(|| saved.weight(dy.as_slice())).flatten(),
        ]
    })
}

fn on_host_with_bias(
    [x, weight]: [&Tensor<4>; 2],
    bias: &Tensor<1>,
    [x_values, w_values, b_values]: [HostView; 3],
    geometry: Geometry,
) -> Tensor<4> {
    let start = Some(b_values.as_slice());
    let output = forward::convolve(x_values.as_slice(), w_values.as_slice(), start, geometry);
    let saved = Saved::new([x, weight], [x_values, w_values], geometry);
    let output = HostView::tensor(output, output_shape(geometry));
    with_gradient(output, [x, weight, bias], move |dy, wanted| {
        let dy = host(&dy);
        [
            wanted[0].then(|| saved.input(dy.as_slice())),
            wanted[1].then(|| saved.weight(dy.as_slice())).flatten(),
            wanted[2].then(|| saved.bias(dy.as_slice())),
        ]
    })
}

fn output_shape(geometry: Geometry) -> [usize; 4] {
    let [height, width] = geometry.out();
    [geometry.batch, geometry.outputs, height, width]
}

fn host(dy: &Tensor<4>) -> HostView {
    let Some(dy) = HostView::view(dy) else {
        unreachable!("a gradient leaves its device")
    };
    dy
}

/// What the backward pass needs: the input for a trained weight, the weight for a tracked input.
struct Saved {
    x: Option<HostView>,
    weight: Option<HostView>,
    geometry: Geometry,
}

impl Saved {
    fn new([x, weight]: [&Tensor<4>; 2], values: [HostView; 2], geometry: Geometry) -> Self {
        let tracked = |t: &Tensor<4>| t.is_autodiff() && t.is_tracked();
        let [x_values, w_values] = values;
        Self {
            x: tracked(weight).then_some(x_values),
            weight: tracked(x).then_some(w_values),
            geometry,
        }
    }

    fn input(&self, dy: &[f32]) -> Erased {
        let Some(weight) = &self.weight else {
            unreachable!("kept for a tracked input")
        };
        let Geometry {
            batch,
            inputs,
            size: [height, width],
            ..
        } = self.geometry;
        let dx = backward::input_gradient(dy, weight.as_slice(), self.geometry);
        erase(HostView::tensor(dx, [batch, inputs, height, width]))
    }

    fn weight(&self, dy: &[f32]) -> Option<Erased> {
        let x = self.x.as_ref()?;
        let Geometry {
            inputs,
            outputs,
            kernel: [rows, columns],
            ..
        } = self.geometry;
        let dw = backward::weight_gradient(x.as_slice(), dy, self.geometry);
        Some(erase(HostView::tensor(
            dw,
            [outputs, inputs, rows, columns],
        )))
    }

    fn bias(&self, dy: &[f32]) -> Erased {
        let (pixels, outputs) = (self.geometry.pixels(), self.geometry.outputs);
        let db: Vec<f32> = (0..outputs)
            .into_par_iter()
            .map(|channel| {
                let planes = dy.chunks_exact(pixels).skip(channel).step_by(outputs);
                let sum: f64 = planes
                    .map(|plane| f64::from(plane.iter().sum::<f32>()))
                    .sum();
                sum as f32
            })
            .collect();
        erase(HostView::tensor(db, [outputs]))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    struct Case {
        input: [usize; 4],
        outputs: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
    }

    fn check(case: &Case, with_bias: bool) {
        let device = Device::flex().autodiff();
        device.seed(4);
        let random =
            |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let x = random(case.input).require_grad();
        let weight = random([case.outputs, case.input[1], case.kernel, case.kernel]).require_grad();
        let bias = Tensor::<1>::random([case.outputs], Distribution::Normal(0.0, 1.0), &device)
            .require_grad();
        let (stride, padding) = ([case.stride; 2], [case.padding; 2]);
        let given = || with_bias.then(|| bias.clone());
        let ours = conv2d(x.clone(), &weight, given(), stride, padding);
        let reference = composed(x.clone(), &weight, given(), stride, padding);
        let upstream = random(reference.dims());
        let tolerance = Tolerance::<f32>::rel_abs(1e-4, 1e-4);
        ours.clone()
            .inner()
            .into_data()
            .assert_approx_eq(&reference.clone().inner().into_data(), tolerance);
        let grads = (ours * upstream.clone()).sum().backward();
        let expected = (reference * upstream).sum().backward();
        for (input, name) in [(&x, "dx"), (&weight, "dw")] {
            let got = input.grad(&grads).expect(name).into_data();
            got.assert_approx_eq(&input.grad(&expected).expect(name).into_data(), tolerance);
        }
        if with_bias {
            let got = bias.grad(&grads).expect("db").into_data();
            got.assert_approx_eq(&bias.grad(&expected).expect("db").into_data(), tolerance);
        }
    }

    fn check_sizes(outputs: usize, kernel: usize, stride: usize, padding: usize) {
        // Odd sizes, several images in one piece of work, one image in several, more channels than one panel holds.
        for input in [[2, 3, 7, 9], [5, 40, 4, 4], [1, 2, 37, 41], [1, 301, 9, 8]] {
            let case = Case {
                input,
                outputs,
                kernel,
                stride,
                padding,
            };
            check(&case, true);
            check(&case, false);
        }
    }

    #[test]
    fn three_by_three_equals_burns_convolution_and_its_gradients() {
        for stride in [1, 2] {
            for padding in [0, 1] {
                check_sizes(13, 3, stride, padding);
            }
        }
    }

    #[test]
    fn one_by_one_equals_burns_convolution_and_its_gradients() {
        for stride in [1, 2] {
            for padding in [0, 1] {
                check_sizes(7, 1, stride, padding);
            }
        }
    }

    #[test]
    fn a_wide_kernel_equals_burns_convolution_and_its_gradients() {
        for stride in [1, 2] {
            for padding in [1, 3] {
                let case = Case {
                    input: [2, 5, 13, 11],
                    outputs: 6,
                    kernel: 7,
                    stride,
                    padding,
                };
                check(&case, true);
            }
        }
    }

    #[test]
    fn a_frozen_weight_gets_no_gradient_and_its_input_one() {
        let device = Device::flex().autodiff();
        let x = Tensor::<4>::ones([1, 1, 3, 3], &device).require_grad();
        let weight = Tensor::<4>::ones([1, 1, 3, 3], &device);
        let y = conv2d(x.clone(), &weight, None, [1, 1], [1, 1]);
        let grads = y.sum().backward();
        assert!(weight.grad(&grads).is_none());
        let dx = x.grad(&grads).unwrap().into_data().try_to_vec::<f32>();
        assert_eq!(dx.unwrap(), [4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0]);
    }
}
