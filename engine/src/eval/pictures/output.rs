//! The directory of an evaluation of pictures.
//!
//! | file | content |
//! |---|---|
//! | `pictures.jsonl` | one row a generated picture |
//! | `summary.json` | the figures |

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::eval::EvalError;
use crate::run::{RunError, write_atomic};

const ROWS: &str = "pictures.jsonl";
const SUMMARY: &str = "summary.json";

/// A directory that is there and free.
#[derive(Debug)]
pub(crate) struct PictureOutput(PathBuf);

impl PictureOutput {
    /// Looks before anything is measured whether an earlier result would be lost.
    pub(crate) fn create(path: &Path, overwrite: bool) -> Result<Self, EvalError> {
        let files = [ROWS, SUMMARY].map(|name| path.join(name));
        if let Some(taken) = files.into_iter().find(|file| file.exists() && !overwrite) {
            return Err(EvalError::OutputTaken { path: taken });
        }
        std::fs::create_dir_all(path).map_err(|source| RunError::io("create", path, source))?;
        Ok(Self(path.to_owned()))
    }

    /// Writes the rows and then the summary.
    pub(crate) fn write(
        &self,
        rows: &[impl Serialize],
        summary: &impl Serialize,
    ) -> Result<(), EvalError> {
        let path = self.0.join(ROWS);
        let mut bytes = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut bytes, row).map_err(encode(&path))?;
            bytes.push(b'\n');
        }
        write_atomic(&path, &bytes)?;
        let path = self.0.join(SUMMARY);
        let mut bytes = serde_json::to_vec_pretty(summary).map_err(encode(&path))?;
        bytes.push(b'\n');
        Ok(write_atomic(&path, &bytes)?)
    }
}

fn encode(path: &Path) -> impl FnOnce(serde_json::Error) -> RunError {
    let path = path.to_owned();
    move |source| RunError::Encode { path, source }
}
