//! Orthogonal fine-tuning (OFT and COFT, arXiv 2306.07280; input-side form and series, OFTv2, arXiv 2506.19847).
//!
//! Shapes: N rows, d input width, b block size, r = d / b blocks, B = r stored blocks (1 when shared), n = b (b − 1) / 2.
//!
//! Deviations from PEFT 0.21.2, all in results it gets wrong: convolutions with kernels above 1 rotate the weight (PEFT's
//! un-merged forward differs from its own merged weights), and COFT projects after every change of the parameters instead of
//! inside the forward pass, so what is saved is always projected.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Tensor, TensorData};

use crate::cayley::inverse;
use crate::ops::rotate;
use crate::{Cayley, Param, RandomSource, SkewPacking};

/// What one OFT layer needs to know.
#[derive(Clone, Debug)]
pub struct OftSpec {
    /// Block size b; divides the input width.
    pub block_size: usize,
    /// One rotation for all blocks.
    pub block_share: bool,
    /// From skew matrices to rotations.
    pub cayley: Cayley,
    /// COFT: the largest Frobenius norm τ of a block's skew matrix. `None` is plain OFT.
    pub tau: Option<f64>,
}

/// The trained rotation of one layer.
///
/// # Examples
/// ```
/// use burn::tensor::Device;
/// use temper_adapters::{Cayley, Oft, OftSpec};
///
/// let spec = OftSpec { block_size: 4, block_share: false, cayley: Cayley::Exact, tau: None };
/// let oft = Oft::identity("fc1", 8, spec, &Device::flex());
/// assert_eq!(oft.parameter().name(), "base_model.model.fc1.oft_R.weight");
/// assert_eq!(oft.parameter().shape(), [2, 6]);
/// ```
#[derive(Clone, Debug)]
pub struct Oft {
    packed: Param,
    packing: SkewPacking,
    spec: OftSpec,
    /// The rotations while the parameter is frozen: generation asks for them at every token.
    frozen: Arc<OnceLock<Tensor<3>>>,
}

impl Oft {
    /// All blocks at R = I: the adapted layer computes exactly what it computed before.
    pub fn identity(module: &str, width: usize, spec: OftSpec, device: &Device) -> Self {
        Self::filled(module, width, spec, device, |n| vec![0.0; n])
    }

    /// Values drawn from N(0, 0.1²): PEFT's `init_weights = false`, for tests of what is not the identity.
    pub fn random(
        module: &str,
        width: usize,
        spec: OftSpec,
        device: &Device,
        random: &RandomSource,
    ) -> Self {
        Self::filled(module, width, spec, device, |n| {
            random.normal(module, n, 0.1)
        })
    }

    fn filled(
        module: &str,
        width: usize,
        spec: OftSpec,
        device: &Device,
        values: impl FnOnce(usize) -> Vec<f32>,
    ) -> Self {
        let b = spec.block_size;
        assert!(
            b > 1 && width.is_multiple_of(b),
            "blocks of {b} tile a width of {width}"
        );
        let stored = if spec.block_share { 1 } else { width / b };
        let shape = [stored, b * (b - 1) / 2];
        let n = shape[0] * shape[1];
        let value = Tensor::from_data(TensorData::new(values(n), [n]), device);
        let packed = Param::new(
            format!("base_model.model.{module}.oft_R.weight"),
            &shape,
            value,
        );
        let mut oft = Self {
            packed,
            packing: SkewPacking::new(b, device),
            spec,
            frozen: Arc::default(),
        };
        oft.project();
        oft
    }

    /// The packed skew values `[B, n]`.
    pub fn parameter(&self) -> &Param {
        &self.packed
    }

    /// The same, to train or load it. Call [`Self::project`] after a change.
    pub fn parameter_mut(&mut self) -> &mut Param {
        self.frozen = Arc::default();
        &mut self.packed
    }

    /// The layer's settings.
    pub fn spec(&self) -> &OftSpec {
        &self.spec
    }

    /// Sets COFT's bound τ of this layer (`None` lifts it) and projects. For bounds that one `eps` of a PEFT configuration cannot
    /// say, because layers have blocks of several sizes.
    pub fn set_tau(&mut self, tau: Option<f64>) {
        self.spec.tau = tau;
        self.project();
    }

    /// The rotations `[B, b, b]`, in the graph of the parameter, f32. Of a frozen parameter they are computed once.
    pub fn rotation(&self) -> Tensor<3> {
        if self.packed.is_trainable() {
            return self.turned();
        }
        self.frozen.get_or_init(|| self.turned()).clone()
    }

    fn turned(&self) -> Tensor<3> {
        self.spec
            .cayley
            .rotation(self.packing.unpack(self.packed.get()))
    }

    /// Rotates activations `x: [N, d]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let r = self.rotation();
        let r = if r.dtype() == x.dtype() {
            r
        } else {
            r.cast(x.dtype())
        };
        rotate(x, &r)
    }

    /// The weight that computes without the adapter what `weight: [out, d]` computes with it: `W' = W · blockdiag(R)ᵀ`.
    pub fn merge(&self, weight: Tensor<2>) -> Tensor<2> {
        rotate(weight, &self.rotation().transpose())
    }

    /// Undoes [`Self::merge`], by the explicit inverse: the series' R is only nearly orthogonal.
    pub fn unmerge(&self, weight: Tensor<2>) -> Tensor<2> {
        rotate(weight, &inverse(plain(self.rotation())).transpose())
    }

    /// COFT's projected gradient step: each block with ‖Q‖_F > τ is scaled back to τ. Does nothing for plain OFT.
    ///
    /// ‖Q‖_F is √2 times the norm of the packed values. Outside the graph; optimizer moments are not projected.
    pub fn project(&mut self) {
        let Some(tau) = self.spec.tau else { return };
        let shape = [self.packed.shape()[0], self.packed.shape()[1]];
        let packed = self.packed.plain().reshape(shape);
        let norm = packed.clone().square().sum_dim(1).mul_scalar(2.0).sqrt();
        let scale = norm
            .clamp_min(f32::MIN_POSITIVE)
            .recip()
            .mul_scalar(tau)
            .clamp_max(1.0);
        let n = self.packed.numel();
        self.parameter_mut().set((packed * scale).reshape([n]));
    }

    /// The rotation of `strength` times the skew matrices, without COFT's bound.
    #[must_use]
    pub(crate) fn scaled(&self, strength: f64) -> Self {
        let mut scaled = self.clone();
        scaled.spec.tau = None;
        let values = self.packed.plain().mul_scalar(strength);
        scaled.parameter_mut().set(values);
        scaled
    }

    /// The largest `|RᵀR − I|` over all blocks: 1e-6 for the exact rotation, larger for the truncated series.
    pub fn orthogonality_error(&self) -> f32 {
        let r = plain(self.rotation());
        let b = self.spec.block_size;
        let eye = Tensor::<2>::eye(b, &r.device()).unsqueeze();
        (r.clone().transpose().matmul(r) - eye)
            .abs()
            .max()
            .into_scalar()
    }
}

fn plain(tensor: Tensor<3>) -> Tensor<3> {
    if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    }
}
