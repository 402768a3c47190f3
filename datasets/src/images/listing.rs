//! Images with what belongs to them, before anything is decoded.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::read::regular_file;
use super::scan::{by_stem, scan, stem};
use super::set::{Captions, Hints, ImageSetConfig, Masks};
use crate::error::{DataError, Result};
use crate::reader::RowLocation;

/// A longer caption is a file of another kind: a text encoder reads 77 tokens of it.
const LONGEST_CAPTION: u64 = 1 << 20;

/// An image, its caption and its companions.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    pub(super) caption: String,
    pub(super) mask: Option<PathBuf>,
    pub(super) hint: Option<PathBuf>,
}

/// Finds captions, masks and control images of scanned files; also says how many have the fallback for a caption.
pub(super) fn from_files(
    images: Vec<PathBuf>,
    config: &ImageSetConfig,
) -> Result<(Vec<Listed>, usize)> {
    let (captions, fallback) = captions(&images, config)?;
    let masks = match &config.masks {
        Masks::Folder(folder) => companions(&images, config, folder, "mask")?,
        Masks::Metadata => return Err(needs_metadata("masks")),
        Masks::None | Masks::Alpha => vec![None; images.len()],
    };
    let hints = match &config.hints {
        Hints::Folder(folder) => companions(&images, config, folder, "conditioning image")?,
        Hints::Metadata => return Err(needs_metadata("hints")),
        Hints::None | Hints::Canny { .. } => vec![None; images.len()],
    };
    let rows = images.into_iter().zip(captions).zip(masks).zip(hints);
    let listed = rows.map(|(((path, caption), mask), hint)| Listed {
        path,
        caption,
        mask,
        hint,
    });
    Ok((listed.collect(), fallback))
}

fn needs_metadata(field: &'static str) -> DataError {
    DataError::setting(field, "come from `metadata.jsonl`, but captions do not")
}

fn captions(images: &[PathBuf], config: &ImageSetConfig) -> Result<(Vec<String>, usize)> {
    let fallback = match &config.captions {
        Captions::Prompt(prompt) => return Ok((vec![prompt.clone(); images.len()], 0)),
        Captions::Files { fallback } => fallback.as_ref(),
        Captions::Metadata => None,
    };
    let mut texts = Vec::with_capacity(images.len());
    let (mut missing, mut without) = (Vec::new(), 0);
    let mut described: BTreeMap<PathBuf, &PathBuf> = BTreeMap::new();
    for path in images {
        match (caption_file(path)?, fallback) {
            (Some((file, text)), _) => {
                if let Some(first) = described.insert(file, path) {
                    return Err(DataError::Ambiguous {
                        first: first.clone(),
                        second: path.clone(),
                        reason: "have one caption file",
                    });
                }
                texts.push(text);
            }
            (None, Some(text)) => {
                without += 1;
                texts.push(text.clone());
            }
            (None, None) => missing.push(path),
        }
    }
    let hint = "write them into `.txt` files of the same name, or set a caption for those without (in a recipe `captions = \"files\"` and `instance_prompt`)";
    refuse_missing(&missing, images.len(), config, "caption", hint)?;
    Ok((texts, without))
}

/// The images of a folder, or the one image that the path names, sorted; hidden files are left out.
///
/// # Errors
/// If the folder cannot be read or has no image.
pub fn list(folder: impl AsRef<Path>, recursive: bool) -> Result<Vec<PathBuf>> {
    Ok(scan(folder.as_ref(), recursive, &[])?.images)
}

/// The caption of an image: the text in `NAME.txt` or `NAME.caption`; also in `NAME.jpg.txt`, which some tools
/// write. `None` if there is no such file.
///
/// # Errors
/// If the file cannot be read, is no regular file, has more than 1 MiB or is not UTF-8, or if two files have different texts.
pub fn caption_beside(image: impl AsRef<Path>) -> Result<Option<String>> {
    Ok(caption_file(image.as_ref())?.map(|(_, text)| text))
}

fn caption_file(image: &Path) -> Result<Option<(PathBuf, String)>> {
    let appended = |extension: &str| {
        let mut name = image.as_os_str().to_owned();
        name.push(".");
        name.push(extension);
        PathBuf::from(name)
    };
    let candidates = ["txt", "caption"]
        .into_iter()
        .flat_map(|extension| [image.with_extension(extension), appended(extension)]);
    let mut found: Option<(PathBuf, String)> = None;
    for path in candidates {
        let bytes = match regular_file(&path, LONGEST_CAPTION, bad_text(&path, "caption")) {
            Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        let text = utf8(bytes, &path, "caption")?;
        let text = text.trim_start_matches('\u{feff}').trim();
        match found {
            Some((first, other)) if other != text => {
                return Err(DataError::Ambiguous {
                    first,
                    second: path,
                    reason: "are different captions of one image",
                });
            }
            Some(_) => {}
            None => found = Some((path, text.to_owned())),
        }
    }
    Ok(found)
}

fn bad_text(path: &Path, kind: &'static str) -> impl Fn(String) -> DataError {
    move |reason| DataError::BadFormat {
        path: path.to_owned(),
        kind,
        reason,
    }
}

fn utf8(bytes: Vec<u8>, path: &Path, kind: &'static str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let reason = format!("it is not UTF-8: {}", error.utf8_error());
        bad_text(path, kind)(reason)
    })
}

/// The image of the same stem in `folder` for each image.
fn companions(
    images: &[PathBuf],
    config: &ImageSetConfig,
    folder: &Path,
    what: &'static str,
) -> Result<Vec<Option<PathBuf>>> {
    let known = by_stem(folder)?;
    let root = if config.folder.is_file() {
        config.folder.parent().unwrap_or(&config.folder)
    } else {
        &config.folder
    };
    let mut stems: BTreeMap<PathBuf, &PathBuf> = BTreeMap::new();
    let mut found = Vec::with_capacity(images.len());
    for image in images {
        let stem = stem(image, root);
        found.push(known.get(&stem).cloned());
        // `metadata.jsonl` may list an image twice.
        if let Some(first) = stems.insert(stem, image).filter(|first| *first != image) {
            return Err(DataError::Ambiguous {
                first: first.clone(),
                second: image.clone(),
                reason: "have one name but for their extensions, which masks and conditioning images share",
            });
        }
    }
    let missing: Vec<&PathBuf> = images
        .iter()
        .zip(&found)
        .filter_map(|(image, found)| found.is_none().then_some(image))
        .collect();
    let hint = "name each like its image; the extension may differ";
    refuse_missing(&missing, images.len(), config, what, hint)?;
    Ok(found)
}

fn refuse_missing(
    missing: &[&PathBuf],
    images: usize,
    config: &ImageSetConfig,
    what: &'static str,
    hint: &'static str,
) -> Result<()> {
    let Some(first) = missing.first() else {
        return Ok(());
    };
    Err(DataError::MissingCompanion {
        path: config.folder.clone(),
        what,
        first: first.display().to_string(),
        missing: missing.len(),
        images,
        hint,
    })
}

/// A line of `metadata.jsonl`; other fields are left alone.
#[derive(Debug, Deserialize)]
struct Row {
    file_name: Option<String>,
    text: Option<String>,
    mask: Option<String>,
    conditioning_image: Option<String>,
}

/// Images that `metadata.jsonl` lists.
pub(super) fn from_metadata(config: &ImageSetConfig) -> Result<Vec<Listed>> {
    let file = config.folder.join("metadata.jsonl");
    let limit = config.read.max_file_bytes;
    let bytes = regular_file(&file, limit, bad_text(&file, "metadata"))?;
    let text = utf8(bytes, &file, "metadata")?;
    let mut listed = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let location = RowLocation {
            file: file.as_path().into(),
            unit: "line",
            number: index + 1,
        };
        listed.push(from_row(line, &location, config)?);
    }
    if listed.is_empty() {
        return Err(DataError::NoImages {
            path: config.folder.clone(),
            expected: "lines with `file_name` and `text` in `metadata.jsonl`",
            found: "an empty list".into(),
        });
    }
    let paths: Vec<PathBuf> = listed.iter().map(|one| one.path.clone()).collect();
    if let Masks::Folder(folder) = &config.masks {
        let masks = companions(&paths, config, folder, "mask")?;
        listed
            .iter_mut()
            .zip(masks)
            .for_each(|(one, mask)| one.mask = mask);
    }
    if let Hints::Folder(folder) = &config.hints {
        let hints = companions(&paths, config, folder, "conditioning image")?;
        listed
            .iter_mut()
            .zip(hints)
            .for_each(|(one, hint)| one.hint = hint);
    }
    Ok(listed)
}

fn from_row(line: &str, location: &RowLocation, config: &ImageSetConfig) -> Result<Listed> {
    let row: Row = serde_json::from_str(line)
        .map_err(|error| DataError::broken(location, error.to_string()))?;
    let required = |value: Option<String>, field: &str| {
        let missing = || DataError::broken(location, format!("there is no `{field}`"));
        value.ok_or_else(missing)
    };
    let below = |name: String| config.folder.join(name);
    let path = below(required(row.file_name, "file_name")?);
    match std::fs::metadata(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(DataError::io("read", path)(error));
        }
        Ok(found) if !found.is_dir() => {}
        _ => {
            let reason = format!("there is no file `{}`", path.display());
            return Err(DataError::broken(location, reason));
        }
    }
    let mask = match &config.masks {
        Masks::Metadata => Some(below(required(row.mask, "mask")?)),
        Masks::Folder(_) | Masks::None | Masks::Alpha => None,
    };
    let hint = match &config.hints {
        Hints::Metadata => Some(below(required(
            row.conditioning_image,
            "conditioning_image",
        )?)),
        Hints::Folder(_) | Hints::None | Hints::Canny { .. } => None,
    };
    Ok(Listed {
        caption: required(row.text, "text")?.trim().to_owned(),
        path,
        mask,
        hint,
    })
}
