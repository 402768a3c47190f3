//! A linear layer of a model, with or without an adapter.

use burn::tensor::{FloatDType, Tensor};

use crate::ops::linear;
use crate::{Lora, Oft, Param, RandomSource};

/// A trained change of one layer.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one a layer, and moved only when it is attached"
)]
pub enum Adapter {
    /// Rotates the input.
    Oft(Oft),
    /// Adds a low-rank term to the output.
    Lora(Lora),
}

impl Adapter {
    /// Its parameters, in the order in which they are stored.
    pub fn parameters(&self) -> Vec<&Param> {
        match self {
            Self::Oft(oft) => vec![oft.parameter()],
            Self::Lora(lora) => lora.parameters(),
        }
    }

    /// The same, to train or load them.
    pub fn parameters_mut(&mut self) -> Vec<&mut Param> {
        match self {
            Self::Oft(oft) => vec![oft.parameter_mut()],
            Self::Lora(lora) => lora.parameters_mut(),
        }
    }

    /// Restores what must hold after every change of the parameters (COFT's projection).
    pub fn project(&mut self) {
        if let Self::Oft(oft) = self {
            oft.project();
        }
    }

    /// Where dropout masks come from while training; `None` in evaluation.
    pub fn set_dropout(&mut self, source: Option<RandomSource>) {
        if let Self::Lora(lora) = self {
            lora.set_dropout(source);
        }
    }

    /// The dense weight that stands for `weight` with this adapter, in f32.
    pub fn merge(&self, weight: Tensor<2>) -> Tensor<2> {
        let weight = weight.cast(FloatDType::F32);
        match self {
            Self::Oft(oft) => oft.merge(weight),
            Self::Lora(lora) => lora.merge(weight),
        }
    }
}

/// `y = x Wᵀ + bias`, with an optional [`Adapter`]. `W: [out, in]` as checkpoints store it.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use temper_adapters::{AdaptedLinear, Param};
///
/// let eye = Tensor::<1>::from_data([1.0, 0.0, 0.0, 1.0], &Device::flex());
/// let layer = AdaptedLinear::new("fc1", Param::new("fc1.weight", &[2, 2], eye), None);
/// let y = layer.forward(Tensor::<2>::from_data([[3.0, 4.0]], &Device::flex()));
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [3.0, 4.0]);
/// ```
#[derive(Clone, Debug)]
pub struct AdaptedLinear {
    module: String,
    weight: Param,
    bias: Option<Param>,
    adapter: Option<Adapter>,
}

impl AdaptedLinear {
    /// A plain layer. `module` is its path in the model (`model.layers.0.self_attn.q_proj`).
    pub fn new(module: impl Into<String>, weight: Param, bias: Option<Param>) -> Self {
        Self {
            module: module.into(),
            weight,
            bias,
            adapter: None,
        }
    }

    /// Its path in the model.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// `[out, in]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// `[out, in]`, to load, train or merge it.
    pub fn weight_mut(&mut self) -> &mut Param {
        &mut self.weight
    }

    /// `[out]`, if the layer has one.
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

    /// Attaches or removes an adapter.
    pub fn set_adapter(&mut self, adapter: Option<Adapter>) {
        self.adapter = adapter;
    }

    /// `x: [.., in]` to `[.., out]`, in the dtype of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let width = shape[D - 1];
        let rows = shape.iter().product::<usize>() / width;
        let y = self.forward_rows(x.reshape([rows, width]));
        shape[D - 1] = y.dims()[1];
        y.reshape(shape)
    }

    fn forward_rows(&self, x: Tensor<2>) -> Tensor<2> {
        let dtype = x.dtype();
        let weight = self.weight.get_as::<2>(dtype);
        let y = match &self.adapter {
            None => linear(x, &weight),
            Some(Adapter::Oft(oft)) => linear(oft.forward(x), &weight),
            Some(Adapter::Lora(lora)) => lora.forward(x.clone(), linear(x, &weight), &weight),
        };
        match &self.bias {
            Some(bias) => y + bias.get_as::<1>(dtype).reshape([1, bias.numel()]),
            None => y,
        }
    }

    /// The weight `[out, in]` with the adapter folded in, f32 where an adapter is attached, in the graph of its parameters.
    pub fn effective_weight(&self) -> Tensor<2> {
        match &self.adapter {
            None => self.weight.get(),
            Some(adapter) => adapter.merge(self.weight.get()),
        }
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
