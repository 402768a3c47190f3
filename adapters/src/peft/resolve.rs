//! A configuration applied to the modules of a model.

use std::collections::BTreeMap;

use super::common::ModulePattern;
use super::matching::{Matcher, Verdict, ends_with, pattern_key};
use super::{AdapterConfig, PeftError};
use crate::weights::near::near;

/// A module of the base model, as far as adapters care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Full dotted name, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// What it is.
    pub kind: ModuleKind,
    /// It has a bias.
    pub bias: bool,
    /// It is the output head, which `all-linear` leaves out.
    pub output_head: bool,
}

/// What a module is, and its sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModuleKind {
    /// `weight [outputs, inputs]`.
    Linear {
        /// Input size.
        inputs: usize,
        /// Output size.
        outputs: usize,
    },
    /// `weight [outputs, inputs, kernel.0, kernel.1]`.
    Conv2d {
        /// Input channels.
        inputs: usize,
        /// Output channels.
        outputs: usize,
        /// Height and width.
        kernel: [usize; 2],
    },
    /// A table of vectors; cannot be adapted yet.
    Embedding,
    /// Anything else with parameters (norms); can only be stored whole.
    Other,
}

impl ModuleKind {
    /// What a module with a weight of this shape is, unless it is an embedding: that looks like a linear layer.
    pub fn of_weight(shape: &[usize]) -> Self {
        match *shape {
            [outputs, inputs] => Self::Linear { inputs, outputs },
            [outputs, inputs, height, width] => Self::Conv2d {
                inputs,
                outputs,
                kernel: [height, width],
            },
            _ => Self::Other,
        }
    }
}

impl Module {
    /// A linear layer without bias.
    pub fn linear(name: impl Into<String>, inputs: usize, outputs: usize) -> Self {
        Self::new(name, ModuleKind::Linear { inputs, outputs })
    }

    /// A module of any kind, without bias, not the output head.
    pub fn new(name: impl Into<String>, kind: ModuleKind) -> Self {
        Self {
            name: name.into(),
            kind,
            bias: false,
            output_head: false,
        }
    }

    /// The same module, with a bias.
    #[must_use]
    pub fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// The same module, as the output head.
    #[must_use]
    pub fn as_output_head(self) -> Self {
        Self {
            output_head: true,
            ..self
        }
    }
}

impl ModuleKind {
    /// Length of the axis that OFT rotates: inputs, times the kernel's area for a convolution.
    pub fn rotated_inputs(&self) -> Option<usize> {
        match self {
            Self::Linear { inputs, .. } => Some(*inputs),
            Self::Conv2d {
                inputs,
                kernel: [height, width],
                ..
            } => Some(inputs * height * width),
            Self::Embedding | Self::Other => None,
        }
    }

    /// Output size.
    pub fn outputs(&self) -> Option<usize> {
        match self {
            Self::Linear { outputs, .. } | Self::Conv2d { outputs, .. } => Some(*outputs),
            Self::Embedding | Self::Other => None,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Linear { .. } => "a linear layer",
            Self::Conv2d { .. } => "a convolution",
            Self::Embedding => "an embedding",
            Self::Other => "neither linear nor a convolution",
        }
    }
}

/// An adapted module.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Full name of the module.
    pub name: String,
    /// What it is.
    pub kind: ModuleKind,
    /// How it is adapted.
    pub rule: TargetRule,
}

/// The sizes of one module's adapter.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum TargetRule {
    /// A rotation of `blocks` blocks.
    Oft {
        /// Size of each block, after adjustment to a divisor.
        block_size: usize,
        /// Number of blocks (all of them, also when they share one rotation).
        blocks: usize,
    },
    /// A low-rank term.
    Lora {
        /// Rank.
        rank: usize,
        /// Alpha, as configured.
        alpha: f64,
        /// What the product is multiplied by.
        scale: f64,
    },
}

/// The modules that a configuration adapts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resolution {
    /// Adapted modules, in model order.
    pub targets: Vec<Target>,
    /// Entries of `target_modules` that match no module.
    pub unmatched: Vec<String>,
    /// Names of the model that look like the first unmatched entry.
    pub near: Vec<String>,
    /// Remarks for the log: adjusted block sizes, patterns without effect.
    pub warnings: Vec<String>,
}

impl Resolution {
    /// The same, if every entry of `target_modules` matched something.
    ///
    /// # Errors
    /// [`PeftError::UnmatchedTargets`].
    pub fn require_all(self) -> Result<Self, PeftError> {
        if self.unmatched.is_empty() {
            return Ok(self);
        }
        Err(PeftError::UnmatchedTargets {
            entries: self.unmatched,
            near: self.near,
        })
    }
}

/// Applies `config` to the modules of a model.
///
/// # Errors
/// [`PeftError::NoTarget`] when nothing matches, [`PeftError::UnsupportedTarget`] when something
/// matches that cannot be adapted, [`PeftError::BlockOfOne`], [`PeftError::Pattern`], and whatever
/// [`AdapterConfig::validate`] finds.
///
/// ```
/// use temper_adapters::peft::{AdapterConfig, Common, Module, ModulePattern, OftConfig, resolve};
///
/// let common = Common { target_modules: Some(ModulePattern::AllLinear), ..Common::default() };
/// let config = AdapterConfig::Oft(OftConfig { common, ..OftConfig::default() });
/// let modules = [Module::linear("fc", 64, 8), Module::linear("head", 8, 2).as_output_head()];
/// let resolution = resolve(&config, &modules)?;
/// assert_eq!(resolution.targets.len(), 1);
/// assert_eq!(resolution.targets[0].name, "fc");
/// # Ok::<(), temper_adapters::peft::PeftError>(())
/// ```
pub fn resolve(config: &AdapterConfig, modules: &[Module]) -> Result<Resolution, PeftError> {
    config.validate()?;
    let common = config.common();
    let matcher = Matcher::new(common)?;
    let all_linear = common.target_modules == Some(ModulePattern::AllLinear);
    let mut resolution = Resolution::default();
    let mut excluded = false;
    for module in modules {
        let verdict = matcher.verdict(&module.name);
        excluded |= verdict == Verdict::Excluded;
        let linear = matches!(module.kind, ModuleKind::Linear { .. }) && !module.output_head;
        if verdict == Verdict::Target && (linear || !all_linear) {
            resolution.targets.push(target(config, module)?);
        }
    }
    resolution.warnings = adjustments(config, &resolution.targets);
    if common.exclude_modules.is_some() && !excluded {
        resolution
            .warnings
            .push("exclude_modules excludes no module".to_owned());
    }
    pattern_warnings(config, &mut resolution)?;
    report_unmatched(config, modules, &mut resolution)?;
    Ok(resolution)
}

fn target(config: &AdapterConfig, module: &Module) -> Result<Target, PeftError> {
    let Some(inputs) = module.kind.rotated_inputs() else {
        let (module, kind) = (module.name.clone(), module.kind.describe());
        return Err(PeftError::UnsupportedTarget { module, kind });
    };
    let name = module.name.clone();
    let rule = match config {
        AdapterConfig::Oft(oft) => {
            let block_size = oft
                .block_size(inputs)
                .map_err(|error| named(error, &name))?;
            let blocks = inputs / block_size;
            TargetRule::Oft { block_size, blocks }
        }
        AdapterConfig::Lora(lora) => TargetRule::Lora {
            rank: lora.rank(&name)?,
            alpha: lora.alpha(&name)?,
            scale: lora.scale(&name)?,
        },
    };
    Ok(Target {
        name,
        kind: module.kind,
        rule,
    })
}

fn named(error: PeftError, name: &str) -> PeftError {
    match error {
        PeftError::BlockOfOne { inputs, .. } => PeftError::BlockOfOne {
            module: name.to_owned(),
            inputs,
        },
        other => other,
    }
}

/// The layer, and what is said of it when its blocks are not those asked for.
fn adjustment<'a>(config: &AdapterConfig, target: &'a Target) -> Option<(&'a str, String)> {
    let (AdapterConfig::Oft(oft), TargetRule::Oft { block_size, blocks }) = (config, target.rule)
    else {
        return None;
    };
    let (what, asked, given) = match oft.r {
        0 => ("oft_block_size", oft.oft_block_size, block_size),
        asked => ("r", asked, blocks),
    };
    let said = || format!("{what} {asked} does not divide, {given} is used");
    (asked != given).then(|| (target.name.as_str(), said()))
}

/// One remark for all layers of which the same is said.
fn adjustments(config: &AdapterConfig, targets: &[Target]) -> Vec<String> {
    let mut layers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, said) in targets
        .iter()
        .filter_map(|target| adjustment(config, target))
    {
        layers.entry(said).or_default().push(name);
    }
    let remark = |(said, names): (String, Vec<&str>)| match names.as_slice() {
        [first, rest @ ..] if !rest.is_empty() => {
            format!("`{first}` and {} more layers: {said}", rest.len())
        }
        names => format!("`{}`: {said}", names.concat()),
    };
    layers.into_iter().map(remark).collect()
}

/// `rank_pattern` and `alpha_pattern` keys that match no target.
fn pattern_warnings(config: &AdapterConfig, resolution: &mut Resolution) -> Result<(), PeftError> {
    let AdapterConfig::Lora(lora) = config else {
        return Ok(());
    };
    let ranks = lora
        .rank_pattern
        .iter()
        .map(|(key, _)| ("rank_pattern", key));
    let alphas = lora
        .alpha_pattern
        .iter()
        .map(|(key, _)| ("alpha_pattern", key));
    for (option, key) in ranks.chain(alphas) {
        let pattern = [(key.clone(), ())];
        let mut used = false;
        for target in &resolution.targets {
            used |= pattern_key(&pattern, &target.name)?.is_some();
        }
        if !used {
            resolution
                .warnings
                .push(format!("`{key}` in {option} matches no adapted module"));
        }
    }
    Ok(())
}

fn report_unmatched(
    config: &AdapterConfig,
    modules: &[Module],
    resolution: &mut Resolution,
) -> Result<(), PeftError> {
    let common = config.common();
    if let Some(ModulePattern::Names(names)) = &common.target_modules {
        let matched = |name: &String| {
            resolution
                .targets
                .iter()
                .any(|target| ends_with(&target.name, name))
        };
        resolution.unmatched = names
            .iter()
            .filter(|name| !matched(name))
            .cloned()
            .collect();
    }
    let names = || modules.iter().map(|module| module.name.as_str());
    if let Some(first) = resolution.unmatched.first() {
        resolution.near = near(first, names());
    }
    if !resolution.targets.is_empty() {
        return Ok(());
    }
    let (wanted, near) = match &common.target_modules {
        None => ("(none given)".to_owned(), Vec::new()),
        Some(ModulePattern::AllLinear) => ("`all-linear`".to_owned(), Vec::new()),
        Some(ModulePattern::Regex(text)) => (format!("`{text}`"), near(text, names())),
        Some(ModulePattern::Names(list)) => (format!("{list:?}"), resolution.near.clone()),
    };
    Err(PeftError::NoTarget {
        wanted,
        near,
        layers: common.layers_to_transform.is_some(),
    })
}
