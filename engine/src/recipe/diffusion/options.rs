//! `[diffusion]`: what is trained, and the loss.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `[diffusion]` section.
///
/// ```
/// # use temper_engine::recipe::{Diffusion, Trained};
/// let diffusion = Diffusion::default();
/// assert_eq!(diffusion.train, Trained::Unet);
/// assert!(diffusion.snr_gamma.is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Diffusion {
    /// The network that is trained.
    pub train: Trained,
    /// Train the text encoder as well, by the same method. Helps with faces; costs memory.
    pub train_text_encoder: bool,
    /// Learning rate of the text encoder. Default: half of `train.lr`.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub text_encoder_lr: Option<f64>,
    /// What the model predicts. Default: what its scheduler says.
    pub prediction_type: Option<PredictionType>,
    /// Bound on the weight of timesteps with little noise (min-SNR, arXiv 2303.09556; 5 there).
    /// Left out: every timestep weighs the same.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub snr_gamma: Option<f64>,
    /// Strength of a shift of the noise that a whole image shares, so that very dark and very bright
    /// images can be learned; 0.05 to 0.1 where it is wanted.
    #[schemars(range(min = 0, max = 1))]
    pub offset_noise: f64,
    /// Strength of further noise on the input that is not to be predicted (arXiv 2301.11706; 0.1
    /// there).
    #[schemars(range(min = 0, max = 1))]
    pub input_perturbation: f64,
    /// Shift the noise process so that the last timestep is pure noise (arXiv 2305.08891). Needs
    /// `prediction_type = "v_prediction"`.
    pub zero_terminal_snr: bool,
    /// Keep a running mean of the trained parameters, with this decay at its largest: it makes the
    /// samples and is the result. 0.9999 is usual for long runs. Left out: none.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub ema_decay: Option<f64>,
    /// Take the text from so many layers before the last, as in diffusers: 0 or left out is the
    /// last layer.
    #[schemars(range(max = 11))]
    pub clip_skip: Option<usize>,
    /// Learn to follow an image beside the prompt (arXiv 2306.07280, section 5.2): an encoder of
    /// that image is trained with the adapter.
    pub control: Option<Control>,
    /// Canny: an edge begins where the gradient exceeds this.
    #[schemars(range(min = 0))]
    pub canny_high: f32,
    /// Canny: an edge goes on where the gradient exceeds this.
    #[schemars(range(min = 0))]
    pub canny_low: f32,
    /// With `train = "vae"`: weight of the divergence from a normal distribution (1e-6 in the
    /// autoencoders of Stable Diffusion).
    #[schemars(range(min = 0))]
    pub kl_weight: f64,
}

impl Default for Diffusion {
    fn default() -> Self {
        Self {
            train: Trained::default(),
            train_text_encoder: false,
            text_encoder_lr: None,
            prediction_type: None,
            snr_gamma: None,
            offset_noise: 0.0,
            input_perturbation: 0.0,
            zero_terminal_snr: false,
            ema_decay: None,
            clip_skip: None,
            control: None,
            canny_high: 200.0,
            canny_low: 100.0,
            kl_weight: 1e-6,
        }
    }
}

/// The network that is trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trained {
    /// The one that removes noise.
    #[default]
    Unet,
    /// The autoencoder, by reconstruction.
    Vae,
}

/// What the model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The velocity `√ᾱ ε − √(1−ᾱ) x` (arXiv 2202.00512).
    VPrediction,
    /// The image.
    Sample,
}

impl PredictionType {
    /// The value as it is written in a recipe and in `scheduler_config.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::VPrediction => "v_prediction",
            Self::Sample => "sample",
        }
    }
}

/// The image that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    /// Edges, found in the training images themselves.
    Canny,
    /// The picture that `conditioning_image` names in each line of `metadata.jsonl`: label maps,
    /// landmarks, depth.
    Metadata,
}
