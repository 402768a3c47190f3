//! `[sample]` and `[validation]` of a diffusion recipe: what one sees of a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Images, Trained};

/// Samplers that `sample.scheduler` may name.
pub const SAMPLERS: &[&str] = &[
    "ddpm",
    "ddim",
    "pndm",
    "euler",
    "euler_karras",
    "euler_ancestral",
    "heun",
    "heun_karras",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_karras",
    "unipc",
];

/// The `[sample]` section of a diffusion recipe: images made with the same noise before, during and after training.
///
/// ```
/// # use temper_engine::recipe::ImageSample;
/// let sample = ImageSample::default();
/// assert_eq!((sample.count, sample.guidance_scale), (4, 7.5));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSample {
    /// Prompts. Default: `images.instance_prompt`; without one there are no samples.
    #[schemars(length(min = 1))]
    pub prompts: Option<Vec<String>>,
    /// What the images should not show.
    pub negative_prompt: String,
    /// Make them every so many steps; 0 only before the first and after the last.
    pub every: usize,
    /// Images of each prompt, side by side; 0 makes none.
    #[schemars(range(max = 64))]
    pub count: usize,
    /// Seed of the first image of a prompt; the next ones count up. Default: the recipe's.
    pub seed: Option<u64>,
    /// Steps of the sampler.
    #[schemars(range(min = 1, max = 1000))]
    pub steps: usize,
    /// How far to go away from what the negative prompt gives; 1 turns it off.
    #[schemars(range(min = 0))]
    pub guidance_scale: f64,
    /// The sampler. Default: the one of the model.
    #[schemars(extend("enum" = SAMPLERS))]
    pub scheduler: Option<String>,
    /// Width in pixels. Default: `images.resolution`.
    #[schemars(range(min = 8))]
    pub width: Option<usize>,
    /// Height in pixels. Default: `images.resolution`.
    #[schemars(range(min = 8))]
    pub height: Option<usize>,
}

impl Default for ImageSample {
    fn default() -> Self {
        Self {
            prompts: None,
            negative_prompt: String::new(),
            every: 0,
            count: 4,
            seed: None,
            steps: 25,
            guidance_scale: 7.5,
            scheduler: None,
            width: None,
            height: None,
        }
    }
}

impl ImageSample {
    /// Prompts and sizes come from `[images]`.
    pub(super) fn fill_defaults(&mut self, images: &Images, trained: Trained) {
        if trained == Trained::Vae {
            return;
        }
        if let (None, Some(prompt)) = (&self.prompts, &images.instance_prompt) {
            self.prompts = Some(vec![prompt.clone()]);
        }
        self.width.get_or_insert(images.resolution);
        self.height.get_or_insert(images.resolution);
    }

    /// The prompts, if there are any and images are wanted.
    pub fn prompts(&self) -> &[String] {
        match &self.prompts {
            Some(prompts) if self.count > 0 => prompts,
            _ => &[],
        }
    }
}

/// The `[validation]` section: the training loss depends on the timesteps that were drawn far more than on what was learned, so
/// progress is measured on fixed images, timesteps and noise.
///
/// ```
/// # use temper_engine::recipe::Validation;
/// assert_eq!(Validation::default().timesteps, [100, 300, 500, 700, 900]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Validation {
    /// Timesteps at which every image is tried.
    #[schemars(length(min = 1), inner(range(min = 0, max = 999)))]
    pub timesteps: Vec<usize>,
    /// Seed of the noise: the same for every run, so that runs can be compared.
    pub seed: u64,
    /// The first so many images are tried; 0 turns the validation off.
    pub images: usize,
}

impl Default for Validation {
    fn default() -> Self {
        Self {
            timesteps: vec![100, 300, 500, 700, 900],
            seed: 0,
            images: 4,
        }
    }
}
