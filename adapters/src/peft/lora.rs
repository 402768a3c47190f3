//! `LoRA`'s own options (arXiv 2106.09685; `DoRA` 2402.09353; `rsLoRA` 2312.03732).

use serde_json::{Map, Value, json};

use super::PeftError;
use super::common::{Common, ModulePattern};
use super::config::ConfigWarning;
use super::fields::{Fields, as_usize, shortened};
use super::matching::pattern_key;

/// Configuration of a low-rank adapter, with the names and defaults of PEFT 0.21.2.
///
/// | name | default | meaning |
/// |---|---|---|
/// | `r` | 8 | rank |
/// | `lora_alpha` | 8 | the update is scaled by `alpha / r` |
/// | `lora_dropout` | 0 | dropout before `lora_A`, in training |
/// | `use_rslora` | false | scale by `alpha / sqrt(r)` instead |
/// | `use_dora` | false | learn the row norms separately |
/// | `rank_pattern`, `alpha_pattern` | empty | other ranks and alphas for some modules |
///
/// ```
/// use temper_adapters::peft::LoraConfig;
///
/// let config = LoraConfig { r: 4, rank_pattern: vec![("fc2".into(), 2)], ..LoraConfig::default() };
/// assert_eq!(config.rank("block.fc2")?, 2);
/// assert_eq!(config.scale("block.fc1")?, 2.0);
/// # Ok::<(), temper_adapters::peft::PeftError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Options shared by all methods.
    pub common: Common,
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Probability of dropping an input of `lora_A` in training.
    pub lora_dropout: f64,
    /// Scale by `alpha / sqrt(r)`.
    pub use_rslora: bool,
    /// Weight-decomposed `LoRA`.
    pub use_dora: bool,
    /// How it was initialised: `true`, `false`, `"gaussian"`, `"orthogonal"` or `"eva"`.
    pub init_lora_weights: Value,
    /// Ranks of single modules, first match wins.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas of single modules, first match wins.
    pub alpha_pattern: Vec<(String, f64)>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            common: Common::default(),
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: Value::Bool(true),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
        }
    }
}

/// Options that change the forward pass or the base weights: refused unless off.
const UNSUPPORTED: [&str; 15] = [
    "alora_invocation_tokens",
    "arrow_config",
    "ensure_weight_tying",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
    "loftq_config",
    "lora_ga_config",
];

/// Options of the initialisation alone: a trained adapter does not need them.
const INIT_ONLY: [&str; 2] = ["corda_config", "eva_config"];

impl LoraConfig {
    pub(crate) const ONLY: &'static str = "lora_only";

    /// Rank of the adapter on `module`.
    ///
    /// # Errors
    /// [`PeftError::Pattern`] when a key of `rank_pattern` is no regular expression.
    pub fn rank(&self, module: &str) -> Result<usize, PeftError> {
        Ok(pattern_key(&self.rank_pattern, module)?
            .copied()
            .unwrap_or(self.r))
    }

    /// Alpha of the adapter on `module`.
    ///
    /// # Errors
    /// [`PeftError::Pattern`] when a key of `alpha_pattern` is no regular expression.
    pub fn alpha(&self, module: &str) -> Result<f64, PeftError> {
        Ok(pattern_key(&self.alpha_pattern, module)?
            .copied()
            .unwrap_or(self.lora_alpha))
    }

    /// What the low-rank product on `module` is multiplied by.
    ///
    /// # Errors
    /// As [`Self::rank`] and [`Self::alpha`].
    pub fn scale(&self, module: &str) -> Result<f64, PeftError> {
        let rank = self.rank(module)? as f64;
        let divisor = if self.use_rslora { rank.sqrt() } else { rank };
        Ok(self.alpha(module)? / divisor)
    }

    /// Checks the options against each other.
    ///
    /// # Errors
    /// [`PeftError::OutOfRange`], [`PeftError::Conflict`], [`PeftError::Pattern`].
    pub fn validate(&self) -> Result<(), PeftError> {
        self.common.check()?;
        let ranks = self
            .rank_pattern
            .iter()
            .map(|(_, rank)| *rank)
            .chain([self.r]);
        if ranks.min() == Some(0) {
            return Err(PeftError::OutOfRange {
                key: "r",
                value: 0.0,
                expected: "1 or more",
            });
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            let (value, expected) = (self.lora_dropout, "at least 0 and below 1");
            return Err(PeftError::OutOfRange {
                key: "lora_dropout",
                value,
                expected,
            });
        }
        let by_text = !matches!(
            self.common.target_modules,
            None | Some(ModulePattern::Names(_))
        );
        if by_text && self.common.layers_to_transform.is_some() {
            return Err(PeftError::Conflict {
                first: "layers_to_transform",
                relation: "cannot be combined with",
                second: "a target_modules expression",
            });
        }
        self.rank("")?;
        self.alpha("").map(drop)
    }

    pub(crate) fn take(
        fields: &mut Fields<'_>,
        warnings: &mut Vec<ConfigWarning>,
    ) -> Result<Self, PeftError> {
        let default = Self::default();
        let config = Self {
            common: Common::take(fields, Self::ONLY)?,
            r: fields.usize("r", default.r)?,
            lora_alpha: fields.f64("lora_alpha", default.lora_alpha)?,
            lora_dropout: fields.f64("lora_dropout", 0.0)?,
            use_rslora: fields.bool("use_rslora", false)?,
            use_dora: fields.bool("use_dora", false)?,
            init_lora_weights: take_init(fields)?,
            rank_pattern: fields.table("rank_pattern", "a table of ranks", as_usize)?,
            alpha_pattern: fields.table("alpha_pattern", "a table of numbers", Value::as_f64)?,
        };
        for key in UNSUPPORTED {
            if let Some(value) = fields.value(key).filter(is_on) {
                return Err(unsupported(fields, key, &value));
            }
        }
        for key in INIT_ONLY {
            if fields.value(key).is_some_and(|value| is_on(&value)) {
                warnings.push(ConfigWarning::NoEffect {
                    key: key.to_owned(),
                });
            }
        }
        for key in ["megatron_core", "qalora_group_size"] {
            fields.value(key);
        }
        config.validate()?;
        Ok(config)
    }

    pub(crate) fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        self.common.put(&mut map, Self::ONLY);
        for key in UNSUPPORTED.into_iter().chain(INIT_ONLY) {
            map.insert(key.to_owned(), Value::Null);
        }
        for key in ["ensure_weight_tying", "lora_bias", "use_qalora"] {
            map.insert(key.to_owned(), Value::Bool(false));
        }
        let ranks: Map<String, Value> = self
            .rank_pattern
            .iter()
            .map(|(key, rank)| (key.clone(), json!(rank)))
            .collect();
        let alphas: Map<String, Value> = self
            .alpha_pattern
            .iter()
            .map(|(key, alpha)| (key.clone(), whole(*alpha)))
            .collect();
        for (key, value) in [
            ("alpha_pattern", Value::Object(alphas)),
            ("init_lora_weights", self.init_lora_weights.clone()),
            ("loftq_config", json!({})),
            ("lora_alpha", whole(self.lora_alpha)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("megatron_core", json!("megatron.core")),
            ("peft_type", json!("LORA")),
            ("qalora_group_size", json!(16)),
            ("r", json!(self.r)),
            ("rank_pattern", Value::Object(ranks)),
            ("use_dora", json!(self.use_dora)),
            ("use_rslora", json!(self.use_rslora)),
        ] {
            map.insert(key.to_owned(), value);
        }
        map
    }
}

/// Whether an optional feature is switched on: not false, not empty.
fn is_on(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

fn take_init(fields: &mut Fields<'_>) -> Result<Value, PeftError> {
    const KEY: &str = "init_lora_weights";
    let Some(value) = fields.value(KEY) else {
        return Ok(Value::Bool(true));
    };
    match &value {
        Value::Bool(_) => Ok(value),
        Value::String(name) if ["gaussian", "orthogonal", "eva"].contains(&name.as_str()) => {
            Ok(value)
        }
        // The others replace the base weights by a residual that the file does not hold.
        _ => Err(unsupported(fields, KEY, &value)),
    }
}

fn unsupported(fields: &Fields<'_>, key: &str, value: &Value) -> PeftError {
    PeftError::UnsupportedOption {
        file: fields.file().to_owned(),
        key: key.to_owned(),
        value: shortened(value),
    }
}

/// A number as Python keeps it: whole when it has no fraction.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        json!(number as i64)
    } else {
        json!(number)
    }
}
