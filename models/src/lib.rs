//! Everything that computes: model architectures and the operations they share.
#![recursion_limit = "256"]

mod clip;
mod encoder;
mod error;
mod gradients;
mod keys;
mod layers;
mod llama;
mod lpips;
mod names;
mod noise;
mod ops;
mod scheduler;
pub mod single_file;
mod unet;
mod vae;
mod vit;
mod weights;

pub use clip::{
    Clip, ClipLayout, ClipText, ClipTextConfig, ClipTextOutput, ClipVision, ClipVisionConfig,
    ClipVisionOutput, Preprocessor, Resize,
};
pub use encoder::{Activation, EncoderSizes, VisionSizes};
pub use error::ModelError;
pub use gradients::{Gradients, collect, pulled};
pub use llama::{Block, KeyValueCache, Llama, LlamaConfig, Segment, TokenBatch};
pub use lpips::{Lpips, LpipsFeatures};
pub use noise::{NoiseSchedule, diffusion_loss, group_weights, offset_noise, perturbed_noise};
pub use ops::{
    Heads, IGNORE, Layout, Rope, RopeScaling, attend, attend_full, attention, cross_entropy_sum,
    geglu, gelu_erf, group_norm, layer_norm, quick_gelu, rms_norm, silu, swiglu, upsample_nearest,
};
pub use scheduler::{
    Algorithm, BetaSchedule, FinalSigma, Prediction, Scheduler, SchedulerConfig, SchedulerKind,
    SolverType, Spacing, Variance, guide, rescale_guidance,
};
pub use unet::{
    AddedConditions, ControlConfig, ControlEncoder, Hidden, TextTime, Unet, UnetConfig, UnetInput,
    UnetStep,
};
pub use vae::{Posterior, Vae, VaeConfig, VaeStep};
pub use vit::{DinoVit, DinoVitConfig};
pub use weights::{device_tensor, host_tensor};
