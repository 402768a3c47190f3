//! A pipeline directory in memory, and back on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::FloatDType;

use temper_adapters::weights::{Checkpoint, Dtype};
use temper_datasets::ClipTokenizer;
use temper_models::{ClipText, SchedulerConfig, Unet, Vae};

use super::checks::Parts;
use super::{Component, DiffusionError, ModelIndex};
use crate::device::OpenDevice;
use crate::hub;
use crate::run::{RunError, write_atomic, write_atomic_with};

/// The parts of Stable Diffusion 1, 2 or XL, on a device.
///
/// The UNet and the text encoders hold their matrices in the precision asked for. The autoencoder is f32: SDXL's overflows in
/// f16, and it runs once a picture.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Predicts the noise in latents.
    pub unet: Unet,
    /// Between pictures and latents.
    pub vae: Vae,
    /// One, or two for SDXL.
    pub text_encoders: Vec<ClipText>,
    /// One for each text encoder.
    pub tokenizers: Vec<Arc<ClipTokenizer>>,
    /// The scheduler that the pipeline names.
    pub scheduler: SchedulerConfig,
    /// Precision of the UNet and the text encoders.
    pub compute: FloatDType,
    /// Where everything lies.
    pub device: OpenDevice,
    pub(super) index: ModelIndex,
    /// It came from one file: there is no directory to copy from.
    pub(super) from_file: bool,
}

/// How a pipeline is written.
#[derive(Clone, Copy, Debug)]
pub struct SavePipeline<'a> {
    /// Parts whose weights changed; all others are copied file by file.
    pub changed: &'a [Component],
    /// Type of the changed weights on disk; by default that of the source.
    pub dtype: Option<Dtype>,
    /// Largest size of one file in bytes.
    pub max_shard_bytes: u64,
}

impl Pipeline {
    /// Loads a diffusers directory, a checkpoint in one `.safetensors` file, or `org/name[@revision]` from the hub.
    ///
    /// # Errors
    /// [`DiffusionError`] naming the missing or damaged part, or two parts that do not fit each other.
    pub fn load(
        spec: &str,
        compute: FloatDType,
        device: &OpenDevice,
    ) -> Result<Self, DiffusionError> {
        Self::open(&hub::resolve_model(spec)?, compute, device)
    }

    /// Loads a diffusers directory, or a checkpoint in one file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn open(
        path: &Path,
        compute: FloatDType,
        device: &OpenDevice,
    ) -> Result<Self, DiffusionError> {
        match Place::of(path)? {
            Place::Directory => Self::load_directory(path, compute, device),
            Place::File(file) => Self::load_file(&file, compute, device),
        }
    }

    /// Loads a diffusers directory.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_directory(
        directory: &Path,
        compute: FloatDType,
        device: &OpenDevice,
    ) -> Result<Self, DiffusionError> {
        let index = ModelIndex::load(directory)?;
        let on = &device.device;
        let second = index.has(Component::TextEncoder2);
        // What is small is read first: a missing tokenizer is no reason to wait for the UNet.
        let scheduler = index.folder(Component::Scheduler)?;
        let scheduler = SchedulerConfig::load(&scheduler).map_err(of(Component::Scheduler))?;
        let mut tokenizers = vec![index.folder(Component::Tokenizer)?];
        let mut encoders = vec![Component::TextEncoder];
        if second {
            tokenizers.push(index.folder(Component::Tokenizer2)?);
            encoders.push(Component::TextEncoder2);
        }
        let [unet, vae] = [Component::Unet, Component::Vae].map(|part| index.folder(part));
        let (unet, vae) = (unet?, vae?);
        let tokenizers = tokenizers
            .iter()
            .map(|folder| ClipTokenizer::load(folder).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let text_encoders = encoders
            .into_iter()
            .map(|part| ClipText::load(&index.folder(part)?, compute, on).map_err(of(part)))
            .collect::<Result<_, _>>()?;
        let pipeline = Self {
            vae: Vae::load(&vae, FloatDType::F32, on).map_err(of(Component::Vae))?,
            unet: Unet::load(&unet, compute, on).map_err(of(Component::Unet))?,
            text_encoders,
            tokenizers,
            scheduler,
            compute,
            device: device.clone(),
            index,
            from_file: false,
        };
        pipeline.check()?;
        Ok(pipeline)
    }

    /// Whether it is SDXL: pooled text and picture sizes go into the UNet too.
    pub fn is_xl(&self) -> bool {
        self.unet.config().addition().is_some()
    }

    /// `model_index.json`, and the directory it lies in.
    pub fn index(&self) -> &ModelIndex {
        &self.index
    }

    /// Pixels of a side over latents of a side: 8.
    pub fn factor(&self) -> usize {
        self.vae.config().downscale()
    }

    /// The side of the pictures that the UNet was trained on, in pixels.
    pub fn usual_size(&self) -> usize {
        self.unet.config().sample_size().unwrap_or(64) * self.factor()
    }

    /// Compares the parts with each other.
    pub(super) fn check(&self) -> Result<(), DiffusionError> {
        let texts = self.text_encoders.iter().map(ClipText::config);
        let parts = Parts {
            unet: self.unet.config(),
            vae: self.vae.config(),
            texts: texts.collect(),
            tokenizers: self.tokenizers.iter().map(AsRef::as_ref).collect(),
        };
        parts.check()
    }

    /// Writes a pipeline directory that diffusers loads. Changed parts are written anew, all other files copied, so that what
    /// is not known here (a safety checker, a licence) is kept. A pipeline that came from one file is written whole.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn save(&self, directory: &Path, how: &SavePipeline<'_>) -> Result<(), DiffusionError> {
        let parts = Component::ALL.into_iter();
        let written = parts
            .filter(|part| self.index.has(*part) && (self.from_file || how.changed.contains(part)));
        for component in written {
            self.save_component(component, &directory.join(component.name()), how)?;
        }
        if self.from_file {
            let text = format!(
                "{:#}\n",
                serde_json::Value::Object(self.index.json().clone())
            );
            return Ok(write_atomic(
                &directory.join("model_index.json"),
                text.as_bytes(),
            )?);
        }
        copy_other(self.index.directory(), directory, how.changed)
    }

    fn save_component(
        &self,
        component: Component,
        to: &Path,
        how: &SavePipeline<'_>,
    ) -> Result<(), DiffusionError> {
        let source = self.index.directory();
        let dtype = how.dtype.unwrap_or_else(|| {
            if self.from_file {
                stored_dtype(source)
            } else {
                stored_dtype(&source.join(component.name()))
            }
        });
        let limit = how.max_shard_bytes;
        let written = match component {
            Component::Unet => self.unet.save(to, dtype, limit),
            Component::Vae => self.vae.save(to, dtype, limit),
            Component::TextEncoder => self.text_encoders[0].save(to, dtype, limit),
            Component::TextEncoder2 => self.text_encoders[1].save(to, dtype, limit),
            Component::Tokenizer => return Ok(self.tokenizers[0].save(to)?),
            Component::Tokenizer2 => return Ok(self.tokenizers[1].save(to)?),
            Component::Scheduler => self.scheduler.save(to),
        };
        written.map_err(of(component))
    }
}

fn of(component: Component) -> impl Fn(temper_models::ModelError) -> DiffusionError {
    DiffusionError::of(component.name())
}

/// The type in which most of a component is stored, in a directory or a file; f32 where there is nothing yet.
pub(crate) fn stored_dtype(path: &Path) -> Dtype {
    let Ok(checkpoint) = Checkpoint::open(path) else {
        return Dtype::F32;
    };
    let infos = checkpoint.names().filter_map(|name| checkpoint.info(name));
    let largest = infos.max_by_key(|info| info.bytes);
    match largest.map(|info| info.dtype) {
        Some(dtype @ (Dtype::F16 | Dtype::BF16)) => dtype,
        _ => Dtype::F32,
    }
}

/// Where a pipeline lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A diffusers directory.
    Directory,
    /// A checkpoint in one file.
    File(PathBuf),
}

impl Place {
    /// What `path` is: a diffusers directory, a file, or a directory with one checkpoint.
    ///
    /// # Errors
    /// [`DiffusionError::NotAPipeline`], [`DiffusionError::SeveralCheckpoints`].
    pub(crate) fn of(path: &Path) -> Result<Self, DiffusionError> {
        if path.is_file() {
            return Ok(Self::File(path.to_owned()));
        }
        if ModelIndex::is_pipeline(path) {
            return Ok(Self::Directory);
        }
        if path.join("config.json").is_file() {
            return Err(DiffusionError::NotAPipeline {
                path: path.to_owned(),
            });
        }
        only_checkpoint(path).map(Self::File)
    }
}

/// The only checkpoint of a directory that is no pipeline.
fn only_checkpoint(directory: &Path) -> Result<PathBuf, DiffusionError> {
    let not_a_pipeline = || DiffusionError::NotAPipeline {
        path: directory.to_owned(),
    };
    let entries = std::fs::read_dir(directory).map_err(|_| not_a_pipeline())?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|kind| kind == "safetensors"))
        .collect();
    files.sort();
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(file),
        (None, _) => Err(not_a_pipeline()),
        (Some(file), _) => Err(DiffusionError::SeveralCheckpoints {
            directory: directory.to_owned(),
            files: files
                .iter()
                .chain([&file])
                .map(|file| format!("`{}`", file.display()))
                .collect(),
        }),
    }
}

/// Formats that nothing here reads; the same weights in them would only fill the disk.
const FOREIGN: [&str; 7] = ["bin", "ckpt", "pth", "pt", "msgpack", "h5", "onnx"];

/// Copies the files of a pipeline but those of the changed parts.
fn copy_other(from: &Path, to: &Path, changed: &[Component]) -> Result<(), DiffusionError> {
    for entry in list(from)? {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let target = to.join(&name);
        if text.starts_with('.') || changed.iter().any(|part| part.name() == text) {
            continue;
        }
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if !text.ends_with(".safetensors") {
            // Weights at the top are the whole model in one file, before the change.
            copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Copies the files of a folder that is one part of something.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<(), RunError> {
    for file in list(from)? {
        copy(&file.path(), &to.join(file.file_name()))?;
    }
    Ok(())
}

fn list(directory: &Path) -> Result<Vec<std::fs::DirEntry>, RunError> {
    let failed = |source| RunError::io("list", directory, source);
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    entries.collect::<Result<_, _>>().map_err(failed)
}

/// Copies a file, following links; other files than regular ones and foreign formats are left out.
fn copy(from: &Path, to: &Path) -> Result<(), RunError> {
    let kind = from.extension().and_then(|kind| kind.to_str());
    if !from.is_file() || kind.is_some_and(|kind| FOREIGN.contains(&kind)) {
        return Ok(());
    }
    let folder = to.parent().unwrap_or(to);
    std::fs::create_dir_all(folder).map_err(|source| RunError::io("create", folder, source))?;
    let mut file =
        std::fs::File::open(from).map_err(|source| RunError::io("open", from, source))?;
    write_atomic_with(to, |out| std::io::copy(&mut file, out).map(|_| ()))
}
