//! `[adapter]`: which parameters are trained. Keys carry PEFT's names and meaning.
//!
//! One flat table: `kind` decides which of the other keys apply, and a key of another kind is an
//! error.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::data::OneOrMany;

/// The `[adapter]` section. Left out, every parameter of the model is trained.
///
/// ```
/// # use temper_engine::recipe::{Adapter, AdapterKind, Method};
/// let adapter = Adapter { kind: AdapterKind::Oft, ..Adapter::default() };
/// let Method::Oft(oft) = adapter.method() else { unreachable!() };
/// assert_eq!((oft.oft_block_size, oft.r), (32, 0));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["kind"]))]
pub struct Adapter {
    /// The method.
    pub kind: AdapterKind,
    /// Layers to adapt: a list of name endings such as `["q_proj", "v_proj"]`, `"all-linear"`
    /// (every linear layer but the output head), or a regular expression over whole layer names.
    #[schemars(extend("default" = "all-linear"))]
    pub target_modules: Option<OneOrMany>,
    /// Layers to leave alone, written like `target_modules` and applied first.
    pub exclude_modules: Option<OneOrMany>,
    /// Adapt only the decoder layers with these indices, counted from 0.
    #[schemars(length(min = 1))]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Name of the list that holds the layers, when `layers_to_transform` must not guess it
    /// (`"layers"`).
    pub layers_pattern: Option<OneOrMany>,
    /// Modules that are trained in full beside the adapter, and saved with it.
    pub modules_to_save: Option<Vec<String>>,
    /// Which biases are trained as well.
    #[schemars(extend("default" = "none"))]
    pub bias: Option<Bias>,
    /// Adapter directory or hub name in PEFT layout to continue from, instead of starting at
    /// identity. Text encoders continue from those beside it in its run.
    pub init_from: Option<String>,

    /// OFT: number of rotation blocks (0 when `oft_block_size` is set). LoRA: the rank (default 8).
    pub r: Option<usize>,

    /// OFT: side of a rotation block; a layer whose width it does not divide takes the nearest
    /// divisor.
    #[schemars(extend("default" = 32))]
    pub oft_block_size: Option<usize>,
    /// OFT: keep each block close to identity (constrained OFT, arXiv 2306.07280).
    #[schemars(extend("default" = false))]
    pub coft: Option<bool>,
    /// OFT with `coft = true`: how far a block may move; its meaning is set by `eps_scaling`.
    #[schemars(extend("default" = 6e-5, "exclusiveMinimum" = 0))]
    pub eps: Option<f64>,
    /// OFT with `coft = true`: how `eps` becomes the largest Frobenius norm of a block's generator.
    #[schemars(extend("default" = "peft"))]
    pub eps_scaling: Option<EpsScaling>,
    /// OFT: all blocks of a layer share one rotation.
    #[schemars(extend("default" = false))]
    pub block_share: Option<bool>,
    /// OFT: build rotations from a Neumann series (`OFTv2`, arXiv 2506.19847) instead of an exact
    /// inverse. The two conventions are transposes of each other: an adapter keeps the one it was
    /// trained with.
    #[schemars(extend("default" = true))]
    pub use_cayley_neumann: Option<bool>,
    /// OFT with `use_cayley_neumann = true`: terms of the series. 2 is crude; 3 and 4 are the same
    /// series.
    #[schemars(range(min = 2, max = 64), extend("default" = 5))]
    pub num_cayley_neumann_terms: Option<usize>,
    /// OFT: accepted for PEFT's sake and must be 0, because it has no effect in PEFT.
    #[schemars(range(min = 0, max = 1), extend("default" = 0.0))]
    pub module_dropout: Option<f64>,

    /// LoRA: the update is scaled by `lora_alpha / r`.
    #[schemars(extend("default" = 8.0, "exclusiveMinimum" = 0))]
    pub lora_alpha: Option<f64>,
    /// LoRA: dropout on the input of the update, at least 0 and below 1.
    #[schemars(extend("default" = 0.0, "minimum" = 0, "exclusiveMaximum" = 1))]
    pub lora_dropout: Option<f64>,
    /// LoRA: scale by `lora_alpha / sqrt(r)` instead (rsLoRA).
    #[schemars(extend("default" = false))]
    pub use_rslora: Option<bool>,
    /// LoRA: learn direction and magnitude apart (DoRA).
    #[schemars(extend("default" = false))]
    pub use_dora: Option<bool>,
    /// LoRA: ranks of single layers, by name ending or regular expression.
    pub rank_pattern: Option<BTreeMap<String, usize>>,
    /// LoRA: alphas of single layers, by name ending or regular expression.
    pub alpha_pattern: Option<BTreeMap<String, f64>>,
}

/// Fine-tuning method.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// Train every parameter of the model.
    #[default]
    Full,
    /// Orthogonal fine-tuning: frozen weights, trained block-diagonal rotations.
    Oft,
    /// Low-rank adaptation: frozen weights, trained low-rank updates.
    Lora,
}

impl AdapterKind {
    /// The value as it is written in a recipe.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Oft => "oft",
            Self::Lora => "lora",
        }
    }
}

/// Which biases are trained beside the adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// Every bias of the model.
    All,
    /// The biases of the layers that OFT adapts.
    OftOnly,
    /// The biases of the layers that LoRA adapts.
    LoraOnly,
}

/// How COFT's `eps` becomes the bound on the norm of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EpsScaling {
    /// `eps / sqrt(blocks)`, as PEFT does. Its default `eps` leaves the model practically frozen.
    #[default]
    Peft,
    /// `eps * block_size^2 / sqrt(blocks)`, as the authors' program does.
    Official,
}

/// The method with every default filled in.
///
/// ```
/// # use temper_engine::recipe::{Adapter, Method};
/// assert_eq!(Adapter::default().method(), Method::Full);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Train every parameter.
    Full,
    /// Orthogonal fine-tuning.
    Oft(OftOptions),
    /// Low-rank adaptation.
    Lora(LoraOptions),
}

/// Options of OFT; names and meaning as in [`Adapter`].
#[derive(Debug, Clone, PartialEq)]
pub struct OftOptions {
    /// Side of a block, or 0 when `r` counts the blocks.
    pub oft_block_size: usize,
    /// Number of blocks, or 0 when `oft_block_size` is set.
    pub r: usize,
    /// Constrained OFT.
    pub coft: bool,
    /// COFT's bound.
    pub eps: f64,
    /// Meaning of `eps`.
    pub eps_scaling: EpsScaling,
    /// One rotation for all blocks of a layer.
    pub block_share: bool,
    /// Neumann series instead of the exact inverse.
    pub use_cayley_neumann: bool,
    /// Terms of the series.
    pub num_cayley_neumann_terms: usize,
}

/// Options of LoRA; names and meaning as in [`Adapter`].
#[derive(Debug, Clone, PartialEq)]
pub struct LoraOptions {
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Dropout on the input.
    pub lora_dropout: f64,
    /// Scale by the root of the rank.
    pub use_rslora: bool,
    /// Learn the magnitude apart.
    pub use_dora: bool,
    /// Ranks of single layers.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas of single layers.
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Adapter {
    /// The options that belong to `kind`, defaults included; keys of other kinds are ignored.
    pub fn method(&self) -> Method {
        match self.kind {
            AdapterKind::Full => Method::Full,
            AdapterKind::Oft => Method::Oft(self.oft()),
            AdapterKind::Lora => Method::Lora(self.lora()),
        }
    }

    fn oft(&self) -> OftOptions {
        let r = self.r.unwrap_or(0);
        OftOptions {
            oft_block_size: self.oft_block_size.unwrap_or(if r == 0 { 32 } else { 0 }),
            r,
            coft: self.coft.unwrap_or(false),
            eps: self.eps.unwrap_or(6e-5),
            eps_scaling: self.eps_scaling.unwrap_or_default(),
            block_share: self.block_share.unwrap_or(false),
            use_cayley_neumann: self.use_cayley_neumann.unwrap_or(true),
            num_cayley_neumann_terms: self.num_cayley_neumann_terms.unwrap_or(5),
        }
    }

    fn lora(&self) -> LoraOptions {
        LoraOptions {
            r: self.r.unwrap_or(8),
            lora_alpha: self.lora_alpha.unwrap_or(8.0),
            lora_dropout: self.lora_dropout.unwrap_or(0.0),
            use_rslora: self.use_rslora.unwrap_or(false),
            use_dora: self.use_dora.unwrap_or(false),
            rank_pattern: self.rank_pattern.clone().unwrap_or_default(),
            alpha_pattern: self.alpha_pattern.clone().unwrap_or_default(),
        }
    }

    /// Writes the defaults of the kind into the fields, so that a saved recipe shows them all.
    pub(super) fn fill_defaults(&mut self) {
        let method = self.method();
        if method != Method::Full {
            self.target_modules
                .get_or_insert_with(|| OneOrMany::One("all-linear".into()));
            self.bias.get_or_insert_default();
        }
        match method {
            Method::Full => {}
            Method::Oft(oft) => self.fill_oft(&oft),
            Method::Lora(lora) => self.fill_lora(&lora),
        }
    }

    fn fill_oft(&mut self, oft: &OftOptions) {
        self.oft_block_size = Some(oft.oft_block_size);
        self.r = Some(oft.r);
        self.coft = Some(oft.coft);
        self.block_share = Some(oft.block_share);
        self.use_cayley_neumann = Some(oft.use_cayley_neumann);
        if oft.coft {
            self.eps = Some(oft.eps);
            self.eps_scaling = Some(oft.eps_scaling);
        }
        if oft.use_cayley_neumann {
            self.num_cayley_neumann_terms = Some(oft.num_cayley_neumann_terms);
        }
    }

    fn fill_lora(&mut self, lora: &LoraOptions) {
        self.r = Some(lora.r);
        self.lora_alpha = Some(lora.lora_alpha);
        self.lora_dropout = Some(lora.lora_dropout);
        self.use_rslora = Some(lora.use_rslora);
        self.use_dora = Some(lora.use_dora);
    }
}
