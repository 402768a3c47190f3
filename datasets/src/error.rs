//! Everything that can go wrong between a file and a batch.

use std::path::PathBuf;

use crate::reader::RowLocation;
use crate::report::DataReport;

/// Result of the operations of this crate.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// Why data or a tokenizer could not be used. Each message says what is wrong and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused a file operation.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason given by the operating system.
        #[source]
        source: std::io::Error,
    },

    /// A directory holds no tokenizer.
    #[error(
        "no tokenizer in `{}`: expected a file `tokenizer.json` or `tokenizer.model`",
        path.display()
    )]
    NoTokenizer {
        /// The directory that was searched.
        path: PathBuf,
    },

    /// A directory holds no tokenizer of CLIP.
    #[error(
        "no CLIP tokenizer in `{}`: expected `tokenizer.json`, or `vocab.json` and `merges.txt`",
        path.display()
    )]
    NoClipTokenizer {
        /// The directory that was searched.
        path: PathBuf,
    },

    /// A tokenizer file is malformed.
    #[error("`{}` is not a usable tokenizer: {reason}", path.display())]
    BadTokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A `SentencePiece` model uses something that cannot be reproduced exactly.
    #[error(
        "`{}` uses {feature}, which cannot be reproduced exactly; use the model's `tokenizer.json`",
        path.display()
    )]
    UnsupportedTokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// The feature.
        feature: String,
    },

    /// A JSON file beside the tokenizer is malformed.
    #[error("`{}` is not valid JSON", path.display())]
    BadJson {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        #[source]
        source: serde_json::Error,
    },

    /// Text could not be turned into ids.
    #[error("cannot tokenise text of {bytes} bytes: {reason}")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// The tokenizer's reason.
        reason: String,
    },

    /// Ids could not be turned into text.
    #[error("cannot decode {tokens} ids: {reason}")]
    Decode {
        /// Number of ids.
        tokens: usize,
        /// The tokenizer's reason.
        reason: String,
    },

    /// A path names a directory without data files.
    #[error("no data files in `{}`: expected .json, .jsonl, .txt or .parquet", path.display())]
    NoDataFiles {
        /// The directory.
        path: PathBuf,
    },

    /// The format of a data file is unknown, or does not fit the kind of data.
    #[error("cannot read `{}` as {kind} data: {reason}", path.display())]
    BadFormat {
        /// The file.
        path: PathBuf,
        /// The kind of data asked for.
        kind: &'static str,
        /// Why it does not fit.
        reason: String,
    },

    /// A row cannot be parsed.
    #[error("broken row in {location}: {reason}")]
    BrokenRow {
        /// Where it is.
        location: RowLocation,
        /// What was found.
        reason: String,
    },

    /// A row lacks a field.
    #[error(
        "missing field in {location}: expected {expected}, found {}",
        field_list(found)
    )]
    MissingField {
        /// Where it is.
        location: RowLocation,
        /// The fields that this kind of data needs.
        expected: &'static str,
        /// The fields that the row has.
        found: Vec<String>,
    },

    /// A field has the wrong type.
    #[error("field `{field}` in {location} is {found}, expected {expected}")]
    WrongType {
        /// Where it is.
        location: RowLocation,
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },

    /// A row holds the text of a special token where only plain text belongs.
    #[error(
        "the text in {location} contains the special token `{token}`, which a chat template would \
         turn into a control token; remove it or set `allow_special_text`"
    )]
    SpecialInText {
        /// Where it is.
        location: RowLocation,
        /// The special token.
        token: String,
    },

    /// A chat template does not compile or does not render.
    #[error("chat template failed")]
    ChatTemplate {
        /// The template engine's reason.
        #[source]
        source: minijinja::Error,
    },

    /// A row is longer than allowed and the policy is to stop.
    #[error(
        "{location} has {tokens} tokens, more than `max_length` {max_length}; raise `max_length` or \
         set `over_length` to `drop` or `truncate`"
    )]
    OverLength {
        /// Where it is.
        location: RowLocation,
        /// Its length, special tokens included.
        tokens: usize,
        /// The limit.
        max_length: usize,
    },

    /// No row is left to train on.
    #[error("no row is left to train on\n{0}")]
    NothingToTrain(Box<DataReport>),

    /// A file is not an image that can be read whole.
    #[error("cannot use the image `{}`: {reason}", path.display())]
    BadImage {
        /// The image.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },

    /// An image has more pixels than may be decoded.
    #[error(
        "the image `{}` has {width} × {height} pixels, {} in all, and the limit is {limit}; make it \
         smaller",
        path.display(), *width as u64 * *height as u64
    )]
    ImageTooLarge {
        /// The image.
        path: PathBuf,
        /// Width that its header names.
        width: usize,
        /// Height that its header names.
        height: usize,
        /// Most pixels that are decoded.
        limit: u64,
    },

    /// Several images of a set cannot be used.
    #[error("{broken} of {images} images in `{}` cannot be used:{list}", path.display())]
    BrokenImages {
        /// The directory.
        path: PathBuf,
        /// How many cannot be used.
        broken: usize,
        /// How many there are.
        images: usize,
        /// A line for each.
        list: String,
    },

    /// A directory holds no image.
    #[error("no images in `{}`: expected {expected}; found {found}", path.display())]
    NoImages {
        /// The directory.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
        /// What is there instead.
        found: String,
    },

    /// Images lack a text or a picture that belongs to them.
    #[error(
        "{missing} of {images} images in `{}` have no {what}; the first is `{first}`; {hint}",
        path.display()
    )]
    MissingCompanion {
        /// The directory of the images.
        path: PathBuf,
        /// What is missing: a caption, a mask, a conditioning image.
        what: &'static str,
        /// The first image without one.
        first: String,
        /// Number of images without one.
        missing: usize,
        /// Number of images.
        images: usize,
        /// What to do.
        hint: &'static str,
    },

    /// Two files of which either could be meant.
    #[error("`{}` and `{}` {reason}; remove or rename one", first.display(), second.display())]
    Ambiguous {
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// What they have in common.
        reason: &'static str,
    },

    /// A setting makes no sense.
    #[error("`{field}` {reason}")]
    BadSetting {
        /// The setting.
        field: &'static str,
        /// What is wrong, as the rest of the sentence.
        reason: String,
    },

    /// The tokenizer defines no end-of-sequence token, so no answer could ever end.
    #[error(
        "the tokenizer defines no end-of-sequence token; name it as `eos_token` in \
         `tokenizer_config.json`"
    )]
    NoEndToken,
}

impl DataError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn image(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::BadImage {
            path: path.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn setting(field: &'static str, reason: impl Into<String>) -> Self {
        Self::BadSetting {
            field,
            reason: reason.into(),
        }
    }

    pub(crate) fn broken(location: &RowLocation, reason: impl Into<String>) -> Self {
        Self::BrokenRow {
            location: location.clone(),
            reason: reason.into(),
        }
    }
}

impl From<minijinja::Error> for DataError {
    fn from(source: minijinja::Error) -> Self {
        Self::ChatTemplate { source }
    }
}

fn field_list(found: &[String]) -> String {
    if found.is_empty() {
        return "no fields".into();
    }
    let names: Vec<String> = found.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
