//! From prompts to pictures.

use std::ops::ControlFlow;

use burn::tensor::{FloatDType, Tensor, TensorData};
use temper_adapters::RandomSource;
use temper_datasets::images::Photo;
use temper_datasets::random::rng;
use temper_models::{ControlEncoder, Scheduler, SchedulerConfig};

use super::{Conditioning, Denoiser, DiffusionError, Guidance, Pipeline};
use crate::device::{Backend, dtype_name};

/// A picture that steers the layout, and the network that reads it.
#[derive(Clone, Debug)]
pub struct Control<'a> {
    /// Reads the hint.
    pub encoder: &'a ControlEncoder,
    /// `[1, 3, H, W]` in 0 to 1, of the pictures' size.
    pub hint: Tensor<4>,
}

/// Which pictures are wanted.
///
/// | field | default | meaning |
/// |---|---|---|
/// | `prompts` | | each gives `count` pictures |
/// | `negative` | empty | what is not drawn, for all prompts |
/// | `seed`, `first` | 0, 0 | a picture depends on seed, its number and its prompt, on nothing beside it |
/// | `steps` | 50 | calls of the network, about |
/// | `guidance` | 7.5, no rescaling | how strongly the prompt is followed |
/// | `width`, `height` | the model's own | pixels, multiples of 8 |
/// | `scheduler` | the pipeline's | how noise is taken away |
/// | `clip_skip` | 0 | last layers of the text encoder that are left out for the prompts; not for the negative one, as in diffusers |
/// | `batch_size` | 4 | pictures at once where a device gains from it; on `cpu` they are drawn one by one |
#[derive(Clone, Debug)]
pub struct SampleRequest<'a> {
    /// Texts.
    pub prompts: Vec<String>,
    /// Text of what is not drawn; `None` is an empty text, or SDXL's zeros.
    pub negative: Option<String>,
    /// Seed of the noise.
    pub seed: u64,
    /// Number of each prompt's first picture.
    pub first: u64,
    /// Pictures of each prompt.
    pub count: usize,
    /// Steps of the scheduler.
    pub steps: usize,
    /// Strength of the prompt.
    pub guidance: Guidance,
    /// Pixels.
    pub width: Option<usize>,
    /// Pixels.
    pub height: Option<usize>,
    /// Another scheduler than the pipeline's.
    pub scheduler: Option<SchedulerConfig>,
    /// Last layers of the text encoder left out, for the prompts.
    pub clip_skip: usize,
    /// Pictures at once.
    pub batch_size: usize,
    /// A picture that steers the layout.
    pub control: Option<Control<'a>>,
}

impl Default for SampleRequest<'_> {
    fn default() -> Self {
        Self {
            prompts: Vec::new(),
            negative: None,
            seed: 0,
            first: 0,
            count: 1,
            steps: 50,
            guidance: Guidance {
                scale: 7.5,
                rescale: 0.0,
            },
            width: None,
            height: None,
            scheduler: None,
            clip_skip: 0,
            batch_size: 4,
            control: None,
        }
    }
}

/// How far the drawing is.
#[derive(Debug)]
pub enum Event<'a> {
    /// So many calls of the network of so many are done.
    Step {
        /// Calls done.
        done: u64,
        /// Calls in all.
        of: u64,
    },
    /// A picture is done.
    Picture {
        /// Which prompt, from 0.
        prompt: usize,
        /// Its number, from `first` on.
        number: u64,
        /// The picture.
        photo: &'a Photo,
    },
}

/// One picture to be drawn.
#[derive(Clone, Copy, Debug)]
struct Task {
    prompt: usize,
    number: u64,
}

/// Draws `request.count` pictures of each prompt, in order. `on_event` may stop the work between two steps.
///
/// The latents' noise is drawn on the host, at the address (seed, number): a picture is the same on every device up to rounding,
/// and on `cpu` the same to the bit whatever is drawn beside it.
///
/// # Errors
/// [`DiffusionError::Option`] for sizes and counts that cannot be; [`DiffusionError::NotFinite`]; [`DiffusionError::Interrupted`]
/// when `on_event` breaks; what the networks refuse.
pub fn sample(
    pipeline: &Pipeline,
    request: &SampleRequest<'_>,
    on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Vec<Photo>, DiffusionError> {
    let run = Run::new(pipeline, request)?;
    let mut photos = Vec::with_capacity(run.tasks.len());
    let at_once = if pipeline.device.backend == Backend::Cpu {
        1
    } else {
        request.batch_size.max(1)
    };
    let of = run.tasks.chunks(at_once).count() as u64 * run.calls;
    for (number, tasks) in run.tasks.chunks(at_once).enumerate() {
        let before = number as u64 * run.calls;
        let mut on_step = |done: usize, _: usize, _: &Tensor<4>| {
            let done = before + done as u64;
            on_event(Event::Step { done, of })
        };
        let latents = run.denoise(tasks, &mut on_step)?;
        for (row, task) in tasks.iter().enumerate() {
            let photo = run.decode(latents.clone().narrow(0, row, 1), *task)?;
            let event = Event::Picture {
                prompt: task.prompt,
                number: task.number,
                photo: &photo,
            };
            if on_event(event).is_break() {
                return Err(DiffusionError::Interrupted);
            }
            photos.push(photo);
        }
    }
    Ok(photos)
}

/// A request, checked, with its prompts encoded.
struct Run<'a> {
    pipeline: &'a Pipeline,
    request: &'a SampleRequest<'a>,
    scheduler: &'a SchedulerConfig,
    tasks: Vec<Task>,
    /// Calls of the network a picture.
    calls: u64,
    prompts: Conditioning,
    negative: Option<Conditioning>,
    height: usize,
    width: usize,
    /// What the control encoder gives, `[1, C0, h, w]`.
    control: Option<Tensor<4>>,
}

impl<'a> Run<'a> {
    fn new(pipeline: &'a Pipeline, request: &'a SampleRequest<'a>) -> Result<Self, DiffusionError> {
        let scheduler = request.scheduler.as_ref().unwrap_or(&pipeline.scheduler);
        let calls = Scheduler::new(scheduler, request.steps)?.calls() as u64;
        let usual = || pipeline.usual_size();
        let width = request.width.unwrap_or_else(usual);
        let height = request.height.unwrap_or_else(usual);
        pipeline.check_size(width, height)?;
        if request.first.checked_add(request.count as u64).is_none() {
            return Err(DiffusionError::Option {
                option: "first",
                found: request.first.to_string(),
                expected: format!("a number below 2^64 - {}", request.count),
            });
        }
        let tasks = (0..request.prompts.len()).flat_map(|prompt| {
            let number = move |number: usize| Task {
                prompt,
                number: request.first + number as u64,
            };
            (0..request.count).map(number)
        });
        let prompts = encode(pipeline, &request.prompts, request.clip_skip)?;
        let negative = request
            .guidance
            .is_on()
            .then(|| negative(pipeline, request, &prompts))
            .transpose()?;
        let control = request.control.as_ref();
        Ok(Self {
            pipeline,
            request,
            scheduler,
            tasks: tasks.collect(),
            calls,
            prompts,
            negative,
            height,
            width,
            control: control
                .map(|control| control.encoder.forward(&control.hint))
                .transpose()?,
        })
    }

    fn denoise(
        &self,
        tasks: &[Task],
        on_step: &mut dyn FnMut(usize, usize, &Tensor<4>) -> ControlFlow<()>,
    ) -> Result<Tensor<4>, DiffusionError> {
        let rows = tasks.len();
        let prompt: Vec<_> = tasks
            .iter()
            .map(|task| self.prompts.repeat(task.prompt, 1))
            .collect();
        let denoiser = Denoiser {
            unet: &self.pipeline.unet,
            scheduler: self.scheduler,
            steps: self.request.steps,
            guidance: self.request.guidance,
            prompt: Conditioning::cat(&prompt),
            negative: self
                .negative
                .as_ref()
                .map(|negative| negative.repeat(0, rows)),
            time_ids: self.pipeline.is_xl().then(|| self.time_ids(rows)),
            control: self
                .control
                .as_ref()
                .map(|control| control.clone().repeat_dim(0, rows)),
        };
        let mut draw = |call: usize| self.noise(tasks, "sample-step", call as u64 + 1);
        denoiser.run(self.noise(tasks, "sample-latents", 0), &mut draw, on_step)
    }

    /// Standard normal numbers, `[rows, C, h, w]`: those of a picture depend on seed and number alone.
    fn noise(&self, tasks: &[Task], purpose: &'static str, call: u64) -> Tensor<4> {
        let factor = self.pipeline.factor();
        let channels = self.pipeline.vae.config().latent_channels;
        let shape = [channels, self.height / factor, self.width / factor];
        let count = shape.iter().product();
        let seed = self.request.seed;
        let mut values = Vec::with_capacity(tasks.len() * count);
        for task in tasks {
            let number = task.number;
            let source = RandomSource::new(move |purpose| rng(seed, purpose, number, call));
            values.extend(source.normal(purpose, count, 1.0));
        }
        let [channels, height, width] = shape;
        let data = TensorData::new(values, [tasks.len(), channels, height, width]);
        Tensor::from_data(data, &self.pipeline.device.device)
    }

    /// SDXL: the picture was never scaled nor cropped.
    fn time_ids(&self, rows: usize) -> Tensor<2> {
        let [height, width] = [self.height, self.width].map(|side| side as f32);
        let ids = [height, width, 0.0, 0.0, height, width].repeat(rows);
        Tensor::from_data(
            TensorData::new(ids, [rows, 6]),
            &self.pipeline.device.device,
        )
    }

    fn decode(&self, latents: Tensor<4>, task: Task) -> Result<Photo, DiffusionError> {
        let not_finite = |place, dtype: FloatDType| DiffusionError::NotFinite {
            prompt: task.prompt,
            number: task.number,
            place,
            dtype: dtype_name(dtype.into()),
        };
        let pipeline = self.pipeline;
        if !is_finite(&latents) {
            return Err(not_finite("the UNet", pipeline.compute));
        }
        let pixels = pipeline.decode(latents);
        if !is_finite(&pixels) {
            return Err(not_finite("the VAE", FloatDType::F32));
        }
        photo(pixels)
    }
}

impl Pipeline {
    /// Whether pictures can have this size.
    ///
    /// # Errors
    /// [`DiffusionError::Option`].
    pub fn check_size(&self, width: usize, height: usize) -> Result<(), DiffusionError> {
        check_side("width", width, self.factor())?;
        check_side("height", height, self.factor())
    }

    /// Scaled latents `[B, C, h, w]` to pixels `[B, 3, H, W]` of about −1 to 1, in f32.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        let config = self.vae.config();
        let latents = latents.cast(FloatDType::F32);
        let latents = latents.div_scalar(config.scaling_factor);
        let latents = latents.add_scalar(config.shift_factor.unwrap_or(0.0));
        self.vae.decode(latents)
    }
}

/// Prompts are encoded one by one: what a text becomes must not depend on those beside it.
fn encode(
    pipeline: &Pipeline,
    prompts: &[String],
    clip_skip: usize,
) -> Result<Conditioning, DiffusionError> {
    let encoded = prompts
        .iter()
        .map(|prompt| pipeline.encode_prompts(std::slice::from_ref(prompt), clip_skip))
        .collect::<Result<Vec<_>, _>>()?;
    if encoded.is_empty() {
        return Err(DiffusionError::NoPrompt);
    }
    Ok(Conditioning::cat(&encoded))
}

/// One row.
fn negative(
    pipeline: &Pipeline,
    request: &SampleRequest<'_>,
    prompts: &Conditioning,
) -> Result<Conditioning, DiffusionError> {
    match &request.negative {
        None if pipeline.index().zeros_for_empty_prompt() => Ok(prompts.repeat(0, 1).zeros()),
        // As diffusers: layers are left out for the prompt alone.
        text => pipeline.encode_prompts(&[text.clone().unwrap_or_default()], 0),
    }
}

/// More pixels a side than any model draws; latents of this size would not fit a memory.
const LARGEST_SIDE: usize = 16_384;

fn check_side(option: &'static str, size: usize, factor: usize) -> Result<(), DiffusionError> {
    if size > 0 && size.is_multiple_of(factor) && size <= LARGEST_SIDE {
        return Ok(());
    }
    let near = (size / factor).clamp(1, LARGEST_SIDE / factor) * factor;
    Err(DiffusionError::Option {
        option,
        found: size.to_string(),
        expected: format!("a multiple of {factor}, such as {near}"),
    })
}

fn is_finite(x: &Tensor<4>) -> bool {
    // A sum of finite values is finite unless they are enormous, and then something is wrong too.
    let sum: f32 = x.clone().abs().sum().into_scalar();
    sum.is_finite()
}

/// `[1, 3, H, W]` of about −1 to 1 as a picture.
pub(crate) fn photo(pixels: Tensor<4>) -> Result<Photo, DiffusionError> {
    let [_, _, height, width] = pixels.dims();
    let Ok(values) = pixels.into_data().try_to_vec::<f32>() else {
        unreachable!("pixels are f32")
    };
    Ok(Photo::from_signed(&values, width, height)?)
}
