//! Which pictures there are, and which of them can be looked at.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use temper_datasets::DataError;
use temper_datasets::images::{Photo, list, read};

use crate::eval::EvalError;
use crate::run::{RunError, note};

/// Files of one subject.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Name of its folder, where there are several subjects.
    pub(crate) name: Option<String>,
    pub(crate) generated: Vec<PathBuf>,
    pub(crate) real: Vec<PathBuf>,
}

/// Why a picture does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfit {
    /// All of it is black, as safety filters leave a picture.
    Black,
    /// The file is broken, or no picture.
    Unreadable,
    /// Several pictures side by side, made by `temper sample --grid` or in training.
    Sheet,
}

/// A picture that does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The file.
    pub file: PathBuf,
    /// Why.
    pub why: Unfit,
    /// What is wrong with it.
    pub reason: String,
}

/// How many pictures do not count, and which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOuts {
    /// All black.
    pub black: u64,
    /// Broken.
    pub unreadable: u64,
    /// Several pictures side by side.
    pub sheets: u64,
    /// All of them by name.
    pub files: Vec<LeftOut>,
}

impl LeftOuts {
    pub(crate) fn add(&mut self, one: LeftOut) {
        match one.why {
            Unfit::Black => self.black += 1,
            Unfit::Unreadable => self.unreadable += 1,
            Unfit::Sheet => self.sheets += 1,
        }
        self.files.push(one);
    }

    pub(crate) fn join(&mut self, other: &Self) {
        other.files.iter().cloned().for_each(|one| self.add(one));
    }

    /// Says on stderr what was left out, up to ten files by name.
    pub(crate) fn tell(&self) {
        for one in self.files.iter().take(10) {
            note(&format!(
                "`{}` is left out: {}",
                one.file.display(),
                one.reason
            ));
        }
        if self.files.len() > 10 {
            note(&format!("and {} more are left out", self.files.len() - 10));
        }
    }

    /// When nothing in `path` is left.
    pub(crate) fn nothing_to_score(&self, path: &Path) -> EvalError {
        EvalError::NothingToScore {
            path: path.to_owned(),
            counts: self.counts(),
        }
    }

    /// For a table: `, 2 black, 1 unreadable`.
    pub(crate) fn counts(&self) -> String {
        let counts = [
            (self.black, "black"),
            (self.unreadable, "unreadable"),
            (self.sheets, "sheets of several"),
        ];
        let mut text = String::new();
        for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
            let _ = write!(text, ", {count} {what}");
        }
        text
    }
}

/// Reads a picture; black and broken ones are left out.
pub(crate) fn open(file: &Path) -> Result<Photo, LeftOut> {
    let photo = read(file).map_err(|error| unreadable(file, &error))?;
    if photo.rgb.iter().all(|value| *value == 0) {
        return Err(LeftOut {
            file: file.to_owned(),
            why: Unfit::Black,
            reason: "all of it is black".to_owned(),
        });
    }
    Ok(photo)
}

pub(crate) fn unreadable(file: &Path, error: &DataError) -> LeftOut {
    use std::error::Error as _;
    let source = error.source().map(|source| format!(": {source}"));
    LeftOut {
        file: file.to_owned(),
        why: Unfit::Unreadable,
        reason: format!("{error}{}", source.unwrap_or_default()),
    }
}

/// Identifies what is to be seen, whatever the format of the file.
pub(crate) fn fingerprint(photo: &Photo) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update((photo.width as u64).to_le_bytes());
    hasher.update(&photo.rgb);
    hasher.finalize().into()
}

/// The subjects of two directories. Pictures directly in `real` are one subject, whose generated pictures may lie in any folders;
/// else each folder of `real` is a subject, and `generated` has the same folders.
pub(crate) fn subjects(generated: &Path, real: &Path) -> Result<Vec<Subject>, EvalError> {
    match list(real, false) {
        Ok(real) => {
            return Ok(vec![Subject {
                name: None,
                generated: list(generated, true)?,
                real,
            }]);
        }
        Err(error @ DataError::NoImages { .. }) if folders(real)?.is_empty() => {
            return Err(error.into());
        }
        Err(DataError::NoImages { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let (ours, theirs) = (folders(generated)?, folders(real)?);
    for (these, those, at) in [(&theirs, &ours, generated), (&ours, &theirs, real)] {
        if let Some(alone) = these.iter().find(|name| !those.contains(name)) {
            return Err(EvalError::NoCounterpart {
                name: alone.clone(),
                path: at.to_owned(),
            });
        }
    }
    if let Ok(beside) = list(generated, false) {
        note(&format!(
            "left out: {} pictures in `{}` beside the folders of the subjects",
            beside.len(),
            generated.display()
        ));
    }
    let subject = |name: String| {
        Ok(Subject {
            generated: list(generated.join(&name), true)?,
            real: list(real.join(&name), true)?,
            name: Some(name),
        })
    };
    theirs.into_iter().map(subject).collect()
}

/// Names of the folders in a directory, sorted, without hidden ones.
fn folders(directory: &Path) -> Result<Vec<String>, EvalError> {
    let failed = |source| RunError::io("read the folder", directory, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
