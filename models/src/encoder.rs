//! The pre-norm transformer encoder of text and image encoders: one implementation, its names by table.
//!
//! Shapes: B rows, T tokens, H heads, C model width, F feed-forward width.

use burn::tensor::Tensor;
use temper_adapters::AdaptedLinear;

use crate::ModelError;
use crate::keys::Keys;
use crate::layers::{Norm, walked_by_parts};
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

/// The sizes of the transformer of a text or image encoder, under the names of its `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSizes {
    /// Model width C.
    pub hidden_size: usize,
    /// Feed-forward width F.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Added to the variance in norms.
    pub layer_norm_eps: f64,
    /// Non-linearity of the feed-forward networks.
    pub hidden_act: Activation,
}

impl EncoderSizes {
    /// The sizes that `keys` give, those of `missing` where they give none.
    pub(crate) fn read(keys: Keys<'_>, missing: &Self) -> Result<Self, ModelError> {
        let act = keys.text("hidden_act")?;
        let sizes = Self {
            hidden_size: keys.size_or("hidden_size", missing.hidden_size)?,
            intermediate_size: keys.size_or("intermediate_size", missing.intermediate_size)?,
            num_hidden_layers: keys.size_or("num_hidden_layers", missing.num_hidden_layers)?,
            num_attention_heads: keys
                .size_or("num_attention_heads", missing.num_attention_heads)?,
            layer_norm_eps: keys
                .number("layer_norm_eps")?
                .unwrap_or(missing.layer_norm_eps),
            hidden_act: act.map_or(Ok(missing.hidden_act), Activation::from_name)?,
        };
        sizes.check()
    }

    /// Refuses what no checkpoint has and the forward pass could not take.
    fn check(self) -> Result<Self, ModelError> {
        let wrong = |key: &str, found: usize, expected| Err(ModelError::key(key, found, expected));
        let (layers, heads) = (self.num_hidden_layers, self.num_attention_heads);
        if layers > 10_000 {
            return wrong("num_hidden_layers", layers, "at most 10000");
        }
        if !self.hidden_size.is_multiple_of(heads) {
            return wrong("num_attention_heads", heads, "a divisor of `hidden_size`");
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            let found = self.layer_norm_eps;
            return Err(ModelError::key("layer_norm_eps", found, "a number above 0"));
        }
        Ok(self)
    }
}

/// The sizes of an encoder of images in patches, under the names of its `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionSizes {
    /// Side length of the images it was trained on, in pixels.
    pub image_size: usize,
    /// Side length of a patch, in pixels.
    pub patch_size: usize,
    /// Channels of images.
    pub num_channels: usize,
    /// Its transformer.
    pub encoder: EncoderSizes,
}

impl VisionSizes {
    /// The sizes that `keys` give; without them those of the base model with patches of `patch_size`.
    pub(crate) fn read(
        keys: Keys<'_>,
        patch_size: usize,
        layer_norm_eps: f64,
        hidden_act: Activation,
    ) -> Result<Self, ModelError> {
        let base = EncoderSizes {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            layer_norm_eps,
            hidden_act,
        };
        let sizes = Self {
            image_size: keys.size_or("image_size", 224)?,
            patch_size: keys.size_or("patch_size", patch_size)?,
            num_channels: keys.size_or("num_channels", 3)?,
            encoder: EncoderSizes::read(keys, &base)?,
        };
        if sizes.patch_size > sizes.image_size {
            return Err(keys.wrong("patch_size", "at most `image_size`"));
        }
        Ok(sizes)
    }

    /// Patches of a trained image along each side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// A stack of layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncoderPlan<'a> {
    /// What stands before the number of a layer (`encoder.layers`).
    pub(crate) at: &'static str,
    pub(crate) names: LayerNames,
    pub(crate) sizes: &'a EncoderSizes,
}

impl EncoderPlan<'_> {
    /// The tensors of all layers.
    pub(crate) fn tensors(&self, names: &mut Names) {
        let (c, f) = (self.sizes.hidden_size, self.sizes.intermediate_size);
        for layer in 0..self.sizes.num_hidden_layers {
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
        (0..self.sizes.num_hidden_layers)
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
        plan: &EncoderPlan<'_>,
        layer: usize,
        source: &ParamSource<'_>,
    ) -> Result<Self, ModelError> {
        let at = |part: &str| format!("{}.{layer}.{part}", plan.at);
        let names = plan.names;
        Ok(Self {
            norm1: Norm::build(source, &at(names.norm1), plan.sizes.layer_norm_eps)?,
            query: source.linear(&at(names.query))?,
            key: source.linear(&at(names.key))?,
            value: source.linear(&at(names.value))?,
            out: source.linear(&at(names.out))?,
            norm2: Norm::build(source, &at(names.norm2), plan.sizes.layer_norm_eps)?,
            fc1: source.linear(&at(names.fc1))?,
            fc2: source.linear(&at(names.fc2))?,
            heads: plan.sizes.num_attention_heads,
            act: plan.sizes.hidden_act,
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
}

walked_by_parts!(EncoderLayer {
    norm1,
    norm2,
    query,
    key,
    value,
    out,
    fc1,
    fc2
});
