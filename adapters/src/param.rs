//! One named tensor of a model or an adapter.

use burn::tensor::{DType, FloatDType, Gradients, Tensor};

/// A named tensor of any rank, stored flat, trained or frozen.
///
/// The name is the checkpoint's own (`model.layers.0.self_attn.q_proj.weight`), the values are row-major in the checkpoint's
/// layout, so loading and saving move bytes and never transpose. Clones share the values.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use temper_adapters::Param;
///
/// let value = Tensor::<1>::from_data([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &Device::flex());
/// let param = Param::new("fc1.weight", &[2, 3], value);
/// assert_eq!(param.get::<2>().dims(), [2, 3]);
/// ```
#[derive(Clone, Debug)]
pub struct Param {
    name: String,
    shape: Vec<usize>,
    value: Tensor<1>,
    trainable: bool,
}

impl Param {
    /// A frozen parameter. `value` is flat and plain.
    ///
    /// # Panics
    /// When the number of values is not the product of `shape`.
    pub fn new(name: impl Into<String>, shape: &[usize], value: Tensor<1>) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            value.dims()[0],
            "values fill the shape"
        );
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            value,
            trainable: false,
        }
    }

    /// The checkpoint's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it another name, where parameters of several models stand beside each other.
    pub fn rename(&mut self, name: impl Into<String>) {
        self.name = name.into();
    }

    /// Dimensions, as in the checkpoint.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Type of the stored values.
    pub fn dtype(&self) -> DType {
        self.value.dtype()
    }

    /// Whether training changes it.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Trains or freezes it. A trained parameter is a leaf of the graph, in f32: bf16 would lose small updates.
    pub fn set_trainable(&mut self, trainable: bool) {
        if trainable != self.trainable {
            let plain = self.plain();
            self.trainable = trainable;
            self.set(if trainable {
                plain.cast(FloatDType::F32)
            } else {
                plain
            });
        }
    }

    /// The values with their rank; a leaf of the graph while it is trained.
    ///
    /// # Panics
    /// When `D` is not its rank.
    pub fn get<const D: usize>(&self) -> Tensor<D> {
        let mut shape = [0; D];
        shape.copy_from_slice(&self.shape);
        self.value.clone().reshape(shape)
    }

    /// The values as a matrix: the first dimension by all others together (a convolution's `[out, in·kh·kw]`).
    pub fn matrix(&self) -> Tensor<2> {
        let rows = self.shape[0];
        self.value
            .clone()
            .reshape([rows, self.numel() / rows.max(1)])
    }

    /// The values in `dtype`, cast inside the graph.
    pub fn get_as<const D: usize>(&self, dtype: DType) -> Tensor<D> {
        let value = self.get();
        if value.dtype() == dtype {
            value
        } else {
            value.cast(dtype)
        }
    }

    /// The flat values, outside the graph.
    pub fn plain(&self) -> Tensor<1> {
        if self.value.is_autodiff() {
            self.value.clone().inner()
        } else {
            self.value.clone()
        }
    }

    /// Takes the flat values out for an update in place; [`Self::set`] must follow.
    pub fn take(&mut self) -> Tensor<1> {
        let empty = Tensor::empty([0], &self.plain().device());
        let value = std::mem::replace(&mut self.value, empty);
        if value.is_autodiff() {
            value.inner()
        } else {
            value
        }
    }

    /// Replaces the values. `value` is flat and plain.
    ///
    /// # Panics
    /// When the number of values changes.
    pub fn set(&mut self, value: Tensor<1>) {
        assert_eq!(
            self.numel(),
            value.dims()[0],
            "values fill the shape of `{}`",
            self.name
        );
        self.value = if self.trainable {
            Tensor::from_inner(value).require_grad()
        } else {
            value
        };
    }

    /// Replaces the values by those of a tensor of any type, whose graph is left behind.
    pub(crate) fn set_rounded(&mut self, value: Tensor<2>) {
        let value = if value.is_autodiff() {
            value.inner()
        } else {
            value
        };
        let n = self.numel();
        self.set(value.reshape([n]).cast(self.dtype()));
    }

    /// Takes its gradient, flat and plain, if there is one.
    pub fn grad(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        if self.trainable {
            self.value.grad_remove(gradients)
        } else {
            None
        }
    }
}

/// Something that owns parameters.
pub trait Parameters {
    /// Calls `visit` on every parameter, always in the same order.
    fn visit(&self, visit: &mut dyn FnMut(&Param));
    /// The same, to change them.
    fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut Param));

    /// Number of values, of all parameters or of the trained ones.
    fn count(&self, only_trainable: bool) -> usize {
        let mut total = 0;
        self.visit(&mut |param| {
            if !only_trainable || param.is_trainable() {
                total += param.numel();
            }
        });
        total
    }

    /// A copy that records no graph (values shared): for evaluation and generation.
    #[must_use]
    fn frozen(&self) -> Self
    where
        Self: Clone,
    {
        let mut copy = self.clone();
        copy.visit_mut(&mut |param| param.set_trainable(false));
        copy
    }
}
