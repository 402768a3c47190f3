//! Which tool an adapter comes from.

use std::path::{Path, PathBuf};

use super::FormatError;
use super::keys::{is_diffusers, is_kohya};
use super::names::Component;
use crate::weights::Checkpoint;

const PEFT_CONFIG: &str = "adapter_config.json";
pub(super) const DIFFUSERS_FILE: &str = "pytorch_lora_weights.safetensors";

/// A layout that [`read`](super::read) knows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A PEFT directory, of whichever component its modules belong to.
    Peft(PathBuf),
    /// A PEFT directory for each component (`unet/`, `text_encoder/`, `text_encoder_2/`).
    PeftPerComponent(Vec<(Component, PathBuf)>),
    /// A file with diffusers' keys, of any age.
    Diffusers(PathBuf),
    /// A file with kohya's keys.
    Kohya(PathBuf),
}

/// Recognises the adapter at `path`, a directory or a safetensors file, by the names of its files and keys.
///
/// # Errors
/// [`FormatError::Missing`], [`FormatError::NotFound`], [`FormatError::Unknown`], [`FormatError::Refused`] for what is known but cannot be used, and
/// those of [`Checkpoint::open`].
pub fn detect(path: &Path) -> Result<Format, FormatError> {
    if path.is_dir() {
        return directory(path);
    }
    if !path.exists() {
        return Err(FormatError::Missing {
            path: path.to_owned(),
        });
    }
    if !path.is_file() {
        return Err(FormatError::NotFound {
            path: path.to_owned(),
        });
    }
    let pickled = path
        .extension()
        .is_some_and(|kind| kind == "bin" || kind == "pt" || kind == "ckpt");
    if pickled {
        return refused(
            path,
            "pickled tensors",
            "convert the file to safetensors first",
        );
    }
    let file = Checkpoint::open(path)?;
    by_keys(path, &file)
}

fn directory(path: &Path) -> Result<Format, FormatError> {
    if path.join(PEFT_CONFIG).is_file() {
        return Ok(Format::Peft(path.to_owned()));
    }
    let folder = |component: Component| (component, path.join(component.name()));
    let parts: Vec<_> = Component::ALL
        .into_iter()
        .map(folder)
        .filter(|(_, folder)| folder.join(PEFT_CONFIG).is_file())
        .collect();
    if !parts.is_empty() {
        return Ok(Format::PeftPerComponent(parts));
    }
    let file = path.join(DIFFUSERS_FILE);
    if file.is_file() {
        return detect(&file);
    }
    let pickled = path.join("pytorch_lora_weights.bin");
    if pickled.is_file() {
        return detect(&pickled);
    }
    Err(FormatError::NotFound {
        path: path.to_owned(),
    })
}

fn by_keys(path: &Path, file: &Checkpoint) -> Result<Format, FormatError> {
    let any = |found: &dyn Fn(&str) -> bool| file.names().any(found);
    if any(&|key| key.starts_with("oft_unet_") || key.starts_with("oft_te")) {
        return refused(
            path,
            "kohya's first OFT (`oft_blocks`), which rotates the outputs of a layer: another function than OFT of its inputs",
            "train the adapter again, or merge it with the tool that made it",
        );
    }
    if any(&|key| key.starts_with("base_model.model.")) {
        return refused(
            path,
            "the tensors of a PEFT adapter",
            "name the directory it lies in, with its adapter_config.json",
        );
    }
    if any(&|key| key.starts_with("transformer.") || key.starts_with("lora_transformer_")) {
        return refused(
            path,
            "an adapter of a transformer (Flux, SD3)",
            "only UNets are supported",
        );
    }
    if any(&is_kohya) {
        Ok(Format::Kohya(path.to_owned()))
    } else if any(&is_diffusers) {
        Ok(Format::Diffusers(path.to_owned()))
    } else {
        let key = file.names().next().unwrap_or("(none)").to_owned();
        Err(FormatError::Unknown {
            file: path.to_owned(),
            key,
        })
    }
}

fn refused(file: &Path, what: &'static str, hint: &'static str) -> Result<Format, FormatError> {
    let file = file.to_owned();
    Err(FormatError::Refused { file, what, hint })
}
