//! What the tests of the operations share: one form against another, and a form against finite differences.

use burn::tensor::{Device, Distribution, Tensor, TensorData, Tolerance};

/// An operation on flat inputs, with a flat result.
pub(crate) type Operation<'a> = &'a dyn Fn(&[Tensor<1>]) -> Tensor<1>;

/// All values of a tensor in a row.
pub(crate) fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let n = x.dims().iter().product::<usize>();
    x.reshape([n])
}

fn normal(n: usize, device: &Device) -> Tensor<1> {
    Tensor::random([n], Distribution::Normal(0.0, 1.0), device)
}

/// Values and all gradients of both forms agree, for random inputs of these lengths.
pub(crate) fn compare(lengths: &[usize], ours: Operation<'_>, reference: Operation<'_>) {
    let device = Device::flex().autodiff();
    device.seed(11);
    let inputs: Vec<Tensor<1>> = lengths
        .iter()
        .map(|&n| normal(n, &device).require_grad())
        .collect();
    let (y, expected) = (ours(&inputs), reference(&inputs));
    let upstream = normal(y.dims()[0], &device);
    let data = |x: Tensor<1>| x.inner().into_data();
    data(y.clone()).assert_approx_eq(
        &data(expected.clone()),
        Tolerance::<f32>::rel_abs(1e-4, 2e-5),
    );
    let grads = (y * upstream.clone()).sum().backward();
    let expected = (expected * upstream).sum().backward();
    for (index, input) in inputs.iter().enumerate() {
        let got = input.grad(&grads).unwrap_or_else(|| panic!("{index}"));
        let wanted = input.grad(&expected).unwrap_or_else(|| panic!("{index}"));
        got.into_data()
            .assert_approx_eq(&wanted.into_data(), Tolerance::<f32>::rel_abs(1e-3, 2e-4));
    }
}

/// The gradient is the slope of the value, at every 7th place of each input.
pub(crate) fn differences(lengths: &[usize], operation: Operation<'_>) {
    const STEP: f32 = 1e-2;
    let device = Device::flex().autodiff();
    device.seed(12);
    let inputs: Vec<Tensor<1>> = lengths
        .iter()
        .map(|&n| normal(n, &device).require_grad())
        .collect();
    let y = operation(&inputs);
    let upstream = normal(y.dims()[0], &device);
    let weights = values(upstream.clone());
    let grads = (y * upstream).sum().backward();
    let value = |inputs: &[Tensor<1>]| -> f64 {
        let y = values(operation(inputs));
        let terms = y.iter().zip(&weights);
        terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    for (index, input) in inputs.iter().enumerate() {
        let slope = values(input.grad(&grads).unwrap());
        let start = values(input.clone());
        for place in (0..start.len()).step_by(7) {
            let at = |step: f32| {
                let mut moved = start.clone();
                moved[place] += step;
                let mut inputs: Vec<Tensor<1>> = inputs.iter().map(|x| x.clone().inner()).collect();
                let data = TensorData::new(moved, [start.len()]);
                inputs[index] = Tensor::from_data(data, &device.clone().inner());
                value(&inputs)
            };
            let expected = (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP);
            let got = f64::from(slope[place]);
            assert!(
                (got - expected).abs() < 5e-3 + 1e-2 * expected.abs(),
                "input {index}, place {place}: {got} instead of {expected}"
            );
        }
    }
}

fn values(x: Tensor<1>) -> Vec<f32> {
    let x = if x.is_autodiff() { x.inner() } else { x };
    x.into_data().try_to_vec().unwrap()
}
