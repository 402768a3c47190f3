//! A convolution of a model, with or without an adapter.

use burn::tensor::Tensor;

use crate::ops::conv2d;
use crate::{Adapter, Oft, Param};

/// A square or rectangular 2-D convolution with an optional [`Adapter`] on its weight `[out, in, kh, kw]`.
///
/// OFT acts on the flattened weight `[out, in·kh·kw]` (channel-major, then rows, then columns): the only form that means the same
/// merged and un-merged when the kernel is larger than one. PEFT's own un-merged OFT forward does not.
#[derive(Clone, Debug)]
pub struct AdaptedConv2d {
    module: String,
    weight: Param,
    bias: Option<Param>,
    adapter: Option<Adapter>,
    stride: [usize; 2],
    padding: [usize; 2],
}

impl AdaptedConv2d {
    /// A plain convolution with this stride and padding.
    ///
    /// # Examples
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use temper_adapters::{AdaptedConv2d, Param};
    ///
    /// let weight = Param::new("conv.weight", &[1, 1, 1, 1], Tensor::ones([1], &Device::flex()));
    /// let conv = AdaptedConv2d::new("conv", weight, None, [1, 1], [0, 0]);
    /// assert_eq!(conv.forward(Tensor::ones([1, 1, 2, 2], &Device::flex())).dims(), [1, 1, 2, 2]);
    /// ```
    pub fn new(
        module: impl Into<String>,
        weight: Param,
        bias: Option<Param>,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Self {
        Self {
            module: module.into(),
            weight,
            bias,
            adapter: None,
            stride,
            padding,
        }
    }

    /// Its path in the model.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// `[out, in, kh, kw]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// `[out, in, kh, kw]`, to load, train or merge it.
    pub fn weight_mut(&mut self) -> &mut Param {
        &mut self.weight
    }

    /// `[out]`, if the convolution has one.
    pub fn bias_mut(&mut self) -> Option<&mut Param> {
        self.bias.as_mut()
    }

    /// The adapter, if one is attached.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The adapter, to train it.
    pub fn adapter_mut(&mut self) -> Option<&mut Adapter> {
        self.adapter.as_mut()
    }

    /// Attaches or removes an adapter, made for the flattened weight.
    pub fn set_adapter(&mut self, adapter: Option<Adapter>) {
        self.adapter = adapter;
    }

    /// The weight with the adapter folded in, `[out, in·kh·kw]`, in the graph of its parameters.
    pub fn effective_weight(&self) -> Tensor<2> {
        let flat = self.weight.matrix();
        match &self.adapter {
            None => flat,
            Some(adapter) => adapter.merge(flat),
        }
    }

    /// `x: [B, in, H, W]` to `[B, out, H', W']`.
    ///
    /// LoRA adds a second convolution with r outputs, so that no gradient of the size of the weight arises. OFT turns the weight,
    /// whose gradient then has to be formed; for a 1 × 1 kernel it turns the input instead, as in a linear layer, when that is less
    /// work: three products with b columns (forward, input, rotation) against one with `out` columns (the weight's gradient).
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = match &self.adapter {
            None => return self.convolve(x, &self.weight.get::<4>(), true),
            Some(Adapter::Lora(lora)) => {
                let base = self.convolve(x.clone(), &self.weight.get::<4>(), false);
                let convolve = |x: Tensor<4>, weight: &Tensor<4>| self.convolve(x, weight, false);
                lora.forward_conv(x, base, &self.weight.matrix(), convolve)
            }
            Some(Adapter::Oft(oft)) if self.turns_input(oft) => {
                return self.convolve(turned_pixels(oft, x), &self.weight.get::<4>(), true);
            }
            Some(adapter) => {
                let mut shape = [0; 4];
                shape.copy_from_slice(self.weight.shape());
                let weight = adapter.merge(self.weight.matrix()).reshape(shape);
                return self.convolve(x, &weight, true);
            }
        };
        match &self.bias {
            Some(bias) => {
                let dtype = y.dtype();
                y + bias.get_as::<1>(dtype).reshape([1, bias.numel(), 1, 1])
            }
            None => y,
        }
    }

    fn convolve(&self, x: Tensor<4>, weight: &Tensor<4>, with_bias: bool) -> Tensor<4> {
        let dtype = x.dtype();
        let weight = if weight.dtype() == dtype {
            weight.clone()
        } else {
            weight.clone().cast(dtype)
        };
        let bias = self.bias.as_ref().filter(|_| with_bias);
        let bias = bias.map(|bias| bias.get_as::<1>(dtype));
        conv2d(x, &weight, bias, self.stride, self.padding)
    }

    fn turns_input(&self, oft: &Oft) -> bool {
        let shape = self.weight.shape();
        let pointwise = shape[2..] == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0];
        pointwise && 3 * oft.spec().block_size <= shape[0]
    }

    /// Folds the adapter into the weight and drops it. The fold is done in f32 and rounded once to the weight's dtype.
    pub fn merge(&mut self) {
        if self.adapter.is_some() {
            self.weight.set_rounded(self.effective_weight());
            self.adapter = None;
        }
    }

    /// Calls `visit` on the weight, the bias and the adapter's parameters.
    pub fn visit(&self, visit: &mut dyn FnMut(&Param)) {
        visit(&self.weight);
        self.bias.iter().for_each(&mut *visit);
        self.adapter
            .iter()
            .flat_map(Adapter::parameters)
            .for_each(visit);
    }

    /// The same, to change them.
    pub fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut Param)) {
        visit(&mut self.weight);
        self.bias.iter_mut().for_each(&mut *visit);
        self.adapter
            .iter_mut()
            .flat_map(Adapter::parameters_mut)
            .for_each(visit);
    }
}

/// The channels of every pixel of `x: [B, C, H, W]`, turned. The product with the weight stays the convolution's own, so that no
/// rotation means no changed bit.
fn turned_pixels(oft: &Oft, x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let pixels = height * width;
    let rows = x.reshape([batch, channels, pixels]).swap_dims(1, 2);
    oft.forward(rows.reshape([batch * pixels, channels]))
        .reshape([batch, pixels, channels])
        .swap_dims(1, 2)
        .reshape([batch, channels, height, width])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;
    use crate::{Cayley, Lora, LoraSpec, OftSpec, RandomSource};

    const KERNELS: [(usize, usize, usize); 3] = [(1, 1, 0), (3, 1, 1), (3, 2, 1)];

    fn random() -> RandomSource {
        RandomSource::new(|_| ChaCha8Rng::seed_from_u64(3))
    }

    fn conv(kernel: usize, stride: usize, padding: usize) -> AdaptedConv2d {
        let device = Device::flex();
        device.seed(2);
        let n = 26 * 8 * kernel * kernel;
        let value = Tensor::<1>::random([n], Distribution::Normal(0.0, 0.3), &device);
        let bias = Tensor::<1>::random([26], Distribution::Normal(0.0, 0.3), &device);
        AdaptedConv2d::new(
            "conv",
            Param::new("conv.weight", &[26, 8, kernel, kernel], value),
            Some(Param::new("conv.bias", &[26], bias)),
            [stride; 2],
            [padding; 2],
        )
    }

    fn oft(conv: &AdaptedConv2d, block_size: usize) -> Adapter {
        let spec = OftSpec {
            block_size,
            block_share: false,
            cayley: Cayley::Exact,
            tau: None,
        };
        let width = conv.weight().numel() / 26;
        Adapter::Oft(Oft::random("conv", width, spec, &Device::flex(), &random()))
    }

    fn lora(conv: &AdaptedConv2d, dora: bool) -> Adapter {
        let spec = LoraSpec {
            rank: 3,
            scaling: 0.5,
            dropout: 0.0,
            dora,
        };
        let kernel = [conv.weight().shape()[2], conv.weight().shape()[3]];
        let weight = conv.weight().matrix();
        let mut lora = Lora::initial_conv("conv", &weight, kernel, spec, &random());
        let ones = lora.parameters_mut().remove(1);
        let start = (0..ones.numel()).map(|i| (i % 7) as f32 * 0.1 - 0.2);
        let data: Vec<f32> = start.collect();
        let n = data.len();
        let data = burn::tensor::TensorData::new(data, [n]);
        ones.set(Tensor::from_data(data, &Device::flex()));
        Adapter::Lora(lora)
    }

    /// Values, and the gradients of the input and of every adapter parameter, against the folded weight.
    fn check(mut conv: AdaptedConv2d, adapter: Adapter) {
        conv.set_adapter(Some(adapter));
        conv.adapter_mut()
            .into_iter()
            .flat_map(Adapter::parameters_mut)
            .for_each(|param| param.set_trainable(true));
        let device = Device::flex().autodiff();
        let x = Tensor::<4>::random([2, 8, 5, 6], Distribution::Normal(0.0, 1.0), &device)
            .require_grad();
        let ours = conv.forward(x.clone());
        let mut shape = [0; 4];
        shape.copy_from_slice(conv.weight().shape());
        let folded = conv.effective_weight().reshape(shape);
        let reference = conv.convolve(x.clone(), &folded, true);
        let tolerance = Tolerance::<f32>::rel_abs(1e-3, 1e-4);
        let data = |y: &Tensor<4>| y.clone().inner().into_data();
        data(&ours).assert_approx_eq(&data(&reference), tolerance);
        let (mut grads, mut expected) = (
            ours.square().sum().backward(),
            reference.square().sum().backward(),
        );
        let dx = x.grad(&grads).expect("dx").into_data();
        dx.assert_approx_eq(&x.grad(&expected).expect("dx").into_data(), tolerance);
        assert!(conv.weight().grad(&mut grads).is_none());
        for param in conv.adapter().expect("attached").parameters() {
            let got = param.grad(&mut grads).unwrap().into_data();
            let wanted = param.grad(&mut expected).unwrap().into_data();
            got.assert_approx_eq(&wanted, Tolerance::<f32>::rel_abs(1e-3, 1e-3));
        }
    }

    #[test]
    fn lora_without_a_fold_equals_the_folded_weight_and_its_gradients() {
        for (kernel, stride, padding) in KERNELS {
            let conv = conv(kernel, stride, padding);
            let adapter = lora(&conv, false);
            check(conv, adapter);
        }
    }

    #[test]
    fn a_turned_input_equals_a_turned_weight_for_one_by_one_kernels() {
        let conv = conv(1, 1, 0);
        let adapter = oft(&conv, 4);
        assert!(matches!(&adapter, Adapter::Oft(oft) if conv.turns_input(oft)));
        check(conv, adapter);
    }

    #[test]
    fn merged_convolutions_compute_what_the_adapted_ones_did() {
        for (kernel, stride, padding) in KERNELS {
            let mut plain = conv(kernel, stride, padding);
            for adapter in [oft(&plain, 2), lora(&plain, false), lora(&plain, true)] {
                let mut adapted = plain.clone();
                adapted.set_adapter(Some(adapter));
                let x = Tensor::ones([1, 8, 4, 4], &Device::flex());
                let before = adapted.forward(x.clone()).into_data();
                adapted.merge();
                assert!(adapted.adapter().is_none());
                let after = adapted.forward(x).into_data();
                after.assert_approx_eq(&before, Tolerance::<f32>::rel_abs(1e-4, 1e-4));
            }
            plain.merge();
        }
    }
}
