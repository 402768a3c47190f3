//! What can be wrong with a file of another tool.

use std::path::PathBuf;

use crate::peft::PeftError;
use crate::weights::WeightsError;
use crate::weights::near::list;

/// Why an adapter file of another tool could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The tensors could not be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// What was read makes no adapter, or does not fit the model.
    #[error(transparent)]
    Peft(#[from] PeftError),
    /// Nothing at this place.
    #[error("there is nothing at `{}`", path.display())]
    Missing {
        /// The place.
        path: PathBuf,
    },
    /// No adapter file at this place.
    #[error(
        "no adapter at `{}`: expected a PEFT directory, `pytorch_lora_weights.safetensors`, or a safetensors file of diffusers or kohya",
        path.display()
    )]
    NotFound {
        /// The place.
        path: PathBuf,
    },
    /// A file whose keys follow no known layout.
    #[error("`{}` is no adapter file that is known here: its first key is `{key}`", file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
        /// One of its keys.
        key: String,
    },
    /// A known layout that cannot be used.
    #[error("`{}` holds {what}; {hint}", file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// What it is.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Tensors without a place in the model or the layout; everything found is listed.
    #[error("`{}` cannot be read as an adapter of this model: {}", file.display(), list(problems))]
    Keys {
        /// The file.
        file: PathBuf,
        /// Every problem found.
        problems: Vec<String>,
    },
    /// The header's `lora_adapter_metadata` is not JSON.
    #[error("`lora_adapter_metadata` in `{}` is not a JSON object: {source}", file.display())]
    Metadata {
        /// The file.
        file: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// An adapter that the layout to be written cannot express.
    #[error("{what} cannot be written as {format}; {hint}")]
    Unwritable {
        /// What the adapter has.
        what: String,
        /// The layout.
        format: &'static str,
        /// What to do.
        hint: &'static str,
    },
}
