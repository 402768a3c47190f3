//! From photographs and texts to what the U-Net sees: latents and encoded prompts, computed once where they do not change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use temper_datasets::images::{
    Buckets, Captions, Crop, Hints, ImageExample, ImageLoader, ImageLoaderConfig, ImageSet,
    ImageSetConfig, Masks, PlannedExample,
};
use temper_models::Vae;

use super::batch::{Batch, Texts, normal, timesteps};
use super::cache::{Entry, TensorCache, device, fingerprint, host, key};
use super::networks::Networks;
use crate::Failure;
use crate::diffusion::{Conditioning, Pipeline};
use crate::recipe::{
    self, CaptionsFrom, Control, DiffusionRecipe, Images, MasksFrom, Trained, Validation,
};
use crate::run::note;

/// The images of a run and what was made of them.
#[derive(Debug)]
pub(super) struct Photos {
    loader: ImageLoader,
    latents: TensorCache,
    texts: TensorCache,
    options: Options,
    /// Images of which a mask left nothing, or whose picture to follow shows nothing.
    empty: BTreeSet<PathBuf>,
}

/// What of the recipe decides a batch.
#[derive(Clone, Debug)]
struct Options {
    seed: u64,
    cache_latents: bool,
    cache_text: bool,
    trains_text: bool,
    clip_skip: usize,
    offset_noise: f64,
    input_perturbation: f64,
    unmasked_weight: f32,
    timesteps: usize,
}

/// The photographs of the subject, all of them read once.
pub(super) fn open_instance(recipe: &DiffusionRecipe) -> Result<ImageSet, Failure> {
    Ok(ImageSet::open(&instance_config(recipe))?)
}

fn instance_config(recipe: &DiffusionRecipe) -> ImageSetConfig {
    let images = &recipe.images;
    let prompt = images.instance_prompt.clone();
    let captions = match images.captions {
        Some(CaptionsFrom::Metadata) => Captions::Metadata,
        _ if recipe.diffusion.train == Trained::Vae => Captions::Prompt(String::new()),
        Some(CaptionsFrom::Files) => Captions::Files { fallback: prompt },
        Some(CaptionsFrom::Prompt) | None => Captions::Prompt(prompt.unwrap_or_default()),
    };
    let masks = match (images.masks, &images.mask_dir) {
        (MasksFrom::Alpha, _) => Masks::Alpha,
        (MasksFrom::Metadata, _) => Masks::Metadata,
        (MasksFrom::Folder, Some(folder)) => Masks::Folder(folder.clone()),
        (MasksFrom::Folder | MasksFrom::None, _) => Masks::None,
    };
    ImageSetConfig {
        captions,
        masks,
        recursive: images.recursive,
        hints: hints(recipe),
        ..ImageSetConfig::with_prompt(&images.path, "")
    }
}

fn hints(recipe: &DiffusionRecipe) -> Hints {
    let diffusion = &recipe.diffusion;
    match diffusion.control {
        Some(Control::Canny) => Hints::Canny {
            low: diffusion.canny_low,
            high: diffusion.canny_high,
        },
        Some(Control::Metadata) => Hints::Metadata,
        None => Hints::None,
    }
}

/// The images of the class, once they are there.
fn open_class(recipe: &DiffusionRecipe) -> Result<Option<ImageSet>, Failure> {
    let images = &recipe.images;
    let (Some(directory), Some(prompt)) = (&images.class_dir, &images.class_prompt) else {
        return Ok(None);
    };
    let config = ImageSetConfig {
        hints: hints(recipe),
        ..ImageSetConfig::with_prompt(directory, prompt.as_str())
    };
    Ok(Some(ImageSet::open(&config)?))
}

/// How images become batches.
pub(super) fn loader_config(recipe: &DiffusionRecipe, latent_scale: usize) -> ImageLoaderConfig {
    let images = &recipe.images;
    ImageLoaderConfig {
        seed: recipe.seed,
        batch_size: recipe.train.batch_size,
        resolution: images.resolution,
        buckets: images
            .buckets
            .then(|| Buckets::around(images.resolution, images.bucket_step)),
        crop: match images.crop {
            recipe::Crop::Center => Crop::Center,
            recipe::Crop::Random => Crop::Random,
        },
        flip: images.flip,
        caption_dropout: images.caption_dropout,
        latent_scale,
        ..ImageLoaderConfig::default()
    }
}

impl Photos {
    /// Opens the images of the class beside those of the subject. Results of frozen networks lie in `cache`.
    pub(super) fn new(
        recipe: &DiffusionRecipe,
        instance: Arc<ImageSet>,
        pipeline: &Pipeline,
        steps: usize,
        cache: &Path,
    ) -> Result<Self, Failure> {
        let class = open_class(recipe)?.map(Arc::new);
        let config = loader_config(recipe, pipeline.factor());
        let images: &Images = &recipe.images;
        let options = Options {
            seed: recipe.seed,
            cache_latents: images.cache_latents && images.crop == recipe::Crop::Center,
            cache_text: images.cache_text,
            trains_text: recipe.diffusion.train_text_encoder,
            clip_skip: recipe.diffusion.clip_skip.unwrap_or(0),
            offset_noise: recipe.diffusion.offset_noise,
            input_perturbation: recipe.diffusion.input_perturbation,
            unmasked_weight: images.unmasked_weight as f32,
            timesteps: steps,
        };
        let vae = if options.cache_latents {
            fingerprint(&pipeline.vae, &pipeline.vae.config().to_json())
        } else {
            String::new()
        };
        let mut text = String::new();
        if options.cache_text && !options.trains_text {
            for encoder in &pipeline.text_encoders {
                text += &fingerprint(encoder, &encoder.config().to_json());
            }
        }
        let on_disk = |used: bool, name: &str| used.then(|| cache.join(name));
        let latents = on_disk(options.cache_latents, "latents");
        let texts = on_disk(options.cache_text && !options.trains_text, "texts");
        Ok(Self {
            loader: ImageLoader::new(instance, class, config)?,
            latents: TensorCache::new(latents.as_deref(), &vae),
            texts: TensorCache::new(texts.as_deref(), &text),
            options,
            empty: BTreeSet::new(),
        })
    }

    /// What the first image gives to follow, `[1, 3, H, W]` in 0 to 1.
    pub(super) fn hint(
        &self,
        size: (usize, usize),
        on: &Device,
    ) -> Result<Option<Tensor<4>>, Failure> {
        let Some(photo) = self.loader.instance().hint(0, size)? else {
            return Ok(None);
        };
        let data = TensorData::new(photo.to_unit(), [1, 3, photo.height, photo.width]);
        Ok(Some(Tensor::from_data(data, on)))
    }

    /// The images.
    pub(super) fn loader(&self) -> &ImageLoader {
        &self.loader
    }

    /// What step `step` sees.
    pub(super) fn batch(&mut self, networks: &Networks, step: u64) -> Result<Batch, Failure> {
        let pipeline = whole(networks)?;
        let plan = self.loader.plan(step);
        let examples: Vec<&PlannedExample> = plan.examples.iter().collect();
        let (options, on) = (self.options.clone(), pipeline.device.device.clone());
        let parts = self.parts(pipeline, &examples)?;
        let rows = examples.len();
        let shape = parts.shape();
        let draw = |purpose| normal(options.seed, purpose, step, rows, shape, &on);
        let latents = scaled(&pipeline.vae, parts.mean + parts.std * draw("latent"));
        let mut noise = draw("noise");
        if options.offset_noise > 0.0 {
            let offset = normal(options.seed, "offset", step, rows, [shape[0], 1, 1], &on);
            noise = temper_models::offset_noise(noise, offset, options.offset_noise);
        }
        let input_noise = (options.input_perturbation > 0.0).then(|| {
            let extra = draw("perturbation");
            temper_models::perturbed_noise(noise.clone(), extra, options.input_perturbation)
        });
        Ok(Batch {
            latents,
            noise,
            input_noise,
            timesteps: timesteps(options.seed, step, rows, options.timesteps),
            is_class: examples.iter().map(|example| example.is_class).collect(),
            text: self.texts(pipeline, &examples)?,
            time_ids: pipeline.is_xl().then(|| time_ids(&examples, &on)),
            masks: parts.masks,
            hints: parts.hints,
        })
    }

    /// Batches of one image each, for the loss that is compared between steps: fixed timesteps, and noise that depends on nothing of
    /// the recipe but `[validation]`.
    pub(super) fn validation(
        &mut self,
        networks: &Networks,
        validation: &Validation,
    ) -> Result<Vec<Batch>, Failure> {
        let pipeline = whole(networks)?;
        let on = pipeline.device.device.clone();
        // With random crops, too: the loss of two runs compares when they see the same pixels and captions.
        let planned = self.loader.middles();
        let chosen = planned
            .iter()
            .filter(|example| !example.is_class && !example.placement.flip)
            .take(validation.images);
        let mut batches = Vec::new();
        for (number, example) in chosen.enumerate() {
            let parts = self.parts(pipeline, &[example])?;
            let (shape, count) = (parts.shape(), validation.timesteps.len());
            let repeat = |tensor: Tensor<4>| tensor.repeat_dim(0, count);
            let text = match self.texts(pipeline, &[example])? {
                Texts::Encoded(text) => Texts::Encoded(text.repeat(0, count)),
                Texts::Prompts(prompts) => Texts::Prompts(vec![prompts.concat(); count]),
            };
            let (seed, number) = (validation.seed, number as u64);
            batches.push(Batch {
                latents: repeat(scaled(&pipeline.vae, parts.mean)),
                noise: normal(seed, "validation", number, count, shape, &on),
                input_noise: None,
                timesteps: validation.timesteps.clone(),
                is_class: vec![false; count],
                text,
                time_ids: pipeline
                    .is_xl()
                    .then(|| time_ids(&[example], &on).repeat_dim(0, count)),
                masks: None,
                hints: parts.hints.map(repeat),
            });
        }
        Ok(batches)
    }

    /// Latents, masks and hints of examples of one size.
    fn parts(
        &mut self,
        pipeline: &Pipeline,
        examples: &[&PlannedExample],
    ) -> Result<Parts, Failure> {
        let on = &pipeline.device.device;
        let (mut means, mut stds) = (Vec::new(), Vec::new());
        let (mut masks, mut hints) = (Vec::new(), Vec::new());
        for planned in examples {
            let set = self.loader.instance().config();
            let companions = set.masks != Masks::None || set.hints != Hints::None;
            let loaded = companions.then(|| self.loader.load(planned)).transpose()?;
            let loader = &self.loader;
            let make = || {
                let example = loader.load(planned)?;
                encode(&pipeline.vae, &example, on, path(loader, planned))
            };
            let entry = if self.options.cache_latents {
                self.latents.get(&key(&[planned.id.as_bytes()]), make)?
            } else {
                Arc::new(make()?)
            };
            means.push(device::<4>(&entry, "mean", on)?);
            stds.push(device::<4>(&entry, "std", on)?);
            if let Some(example) = loaded {
                self.note_empty(planned, &example);
                let [height, width] = [means[0].dims()[2], means[0].dims()[3]];
                masks.push(mask(
                    &example,
                    [height, width],
                    self.options.unmasked_weight,
                    on,
                ));
                hints.extend(hint(&example, on));
            }
        }
        let weighed = self.loader.instance().config().masks != Masks::None;
        Ok(Parts {
            mean: Tensor::cat(means, 0),
            std: Tensor::cat(stds, 0),
            masks: weighed.then(|| Tensor::cat(masks, 0)),
            hints: (!hints.is_empty()).then(|| Tensor::cat(hints, 0)),
        })
    }

    /// Says once of each image that its crop lies outside what its mask shows, or that there is nothing to follow in it.
    fn note_empty(&mut self, planned: &PlannedExample, example: &ImageExample) {
        let nothing = |values: &Option<Vec<f32>>| {
            let mut values = values.iter().flatten().peekable();
            values.peek().is_some() && values.all(|value| *value == 0.0)
        };
        let (masked, blank) = (nothing(&example.mask), nothing(&example.hint));
        let path = path(&self.loader, planned);
        if !(masked || blank) || !self.empty.insert(path.to_owned()) {
            return;
        }
        let file = path.display();
        let crop = format!("its crop of {} × {} pixels", example.width, example.height);
        if masked {
            let weight = self.options.unmasked_weight;
            note(&format!(
                "warning: nothing that the mask of `{file}` shows is within {crop}, which weighs `images.unmasked_weight = {weight}`"
            ));
        }
        if blank {
            note(&format!(
                "warning: the picture to follow of `{file}` is black in {crop}; edges are found with lower `diffusion.canny_low` and `canny_high`, or at a larger `images.resolution`"
            ));
        }
    }

    fn texts(
        &mut self,
        pipeline: &Pipeline,
        examples: &[&PlannedExample],
    ) -> Result<Texts, Failure> {
        if self.options.trains_text {
            let captions = examples.iter().map(|example| example.caption.clone());
            return Ok(Texts::Prompts(captions.collect()));
        }
        let (on, skip) = (&pipeline.device.device, self.options.clip_skip);
        let mut rows = Vec::new();
        for example in examples {
            let ids = pipeline.tokenize(std::slice::from_ref(&example.caption))?;
            let make = || {
                let text = pipeline.encode_ids(&ids, skip)?;
                let mut entry = Entry::from([("hidden".to_owned(), host(text.hidden))]);
                if let Some(pooled) = text.pooled {
                    entry.insert("pooled".to_owned(), host(pooled));
                }
                Ok(entry)
            };
            let entry = if self.options.cache_text {
                // Its ids, not its letters: another tokenizer reads the same text differently.
                let ids: Vec<u8> = ids
                    .ids
                    .concat()
                    .iter()
                    .flat_map(|id| id.to_le_bytes())
                    .collect();
                let key = key(&[&ids, &(skip as u64).to_le_bytes()]);
                self.texts.get(&key, make)?
            } else {
                Arc::new(make()?)
            };
            let pooled = entry.contains_key("pooled");
            rows.push(Conditioning {
                hidden: device(&entry, "hidden", on)?,
                pooled: pooled.then(|| device(&entry, "pooled", on)).transpose()?,
            });
        }
        Ok(Texts::Encoded(Conditioning::cat(&rows)))
    }
}

fn path<'a>(loader: &'a ImageLoader, planned: &PlannedExample) -> &'a Path {
    loader
        .entry(planned)
        .map_or(Path::new(""), |entry| &entry.path)
}

struct Parts {
    mean: Tensor<4>,
    std: Tensor<4>,
    masks: Option<Tensor<4>>,
    hints: Option<Tensor<4>>,
}

impl Parts {
    fn shape(&self) -> [usize; 3] {
        let [_, c, h, w] = self.mean.dims();
        [c, h, w]
    }
}

fn whole(networks: &Networks) -> Result<&Pipeline, Failure> {
    networks
        .pipeline()
        .ok_or_else(|| Failure::run("photographs need an autoencoder and a text encoder"))
}

/// Pixels of an example, `[1, 3, H, W]` in −1 to 1.
pub(super) fn pixels(example: &ImageExample, on: &Device) -> Tensor<4> {
    let shape = [1, 3, example.height, example.width];
    Tensor::from_data(TensorData::new(example.pixels.clone(), shape), on)
}

/// Mean and deviation of the latents of one example.
fn encode(vae: &Vae, example: &ImageExample, on: &Device, file: &Path) -> Result<Entry, Failure> {
    let posterior = vae.encode(pixels(example, on));
    let std = posterior.std();
    let entry = [
        ("mean".to_owned(), host(posterior.mean)),
        ("std".to_owned(), host(std)),
    ];
    if entry
        .iter()
        .any(|(_, (_, values))| values.iter().any(|value| !value.is_finite()))
    {
        let message = format!(
            "the autoencoder gives values that are not finite for `{}`",
            file.display()
        );
        return Err(
            Failure::run(message).with_hint("use an autoencoder that is made for this precision")
        );
    }
    Ok(entry.into())
}

/// Latents as diffusion models see them.
fn scaled(vae: &Vae, z: Tensor<4>) -> Tensor<4> {
    let config = vae.config();
    z.sub_scalar(config.shift_factor.unwrap_or(0.0))
        .mul_scalar(config.scaling_factor)
}

/// Weights `[1, 1, h, w]`: what the mask leaves out still weighs `least`. Examples without a mask weigh 1 everywhere.
fn mask(example: &ImageExample, [h, w]: [usize; 2], least: f32, on: &Device) -> Tensor<4> {
    let values = match &example.mask {
        Some(mask) => mask
            .iter()
            .map(|value| least + (1.0 - least) * value)
            .collect(),
        None => vec![1.0; h * w],
    };
    Tensor::from_data(TensorData::new(values, [1, 1, h, w]), on)
}

fn hint(example: &ImageExample, on: &Device) -> Option<Tensor<4>> {
    let shape = [1, 3, example.height, example.width];
    let hint = example.hint.clone()?;
    Some(Tensor::from_data(TensorData::new(hint, shape), on))
}

/// SDXL's numbers: original height and width, top and left of the crop, target height and width.
fn time_ids(examples: &[&PlannedExample], on: &Device) -> Tensor<2> {
    let values: Vec<f32> = examples
        .iter()
        .flat_map(|example| {
            let place = &example.placement;
            [place.original_size, place.crop_top_left, place.target_size].concat()
        })
        .map(|value| value as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, [examples.len(), 6]), on)
}
