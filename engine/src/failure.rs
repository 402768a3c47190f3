//! How a command fails: what to print and which exit code to return.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crate::device::DeviceError;
use crate::diffusion::DiffusionError;
use crate::recipe::RecipeErrors;

/// Why a command did not succeed.
///
/// # Examples
/// ```
/// use temper_engine::Failure;
///
/// let failure = Failure::usage("no such flag").with_hint("see `temper --help`");
/// assert_eq!(failure.code(), 2);
/// assert!(failure.to_string().ends_with("hint: see `temper --help`"));
/// ```
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    hint: Option<String>,
}

#[derive(Debug)]
enum Kind {
    /// Wrong command line.
    Usage(Box<dyn Error + Send + Sync>),
    /// Wrong recipe; prints itself.
    Recipe(Box<RecipeErrors>),
    /// The run failed.
    Run(Box<dyn Error + Send + Sync>),
    /// A signal ended the run after its state was saved.
    Interrupted { signal: i32, message: String },
    /// The command printed what is wrong itself (a failed check).
    Reported,
}

impl Failure {
    /// The command line is wrong: exit code 2.
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: Kind::Usage(error.into()),
            hint: None,
        }
    }

    /// The run failed: exit code 1.
    pub fn run(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: Kind::Run(error.into()),
            hint: None,
        }
    }

    /// A signal stopped the run after its state was saved: exit code 128 + signal.
    pub fn interrupted(signal: i32, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Interrupted {
                signal,
                message: message.into(),
            },
            hint: None,
        }
    }

    /// The command has printed what is wrong: exit code 1 and no more words.
    pub fn reported() -> Self {
        Self {
            kind: Kind::Reported,
            hint: None,
        }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The same failure of a command that goes on by itself when it is called again.
    pub(crate) fn going_on(self) -> Self {
        match self.kind {
            Kind::Interrupted { .. } => self.with_hint("the same command goes on from here"),
            _ => self,
        }
    }

    /// 2 for a wrong command line or recipe, 128 + signal after a signal, 1 otherwise.
    pub fn code(&self) -> u8 {
        match &self.kind {
            Kind::Usage(_) | Kind::Recipe(_) => 2,
            Kind::Interrupted { signal, .. } => {
                128_u8.saturating_add(u8::try_from(*signal).unwrap_or(0))
            }
            Kind::Run(_) | Kind::Reported => 1,
        }
    }

    /// The same for the operating system.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Usage(error) | Kind::Run(error) => {
                write!(f, "error: {error}")?;
                let mut shown = error.to_string();
                let mut source = error.source();
                while let Some(cause) = source {
                    // Many errors already print their source.
                    let text = cause.to_string();
                    if !shown.contains(&text) {
                        write!(f, "\n  caused by: {text}")?;
                        shown = text;
                    }
                    source = cause.source();
                }
            }
            Kind::Recipe(errors) => write!(f, "{errors}")?,
            Kind::Interrupted { message, .. } => write!(f, "{message}")?,
            Kind::Reported => {}
        }
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<RecipeErrors> for Failure {
    fn from(errors: RecipeErrors) -> Self {
        Self {
            kind: Kind::Recipe(Box::new(errors)),
            hint: None,
        }
    }
}

impl From<DiffusionError> for Failure {
    fn from(error: DiffusionError) -> Self {
        let hint = error.hint();
        let failure = if error.is_usage() {
            Self::usage(error)
        } else {
            Self::run(error)
        };
        match hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Unknown { .. } => Self::usage(error),
            error => Self::run(error),
        }
    }
}

/// Errors of the rooms below fail the run.
macro_rules! run_failures {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::run(error)
            }
        })+
    };
}

run_failures!(
    std::io::Error,
    crate::hub::HubError,
    crate::run::RunError,
    temper_adapters::formats::FormatError,
    temper_adapters::peft::PeftError,
    temper_adapters::weights::WeightsError,
    temper_datasets::DataError,
    temper_models::ModelError,
    serde_json::Error,
);
