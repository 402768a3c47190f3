//! What can be wrong with a model directory.

use std::path::PathBuf;

use temper_adapters::weights::WeightsError;

/// Why a model could not be described, loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// `config.json` could not be read.
    #[error("cannot read `{}`: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{}`: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// `config.json` is not JSON.
    #[error("`{}` is not valid JSON: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// A configuration file cannot be used.
    #[error("`{}`: {source}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong in it.
        source: Box<Self>,
    },
    /// A key of `config.json` is missing or has a value of the wrong type.
    #[error("config key `{key}` is {found}, expected {expected}")]
    Key {
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What is needed.
        expected: &'static str,
    },
    /// The configuration asks for something that is not built.
    #[error("config asks for {what}, which is not supported; {hint}")]
    Unsupported {
        /// What it asks for.
        what: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// No preset of that name.
    #[error("unknown preset `{name}`, expected one of {}", known.join(", "))]
    Preset {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// Weights are missing, torn or of the wrong shape.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The weights hold layers that the configuration does not know.
    #[error(
        "the weights hold `{tensor}`, but config.json has {layers} layers; the two do not belong together"
    )]
    Surplus {
        /// A tensor of a layer too many.
        tensor: String,
        /// Layers of the configuration.
        layers: usize,
    },
    /// The weights hold tensors that the configuration does not call for.
    #[error(
        "the weights hold `{tensor}`{}, which config.json does not call for; the two do not belong together",
        and_more(*more)
    )]
    Unexpected {
        /// The first such tensor.
        tensor: String,
        /// How many more there are.
        more: usize,
    },
    /// An input does not fit the model.
    #[error("input `{tensor}` has {found}, but the model takes {expected}{hint}")]
    Input {
        /// The input, under its name in the peer library.
        tensor: &'static str,
        /// What it has: a size or a count, with its unit.
        found: String,
        /// What the configuration calls for.
        expected: String,
        /// What else to say, with its own punctuation, or nothing.
        hint: &'static str,
    },
    /// A token id outside the vocabulary.
    #[error(
        "token id {id} at row {row}, column {column} is outside the vocabulary of {vocabulary}; is this the model's own tokenizer?"
    )]
    TokenId {
        /// The id.
        id: u32,
        /// Row of the batch.
        row: usize,
        /// Column of the batch.
        column: usize,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// A file of a whole model cannot be taken apart.
    #[error("the single-file checkpoint {what}; {hint}")]
    SingleFile {
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// More layers skipped than there are.
    #[error("clip_skip of {skip} layers, but the text encoder has {layers} to leave out")]
    ClipSkip {
        /// Layers to leave out.
        skip: usize,
        /// Layers of the model that can be.
        layers: usize,
    },
    /// Images of a size that the model does not take.
    #[error(
        "images are {found:?} (channels, height, width), the model takes {expected:?}; resize and crop them first"
    )]
    ImageSize {
        /// Channels, height, width.
        found: [usize; 3],
        /// The same, as the model needs them.
        expected: [usize; 3],
    },
    /// More tokens than the model can place.
    #[error(
        "{tokens} tokens exceed {limit}, the model's {what}; shorten the input or lower `data.max_length`"
    )]
    TooLong {
        /// Tokens of the input.
        tokens: usize,
        /// The limit.
        limit: usize,
        /// Which limit: `max_position_embeddings` or `sliding_window`.
        what: &'static str,
    },
    /// A sampler cannot run in so many steps.
    #[error("cannot sample in {steps} steps: {why}")]
    Steps {
        /// Steps asked for.
        steps: usize,
        /// What is in the way, and what to do.
        why: String,
    },
    /// A timestep that the noise process does not have.
    #[error("timesteps: found {found}, expected {expected}")]
    Timestep {
        /// What was given.
        found: String,
        /// What there is.
        expected: String,
    },
    /// A call of a sampler out of order.
    #[error(
        "call {call} of a sampler came when call {expected} of {calls} was due; make a new one for each image"
    )]
    Call {
        /// The call.
        call: usize,
        /// The call that was due.
        expected: usize,
        /// Calls of the run.
        calls: usize,
    },
    /// A sampler that adds noise was given none.
    #[error("call {call} of this sampler adds noise, but none was given")]
    Noise {
        /// The call.
        call: usize,
    },
}

fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

impl ModelError {
    /// The error that `key` is `found` where `expected` is needed.
    pub(crate) fn key(key: &str, found: impl ToString, expected: &'static str) -> Self {
        Self::Key {
            key: key.to_owned(),
            found: found.to_string(),
            expected,
        }
    }
}
