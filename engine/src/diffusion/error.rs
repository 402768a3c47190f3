//! What can go wrong around a pipeline.

use std::path::{Path, PathBuf};

use temper_adapters::formats::FormatError;
use temper_adapters::peft::PeftError;
use temper_datasets::DataError;
use temper_models::ModelError;

use crate::hub::HubError;
use crate::run::{NotThat, RunError};

/// Why a pipeline could not be loaded, saved or sampled from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffusionError {
    /// Neither a pipeline directory nor a checkpoint in one file.
    #[error(
        "`{}` is no diffusion pipeline: it has neither `model_index.json` nor a folder `unet`",
        path.display()
    )]
    NotAPipeline {
        /// What was opened.
        path: PathBuf,
    },
    /// `model_index.json` cannot be used.
    #[error("`{}` {problem}", file.display())]
    Index {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A kind of pipeline that is not built.
    #[error("the pipeline is a `{class}`; supported are {}", supported.join(", "))]
    PipelineClass {
        /// `_class_name` of `model_index.json`.
        class: String,
        /// What there is.
        supported: &'static [&'static str],
    },
    /// A part of the pipeline is of a class that is not built.
    #[error("`{component}` of the pipeline is a `{found}`, expected {expected}")]
    ComponentClass {
        /// The component.
        component: &'static str,
        /// Its class.
        found: String,
        /// The classes there are.
        expected: &'static str,
    },
    /// A part of the pipeline is not there.
    #[error("the pipeline `{}` has no `{component}`: expected `{}`", directory.display(), expected.display())]
    MissingComponent {
        /// The pipeline.
        directory: PathBuf,
        /// The component.
        component: &'static str,
        /// The file or folder that was looked for.
        expected: PathBuf,
    },
    /// A directory with several checkpoints and no sign which is meant.
    #[error("`{}` has several checkpoints and no `model_index.json`: name one of {}", directory.display(), files.join(", "))]
    SeveralCheckpoints {
        /// The directory.
        directory: PathBuf,
        /// Names of the files.
        files: Vec<String>,
    },
    /// Two parts that do not belong together.
    #[error("{what}; the two do not belong together")]
    Mismatch {
        /// Both sizes, with the keys that hold them.
        what: String,
    },
    /// Something is wrong with one part.
    #[error("`{component}` of the pipeline: {source}")]
    Component {
        /// The component.
        component: &'static str,
        /// The reason.
        source: Box<ModelError>,
    },
    /// A checkpoint in one file has no tokenizer, and none was found.
    #[error("`{}` holds no tokenizer, and none was found beside it ({reason})", file.display())]
    NoTokenizer {
        /// The checkpoint.
        file: PathBuf,
        /// Where it was looked for.
        reason: String,
    },
    /// An option that pictures cannot have.
    #[error("{option} is {found}, expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// What was asked for.
        found: String,
        /// What is possible.
        expected: String,
    },
    /// Nothing to draw.
    #[error("there is no prompt")]
    NoPrompt,
    /// A picture with values that are not finite.
    #[error(
        "picture {number} of prompt {prompt} came out with values that are not finite: {place} overflowed in {dtype}"
    )]
    NotFinite {
        /// Which prompt, from 0.
        prompt: usize,
        /// Which picture of it.
        number: u64,
        /// The network that gave them.
        place: &'static str,
        /// Its precision.
        dtype: &'static str,
    },
    /// Pictures that the machine cannot hold.
    #[error(
        "a picture of {width} x {height} takes about {needed} of memory in {place}, of which {available} are left"
    )]
    TooLarge {
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
        /// What takes most.
        place: &'static str,
        /// Bytes, about.
        needed: String,
        /// Bytes.
        available: String,
        /// A size of the same shape that fits, if there is one.
        fits: Option<(usize, usize)>,
    },
    /// A signal asked to stop.
    #[error("stopped before all pictures were drawn")]
    Interrupted,
    /// An adapter that cannot be applied.
    #[error("the adapter `{}`: {source}", path.display())]
    Adapter {
        /// The adapter.
        path: PathBuf,
        /// The reason.
        source: Box<FormatError>,
    },
    /// Something else where an adapter was asked for.
    #[error(transparent)]
    NotAnAdapter(#[from] NotThat),
    /// An adapter for other networks than the one at hand.
    #[error("the adapter `{}` is for {found}, not for {wanted}", path.display())]
    NoPart {
        /// The adapter.
        path: PathBuf,
        /// The network at hand.
        wanted: &'static str,
        /// The networks it is for.
        found: String,
    },
    /// An adapter for a network that the pipeline does not have.
    #[error("the adapter is for `{component}`, which the pipeline does not have")]
    NoSuchNetwork {
        /// The network.
        component: &'static str,
    },
    /// A model cannot be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Tokenizers, photographs.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Files.
    #[error(transparent)]
    Storage(#[from] RunError),
}

const ADAPTER_HINT: &str = "the adapter was made for another model, or is damaged; `temper inspect ADAPTER --model MODEL` compares them";

impl DiffusionError {
    /// The error of an adapter at `path`.
    pub(crate) fn adapter(path: &Path, source: impl Into<FormatError>) -> Self {
        Self::Adapter {
            path: path.to_owned(),
            source: Box::new(source.into()),
        }
    }

    /// Whether the command line asks for something that cannot be.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Option { .. }
                | Self::NoPrompt
                | Self::Model(ModelError::ClipSkip { .. } | ModelError::Steps { .. })
        )
    }

    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotAPipeline { .. } => {
                "name a diffusers directory, a checkpoint in one `.safetensors` file, or `org/name` on the hub"
            }
            Self::MissingComponent { component, .. } => {
                return Some(format!(
                    "a pipeline needs unet, vae, text_encoder, tokenizer and scheduler; download or copy `{component}` too"
                ));
            }
            Self::NoTokenizer { .. } => {
                "put the tokenizer's `vocab.json` and `merges.txt` into a folder `tokenizer` beside the checkpoint"
            }
            Self::NotFinite { dtype: "f16", .. } => {
                "f16 overflows above 65504: use --compute bf16 or f32"
            }
            Self::NotFinite { .. } => {
                "try weaker adapters, as in --adapter DIR:0.5, and a lower --guidance-scale; if the model alone does the same, its weights are damaged"
            }
            Self::Adapter { source, .. } => match source.as_ref() {
                FormatError::Missing { .. } => {
                    "look at the spelling of the path; a run leaves its adapter in `adapter`"
                }
                FormatError::NotFound { .. } | FormatError::Peft(PeftError::OutOfRange { .. }) => {
                    return None;
                }
                FormatError::Peft(PeftError::NotFinite { .. }) => {
                    "take an adapter from before, or train again with a smaller `train.lr`"
                }
                _ => ADAPTER_HINT,
            },
            Self::TooLarge { fits, .. } => {
                return fits.map(|(width, height)| {
                    format!("about {width} x {height} fits: --width {width} --height {height}")
                });
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// Wraps the error of one component, for use in `map_err`.
    pub(crate) fn of(component: &'static str) -> impl Fn(ModelError) -> Self {
        move |source| Self::Component {
            component,
            source: Box::new(source),
        }
    }
}
