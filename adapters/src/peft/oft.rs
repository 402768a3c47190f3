//! OFT's own options (arXiv 2306.07280, 2506.19847).

use serde_json::{Map, Value, json};

use super::common::Common;
use super::config::ConfigWarning;
use super::fields::Fields;
use super::{PeftError, adjust_block_size};

/// Configuration of an orthogonal adapter, with the names and defaults of PEFT 0.21.2.
///
/// | name | default | meaning |
/// |---|---|---|
/// | `r` | 0 | number of blocks; exactly one of `r` and `oft_block_size` is above zero |
/// | `oft_block_size` | 32 | size of a block |
/// | `coft`, `eps` | false, 6e-5 | keep each block within `eps / sqrt(blocks)` of the identity |
/// | `block_share` | false | one rotation for all blocks |
/// | `use_cayley_neumann` | true | truncated series instead of the exact inverse |
/// | `num_cayley_neumann_terms` | 5 | terms of the series, 1 to 100 |
///
/// ```
/// use temper_adapters::peft::{Common, ModulePattern, OftConfig};
///
/// let targets = ModulePattern::Names(vec!["q_proj".into(), "v_proj".into()]);
/// let config = OftConfig {
///     common: Common { target_modules: Some(targets), ..Common::default() },
///     oft_block_size: 8,
///     ..OftConfig::default()
/// };
/// assert_eq!(config.block_size(64)?, 8);
/// # Ok::<(), temper_adapters::peft::PeftError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the keys of the file, one by one"
)]
pub struct OftConfig {
    /// Options shared by all methods.
    pub common: Common,
    /// Number of blocks, or 0.
    pub r: usize,
    /// Size of a block, or 0.
    pub oft_block_size: usize,
    /// Stored for other tools; has no effect, in PEFT as here.
    pub module_dropout: f64,
    /// Start from the identity.
    pub init_weights: bool,
    /// Constrained OFT.
    pub coft: bool,
    /// Strength of the constraint, in PEFT's units.
    pub eps: f64,
    /// One rotation for all blocks.
    pub block_share: bool,
    /// Cayley–Neumann series. It approximates the transpose of what the exact branch computes, so
    /// the flag belongs to the trained values and must not be changed.
    pub use_cayley_neumann: bool,
    /// Terms of the series.
    pub num_cayley_neumann_terms: usize,
}

impl Default for OftConfig {
    fn default() -> Self {
        Self {
            common: Common::default(),
            r: 0,
            oft_block_size: 32,
            module_dropout: 0.0,
            init_weights: true,
            coft: false,
            eps: 6e-5,
            block_share: false,
            use_cayley_neumann: true,
            num_cayley_neumann_terms: 5,
        }
    }
}

/// Each term costs a product of every block; the terms of a series that needs more do not become small.
const MOST_TERMS: usize = 100;

impl OftConfig {
    pub(crate) const ONLY: &'static str = "oft_only";

    /// Block size of a layer with `inputs` inputs (a convolution has channels times kernel area).
    ///
    /// # Errors
    /// [`PeftError::BlockRule`]; [`PeftError::BlockOfOne`] when nothing but single elements divide.
    pub fn block_size(&self, inputs: usize) -> Result<usize, PeftError> {
        self.check_block_rule()?;
        let size = if self.r == 0 {
            adjust_block_size(self.oft_block_size, inputs)
        } else {
            inputs
                .checked_div(adjust_block_size(self.r, inputs))
                .unwrap_or_default()
        };
        if size < 2 {
            return Err(PeftError::BlockOfOne {
                module: "every module".to_owned(),
                inputs,
            });
        }
        Ok(size)
    }

    /// Shape `[rows, columns]` of the packed rotation of a layer with `inputs` inputs.
    ///
    /// # Errors
    /// As [`Self::block_size`].
    pub fn packed_shape(&self, inputs: usize) -> Result<[usize; 2], PeftError> {
        let size = self.block_size(inputs)?;
        let rows = if self.block_share { 1 } else { inputs / size };
        Ok([rows, super::cols_from_block_size(size)])
    }

    /// Checks the options against each other.
    ///
    /// # Errors
    /// [`PeftError::BlockRule`], [`PeftError::BlockOfOne`], [`PeftError::OutOfRange`],
    /// [`PeftError::Conflict`].
    pub fn validate(&self) -> Result<(), PeftError> {
        self.common.check()?;
        self.check_block_rule()?;
        if self.oft_block_size == 1 {
            let module = "every module".to_owned();
            return Err(PeftError::BlockOfOne { module, inputs: 1 });
        }
        if self.use_cayley_neumann && !(1..=MOST_TERMS).contains(&self.num_cayley_neumann_terms) {
            return Err(PeftError::OutOfRange {
                key: "num_cayley_neumann_terms",
                value: self.num_cayley_neumann_terms as f64,
                expected: "1 to 100",
            });
        }
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            let (value, expected) = (self.eps, "0 or more");
            return Err(PeftError::OutOfRange {
                key: "eps",
                value,
                expected,
            });
        }
        Ok(())
    }

    fn check_block_rule(&self) -> Result<(), PeftError> {
        if (self.r == 0) == (self.oft_block_size == 0) {
            let Self {
                r, oft_block_size, ..
            } = *self;
            return Err(PeftError::BlockRule { r, oft_block_size });
        }
        Ok(())
    }

    pub(crate) fn take(
        fields: &mut Fields<'_>,
        warnings: &mut Vec<ConfigWarning>,
    ) -> Result<Self, PeftError> {
        if !fields.contains("oft_block_size") {
            return Err(PeftError::OldOft {
                file: fields.file().to_owned(),
            });
        }
        let default = Self::default();
        let config = Self {
            common: Common::take(fields, Self::ONLY)?,
            r: fields.usize("r", default.r)?,
            oft_block_size: fields.usize("oft_block_size", default.oft_block_size)?,
            module_dropout: fields.f64("module_dropout", 0.0)?,
            init_weights: fields.bool("init_weights", true)?,
            coft: fields.bool("coft", false)?,
            eps: fields.f64("eps", default.eps)?,
            block_share: fields.bool("block_share", false)?,
            use_cayley_neumann: fields.bool("use_cayley_neumann", true)?,
            num_cayley_neumann_terms: fields.usize("num_cayley_neumann_terms", 5)?,
        };
        // Written by old versions, never used.
        for key in ["alpha_pattern", "rank_pattern"] {
            fields.value(key);
        }
        config.validate()?;
        if config.use_cayley_neumann && before_0_18(config.common.peft_version.as_deref()) {
            warnings.push(ConfigWarning::OldSeries {
                version: config.common.peft_version.clone(),
            });
        }
        if config.module_dropout != 0.0 {
            warnings.push(ConfigWarning::NoEffect {
                key: "module_dropout".to_owned(),
            });
        }
        Ok(config)
    }

    pub(crate) fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        self.common.put(&mut map, Self::ONLY);
        for (key, value) in [
            ("block_share", json!(self.block_share)),
            ("coft", json!(self.coft)),
            ("eps", json!(self.eps)),
            ("init_weights", json!(self.init_weights)),
            ("module_dropout", json!(self.module_dropout)),
            (
                "num_cayley_neumann_terms",
                json!(self.num_cayley_neumann_terms),
            ),
            ("oft_block_size", json!(self.oft_block_size)),
            ("peft_type", json!("OFT")),
            ("r", json!(self.r)),
            ("use_cayley_neumann", json!(self.use_cayley_neumann)),
        ] {
            map.insert(key.to_owned(), value);
        }
        map
    }
}

/// Whether the version text (maybe with `@commit`, maybe absent) is below 0.18.
fn before_0_18(version: Option<&str>) -> bool {
    let Some(version) = version else { return true };
    let release = version.split('@').next().unwrap_or_default();
    let mut parts = release.split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().unwrap_or_default()
    });
    (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    ) < (0, 18)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        for old in [
            None,
            Some("0.9.0"),
            Some("0.17.2"),
            Some("0.17.2.dev0@abc"),
            Some("junk"),
        ] {
            assert!(before_0_18(old), "{old:?}");
        }
        for new in ["0.18.0", "0.21.2", "0.19.0.dev0@1a2b", "1.0"] {
            assert!(!before_0_18(Some(new)), "{new}");
        }
    }

    #[test]
    fn asking_for_blocks_adjusts_their_number() {
        let config = OftConfig {
            r: 5,
            oft_block_size: 0,
            ..OftConfig::default()
        };
        assert_eq!(config.packed_shape(16).unwrap(), [4, 6]);
        let shared = OftConfig {
            block_share: true,
            ..config
        };
        assert_eq!(shared.packed_shape(16).unwrap(), [1, 6]);
    }

    #[test]
    fn blocks_of_one_are_refused() {
        let config = OftConfig {
            r: 16,
            oft_block_size: 0,
            ..OftConfig::default()
        };
        assert!(matches!(
            config.block_size(16),
            Err(PeftError::BlockOfOne { inputs: 16, .. })
        ));
        let config = OftConfig {
            oft_block_size: 1,
            ..OftConfig::default()
        };
        assert!(config.validate().is_err());
        let config = OftConfig {
            r: 2,
            ..OftConfig::default()
        };
        assert!(matches!(
            config.validate(),
            Err(PeftError::BlockRule { r: 2, .. })
        ));
    }
}
