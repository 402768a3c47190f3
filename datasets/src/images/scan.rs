//! Which files of a folder are images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};

/// Names that people give to images. Formats that cannot be read are among them: such a file is refused by
/// name instead of being left out in silence.
const EXTENSIONS: [&str; 15] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "heic", "heif", "avif", "tif",
    "tiff", "psd", "jxl",
];

/// Texts and lists that belong to images and are no surprise beside them.
const COMPANIONS: [&str; 6] = ["txt", "caption", "json", "jsonl", "csv", "md"];

/// What a folder holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Images, sorted by their path below the folder.
    pub(super) images: Vec<PathBuf>,
    /// Hidden files and folders that were left out.
    pub(super) hidden: usize,
    /// Other files that were left out, without captions and lists.
    pub(super) other: Vec<PathBuf>,
    /// Files of all kinds.
    files: usize,
    /// Folders that were not entered.
    folders: usize,
}

pub(super) fn is_image_name(path: &Path) -> bool {
    has_extension(path, &EXTENSIONS)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|name| name.to_str());
    extension.is_some_and(|name| {
        extensions
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
    })
}

/// Lists the images of `folder`, or the one file that it names; folders in `without` are not entered, and
/// links to folders neither (they may go round).
pub(super) fn scan(folder: &Path, recursive: bool, without: &[&Path]) -> Result<Scan> {
    let mut found = Scan::default();
    if folder.is_file() {
        found.images.push(folder.to_owned());
        return Ok(found);
    }
    let without: Vec<PathBuf> = without
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    enter(folder, recursive, &without, &mut found)?;
    found.images.sort();
    found.other.sort();
    if found.images.is_empty() {
        let Scan {
            files,
            folders,
            hidden,
            other,
            ..
        } = &found;
        let first = other.first().and_then(|path| path.file_name());
        let example = first.map_or_else(String::new, |name| {
            format!(" (such as `{}`)", name.display())
        });
        return Err(DataError::NoImages {
            path: folder.into(),
            expected: "files that end in .jpg, .jpeg, .png, .webp, .bmp or .gif",
            found: format!(
                "{files} other files{example}, {folders} folders that were not searched, {hidden} hidden entries"
            ),
        });
    }
    Ok(found)
}

fn enter(folder: &Path, recursive: bool, without: &[PathBuf], found: &mut Scan) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(DataError::io("read the folder", folder))?;
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(DataError::io("read the folder", folder))?;
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let kind = entry.file_type().map_err(DataError::io("read", &path))?;
        if hidden {
            found.hidden += 1;
        } else if kind.is_dir() && recursive {
            folders.push(path);
        } else if kind.is_dir() || path.is_dir() {
            found.folders += 1;
        } else if is_image_name(&path) {
            found.images.push(path);
        } else {
            found.files += 1;
            if !has_extension(&path, &COMPANIONS) {
                found.other.push(path);
            }
        }
    }
    for path in folders {
        let excluded = path
            .canonicalize()
            .is_ok_and(|whole| without.contains(&whole));
        if !excluded {
            enter(&path, recursive, without, found)?;
        }
    }
    Ok(())
}

/// The path of a file below `folder` without its extension: what a picture and its mask have in common. The name alone, where
/// `folder` is the file itself.
pub fn stem(file: &Path, folder: &Path) -> PathBuf {
    let below = file.strip_prefix(folder).ok();
    let below = below.filter(|path| !path.as_os_str().is_empty());
    let name = || Path::new(file.file_name().unwrap_or_default());
    below.unwrap_or_else(name).with_extension("")
}

/// The images of a folder and of folders within it by [`stem`].
///
/// # Errors
/// If the folder cannot be read, has no image, or has two of one stem: neither is the one that is meant.
pub fn by_stem(folder: &Path) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let mut images: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for second in scan(folder, true, &[])?.images {
        if let Some(first) = images.insert(stem(&second, folder), second.clone()) {
            return Err(DataError::Ambiguous {
                first,
                second,
                reason: "have one name but for their extensions",
            });
        }
    }
    Ok(images)
}
