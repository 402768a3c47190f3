//! The pre-norm transformer encoder of text and image encoders: one implementation, its names by table.
//!
//! Shapes: B rows, T tokens, H heads, C model width, F feed-forward width.

use burn::tensor::Tensor;
use temper_adapters::AdaptedLinear;

use crate::ModelError;
use crate::layers::{Norm, Part, PartMut, Parts};
use crate::names::Names;
use crate::ops::{attend_full, gelu_erf, quick_gelu};
use crate::weights::ParamSource;

/// The non-linearity between the two layers of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(1.702 x)`, what OpenAI's CLIP was trained with.
    QuickGelu,
    /// `x · Φ(x)`, exact (arXiv 1606.08415, eq. 1).
    Gelu,
}

impl Activation {
    /// By the name in `hidden_act`.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for another name.
    pub(crate) fn from_name(name: &str) -> Result<Self, ModelError> {
        match name {
            "quick_gelu" => Ok(Self::QuickGelu),
            "gelu" => Ok(Self::Gelu),
            other => Err(ModelError::Unsupported {
                what: format!("hidden_act `{other}`"),
                hint: "supported are quick_gelu and gelu",
            }),
        }
    }

    /// Its name in `hidden_act`.
    pub fn name(self) -> &'static str {
        match self {
            Self::QuickGelu => "quick_gelu",
            Self::Gelu => "gelu",
        }
    }

    fn apply(self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::QuickGelu => quick_gelu(x),
            Self::Gelu => gelu_erf(x),
        }
    }
}

/// What the parts of a layer are called, below the layer's own name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerNames {
    pub(crate) norm1: &'static str,
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) out: &'static str,
    pub(crate) norm2: &'static str,
    pub(crate) fc1: &'static str,
    pub(crate) fc2: &'static str,
}

/// The names of CLIP.
pub(crate) const CLIP: LayerNames = LayerNames {
    norm1: "layer_norm1",
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    out: "self_attn.out_proj",
    norm2: "layer_norm2",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
};

/// The names of ViT.
pub(crate) const VIT: LayerNames = LayerNames {
    norm1: "layernorm_before",
    query: "attention.attention.query",
    key: "attention.attention.key",
    value: "attention.attention.value",
    out: "attention.output.dense",
    norm2: "layernorm_after",
    fc1: "intermediate.dense",
    fc2: "output.dense",
};

/// The sizes of a stack of layers.
#[derive(Clone, Debug)]
pub(crate) struct EncoderPlan {
    /// What stands before the number of a layer (`encoder.layers`).
    pub(crate) at: String,
    pub(crate) names: LayerNames,
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) inner: usize,
    pub(crate) heads: usize,
    pub(crate) eps: f64,
    pub(crate) act: Activation,
}

impl EncoderPlan {
    /// The tensors of all layers.
    pub(crate) fn tensors(&self, names: &mut Names) {
        let (c, f) = (self.width, self.inner);
        for layer in 0..self.layers {
            let at = |part: &str| format!("{}.{layer}.{part}", self.at);
            let LayerNames {
                query,
                key,
                value,
                out,
                ..
            } = self.names;
            names.norm(&at(self.names.norm1), c);
            for part in [query, key, value, out] {
                names.linear(&at(part), [c, c]);
            }
            names.norm(&at(self.names.norm2), c);
            names.linear(&at(self.names.fc1), [f, c]);
            names.linear(&at(self.names.fc2), [c, f]);
        }
    }

    /// The layers.
    pub(crate) fn build(&self, source: &ParamSource<'_>) -> Result<Vec<EncoderLayer>, ModelError> {
        (0..self.layers)
            .map(|layer| EncoderLayer::build(self, layer, source))
            .collect()
    }
}

/// `x + attention(norm1(x))`, then `x + fc2(act(fc1(norm2(x))))`.
#[derive(Clone, Debug)]
pub(crate) struct EncoderLayer {
    norm1: Norm,
    query: AdaptedLinear,
    key: AdaptedLinear,
    value: AdaptedLinear,
    out: AdaptedLinear,
    norm2: Norm,
    fc1: AdaptedLinear,
    fc2: AdaptedLinear,
    heads: usize,
    act: Activation,
}

impl EncoderLayer {
    fn build(
        plan: &EncoderPlan,
        layer: usize,
        source: &ParamSource<'_>,
    ) -> Result<Self, ModelError> {
        let at = |part: &str| format!("{}.{layer}.{part}", plan.at);
        let names = plan.names;
        Ok(Self {
            norm1: Norm::build(source, &at(names.norm1), plan.eps)?,
            query: source.linear(&at(names.query))?,
            key: source.linear(&at(names.key))?,
            value: source.linear(&at(names.value))?,
            out: source.linear(&at(names.out))?,
            norm2: Norm::build(source, &at(names.norm2), plan.eps)?,
            fc1: source.linear(&at(names.fc1))?,
            fc2: source.linear(&at(names.fc2))?,
            heads: plan.heads,
            act: plan.act,
        })
    }

    /// `x: [B, T, C]` to `[B, T, C]`; with `causal` a token attends itself and what stands before it.
    pub(crate) fn forward(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        let h = self.norm1.layer(x.clone());
        let [q, k, v] =
            [&self.query, &self.key, &self.value].map(|linear| linear.forward(h.clone()));
        let scale = ((x.dims()[2] / self.heads) as f64).powf(-0.5);
        let context = attend_full(q, k, v, self.heads, scale, causal);
        let x = x + self.out.forward(context);
        let h = self
            .act
            .apply(self.fc1.forward(self.norm2.layer(x.clone())));
        x + self.fc2.forward(h)
    }

    fn linears(&self) -> [&AdaptedLinear; 6] {
        [
            &self.query,
            &self.key,
            &self.value,
            &self.out,
            &self.fc1,
            &self.fc2,
        ]
    }
}

impl Parts for EncoderLayer {
    fn parts(&self, visit: &mut dyn FnMut(Part<'_>)) {
        self.norm1.parts(visit);
        self.norm2.parts(visit);
        self.linears()
            .into_iter()
            .for_each(|linear| linear.parts(visit));
    }

    fn parts_mut(&mut self, visit: &mut dyn FnMut(PartMut<'_>)) {
        self.norm1.parts_mut(visit);
        self.norm2.parts_mut(visit);
        let linears = [
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.out,
            &mut self.fc1,
            &mut self.fc2,
        ];
        for linear in linears {
            linear.parts_mut(visit);
        }
    }
}
