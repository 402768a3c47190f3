//! Batches of images, as a pure function of the seed and the step.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::batch::{
    BatchPlan, ImageBatch, ImageExample, ImageLoaderConfig, PlannedExample, targets,
};
use super::bucket::nearest_bucket;
use super::canny::canny;
use super::photo::Photo;
use super::place::{Crop, Placement, Prepared, reduce_mask};
use super::read;
use super::resize::covering_size;
use super::set::{Hints, ImageEntry, ImageSet, Masks};
use crate::bytes::{hash_part, hex};
use crate::error::{DataError, Result};
use crate::random::{below, permutation, permutation_for, rng};

/// Positions of an epoch, batch by batch, each batch with its size (width, height).
type Batches = Vec<((usize, usize), Vec<usize>)>;

/// Photographs at training size, until the memory for them is used up.
#[derive(Debug, Default)]
struct Cache {
    bytes: usize,
    photos: HashMap<(bool, usize, [usize; 2]), Arc<Prepared>>,
}

/// Gives out the batches of a training run.
///
/// ```
/// use std::sync::Arc;
/// use temper_datasets::images::{ImageLoader, ImageLoaderConfig, ImageSet, ImageSetConfig};
///
/// let folder = "../assets/dreambooth/dog6";
/// let set = ImageSet::open(&ImageSetConfig::with_prompt(folder, "a photo of sks dog"))?;
/// let config = ImageLoaderConfig { resolution: 64, batch_size: 2, ..ImageLoaderConfig::default() };
/// let loader = ImageLoader::new(Arc::new(set), None, config)?;
/// let batch = loader.step(0)?;
/// assert_eq!((batch.examples.len(), batch.examples[0].pixels.len()), (2, 3 * 64 * 64));
/// assert_eq!(batch, loader.step(0)?);
/// # Ok::<(), temper_datasets::DataError>(())
/// ```
#[derive(Debug)]
pub struct ImageLoader {
    instance: Arc<ImageSet>,
    class: Option<Arc<ImageSet>>,
    config: ImageLoaderConfig,
    /// Size (width, height) of each instance image.
    sizes: Vec<(usize, usize)>,
    epoch: Mutex<Option<(u64, Arc<Batches>)>>,
    cache: Mutex<Cache>,
}

impl ImageLoader {
    /// A loader of the subject's images and, for prior preservation, of class images.
    ///
    /// # Errors
    /// If a setting makes no sense, or `drop_last` leaves no step.
    pub fn new(
        instance: Arc<ImageSet>,
        class: Option<Arc<ImageSet>>,
        config: ImageLoaderConfig,
    ) -> Result<Self> {
        let targets = targets(&config)?;
        let nearest = |width, height| nearest_bucket(&targets, width, height).unwrap_or(targets[0]);
        let sizes = instance.entries().iter();
        let sizes = sizes
            .map(|entry| nearest(entry.width, entry.height))
            .collect();
        let loader = Self {
            instance,
            class,
            config,
            sizes,
            epoch: Mutex::default(),
            cache: Mutex::default(),
        };
        loader.refuse_extreme_shapes()?;
        if loader.steps_per_epoch() == 0 {
            let reason = "is larger than every group of images of one size, and `drop_last` is set";
            return Err(DataError::setting("batch_size", reason));
        }
        Ok(loader)
    }

    /// A photograph of a few rows would have millions of columns when its shorter side has the training size.
    fn refuse_extreme_shapes(&self) -> Result<()> {
        let targets: BTreeSet<(usize, usize)> = self.sizes.iter().copied().collect();
        let own = self.instance.entries().iter().zip(&self.sizes);
        let own = own.map(|(entry, size)| (&self.instance, entry, *size));
        let class = self.class.iter().flat_map(|set| {
            let pairs = set
                .entries()
                .iter()
                .flat_map(|entry| targets.iter().map(move |size| (entry, *size)));
            pairs.map(move |(entry, size)| (set, entry, size))
        });
        for (set, entry, size) in own.chain(class) {
            let (width, height) = covering_size((entry.width, entry.height), size);
            if (width as u64).saturating_mul(height as u64) > set.config().read.max_pixels {
                let reason = format!(
                    "its {} × {} pixels would be scaled to {width} × {height} to fill {} × {}; crop it",
                    entry.width, entry.height, size.0, size.1
                );
                return Err(DataError::image(&entry.path, reason));
            }
        }
        Ok(())
    }

    /// The settings.
    pub fn config(&self) -> &ImageLoaderConfig {
        &self.config
    }

    /// The subject's images.
    pub fn instance(&self) -> &Arc<ImageSet> {
        &self.instance
    }

    /// The class images.
    pub fn class(&self) -> Option<&Arc<ImageSet>> {
        self.class.as_ref()
    }

    /// Instance examples in an epoch.
    pub fn len(&self) -> usize {
        self.instance.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Steps in an epoch; every epoch has as many.
    pub fn steps_per_epoch(&self) -> u64 {
        let batch = self.config.batch_size;
        let counts = self.counts();
        let steps = counts.values().map(|count| {
            if self.config.drop_last {
                count / batch
            } else {
                count.div_ceil(batch)
            }
        });
        steps.sum::<usize>() as u64
    }

    /// Instance images with the size (width, height) at which each is trained.
    pub fn sized(&self) -> impl Iterator<Item = (&ImageEntry, (usize, usize))> {
        let sizes = self.sizes.iter().copied();
        self.instance.entries().iter().zip(sizes)
    }

    /// Instance images whose pixels had to be invented because they are smaller than their training size.
    pub fn enlarged(&self) -> Vec<&ImageEntry> {
        let invented = |(entry, size): &(&ImageEntry, (usize, usize))| {
            Placement::center((entry.width, entry.height), *size).enlarges()
        };
        self.sized()
            .filter(invented)
            .map(|(entry, _)| entry)
            .collect()
    }

    /// Instance images of the largest batch: fewer than `batch_size` where no size has so many, as a batch has one size and one
    /// epoch.
    pub fn largest_batch(&self) -> usize {
        let largest = self.counts().into_values().max().unwrap_or_default();
        largest.min(self.config.batch_size)
    }

    /// Examples of each size in an epoch.
    pub fn counts(&self) -> BTreeMap<(usize, usize), usize> {
        let mut counts = BTreeMap::new();
        for size in &self.sizes {
            *counts.entry(*size).or_default() += self.instance.config().repeats;
        }
        counts
    }

    /// Identifies everything that decides the batches: a resumed run must find the same.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        // Serialization of plain numbers cannot fail.
        let config = serde_json::to_string(&self.config).unwrap_or_default();
        hash_part(&mut hasher, config.as_bytes());
        hash_part(&mut hasher, self.instance.fingerprint().as_bytes());
        let class = self.class.as_ref().map(|set| set.fingerprint());
        hash_part(&mut hasher, class.unwrap_or_default().as_bytes());
        hex(&hasher.finalize())
    }

    /// The example in the middle of each image, in both directions if `flip` is set: all pixels that can
    /// occur, so that latents can be computed once. Nothing with random crops, where pixels never repeat.
    pub fn distinct(&self) -> Vec<PlannedExample> {
        match self.config.crop {
            Crop::Random => Vec::new(),
            Crop::Center => self.middles(),
        }
    }

    /// The example in the middle of each image, in both directions if `flip` is set, however images are cropped.
    pub fn middles(&self) -> Vec<PlannedExample> {
        let flips: &[bool] = if self.config.flip {
            &[false, true]
        } else {
            &[false]
        };
        let targets: BTreeSet<(usize, usize)> = self.sizes.iter().copied().collect();
        let own = self.sizes.iter().enumerate();
        let mut wanted: Vec<(bool, usize, (usize, usize))> =
            own.map(|(index, size)| (false, index, *size)).collect();
        if let Some(class) = &self.class {
            let images = 0..class.entries().len();
            wanted.extend(
                images.flat_map(|index| targets.iter().map(move |size| (true, index, *size))),
            );
        }
        let mut seen = BTreeSet::new();
        let examples = wanted.into_iter().flat_map(|(is_class, index, size)| {
            flips.iter().filter_map(move |flip| {
                let entry = self.set(is_class)?.entries().get(index)?;
                let mut placement = Placement::center((entry.width, entry.height), size);
                placement.flip = *flip;
                self.planned(is_class, index, placement, entry.caption.clone())
            })
        });
        examples
            .filter(|example| seen.insert(example.id.clone()))
            .collect()
    }

    /// The batch of step `step`, counted from 0 over all epochs.
    ///
    /// It depends on the images, the settings and `step` alone, not on what was asked for before.
    ///
    /// # Errors
    /// If an image cannot be read any more, or changed.
    pub fn step(&self, step: u64) -> Result<ImageBatch> {
        let plan = self.plan(step);
        let examples: Result<Vec<ImageExample>> = plan
            .examples
            .par_iter()
            .map(|example| self.load(example))
            .collect();
        Ok(ImageBatch {
            examples: examples?,
            height: plan.height,
            width: plan.width,
            epoch: plan.epoch,
        })
    }

    /// What [`step`](Self::step) will hold, without reading an image. A rank that trains a part of a batch, or
    /// that has a latent for an `id`, [loads](Self::load) only what it needs.
    pub fn plan(&self, step: u64) -> BatchPlan {
        let steps = self.steps_per_epoch();
        let (epoch, within) = (step / steps, step % steps);
        let batches = self.batches(epoch);
        let ((width, height), positions) = &batches[within as usize];
        let images = self.instance.entries().len();
        let own = positions.iter().filter_map(|position| {
            let address = (epoch, *position as u64);
            self.placed(false, position % images, (*width, *height), address)
        });
        let mut examples: Vec<PlannedExample> = own.collect();
        if let Some(class) = &self.class {
            let count = class.entries().len() as u64;
            for slot in 0..positions.len() as u64 {
                let (epoch, position) = {
                    let number = step * self.config.batch_size as u64 + slot;
                    (number / count, number % count)
                };
                let order = self.order("class-order", epoch, count as usize);
                let index = order[position as usize];
                examples.extend(self.placed(true, index, (*width, *height), (epoch, position)));
            }
        }
        BatchPlan {
            examples,
            height: *height,
            width: *width,
            epoch: epoch as f64 + (within + 1) as f64 / steps as f64,
        }
    }

    /// Reads the pixels of an example.
    ///
    /// # Errors
    /// If the image cannot be read any more, or changed.
    pub fn load(&self, example: &PlannedExample) -> Result<ImageExample> {
        let placement = &example.placement;
        let prepared = self.prepared(example)?;
        let [height, width] = placement.target_size;
        let cropped = Photo::new(width, height, placement.cut(&prepared.rgb, 3))?;
        let mask = prepared.mask.as_ref().map(|mask| {
            let mask = placement.cut(mask, 1);
            reduce_mask(&mask, height, width, self.config.latent_scale)
        });
        let hint = match self.set(example.is_class).map(|set| &set.config().hints) {
            Some(Hints::Canny { low, high }) => {
                let edges = canny(&cropped, *low, *high)?;
                Some(Photo::from_grey(width, height, &edges)?.to_unit())
            }
            _ => match &prepared.hint {
                Some(hint) => Some(Photo::new(width, height, placement.cut(hint, 3))?.to_unit()),
                None => None,
            },
        };
        Ok(ImageExample {
            pixels: cropped.to_signed(),
            height,
            width,
            caption: example.caption.clone(),
            mask,
            hint,
            original_size: placement.original_size,
            crop_top_left: placement.crop_top_left,
            target_size: placement.target_size,
            id: example.id.clone(),
            is_class: example.is_class,
        })
    }

    /// The image that an example is a crop of.
    pub fn entry(&self, example: &PlannedExample) -> Option<&ImageEntry> {
        self.set(example.is_class)?.entries().get(example.index)
    }

    fn set(&self, is_class: bool) -> Option<&Arc<ImageSet>> {
        if is_class {
            self.class.as_ref()
        } else {
            Some(&self.instance)
        }
    }

    fn order(&self, purpose: &str, epoch: u64, n: usize) -> Vec<usize> {
        if self.config.shuffle {
            permutation_for(self.config.seed, purpose, epoch, n)
        } else {
            (0..n).collect()
        }
    }

    /// The batches of an epoch. Positions count the examples of an epoch; a position modulo the number of
    /// images is an image.
    fn batches(&self, epoch: u64) -> Arc<Batches> {
        let mut known = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, batches)) = known.as_ref().filter(|(number, _)| *number == epoch) {
            return batches.clone();
        }
        let positions = if self.config.shuffle {
            permutation(self.config.seed, epoch, self.len())
        } else {
            (0..self.len()).collect()
        };
        let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for position in positions {
            let size = self.sizes[position % self.sizes.len()];
            groups.entry(size).or_default().push(position);
        }
        let batch_size = self.config.batch_size;
        let chunks = groups.iter().flat_map(|(size, positions)| {
            positions
                .chunks(batch_size)
                .map(|chunk| (*size, chunk.to_vec()))
        });
        let batches: Batches = chunks
            .filter(|(_, chunk)| !self.config.drop_last || chunk.len() == batch_size)
            .collect();
        // One size keeps the order of the images; several sizes take turns.
        let order = match groups.len() {
            1 => (0..batches.len()).collect(),
            _ => self.order("batch-order", epoch, batches.len()),
        };
        let batches: Arc<Batches> = Arc::new(order.iter().map(|at| batches[*at].clone()).collect());
        *known = Some((epoch, batches.clone()));
        batches
    }

    /// An example with its crop, flip and caption, all drawn at the address of the example.
    fn placed(
        &self,
        is_class: bool,
        index: usize,
        size: (usize, usize),
        (epoch, position): (u64, u64),
    ) -> Option<PlannedExample> {
        let entry = self.set(is_class)?.entries().get(index)?;
        let draw = |what: &str| {
            let purpose = format!("{}-{what}", if is_class { "class" } else { "image" });
            rng(self.config.seed, &purpose, epoch, position)
        };
        let mut placement = Placement::center((entry.width, entry.height), size);
        if self.config.crop == Crop::Random {
            let mut rng = draw("crop");
            let bounds = placement.room().map(|room| room as u64 + 1);
            placement.crop_top_left = bounds.map(|bound| below(&mut rng, bound) as usize);
        }
        placement.flip = self.config.flip && below(&mut draw("flip"), 2) == 1;
        // 53 bits, as many as a number in [0, 1) has.
        let drawn = below(&mut draw("caption"), 1 << 53) as f64 / (1_u64 << 53) as f64;
        let dropped = drawn < self.config.caption_dropout;
        let caption = if dropped {
            String::new()
        } else {
            entry.caption.clone()
        };
        self.planned(is_class, index, placement, caption)
    }

    fn planned(
        &self,
        is_class: bool,
        index: usize,
        placement: Placement,
        caption: String,
    ) -> Option<PlannedExample> {
        let set = self.set(is_class)?;
        let content = &set.entries().get(index)?.content;
        Some(PlannedExample {
            is_class,
            index,
            caption,
            id: placement.id(content, set.config().read.background, self.config.filter),
            placement,
        })
    }

    /// The resized photograph of an example, from memory if it is there.
    fn prepared(&self, example: &PlannedExample) -> Result<Arc<Prepared>> {
        let size = example.placement.resized;
        let key = (example.is_class, example.index, size);
        let locked = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = locked().photos.get(&key) {
            return Ok(prepared.clone());
        }
        let missing = || DataError::setting("example", "does not belong to this loader");
        let set = self.set(example.is_class).ok_or_else(missing)?;
        let entry = set.entries().get(example.index).ok_or_else(missing)?;
        let photo = set.photo(example.index)?;
        let options = set.config().read.of_maps();
        let other = |path: &Option<_>| path.as_ref().map(|path| read::read_with(path, &options));
        let mask = match set.config().masks {
            Masks::Alpha => {
                let opaque = vec![255; photo.width * photo.height];
                let alpha = photo.alpha.as_ref().unwrap_or(&opaque);
                Some(Photo::from_grey(photo.width, photo.height, alpha)?)
            }
            _ => other(&entry.mask).transpose()?,
        };
        let hint = other(&entry.hint).transpose()?;
        let filter = self.config.filter;
        let prepared = Arc::new(Prepared::new(
            &photo,
            mask.as_ref(),
            hint.as_ref(),
            size,
            filter,
        ));
        let mut cache = locked();
        if cache.bytes + prepared.bytes() <= self.config.cache_bytes {
            cache.bytes += prepared.bytes();
            cache.photos.insert(key, prepared.clone());
        }
        Ok(prepared)
    }
}
