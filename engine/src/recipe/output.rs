//! `[precision]`, `[sample]` and `[run]`: number formats, sample completions, and where results go.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `[precision]` section.
///
/// ```
/// # use temper_engine::recipe::{Compute, Precision};
/// assert_eq!(Precision::default().compute, Compute::Auto);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Precision {
    /// Format of frozen weights and matrix products. Trained parameters, moments, norms, softmax
    /// and loss are f32 in any case.
    pub compute: Compute,
}

/// Number format of frozen weights and matrix products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// bf16 where the device is fast at it, else f32.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats with the range of f32.
    Bf16,
    /// 16-bit floats with a small range; may overflow.
    F16,
}

/// The `[sample]` section: completions before and after training, printed side by side.
///
/// ```
/// # use temper_engine::recipe::Sample;
/// assert_eq!(Sample::default().count, 3);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sample {
    /// How many prompts to take from the held-out rows, or from the training rows when nothing is
    /// held out. 0 prints none.
    #[schemars(range(max = 1000))]
    pub count: usize,
    /// Longest completion in tokens.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token each time; above 0, tokens are drawn with the recipe's seed.
    #[schemars(range(min = 0))]
    pub temperature: f64,
    /// Prompts of your own, used as they are instead of rows.
    #[schemars(length(min = 1))]
    pub prompts: Option<Vec<String>>,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            count: 3,
            max_new_tokens: 64,
            temperature: 0.0,
            prompts: None,
        }
    }
}

/// The `[run]` section.
///
/// ```
/// # use temper_engine::recipe::Run;
/// assert!(!Run::default().overwrite);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Run {
    /// Directory that receives everything the run writes. Default: `runs/` and the name of the
    /// recipe file.
    pub dir: PathBuf,
    /// A name for people to read.
    pub name: Option<String>,
    /// Replace an earlier run in the same directory.
    pub overwrite: bool,
}
