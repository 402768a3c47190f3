//! `[images]`: what is learned, what must not be forgotten, and how a photograph becomes a training example.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Trained;

/// The `[images]` section.
///
/// ```
/// # use temper_engine::recipe::Images;
/// let images = Images::default();
/// assert_eq!((images.resolution, images.num_class_images), (512, 100));
/// ```
#[expect(
    clippy::struct_excessive_bools,
    reason = "the keys of the section, one by one"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["path"]))]
pub struct Images {
    /// What `path` holds.
    pub kind: ImagesKind,
    /// The directory of the images to learn from: the photographs of one subject, or any set. With
    /// `kind = "latents"`: a safetensors file.
    pub path: PathBuf,
    /// Look into the directories within `path` as well.
    pub recursive: bool,
    /// One prompt for all images, with a rare word that stands for the subject, such as `a photo of
    /// sks dog`. Left out: captions.
    pub instance_prompt: Option<String>,
    /// Where the texts come from. Default: `prompt` where there is an `instance_prompt`, else
    /// `metadata` where there is a `metadata.jsonl`, else `files`.
    pub captions: Option<CaptionsFrom>,
    /// Share of the examples that are shown without a caption, so that guidance has something to
    /// compare with. 0.1 is usual when all weights are trained.
    #[schemars(range(min = 0, max = 1))]
    pub caption_dropout: f64,
    /// Images of the class the subject belongs to, learned beside it so that the model does not
    /// forget the class (prior preservation, arXiv 2208.12242, section 3.2). Those that are missing
    /// are made by the model before training starts.
    pub class_dir: Option<PathBuf>,
    /// The prompt of the class, such as `a photo of dog`.
    pub class_prompt: Option<String>,
    /// How many images of the class there must be; the authors of OFT use 200.
    #[schemars(range(min = 1))]
    pub num_class_images: usize,
    /// Weight of the loss on the images of the class.
    #[schemars(range(min = 0))]
    pub prior_loss_weight: f64,
    /// Side of a training image in pixels: the shorter side is scaled to it and the longer one cut.
    #[schemars(range(min = 8))]
    pub resolution: usize,
    /// Which part of an image is kept.
    pub crop: Crop,
    /// Show every other image mirrored, by chance. Off, because subjects with a left and a right
    /// side (and texts) suffer.
    pub flip: bool,
    /// Keep the shape of images: each goes into the nearest of several sizes of about the area of
    /// `resolution` squared, with sides from half of it to twice as much, and a batch has one size.
    pub buckets: bool,
    /// Step between the sides of two sizes in pixels.
    #[schemars(range(min = 8))]
    pub bucket_step: usize,
    /// Where the weights of the loss come from: white and opaque is learned, black and transparent
    /// is not.
    pub masks: MasksFrom,
    /// With `masks = "folder"`: the directory of the masks, named like the images.
    pub mask_dir: Option<PathBuf>,
    /// Weight of what a mask leaves out.
    #[schemars(range(min = 0, max = 1))]
    pub unmasked_weight: f64,
    /// Encode images once and keep the result on disk. Not used where crops or mirroring are drawn
    /// anew for every step.
    pub cache_latents: bool,
    /// Encode each prompt once, unless the text encoder is trained.
    pub cache_text: bool,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            kind: ImagesKind::default(),
            path: PathBuf::new(),
            recursive: false,
            instance_prompt: None,
            captions: None,
            caption_dropout: 0.0,
            class_dir: None,
            class_prompt: None,
            num_class_images: 100,
            prior_loss_weight: 1.0,
            resolution: 512,
            crop: Crop::default(),
            flip: false,
            buckets: false,
            bucket_step: 64,
            masks: MasksFrom::default(),
            mask_dir: None,
            unmasked_weight: 0.0,
            cache_latents: true,
            cache_text: true,
        }
    }
}

impl Images {
    /// Whether images of the class are learned as well.
    pub fn preserves_prior(&self) -> bool {
        self.class_dir.is_some()
    }

    /// Captions are read when there is no prompt for all images; a directory of masks is used.
    pub(super) fn fill_defaults(&mut self, trained: Trained) {
        let found = match self.instance_prompt {
            Some(_) => CaptionsFrom::Prompt,
            None if self.path.join("metadata.jsonl").is_file() => CaptionsFrom::Metadata,
            None => CaptionsFrom::Files,
        };
        if self.kind == ImagesKind::Photos && trained == Trained::Unet {
            self.captions.get_or_insert(found);
        }
    }
}

/// What `images.path` holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImagesKind {
    /// Photographs and other images.
    #[default]
    Photos,
    /// One safetensors file with what every step sees: `latents` and `noise` `[S, B, C, h, w]`, `timesteps` `[S, B]` (integers) and `encoder_hidden_states` `[B, T, D]` or `[S, B, T, D]`; step i reads row i mod S. With `images.prior_loss_weight` above 0 the second half of a batch is the class. Held out: `validation_latents` `[V, C, h, w]` and `validation_encoder_hidden_states` `[V, T, D]`. For comparisons with other trainers.
    Latents,
}

/// Where the texts of images come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CaptionsFrom {
    /// `instance_prompt`, for all images.
    Prompt,
    /// `name.txt` or `name.caption` beside each image; `instance_prompt` for images without one.
    Files,
    /// `metadata.jsonl` in the directory, with `file_name` and `text` in each line; only the images it names.
    Metadata,
}

/// Where the weights of the loss come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MasksFrom {
    /// Nowhere: the whole image is learned.
    #[default]
    None,
    /// The transparency of each image.
    Alpha,
    /// `mask_dir`, in which each image has a mask of its name.
    Folder,
    /// `mask` in the lines of `metadata.jsonl`.
    Metadata,
}

/// Which part of an image is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// The middle.
    #[default]
    Center,
    /// Another part for every step.
    Random,
}
