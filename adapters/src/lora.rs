//! Low-rank adaptation (LoRA, arXiv 2106.09685), with rsLoRA scaling (arXiv 2312.03732) and DoRA (arXiv 2402.09353).
//!
//! Shapes: N rows, d input width, o output width, r rank.

use burn::tensor::{DType, Tensor, TensorData};

use crate::ops::{conv2d, linear};
use crate::{Param, RandomSource};

/// What one LoRA layer needs to know.
#[derive(Clone, Debug)]
pub struct LoraSpec {
    /// Rank r.
    pub rank: usize,
    /// Factor of the update: `alpha / r`, or `alpha / √r` with rsLoRA.
    pub scaling: f64,
    /// Share of the inputs of A dropped in training.
    pub dropout: f32,
    /// DoRA: learn the norm of each output row apart.
    pub dora: bool,
}

/// The trained low-rank update of one layer: `W' = W + s B A`.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
/// use temper_adapters::{Lora, LoraSpec, RandomSource};
///
/// let random = RandomSource::new(|_| ChaCha8Rng::seed_from_u64(0));
/// let spec = LoraSpec { rank: 2, scaling: 1.0, dropout: 0.0, dora: false };
/// let weight = Tensor::<2>::ones([3, 4], &Device::flex());
/// let lora = Lora::initial("fc1", &weight, spec, &random);
/// assert_eq!(lora.parameters()[0].shape(), [2, 4]);
/// ```
#[derive(Clone, Debug)]
pub struct Lora {
    a: Param,
    b: Param,
    magnitude: Option<Param>,
    spec: LoraSpec,
    dropout_source: Option<RandomSource>,
}

impl Lora {
    /// PEFT's start: A uniform in ±1/√d (Kaiming with a = √5), B zero, DoRA's magnitude the norms of the rows of `weight: [o, d]`.
    pub fn initial(
        module: &str,
        weight: &Tensor<2>,
        spec: LoraSpec,
        random: &RandomSource,
    ) -> Self {
        let [out, width] = weight.dims();
        Self::shaped(
            module,
            weight,
            [vec![spec.rank, width], vec![out, spec.rank]],
            spec,
            random,
        )
    }

    /// The same for a convolution whose flattened weight is `weight: [o, i·kh·kw]`: A is `[r, i, kh, kw]`, B `[o, r, 1, 1]`,
    /// the magnitude `[1, o, 1, 1]`.
    pub fn initial_conv(
        module: &str,
        weight: &Tensor<2>,
        kernel: [usize; 2],
        spec: LoraSpec,
        random: &RandomSource,
    ) -> Self {
        let [out, width] = weight.dims();
        let [height, breadth] = kernel;
        let a = vec![spec.rank, width / (height * breadth), height, breadth];
        Self::shaped(
            module,
            weight,
            [a, vec![out, spec.rank, 1, 1]],
            spec,
            random,
        )
    }

    fn shaped(
        module: &str,
        weight: &Tensor<2>,
        [a_shape, b_shape]: [Vec<usize>; 2],
        spec: LoraSpec,
        random: &RandomSource,
    ) -> Self {
        let [out, width] = weight.dims();
        let device = weight.device();
        let tensor = |values: Vec<f32>| {
            let n = values.len();
            Tensor::<1>::from_data(TensorData::new(values, [n]), &device)
        };
        let name = |slot: &str| format!("base_model.model.{module}.{slot}");
        let a = random.uniform(module, spec.rank * width, 1.0 / (width as f32).sqrt());
        // PEFT keeps the rank of the weight: [o] beside matrices, [1, o, 1, 1] beside kernels.
        let magnitude_shape = if a_shape.len() == 2 {
            vec![out]
        } else {
            vec![1, out, 1, 1]
        };
        let magnitude = spec.dora.then(|| {
            let norm = row_norm(weight.clone().cast(DType::F32)).reshape([out]);
            Param::new(name("lora_magnitude_vector"), &magnitude_shape, norm)
        });
        Self {
            a: Param::new(name("lora_A.weight"), &a_shape, tensor(a)),
            b: Param::new(
                name("lora_B.weight"),
                &b_shape,
                tensor(vec![0.0; out * spec.rank]),
            ),
            magnitude,
            spec,
            dropout_source: None,
        }
    }

    /// A, B and, for DoRA, the magnitude.
    pub fn parameters(&self) -> Vec<&Param> {
        [&self.a, &self.b]
            .into_iter()
            .chain(&self.magnitude)
            .collect()
    }

    /// The same, to train or load them.
    pub fn parameters_mut(&mut self) -> Vec<&mut Param> {
        [&mut self.a, &mut self.b]
            .into_iter()
            .chain(&mut self.magnitude)
            .collect()
    }

    /// The layer's settings.
    pub fn spec(&self) -> &LoraSpec {
        &self.spec
    }

    /// `strength` times the update.
    #[must_use]
    pub(crate) fn scaled(&self, strength: f64) -> Self {
        let mut scaled = self.clone();
        scaled.spec.scaling *= strength;
        scaled
    }

    /// Where dropout masks come from; `None` turns dropout off (evaluation).
    pub fn set_dropout(&mut self, source: Option<RandomSource>) {
        self.dropout_source = source;
    }

    /// `s B A x`, or with DoRA what must be added to the base product `base = x Wᵀ`.
    ///
    /// DoRA: `m/‖W + sBA‖ · (W + sBA) x`, the norm taken as a constant in the backward pass (DoRA §4.3).
    pub fn forward(&self, x: Tensor<2>, base: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
        let dtype = x.dtype();
        let low = linear(self.dropped(x), &self.a.matrix().cast(dtype));
        let update = linear(low, &self.b.matrix().cast(dtype)).mul_scalar(self.spec.scaling);
        match self.row_scale(weight) {
            None => base + update,
            Some(scale) => (base + update) * scale.reshape([1, self.b.shape()[0]]).cast(dtype),
        }
    }

    /// The same for a convolution, `x: [B, i, H, W]`: A has the kernel and goes through `convolve`, which applies the layer's stride
    /// and padding; B mixes its r channels pixel by pixel. `base` is without bias, `weight` the flattened one.
    pub(crate) fn forward_conv(
        &self,
        x: Tensor<4>,
        base: Tensor<4>,
        weight: &Tensor<2>,
        convolve: impl Fn(Tensor<4>, &Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let dtype = x.dtype();
        let low = convolve(self.dropped(x), &self.a.get_as(dtype));
        let update = conv2d(low, &self.b.get_as(dtype), None, [1, 1], [0, 0]);
        let update = update.mul_scalar(self.spec.scaling);
        match self.row_scale(weight) {
            None => base + update,
            Some(scale) => {
                (base + update) * scale.reshape([1, self.b.shape()[0], 1, 1]).cast(dtype)
            }
        }
    }

    /// The input of A: with a share of its values dropped while training.
    fn dropped<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.dropout_source {
            Some(source) if self.spec.dropout > 0.0 => {
                let (shape, dtype) = (x.dims(), x.dtype());
                let device = plain(&x).device();
                let n = shape.iter().product();
                let mask = source.dropout_mask(self.a.name(), n, self.spec.dropout, &device);
                x * mask.reshape(shape).cast(dtype)
            }
            _ => x,
        }
    }

    /// DoRA: `m/‖W + sBA‖` of each output, the norm outside the graph.
    fn row_scale(&self, weight: &Tensor<2>) -> Option<Tensor<1>> {
        let magnitude = self.magnitude.as_ref()?;
        let rows = [magnitude.numel()];
        let norm = row_norm(plain(&self.sum(weight.clone()))).reshape(rows);
        Some(magnitude.matrix().reshape(rows) / norm)
    }

    fn sum(&self, weight: Tensor<2>) -> Tensor<2> {
        let update = self
            .b
            .matrix()
            .matmul(self.a.matrix())
            .mul_scalar(self.spec.scaling);
        weight.cast(update.dtype()) + update
    }

    /// The weight `[o, d]` in f32 that computes without the adapter what `weight` computes with it.
    pub fn merge(&self, weight: Tensor<2>) -> Tensor<2> {
        let sum = self.sum(weight);
        match &self.magnitude {
            None => sum,
            Some(magnitude) => {
                let norm = row_norm(plain(&sum));
                sum * (magnitude.matrix().reshape([magnitude.numel(), 1]) / norm)
            }
        }
    }

    /// Undoes [`Self::merge`] of plain LoRA. `None` for DoRA: its row norms are gone after a merge.
    pub fn unmerge(&self, weight: Tensor<2>) -> Option<Tensor<2>> {
        let update = self
            .b
            .matrix()
            .matmul(self.a.matrix())
            .mul_scalar(self.spec.scaling);
        self.magnitude.is_none().then(|| weight - plain(&update))
    }
}

/// The Euclidean norm of each row: `[o, d]` to `[o, 1]`.
fn row_norm(weight: Tensor<2>) -> Tensor<2> {
    weight.square().sum_dim(1).sqrt()
}

fn plain<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() {
        tensor.clone().inner()
    } else {
        tensor.clone()
    }
}
