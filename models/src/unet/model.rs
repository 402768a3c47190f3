//! The network: inputs, forward pass, outputs of main modules.
//!
//! Shapes: B images, H × W latent pixels, S text tokens, D text width, T width of the time embedding.

use burn::tensor::{DType, Device, FloatDType, Tensor};
use temper_adapters::Parameters;

use super::UnetConfig;
use super::embedding::Embeddings;
use super::segment::{Conditions, Segment};
use crate::ModelError;
use crate::layers::{adapted_by_parts, walked_by_parts};
use crate::weights::ParamSource;

/// What a UNet takes, under the names of diffusers. Every float dtype is accepted; values are cast to the compute dtype.
#[derive(Clone, Debug)]
pub struct UnetInput {
    /// Noisy latents `[B, in_channels, H, W]`, any H and W.
    pub sample: Tensor<4>,
    /// The time step of each image, B values; fractional steps are allowed.
    pub timesteps: Vec<f32>,
    /// Text embeddings `[B, S, cross_attention_dim]`.
    pub encoder_hidden_states: Tensor<3>,
    /// SDXL's extra conditions; needed exactly when the configuration asks for them.
    pub added: Option<AddedConditions>,
    /// Added to the output of `conv_in`: `[B, block_out_channels[0], H, W]`, from [`ControlEncoder`](crate::ControlEncoder).
    pub control: Option<Tensor<4>>,
}

/// SDXL's extra conditions.
#[derive(Clone, Debug)]
pub struct AddedConditions {
    /// Pooled text embeddings `[B, 1280]`.
    pub text_embeds: Tensor<2>,
    /// `[B, 6]`: original height and width, top and left of the crop, target height and width, in pixels.
    pub time_ids: Tensor<2>,
}

/// The output of a main module (`conv_in`, `time_embedding`, `down_blocks.N`, `mid_block`, `up_blocks.N`).
#[derive(Clone, Debug)]
pub struct Hidden {
    /// The module's path.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Values, flat, in the compute dtype.
    pub values: Tensor<1>,
}

impl Hidden {
    fn new<const D: usize>(name: &str, value: &Tensor<D>) -> Self {
        let shape = value.dims().to_vec();
        let n: usize = shape.iter().product();
        Self {
            name: name.to_owned(),
            shape,
            values: value.clone().reshape([n]),
        }
    }
}

/// A denoising UNet.
///
/// # Examples
/// ```no_run
/// use burn::tensor::{Device, FloatDType, Tensor};
/// use temper_models::{Unet, UnetInput};
///
/// let device = Device::flex();
/// let unet = Unet::load("stable-diffusion-v1-5/unet".as_ref(), FloatDType::F32, &device)?;
/// let prediction = unet.forward(&UnetInput {
///     sample: Tensor::zeros([1, 4, 64, 64], &device),
///     timesteps: vec![999.0],
///     encoder_hidden_states: Tensor::zeros([1, 77, 768], &device),
///     added: None,
///     control: None,
/// })?;
/// assert_eq!(prediction.dims(), [1, 4, 64, 64]);
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Unet {
    pub(super) config: UnetConfig,
    pub(super) embeddings: Embeddings,
    pub(super) segments: Vec<Segment>,
    pub(super) compute: DType,
}

impl Unet {
    /// Builds the tree from its parameters.
    pub(super) fn build(
        config: UnetConfig,
        compute: FloatDType,
        source: &ParamSource,
    ) -> Result<Self, ModelError> {
        let segment = |plan| Segment::build(source, &config, plan);
        let segments = config
            .plan()
            .into_iter()
            .map(segment)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            embeddings: Embeddings::build(source, &config)?,
            segments,
            config,
            compute: compute.into(),
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// The device of its weights.
    pub fn device(&self) -> Device {
        let mut device = None;
        self.visit(&mut |param| {
            device.get_or_insert_with(|| param.plain().device());
        });
        let Some(device) = device else {
            unreachable!("a UNet has parameters")
        };
        device
    }

    /// The prediction (noise or velocity, as it was trained) `[B, out_channels, H, W]`, in f32.
    ///
    /// # Errors
    /// [`ModelError::Input`] when an input does not fit the configuration.
    pub fn forward(&self, input: &UnetInput) -> Result<Tensor<4>, ModelError> {
        self.walk(input, |_| {})
    }

    /// The same, and the outputs of the main modules in the order in which they are computed.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_with_hidden(
        &self,
        input: &UnetInput,
    ) -> Result<(Tensor<4>, Vec<Hidden>), ModelError> {
        let mut hidden = Vec::new();
        let output = self.walk(input, |module| hidden.push(module))?;
        Ok((output, hidden))
    }

    fn walk(
        &self,
        input: &UnetInput,
        mut observe: impl FnMut(Hidden),
    ) -> Result<Tensor<4>, ModelError> {
        self.config.check_input(input)?;
        let time = self.time(input);
        observe(Hidden::new("time_embedding", &time));
        let conditions = self.conditions(input, time);
        let mut h = input.sample.clone().cast(self.compute);
        let mut skips: Vec<Tensor<4>> = Vec::new();
        for segment in &self.segments {
            let skip = if segment.pops { skips.pop() } else { None };
            let size = size_of(skips.last().unwrap_or(&h));
            h = segment.forward(h, skip, size, &conditions);
            if segment.pushes {
                skips.push(h.clone());
            }
            if let Some(name) = &segment.ends {
                observe(Hidden::new(name, &h));
            }
        }
        Ok(h.cast(FloatDType::F32))
    }

    /// The output of `time_embedding`, `[B, T]`.
    pub(super) fn time(&self, input: &UnetInput) -> Tensor<2> {
        let device = crate::ops::plain(&input.sample).device();
        self.embeddings
            .time(&input.timesteps, &device, self.compute)
    }

    /// What all segments look at.
    pub(super) fn conditions(&self, input: &UnetInput, time: Tensor<2>) -> Conditions {
        let control = input.control.clone();
        Conditions {
            emb: self
                .embeddings
                .combine(time, input.added.as_ref(), self.compute),
            text: input.encoder_hidden_states.clone().cast(self.compute),
            control: control.map(|control| control.cast(self.compute)),
        }
    }
}

/// Height and width.
pub(super) fn size_of(x: &Tensor<4>) -> [usize; 2] {
    let [_, _, height, width] = x.dims();
    [height, width]
}

impl UnetConfig {
    /// Refuses inputs that do not fit, naming tensor and sizes.
    ///
    /// # Errors
    /// [`ModelError::Input`].
    pub fn check_input(&self, input: &UnetInput) -> Result<(), ModelError> {
        let [batch, channels, height, width] = input.sample.dims();
        same(
            "sample",
            "channels",
            channels,
            self.in_channels,
            "; do VAE and UNet belong together?",
        )?;
        if batch * height * width == 0 {
            let found = format!("shape {:?}", input.sample.dims());
            return misfit("sample", found, "at least one image and one pixel", "");
        }
        let steps = input.timesteps.len();
        same("timestep", "values", steps, batch, ", one for each image")?;
        if let Some(step) = input.timesteps.iter().find(|step| !step.is_finite()) {
            let found = format!("the value {step}");
            return misfit("timestep", found, "finite numbers", "");
        }
        self.check_text(batch, input.encoder_hidden_states.dims())?;
        let expected = [batch, self.block_out_channels[0], height, width];
        if let Some(control) = input.control.as_ref().map(Tensor::dims)
            && control != expected
        {
            let (found, expected) = (format!("shape {control:?}"), format!("{expected:?}"));
            let hint = "; hints have 8 times the height and width of the latents";
            return misfit("control", found, expected, hint);
        }
        self.check_added(batch, input.added.as_ref())
    }

    fn check_text(
        &self,
        batch: usize,
        [texts, tokens, width]: [usize; 3],
    ) -> Result<(), ModelError> {
        const TEXT: &str = "encoder_hidden_states";
        same(TEXT, "rows", texts, batch, ", one for each image")?;
        same(
            TEXT,
            "columns",
            width,
            self.cross_attention_dim,
            "; do text encoder and UNet belong together?",
        )?;
        if tokens == 0 {
            return misfit(TEXT, "no tokens", "at least one", "");
        }
        Ok(())
    }

    fn check_added(&self, batch: usize, added: Option<&AddedConditions>) -> Result<(), ModelError> {
        const TEXT: &str = "text_embeds";
        let (addition, added) = match (self.addition, added) {
            (None, None) => return Ok(()),
            (Some(_), None) => {
                let hint = " (`addition_embed_type` is text_time, as in SDXL)";
                return misfit(TEXT, "no value", "it together with `time_ids`", hint);
            }
            (None, Some(_)) => {
                let hint = " (`addition_embed_type` is null, as in Stable Diffusion 1 and 2)";
                return misfit(TEXT, "a value", "none", hint);
            }
            (Some(addition), Some(added)) => (addition, added),
        };
        let [texts, width] = added.text_embeds.dims();
        let [rows, count] = added.time_ids.dims();
        same(TEXT, "rows", texts, batch, ", one for each image")?;
        same("time_ids", "rows", rows, batch, ", one for each image")?;
        let all = width + count * addition.time_embed_dim;
        if all != addition.input_dim {
            let found = format!("{width} columns beside {count} `time_ids`, {all} values embedded");
            let expected = format!("{} values", addition.input_dim);
            let hint = " (`projection_class_embeddings_input_dim`)";
            return misfit(TEXT, found, expected, hint);
        }
        Ok(())
    }
}

fn same(
    tensor: &'static str,
    unit: &str,
    found: usize,
    expected: usize,
    hint: &'static str,
) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    misfit(
        tensor,
        format!("{found} {unit}"),
        expected.to_string(),
        hint,
    )
}

fn misfit(
    tensor: &'static str,
    found: impl Into<String>,
    expected: impl Into<String>,
    hint: &'static str,
) -> Result<(), ModelError> {
    Err(ModelError::Input {
        tensor,
        found: found.into(),
        expected: expected.into(),
        hint,
    })
}

walked_by_parts!(Unet {
    embeddings,
    segments
});
adapted_by_parts!(Unet);
