//! Nearest-neighbour enlargement of feature maps.

use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;
use temper_adapters::ops::{HostView, erase, with_gradient};

use super::plain;

/// `x: [B, C, H, W]` to `[B, C, H', W']`: every output pixel takes the input pixel at `⌊y·H/H'⌋, ⌊x·W/W'⌋`, as PyTorch's
/// `interpolate(mode="nearest")`. Nothing is kept for the backward pass.
///
/// # Panics
/// When the output is smaller than the input.
pub fn upsample_nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    assert!(size[0] >= height && size[1] >= width, "an enlargement");
    match HostView::view(&x) {
        Some(values) => on_host(x, values, size),
        None => composed(x, size),
    }
}

/// The input position of each output position.
fn sources(input: usize, output: usize) -> Vec<usize> {
    (0..output).map(|at| at * input / output).collect()
}

fn composed(x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let device = plain(&x).device();
    let indices = |input: usize, output: usize| {
        let values: Vec<i32> = sources(input, output).iter().map(|&i| i as i32).collect();
        Tensor::<1, Int>::from_data(TensorData::new(values, [output]), &device)
    };
    let [_, _, rows, columns] = x.dims();
    let tall = x.select(2, indices(rows, height));
    tall.select(3, indices(columns, width))
}

fn on_host(x: Tensor<4>, values: HostView, [height, width]: [usize; 2]) -> Tensor<4> {
    let shape = x.dims();
    let [batch, channels, rows, columns] = shape;
    let (tall, wide) = (sources(rows, height), sources(columns, width));
    let mut output = vec![0.0; batch * channels * height * width];
    output
        .par_chunks_mut(height * width)
        .zip(values.as_slice().par_chunks(rows * columns))
        .for_each(|(y, x)| {
            for (y, &source) in y.chunks_exact_mut(width).zip(&tall) {
                let x = &x[source * columns..(source + 1) * columns];
                for (y, &at) in y.iter_mut().zip(&wide) {
                    *y = x[at];
                }
            }
        });
    drop(values);
    let output = HostView::tensor(output, [batch, channels, height, width]);
    with_gradient(output, [&x], move |dy, _| {
        let Some(dy) = HostView::view(&dy) else {
            unreachable!("a gradient leaves its device")
        };
        let mut dx = vec![0.0; shape.iter().product()];
        dx.par_chunks_mut(rows * columns)
            .zip(dy.as_slice().par_chunks(height * width))
            .for_each(|(dx, dy)| {
                for (dy, &target) in dy.chunks_exact(width).zip(&tall) {
                    let dx = &mut dx[target * columns..(target + 1) * columns];
                    for (dy, &at) in dy.iter().zip(&wide) {
                        dx[at] += dy;
                    }
                }
            });
        [Some(erase(HostView::tensor(dx, shape)))]
    })
}

#[cfg(test)]
mod tests {
    use super::super::check::{compare, differences, flat};
    use super::*;

    #[test]
    fn doubling_repeats_every_pixel() {
        let x = HostView::tensor(vec![1.0, 2.0, 3.0, 4.0], [1, 1, 2, 2]);
        let y = upsample_nearest(x, [4, 4]).into_data();
        let expected = [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4].map(|v| v as f32);
        assert_eq!(y.try_to_vec::<f32>().unwrap(), expected);
    }

    #[test]
    fn host_loop_equals_the_composed_form_and_its_gradients() {
        for size in [[6, 10], [5, 9]] {
            let input = |x: &[Tensor<1>]| x[0].clone().reshape([2, 3, 3, 5]);
            compare(
                &[2 * 3 * 3 * 5],
                &|x| flat(upsample_nearest(input(x), size)),
                &|x| flat(composed(input(x), size)),
            );
        }
        differences(&[12], &|x| {
            flat(upsample_nearest(x[0].clone().reshape([1, 2, 2, 3]), [4, 5]))
        });
    }
}
