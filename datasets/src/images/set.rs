//! A set of photographs with their captions, masks and control images.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::canny::canny;
use super::listing::{self, Listed};
use super::photo::Photo;
use super::read::{self, ReadOptions};
use super::resize::fit;
use super::scan::scan;
use crate::bytes::{hash_part, hex};
use crate::error::{DataError, Result};

/// Where captions come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Captions {
    /// One text for all images: the instance prompt.
    Prompt(String),
    /// A file beside each image with the same stem and the extension `.txt` or `.caption`.
    Files {
        /// For images without a file; without it, such images are an error.
        fallback: Option<String>,
    },
    /// `metadata.jsonl` in the folder: one object per line with `file_name` and `text`. Only images that it
    /// lists are used, in its order.
    Metadata,
}

/// Which part of an image is trained.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Masks {
    /// All of it.
    #[default]
    None,
    /// An image with the same stem in this folder: white is trained, black is not.
    Folder(PathBuf),
    /// What is opaque.
    Alpha,
    /// The file that `mask` names in `metadata.jsonl`, relative to the folder.
    Metadata,
}

/// The picture that controls generation.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Hints {
    /// None.
    #[default]
    None,
    /// An image with the same stem in this folder.
    Folder(PathBuf),
    /// Edges of the image itself, by [`canny`](super::canny) with these thresholds.
    Canny {
        /// Weak edges count from here if they touch a strong one.
        low: f32,
        /// Strong edges begin here.
        high: f32,
    },
    /// The file that `conditioning_image` names in `metadata.jsonl`, relative to the folder.
    Metadata,
}

/// What to open.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSetConfig {
    /// The folder, or a single image.
    pub folder: PathBuf,
    /// Also look into folders within it. Default: no.
    pub recursive: bool,
    /// Where captions come from.
    pub captions: Captions,
    /// Which part is trained.
    pub masks: Masks,
    /// What controls generation.
    pub hints: Hints,
    /// How often each image appears in an epoch. Folder names (`40_name`) mean nothing. Default: 1.
    pub repeats: usize,
    /// Limits and background.
    pub read: ReadOptions,
}

impl ImageSetConfig {
    /// The images of `folder`, all with the caption `prompt`.
    pub fn with_prompt(folder: impl Into<PathBuf>, prompt: impl Into<String>) -> Self {
        Self {
            folder: folder.into(),
            recursive: false,
            captions: Captions::Prompt(prompt.into()),
            masks: Masks::None,
            hints: Hints::None,
            repeats: 1,
            read: ReadOptions::default(),
        }
    }
}

/// One image of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// The file.
    pub path: PathBuf,
    /// Its caption.
    pub caption: String,
    /// The mask's file.
    pub mask: Option<PathBuf>,
    /// The control image's file.
    pub hint: Option<PathBuf>,
    /// Columns, as seen.
    pub width: usize,
    /// Rows, as seen.
    pub height: usize,
    /// Some of its pixels are.
    pub transparent: bool,
    /// sha256 of the file.
    pub content: [u8; 32],
    /// sha256 of mask and control image, zero without.
    companions: [u8; 32],
}

/// What was found and what was left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ImageSetReport {
    /// Images in the set.
    pub images: usize,
    /// Hidden files and folders left out.
    pub hidden: usize,
    /// Files left out because they are no images, up to ten of them.
    pub other: Vec<PathBuf>,
    /// How many those were in all.
    pub other_count: usize,
    /// Images with the same content: the later and the earlier file. They are kept.
    pub duplicates: Vec<(PathBuf, PathBuf)>,
    /// Images with transparent pixels, which were laid over the background.
    pub transparent: usize,
    /// Images whose caption is empty.
    pub empty_captions: usize,
    /// Images without a caption beside them, which have the caption of all such images.
    pub fallback_captions: usize,
}

impl fmt::Display for ImageSetReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} images", self.images)?;
        let counts = [
            (self.transparent, "transparent"),
            (self.empty_captions, "without a caption"),
            (
                self.fallback_captions,
                "with the common caption for want of their own",
            ),
            (self.duplicates.len(), "copies of others"),
            (self.other_count, "other files left out"),
            (self.hidden, "hidden entries left out"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(formatter, ", {count} {what}")?;
        }
        if let Some((copy, original)) = self.duplicates.first() {
            write!(
                formatter,
                " (`{}` equals `{}`)",
                copy.display(),
                original.display()
            )?;
        }
        Ok(())
    }
}

/// Photographs that were all read once, so that a broken file stops a run before it begins and not in its
/// middle.
#[derive(Debug)]
pub struct ImageSet {
    config: ImageSetConfig,
    entries: Vec<ImageEntry>,
    report: ImageSetReport,
}

impl ImageSet {
    /// Opens a set: lists the files, decodes each once, finds captions, masks and control images.
    ///
    /// # Errors
    /// If the folder has no image, if images are broken or too large (all of them are named), if captions,
    /// masks or control images are missing or do not fit, or if `metadata.jsonl` is malformed.
    ///
    /// ```
    /// use temper_datasets::images::{ImageSet, ImageSetConfig};
    ///
    /// let folder = "../assets/dreambooth/dog6";
    /// let set = ImageSet::open(&ImageSetConfig::with_prompt(folder, "a photo of sks dog"))?;
    /// assert_eq!(set.entries().len(), 5);
    /// # Ok::<(), temper_datasets::DataError>(())
    /// ```
    pub fn open(config: &ImageSetConfig) -> Result<Self> {
        if config.repeats == 0 {
            return Err(DataError::setting("repeats", "must be at least 1"));
        }
        let mut report = ImageSetReport::default();
        let listed = if config.captions == Captions::Metadata {
            listing::from_metadata(config)?
        } else {
            let skip: Vec<&Path> = [config.masks_folder(), config.hints_folder()]
                .into_iter()
                .flatten()
                .collect();
            let scan = scan(&config.folder, config.recursive, &skip)?;
            report.hidden = scan.hidden;
            report.other_count = scan.other.len();
            report.other = scan.other.into_iter().take(10).collect();
            let (listed, fallback) = listing::from_files(scan.images, config)?;
            report.fallback_captions = fallback;
            listed
        };
        let opened: Vec<Result<ImageEntry>> = listed
            .into_par_iter()
            .map(|one| open_one(one, config))
            .collect();
        let entries = all_or_errors(opened, &config.folder)?;
        let mut first: BTreeMap<[u8; 32], &Path> = BTreeMap::new();
        for entry in &entries {
            report.transparent += usize::from(entry.transparent);
            report.empty_captions += usize::from(entry.caption.is_empty());
            if let Some(original) = first.get(&entry.content) {
                report
                    .duplicates
                    .push((entry.path.clone(), (*original).to_owned()));
            } else {
                first.insert(entry.content, &entry.path);
            }
        }
        report.images = entries.len();
        Ok(Self {
            config: config.clone(),
            entries,
            report,
        })
    }

    /// What image `index` gives to follow, at another size: scaled, and cropped to its middle.
    ///
    /// # Errors
    /// If it cannot be read any more, or changed.
    pub fn hint(&self, index: usize, (width, height): (usize, usize)) -> Result<Option<Photo>> {
        match (&self.config.hints, self.entries.get(index)) {
            (Hints::Canny { low, high }, _) => {
                let edges = canny(&fit(&self.photo(index)?, width, height), *low, *high)?;
                Photo::from_grey(width, height, &edges).map(Some)
            }
            (
                _,
                Some(ImageEntry {
                    hint: Some(map), ..
                }),
            ) => {
                let map = read::read_with(map, &self.config.read.of_maps())?;
                Ok(Some(fit(&map, width, height)))
            }
            _ => Ok(None),
        }
    }

    /// The images, in order.
    pub fn entries(&self) -> &[ImageEntry] {
        &self.entries
    }

    /// What was opened.
    pub fn config(&self) -> &ImageSetConfig {
        &self.config
    }

    /// What was found and what was left out.
    pub fn report(&self) -> &ImageSetReport {
        &self.report
    }

    /// Examples in an epoch: images times repeats.
    pub fn len(&self) -> usize {
        self.entries.len() * self.config.repeats
    }

    /// Never, for a set that could be opened.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Identifies contents, captions, masks, order and repeats: a run may be resumed with a set of the same
    /// fingerprint, wherever its folder lies.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update((self.config.repeats as u64).to_le_bytes());
        hasher.update(self.config.read.background);
        for part in [
            format!("{:?}", self.config.hints),
            format!("{:?}", self.config.masks),
        ] {
            // Folders may move; what they hold is hashed with each image.
            let kind = part.split(['(', '"']).next().unwrap_or_default();
            hash_part(&mut hasher, kind.as_bytes());
        }
        for entry in &self.entries {
            hasher.update(entry.content);
            hasher.update(entry.companions);
            hash_part(&mut hasher, entry.caption.as_bytes());
        }
        hex(&hasher.finalize())
    }

    /// Reads the photograph of an entry again.
    ///
    /// # Errors
    /// If the file cannot be read or is not what it was when the set was opened.
    pub fn photo(&self, index: usize) -> Result<Photo> {
        let Some(entry) = self.entries.get(index) else {
            let images = self.entries.len();
            return Err(DataError::setting(
                "index",
                format!("is {index} of {images} images"),
            ));
        };
        let bytes = read::load(&entry.path, &self.config.read)?;
        if <[u8; 32]>::from(Sha256::digest(&bytes)) != entry.content {
            let reason = "it changed since the run began; start the run again";
            return Err(DataError::image(&entry.path, reason));
        }
        read::decode(&bytes, &entry.path, &self.config.read)
    }
}

impl ImageSetConfig {
    fn masks_folder(&self) -> Option<&Path> {
        match &self.masks {
            Masks::Folder(folder) => Some(folder),
            _ => None,
        }
    }

    fn hints_folder(&self) -> Option<&Path> {
        match &self.hints {
            Hints::Folder(folder) => Some(folder),
            _ => None,
        }
    }
}

/// Decodes an image and looks at what belongs to it.
fn open_one(listed: Listed, config: &ImageSetConfig) -> Result<ImageEntry> {
    let Listed {
        path,
        caption,
        mask,
        hint,
    } = listed;
    let bytes = read::load(&path, &config.read)?;
    let photo = read::decode(&bytes, &path, &config.read)?;
    let mut companions = [0; 32];
    let mut hasher = Sha256::new();
    let of_maps = config.read.of_maps();
    for companion in [&mask, &hint].into_iter().flatten() {
        let bytes = read::load(companion, &config.read)?;
        // Decoding it here too finds broken masks before the run begins.
        let picture = read::decode(&bytes, companion, &of_maps)?;
        same_shape(&photo, &picture, &path, companion)?;
        if mask.as_ref() == Some(companion) {
            trains_something(
                &picture.luma(),
                companion,
                "all of it is black or transparent",
            )?;
        }
        hasher.update(Sha256::digest(&bytes));
        companions = hasher.clone().finalize().into();
    }
    if let (Masks::Alpha, Some(alpha)) = (&config.masks, &photo.alpha) {
        trains_something(alpha, &path, "all of it is transparent")?;
    }
    Ok(ImageEntry {
        caption,
        mask,
        hint,
        width: photo.width,
        height: photo.height,
        content: Sha256::digest(&bytes).into(),
        companions,
        transparent: photo.alpha.is_some(),
        path,
    })
}

/// A mask that hides everything is a mistake: its image would be shown and nothing learned from it.
fn trains_something(weights: &[u8], path: &Path, found: &str) -> Result<()> {
    // What compression makes of black stays below.
    const NOTHING: u8 = 8;
    if weights.iter().any(|weight| *weight >= NOTHING) {
        return Ok(());
    }
    let reason = format!(
        "it is a mask that leaves nothing to train: {found}; white and opaque is trained. Paint what is to be learned, or take the image out"
    );
    Err(DataError::image(path, reason))
}

/// Masks may be smaller than their photograph, but not of another shape.
fn same_shape(photo: &Photo, other: &Photo, path: &Path, companion: &Path) -> Result<()> {
    let shape = |photo: &Photo| photo.width as f64 / photo.height as f64;
    if (shape(photo) / shape(other)).ln().abs() <= 0.02 {
        return Ok(());
    }
    let reason = format!(
        "it has {} × {} pixels and belongs to `{}` of {} × {}: another shape",
        other.width,
        other.height,
        path.display(),
        photo.width,
        photo.height
    );
    Err(DataError::image(companion, reason))
}

/// All values, or one error that names everything that is broken.
fn all_or_errors<T>(results: Vec<Result<T>>, folder: &Path) -> Result<Vec<T>> {
    const SHOWN: usize = 20;
    let images = results.len();
    let mut values = Vec::with_capacity(images);
    let mut errors = Vec::new();
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
    }
    if errors.len() <= 1 {
        return errors.pop().map_or(Ok(values), Err);
    }
    let shown = errors.iter().take(SHOWN).map(|error| {
        let source = error.source().map(|source| format!(": {source}"));
        format!("\n  {error}{}", source.unwrap_or_default())
    });
    let more = errors.len().saturating_sub(SHOWN);
    let rest = if more > 0 {
        format!("\n  and {more} more")
    } else {
        String::new()
    };
    Err(DataError::BrokenImages {
        path: folder.into(),
        broken: errors.len(),
        images,
        list: shown.collect::<String>() + &rest,
    })
}
