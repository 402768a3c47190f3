//! `adapter_config.json`.

use std::fmt;
use std::path::Path;

use super::common::{Common, object};
use super::fields::Fields;
use super::{LoraConfig, OftConfig, PeftError, python_json};

/// The library version whose layout is written.
pub(crate) const PEFT_VERSION: &str = "0.21.2";

/// The configuration of an adapter.
///
/// ```
/// use std::path::Path;
/// use temper_adapters::peft::AdapterConfig;
///
/// let text = r#"{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}"#;
/// let (config, warnings) = AdapterConfig::parse(text.as_bytes(), Path::new("adapter_config.json"))?;
/// assert!(matches!(&config, AdapterConfig::Lora(lora) if lora.r == 4));
/// assert!(warnings.is_empty());
/// # Ok::<(), temper_adapters::peft::PeftError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AdapterConfig {
    /// Orthogonal fine-tuning.
    Oft(OftConfig),
    /// Low-rank adaptation.
    Lora(LoraConfig),
}

/// Something in a configuration that the user should know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigWarning {
    /// A key that no version we know writes; ignored.
    UnknownKey {
        /// The key.
        key: String,
    },
    /// The series changed in PEFT 0.18; results differ slightly from the training run's.
    OldSeries {
        /// The version that wrote the file, if it says so.
        version: Option<String>,
    },
    /// An option that is set but does nothing to a trained adapter.
    NoEffect {
        /// The key.
        key: String,
    },
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { key } => write!(f, "`{key}` is not a known option and is ignored"),
            Self::OldSeries { version } => write!(
                f,
                "use_cayley_neumann with PEFT {}: the series changed in 0.18, so this adapter will \
                 not behave exactly as when it was trained",
                version.as_deref().unwrap_or("before 0.18")
            ),
            Self::NoEffect { key } => write!(f, "`{key}` is set but has no effect"),
        }
    }
}

impl AdapterConfig {
    /// Reads the text of an `adapter_config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`PeftError::ConfigJson`], [`PeftError::Field`] and [`PeftError::OutOfRange`] for malformed
    /// content; [`PeftError::UnsupportedMethod`], [`PeftError::UnsupportedOption`] and
    /// [`PeftError::OldOft`] for adapters we cannot represent.
    pub fn parse(text: &[u8], file: &Path) -> Result<(Self, Vec<ConfigWarning>), PeftError> {
        let mut fields = Fields::new(file, object(file, text)?);
        let mut warnings = Vec::new();
        let method = fields.string("peft_type")?;
        let config = match method.as_deref() {
            Some("OFT") => Self::Oft(OftConfig::take(&mut fields, &mut warnings)?),
            Some("LORA") => Self::Lora(LoraConfig::take(&mut fields, &mut warnings)?),
            other => {
                let method = other.unwrap_or("unknown").to_owned();
                return Err(PeftError::UnsupportedMethod {
                    file: file.to_owned(),
                    method,
                });
            }
        };
        warnings.extend(
            fields
                .rest()
                .into_iter()
                .map(|key| ConfigWarning::UnknownKey { key }),
        );
        Ok((config, warnings))
    }

    /// The text of the file, as PEFT 0.21.2 writes it.
    pub fn to_text(&self) -> String {
        let map = match self {
            Self::Oft(config) => config.to_map(),
            Self::Lora(config) => config.to_map(),
        };
        python_json::to_text(&serde_json::Value::Object(map))
    }

    /// Checks the options against each other.
    ///
    /// # Errors
    /// As [`OftConfig::validate`] and [`LoraConfig::validate`].
    pub fn validate(&self) -> Result<(), PeftError> {
        match self {
            Self::Oft(config) => config.validate(),
            Self::Lora(config) => config.validate(),
        }
    }

    /// The options that every method has.
    pub fn common(&self) -> &Common {
        match self {
            Self::Oft(config) => &config.common,
            Self::Lora(config) => &config.common,
        }
    }

    /// The options that every method has, to be changed.
    pub fn common_mut(&mut self) -> &mut Common {
        match self {
            Self::Oft(config) => &mut config.common,
            Self::Lora(config) => &mut config.common,
        }
    }
}
