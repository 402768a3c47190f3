//! A tensor operation with a hand-written gradient, on any device.
//!
//! Burn differentiates what is composed of its own operations. The hot path needs more: kernels that save less than the
//! composed graph would, and that run on host slices. [`with_gradient`] ties a value computed outside the graph to
//! its inputs, with a closure as the backward pass: `torch.autograd.Function` for Burn.

use std::fmt;

#[cfg(feature = "cube")]
use burn::backend::DispatchTensorKind;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, DispatchKindConversion, DispatchTensor, Flex};
use burn::tensor::{Float, Tensor};

/// A float tensor whose rank is no longer in its type.
pub type Erased = DispatchTensor;

/// Erases the rank of `tensor` (no copy).
pub fn erase<const D: usize>(tensor: Tensor<D>) -> Erased {
    tensor.into_dispatch()
}

/// The gradients of the inputs, in the order of the inputs; `None` where none is due.
pub type InputGradients<const N: usize> = [Option<Erased>; N];

type BackwardFn<const D: usize, const N: usize> =
    Box<dyn FnOnce(Tensor<D>, [bool; N]) -> InputGradients<N> + Send>;

struct CustomBackward<const D: usize, const N: usize>(BackwardFn<D, N>);

impl<const D: usize, const N: usize> fmt::Debug for CustomBackward<D, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomBackward")
    }
}

impl<B, const D: usize, const N: usize> Backward<B, N> for CustomBackward<D, N>
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = ();

    fn backward(self, ops: Ops<(), N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let upstream = Tensor::<D>::from_primitive::<B>(grads.consume::<B>(&ops.node));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        for (parent, gradient) in ops.parents.iter().zip((self.0)(upstream, wanted)) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, primitive::<B>(gradient));
            }
        }
    }
}

/// Ties `output`, computed from the plain values of `inputs`, to the graph of `inputs`.
///
/// `backward` receives the gradient of `output` and, for each input, whether its gradient is wanted; it returns plain tensors
/// of the inputs' shapes. When no input is tracked the output is returned as it is and `backward` is dropped.
///
/// # Panics
/// When `output` is itself part of a graph.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use temper_adapters::ops::{erase, with_gradient};
///
/// let x = Tensor::<1>::from_data([3.0], &Device::flex().autodiff()).require_grad();
/// let plain = x.clone().inner();
/// let y = with_gradient(plain.clone() * plain.clone(), [&x], move |dy, _| {
///     [Some(erase(dy * plain * 2.0))]
/// });
/// let grads = y.backward();
/// assert_eq!(x.grad(&grads).unwrap().into_scalar::<f32>(), 6.0);
/// ```
pub fn with_gradient<const D: usize, const N: usize>(
    output: Tensor<D>,
    inputs: [&dyn GraphInput; N],
    backward: impl FnOnce(Tensor<D>, [bool; N]) -> InputGradients<N> + Send + 'static,
) -> Tensor<D> {
    if !inputs.iter().any(|input| input.tracked()) {
        return output;
    }
    let inputs = inputs.map(GraphInput::on_graph);
    let backward = CustomBackward(Box::new(backward));
    #[cfg(feature = "cube")]
    if is_cube(&inputs[0].kind) {
        return attach::<burn::backend::Cube, D, N>(output, inputs, backward);
    }
    attach::<Flex, D, N>(output, inputs, backward)
}

#[cfg(feature = "cube")]
fn is_cube(kind: &DispatchTensorKind) -> bool {
    match kind {
        DispatchTensorKind::Autodiff(inner) => is_cube(inner),
        DispatchTensorKind::Cube(_) => true,
        DispatchTensorKind::Flex(_) => false,
    }
}

/// An input of [`with_gradient`]: a float tensor of any rank.
pub trait GraphInput {
    /// Whether a gradient flows into this tensor.
    fn tracked(&self) -> bool;
    /// The tensor as a node of the graph; a plain tensor becomes an untracked constant.
    fn on_graph(&self) -> Erased;
}

impl<const D: usize> GraphInput for Tensor<D, Float> {
    fn tracked(&self) -> bool {
        self.is_autodiff() && self.is_tracked()
    }

    fn on_graph(&self) -> Erased {
        let tensor = self.clone();
        if tensor.is_autodiff() {
            tensor
        } else {
            Self::from_inner(tensor)
        }
        .into_dispatch()
    }
}

fn attach<B, const D: usize, const N: usize>(
    output: Tensor<D>,
    inputs: [Erased; N],
    backward: CustomBackward<D, N>,
) -> Tensor<D>
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    let nodes = inputs.map(|input| primitive::<Autodiff<B>>(input).node());
    let output = primitive::<B>(output.into_dispatch());
    let prepared = Backward::<B, N>::prepare::<NoCheckpointing>(backward, nodes);
    let output = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish((), output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    Tensor::from_primitive::<Autodiff<B>>(output)
}

/// The backend's own tensor. Inputs were checked to be floats of one backend by the caller.
fn primitive<B: Backend>(tensor: Erased) -> B::FloatTensorPrimitive
where
    DispatchTensor: DispatchKindConversion<B>,
{
    match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(tensor) {
        Ok(tensor) => tensor.float(),
        Err(message) => unreachable!("tensor of another backend in one operation: {message}"),
    }
}
