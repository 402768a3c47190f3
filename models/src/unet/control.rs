//! The encoder of control images (Qiu et al., arXiv 2306.07280 §4, official code; `ControlNetConditioningEmbedding` of diffusers).
//!
//! Shapes: B images, H × W pixels, C₀ channels of the UNet's first convolution.
//!
//! Deviation from the paper's text, in favour of its code: `SiLU` instead of SELU, and the output is added to that of `conv_in`
//! instead of concatenated.

use std::path::Path;

use burn::tensor::{DType, Device, FloatDType, Tensor};
use serde_json::{Value, json};
use temper_adapters::peft::Module;
use temper_adapters::weights::{Checkpoint, Dtype};
use temper_adapters::{AdaptedConv2d, Parameters, RandomSource};

use super::UnetConfig;
use crate::gradients::{backward_from, collect, tracked};
use crate::keys::{Keys, load_json, size};
use crate::layers::{adapted_by_parts, walked_by_parts};
use crate::names::{Names, count, modules};
use crate::weights::{ParamSource, SaveDirectory};
use crate::{Gradients, ModelError, silu};

/// Where diffusers keeps this module inside a `ControlNet`; also keeps its names apart from the UNet's.
const PREFIX: &str = "controlnet_cond_embedding";

/// The sizes of a control encoder, under the names of diffusers.
///
/// # Examples
/// ```
/// let unet = temper_models::UnetConfig::preset("sd15").unwrap();
/// let config = temper_models::ControlConfig::for_unet(&unet);
/// assert_eq!(config.parameter_count(), 1_086_480);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ControlConfig {
    /// Channels of the hint: 3.
    pub conditioning_channels: usize,
    /// Channels of the output: those of the UNet's first convolution.
    pub conditioning_embedding_channels: usize,
    /// Channels at full, half, quarter and eighth size.
    pub block_out_channels: Vec<usize>,
    json: Value,
}

impl ControlConfig {
    /// The published encoder, 3 → 16 → 16 → 32 → 32 → 96 → 96 → 256 → C₀, for a UNet.
    pub fn for_unet(unet: &UnetConfig) -> Self {
        Self {
            conditioning_channels: 3,
            conditioning_embedding_channels: unet.block_out_channels()[0],
            block_out_channels: vec![16, 32, 96, 256],
            json: json!({}),
        }
    }

    /// Reads `config.json` of a directory.
    ///
    /// # Errors
    /// When the file cannot be read or a key is wrong.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        load_json(&directory.join("config.json"), Self::from_json)
    }

    /// Reads the content of a `config.json`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_json(value: &Value) -> Result<Self, ModelError> {
        const WIDTHS: &str = "block_out_channels";
        const MOST: usize = 1 << 20;
        let keys = Keys(value);
        let list = keys.get(WIDTHS).and_then(Value::as_array);
        let widths: Option<Vec<usize>> = list.and_then(|list| list.iter().map(size).collect());
        let widths = widths
            .filter(|widths| (1..=16).contains(&widths.len()))
            .filter(|widths| widths.iter().all(|width| *width <= MOST))
            .ok_or_else(|| keys.wrong(WIDTHS, "a list of 1 to 16 sizes of at most 1048576"))?;
        let channels = |key: &str| {
            let channels = keys.size(key)?;
            if channels <= MOST {
                return Ok(channels);
            }
            Err(keys.wrong(key, "at most 1048576"))
        };
        Ok(Self {
            conditioning_channels: channels("conditioning_channels")?,
            conditioning_embedding_channels: channels("conditioning_embedding_channels")?,
            block_out_channels: widths,
            json: value.clone(),
        })
    }

    /// The same as a `config.json`, with the keys it was read with.
    pub fn to_json(&self) -> Value {
        let mut value = self.json.clone();
        value["_class_name"] = json!("ControlNetConditioningEmbedding");
        value["conditioning_channels"] = json!(self.conditioning_channels);
        value["conditioning_embedding_channels"] = json!(self.conditioning_embedding_channels);
        value["block_out_channels"] = json!(self.block_out_channels);
        value
    }

    /// How many times larger hints are than the output: 8 for the published encoder.
    pub fn reduction(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Name, inputs, outputs and stride of each convolution.
    fn convs(&self) -> Vec<(String, [usize; 2], usize)> {
        let widths = &self.block_out_channels;
        let first = [self.conditioning_channels, widths[0]];
        let mut convs = vec![(format!("{PREFIX}.conv_in"), first, 1)];
        for (level, pair) in widths.windows(2).enumerate() {
            let name = |number: usize| format!("{PREFIX}.blocks.{number}");
            convs.push((name(2 * level), [pair[0], pair[0]], 1));
            convs.push((name(2 * level + 1), [pair[0], pair[1]], 2));
        }
        let last = [
            widths[widths.len() - 1],
            self.conditioning_embedding_channels,
        ];
        convs.push((format!("{PREFIX}.conv_out"), last, 1));
        convs
    }

    /// Every tensor: name and shape, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut names = Names::default();
        for (name, [inputs, outputs], _) in self.convs() {
            names.conv(&name, [outputs, inputs], 3);
        }
        names.into_tensors()
    }

    /// Every module with parameters.
    pub fn modules(&self) -> Vec<Module> {
        modules(&self.tensors(), |_| false)
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        count(&self.tensors())
    }
}

/// Turns a hint image into what is added to the output of a UNet's first convolution.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, FloatDType, Tensor};
/// use rand_chacha::ChaCha8Rng;
/// use rand_chacha::rand_core::SeedableRng;
/// use temper_adapters::RandomSource;
/// use temper_models::{ControlConfig, ControlEncoder, UnetConfig};
///
/// let device = Device::flex();
/// let random = RandomSource::new(|purpose| ChaCha8Rng::seed_from_u64(purpose.len() as u64));
/// let config = ControlConfig::for_unet(&UnetConfig::preset("sd15")?);
/// let encoder = ControlEncoder::random(config, FloatDType::F32, &device, &random);
/// let control = encoder.forward(&Tensor::ones([1, 3, 16, 16], &device))?;
/// assert_eq!(control.dims(), [1, 320, 2, 2]);
/// assert_eq!(control.abs().max().into_scalar::<f32>(), 0.0); // it starts by changing nothing
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ControlEncoder {
    config: ControlConfig,
    convs: Vec<AdaptedConv2d>,
    compute: DType,
}

impl ControlEncoder {
    fn build(
        config: ControlConfig,
        compute: FloatDType,
        source: &ParamSource,
    ) -> Result<Self, ModelError> {
        let conv = |(name, _, stride): (String, _, usize)| source.conv(&name, stride, 1);
        Ok(Self {
            convs: config
                .convs()
                .into_iter()
                .map(conv)
                .collect::<Result<_, _>>()?,
            config,
            compute: compute.into(),
        })
    }

    /// Random convolutions as PyTorch initialises them; the last one is zero, so that training begins at the base model.
    pub fn random(
        config: ControlConfig,
        compute: FloatDType,
        device: &Device,
        random: &RandomSource,
    ) -> Self {
        let source = ParamSource::random(config.tensors(), compute, device, random);
        let mut encoder = match Self::build(config, compute, &source) {
            Ok(encoder) => encoder,
            Err(error) => unreachable!("nothing is read: {error}"),
        };
        if let Some(last) = encoder.convs.last_mut() {
            last.visit_mut(&mut |param| {
                let zeros = Tensor::<1>::zeros([param.numel()], device).cast(param.dtype());
                param.set(zeros);
            });
        }
        encoder
    }

    /// Loads `directory` (config.json and `diffusion_pytorch_model.safetensors`).
    ///
    /// # Errors
    /// Whatever is wrong with the directory, naming file and tensor.
    pub fn load(
        directory: &Path,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let config = ControlConfig::load(directory)?;
        let checkpoint = Checkpoint::open(directory)?;
        let source = ParamSource::checkpoint(config.tensors(), &checkpoint, compute, device)?;
        Self::build(config, compute, &source)
    }

    /// Writes config.json and safetensors of at most `max_shard_bytes` each, in `dtype`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(
        &self,
        directory: &Path,
        dtype: Dtype,
        max_shard_bytes: u64,
    ) -> Result<(), ModelError> {
        SaveDirectory {
            directory,
            stem: "diffusion_pytorch_model",
            config: &self.config.to_json(),
            dtype,
            max_shard_bytes,
        }
        .write(self, self.config.tensors())
    }

    /// Its sizes.
    pub fn config(&self) -> &ControlConfig {
        &self.config
    }

    /// `hint: [B, 3, H, W]` in [0, 1] to `[B, C₀, H/8, W/8]`, in the compute dtype.
    ///
    /// # Errors
    /// [`ModelError::Input`] for another number of channels, or sizes that are no multiples of 8.
    pub fn forward(&self, hint: &Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let [_, channels, height, width] = hint.dims();
        let reduction = self.config.reduction();
        let wrong = |found, expected| {
            Err(ModelError::Input {
                tensor: "hint",
                found,
                expected,
                hint: "",
            })
        };
        if channels != self.config.conditioning_channels {
            let expected = self.config.conditioning_channels.to_string();
            return wrong(format!("{channels} channels"), expected);
        }
        if !height.is_multiple_of(reduction) || !width.is_multiple_of(reduction) {
            let found = format!("{height} x {width} pixels");
            return wrong(found, format!("multiples of {reduction}"));
        }
        let mut h = hint.clone().cast(self.compute);
        for (index, conv) in self.convs.iter().enumerate() {
            if index > 0 {
                h = silu(h);
            }
            h = conv.forward(h);
        }
        Ok(h)
    }

    /// Adds the gradients of the trained parameters to `sums`, from the gradient of the output (`d_control` of
    /// [`UnetStep`](crate::UnetStep)); the output is computed again.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn accumulate(
        &self,
        hint: &Tensor<4>,
        d_control: Tensor<4>,
        sums: &mut Gradients,
    ) -> Result<(), ModelError> {
        let output = self.forward(hint)?;
        if tracked(&output) {
            let mut gradients = backward_from(output, d_control);
            self.visit(&mut |param| collect(param, &mut gradients, sums));
        }
        Ok(())
    }
}

walked_by_parts!(ControlEncoder { convs });
adapted_by_parts!(ControlEncoder);
