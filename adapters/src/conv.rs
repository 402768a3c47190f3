//! A convolution of a model, with or without an adapter.

use burn::tensor::{DType, Tensor};

use crate::ops::conv2d;
use crate::{Adapter, Param};

/// A square or rectangular 2-D convolution with an optional [`Adapter`] on its weight `[out, in, kh, kw]`.
///
/// The adapter acts on the flattened weight `[out, in·kh·kw]` (channel-major, then rows, then columns): the only form that means
/// the same merged and un-merged when the kernel is larger than one. PEFT's own un-merged OFT forward does not.
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
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut shape = [0; 4];
        shape.copy_from_slice(self.weight.shape());
        let weight = self.effective_weight().reshape(shape).cast(x.dtype());
        let bias = self.bias.as_ref().map(|bias| bias.get_as::<1>(x.dtype()));
        conv2d(x, &weight, bias, self.stride, self.padding)
    }

    /// Folds the adapter into the weight and drops it. The fold is done in f32 and rounded once to the weight's dtype.
    pub fn merge(&mut self) {
        if self.adapter.is_none() {
            return;
        }
        let merged = self.effective_weight();
        let merged = if merged.is_autodiff() {
            merged.inner()
        } else {
            merged
        };
        let dtype: DType = self.weight.dtype();
        let n = self.weight.numel();
        self.weight.set(merged.reshape([n]).cast(dtype));
        self.adapter = None;
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
