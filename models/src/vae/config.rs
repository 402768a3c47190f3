//! Sizes of an autoencoder, from `config.json` or a preset.

use std::path::Path;

use burn::tensor::FloatDType;
use serde_json::{Map, Value, json};
use temper_adapters::peft::Module;

use crate::ModelError;
use crate::keys::{Keys, load_json, merged};

/// The architecture of an `AutoencoderKL`, under the names of its `config.json`.
///
/// # Examples
/// ```
/// let config = temper_models::VaeConfig::preset("sd15").unwrap();
/// assert_eq!(config.parameter_count(), 83_653_863);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the file, independent of the others"
)]
pub struct VaeConfig {
    /// Channels of the images.
    pub in_channels: usize,
    /// Channels of the reconstructions.
    pub out_channels: usize,
    /// Width of each level; every level but the last halves the resolution.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks a level in the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
    /// Side length of the images it was trained on, in pixels.
    pub sample_size: usize,
    /// What latents are multiplied by before diffusion; callers do it, not [`Vae`](super::Vae).
    pub scaling_factor: f64,
    /// What is subtracted from latents before they are scaled, if anything.
    pub shift_factor: Option<f64>,
    /// Overflows in f16: its weights are then kept in f32.
    pub force_upcast: bool,
    /// A 1×1 convolution after the encoder.
    pub use_quant_conv: bool,
    /// A 1×1 convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Attention in the middle of encoder and decoder.
    pub mid_block_add_attention: bool,
    /// The file as it was read: keys that mean nothing here are written back.
    pub(crate) source: Map<String, Value>,
}

impl VaeConfig {
    /// Names that [`Self::preset`] knows.
    pub const PRESETS: [&'static str; 3] = ["sd15", "sd21", "sdxl"];

    /// Published sizes: `sd15` and `sd21` (latents scaled by 0.18215), `sdxl` (0.13025). All have 83,653,863 parameters.
    ///
    /// # Errors
    /// [`ModelError::Preset`] for another name.
    pub fn preset(name: &str) -> Result<Self, ModelError> {
        let scaling_factor = match name {
            "sd15" | "sd21" => 0.18215,
            "sdxl" => 0.13025,
            _ => {
                return Err(ModelError::Preset {
                    name: name.to_owned(),
                    known: Self::PRESETS.to_vec(),
                });
            }
        };
        let sample_size = if name == "sdxl" { 1024 } else { 512 };
        Self::from_json(&json!({
            "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
            "scaling_factor": scaling_factor, "sample_size": sample_size,
            "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
        }))
    }

    /// Reads `config.json` of a directory.
    ///
    /// # Errors
    /// When the file cannot be read, a key is wrong, or the architecture is not supported.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        load_json(&directory.join("config.json"), Self::from_json)
    }

    /// Reads the content of a `config.json`. Missing keys mean what they mean in diffusers.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_json(value: &Value) -> Result<Self, ModelError> {
        let keys = Keys(value);
        let widths = keys
            .sizes("block_out_channels")?
            .unwrap_or_else(|| vec![64]);
        check_supported(keys, widths.len())?;
        let config = Self {
            in_channels: keys.size_or("in_channels", 3)?,
            out_channels: keys.size_or("out_channels", 3)?,
            layers_per_block: keys.size_or("layers_per_block", 1)?,
            latent_channels: keys.size_or("latent_channels", 4)?,
            norm_num_groups: keys.size_or("norm_num_groups", 32)?,
            sample_size: keys.size_or("sample_size", 32)?,
            scaling_factor: keys.number("scaling_factor")?.unwrap_or(0.18215),
            shift_factor: keys.number("shift_factor")?,
            force_upcast: keys.flag_or("force_upcast", true)?,
            use_quant_conv: keys.flag_or("use_quant_conv", true)?,
            use_post_quant_conv: keys.flag_or("use_post_quant_conv", true)?,
            mid_block_add_attention: keys.flag_or("mid_block_add_attention", true)?,
            block_out_channels: widths,
            source: value.as_object().cloned().unwrap_or_default(),
        };
        config.check()
    }

    fn check(self) -> Result<Self, ModelError> {
        let wrong = |key: &str, found: String, expected| Err(ModelError::key(key, found, expected));
        let groups = self.norm_num_groups;
        if let Some(width) = self
            .block_out_channels
            .iter()
            .find(|width| !width.is_multiple_of(groups))
        {
            return wrong(
                "block_out_channels",
                width.to_string(),
                "multiples of `norm_num_groups`",
            );
        }
        if self.block_out_channels.len() > 12 || self.layers_per_block > 100 {
            let found = format!(
                "{} levels of {}",
                self.block_out_channels.len(),
                self.layers_per_block
            );
            return wrong(
                "block_out_channels",
                found,
                "at most 12 levels of 100 layers",
            );
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.0) {
            return wrong(
                "scaling_factor",
                self.scaling_factor.to_string(),
                "a number above 0",
            );
        }
        Ok(self)
    }

    /// The same as a `config.json`; keys that were read and mean nothing here are kept.
    pub fn to_json(&self) -> Value {
        let levels = self.block_out_channels.len();
        let ours = json!({
            "_class_name": "AutoencoderKL", "_diffusers_version": "0.42.1", "act_fn": "silu",
            "block_out_channels": self.block_out_channels,
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "force_upcast": self.force_upcast, "in_channels": self.in_channels,
            "latent_channels": self.latent_channels, "latents_mean": null, "latents_std": null,
            "layers_per_block": self.layers_per_block,
            "mid_block_add_attention": self.mid_block_add_attention,
            "norm_num_groups": self.norm_num_groups, "out_channels": self.out_channels,
            "sample_size": self.sample_size, "scaling_factor": self.scaling_factor,
            "shift_factor": self.shift_factor,
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
            "use_post_quant_conv": self.use_post_quant_conv, "use_quant_conv": self.use_quant_conv,
        });
        merged(&self.source, ours, &["_class_name", "_diffusers_version"])
    }

    /// How many times smaller latents are than images, along each side.
    pub fn downscale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// The dtype its matrices are kept in when `compute` is asked for: f32 instead of f16 where f16 would overflow.
    pub fn compute(&self, compute: FloatDType) -> FloatDType {
        if self.force_upcast && compute == FloatDType::F16 {
            FloatDType::F32
        } else {
            compute
        }
    }

    /// Width of the outermost level.
    pub(super) fn first_width(&self) -> usize {
        self.block_out_channels[0]
    }

    /// Width of the innermost level.
    pub(super) fn inner_width(&self) -> usize {
        self.block_out_channels[self.block_out_channels.len() - 1]
    }

    /// Values that decoding latents of this height and width holds at its fullest, about. Attention is taken to keep no scores.
    pub fn decode_values(&self, [height, width]: [usize; 2]) -> u64 {
        super::coder::decode_values(self, height as u64 * width as u64)
    }

    /// Every tensor of the checkpoint: name and shape, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        super::coder::tensors(self)
    }

    /// Every module with parameters, known from the sizes alone.
    pub fn modules(&self) -> Vec<Module> {
        crate::names::modules(&self.tensors(), |_| false)
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        crate::names::count(&self.tensors())
    }
}

fn check_supported(keys: Keys<'_>, levels: usize) -> Result<(), ModelError> {
    let unsupported = |what: String, hint| Err(ModelError::Unsupported { what, hint });
    let act = keys.text("act_fn")?.unwrap_or("silu");
    if act != "silu" {
        return unsupported(format!("act_fn `{act}`"), "supported is silu");
    }
    for (key, only) in [
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ] {
        let Some(types) = keys.texts(key)? else {
            continue;
        };
        if let Some(other) = types.iter().find(|kind| **kind != only) {
            return unsupported(
                format!("block type `{other}`"),
                "supported are DownEncoderBlock2D and UpDecoderBlock2D",
            );
        }
        if types.len() != levels {
            return Err(ModelError::key(
                key,
                format!("a list of {}", types.len()),
                "as many entries as `block_out_channels`",
            ));
        }
    }
    for key in ["latents_mean", "latents_std"] {
        if keys.get(key).is_some() {
            return unsupported(
                format!("`{key}`"),
                "latents are normalised by `scaling_factor` and `shift_factor` alone",
            );
        }
    }
    Ok(())
}
