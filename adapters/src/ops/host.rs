//! Direct access to the values of tensors that live in host memory.
//!
//! The kernels of the hot path come in two forms: Burn operations, which run on every device, and loops over host slices, which
//! are faster on `cpu`. [`HostView::view`] decides which: it is `None` for tensors of other devices and dtypes.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Tensor, TensorData};

/// A contiguous f32 tensor in host memory, readable as a slice without a copy.
#[derive(Clone, Debug)]
pub struct HostView(FlexTensor);

/// What became of a tensor given to [`HostView::update`].
#[derive(Debug)]
pub enum Updated {
    /// It was changed in place.
    Changed(Tensor<1>),
    /// It lives on another device or in another dtype, and is as it was.
    Elsewhere(Tensor<1>),
}

impl HostView {
    /// The values of `tensor` when it lives on `cpu` in f32. Copies only when the layout is not contiguous.
    pub fn view<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        if tensor.dtype() != DType::F32 {
            return None;
        }
        let plain = if tensor.is_autodiff() {
            tensor.clone().inner()
        } else {
            tensor.clone()
        };
        let primitive = plain.try_into_primitive::<Flex>().ok()?;
        let contiguous = primitive.is_contiguous();
        Some(Self(if contiguous {
            primitive
        } else {
            primitive.to_contiguous()
        }))
    }

    /// Row-major values.
    pub fn as_slice(&self) -> &[f32] {
        self.0.as_slice().unwrap_or_default()
    }

    /// Changes the values of `tensor` in place when it lives on `cpu` in f32. Copies first when the buffer is shared.
    pub fn update(tensor: Tensor<1>, change: impl FnOnce(&mut [f32])) -> Updated {
        if tensor.dtype() != DType::F32 {
            return Updated::Elsewhere(tensor);
        }
        match tensor.clone().try_into_primitive::<Flex>() {
            Err(_) => Updated::Elsewhere(tensor),
            Ok(primitive) => {
                drop(tensor);
                let whole = primitive.is_contiguous() && primitive.layout().start_offset() == 0;
                let mut primitive = if whole {
                    primitive
                } else {
                    primitive.to_contiguous()
                };
                let elements = primitive.layout().num_elements();
                change(&mut primitive.storage_mut::<f32>()[..elements]);
                Updated::Changed(Tensor::from_primitive::<Flex>(primitive))
            }
        }
    }

    /// A plain tensor on `cpu` that takes over `values` (row-major) without a copy.
    pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_primitive::<Flex>(FlexTensor::from_data(TensorData::new(values, shape)))
    }
}
