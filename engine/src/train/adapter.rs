//! From the `[adapter]` section of a recipe to a PEFT configuration.

use temper_adapters::peft::{
    AdapterConfig, Bias, Common, LayerPatterns, Layers, LoraConfig, Module, ModulePattern,
    OftConfig, TargetRule, resolve,
};

use crate::Failure;
use crate::recipe::{self, Adapter, EpsScaling, Method, OneOrMany};

/// What a recipe says of its adapter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdapterText<'a> {
    /// The `[adapter]` section, defaults filled in.
    pub(crate) adapter: &'a Adapter,
    /// The model it adapts, as the recipe names it.
    pub(crate) base: &'a str,
    /// PEFT's name for what the model does; none for U-Nets.
    pub(crate) task_type: Option<&'a str>,
    /// The caller gives each layer its own bound, so that `eps_scaling = "official"` needs no common block size.
    pub(crate) bounds_by_layer: bool,
}

/// The configuration of the recipe's adapter for a model with these modules; `None` for full fine-tuning.
///
/// # Errors
/// A configuration that contradicts itself or matches nothing.
pub(crate) fn peft_config(
    text: Option<AdapterText<'_>>,
    modules: &[Module],
) -> Result<Option<AdapterConfig>, Failure> {
    let Some(text) = text else {
        return Ok(None);
    };
    let adapter = text.adapter;
    let common = common(text);
    let mut config = match adapter.method() {
        Method::Full => return Ok(None),
        Method::Oft(oft) => AdapterConfig::Oft(OftConfig {
            common,
            r: oft.r,
            oft_block_size: oft.oft_block_size,
            coft: oft.coft,
            eps: oft.eps,
            block_share: oft.block_share,
            use_cayley_neumann: oft.use_cayley_neumann,
            num_cayley_neumann_terms: oft.num_cayley_neumann_terms,
            ..OftConfig::default()
        }),
        Method::Lora(lora) => AdapterConfig::Lora(LoraConfig {
            common,
            r: lora.r,
            lora_alpha: lora.lora_alpha,
            lora_dropout: lora.lora_dropout,
            use_rslora: lora.use_rslora,
            use_dora: lora.use_dora,
            rank_pattern: lora.rank_pattern.into_iter().collect(),
            alpha_pattern: lora.alpha_pattern.into_iter().collect(),
            ..LoraConfig::default()
        }),
    };
    if let Method::Oft(oft) = adapter.method()
        && oft.coft
        && oft.eps_scaling == EpsScaling::Official
    {
        let factor = official_factor(&config, modules, text.bounds_by_layer)?;
        if let AdapterConfig::Oft(config) = &mut config {
            config.eps *= factor;
        }
    }
    Ok(Some(config))
}

fn common(text: AdapterText<'_>) -> Common {
    let AdapterText {
        adapter,
        base,
        task_type,
        ..
    } = text;
    let pattern = |value: &OneOrMany| match value {
        OneOrMany::One(text) if text == "all-linear" => ModulePattern::AllLinear,
        OneOrMany::One(text) => ModulePattern::Regex(text.clone()),
        OneOrMany::Many(names) => ModulePattern::Names(names.clone()),
    };
    Common {
        base_model_name_or_path: Some(base.to_owned()),
        bias: match adapter.bias.unwrap_or_default() {
            recipe::Bias::None => Bias::None,
            recipe::Bias::All => Bias::All,
            recipe::Bias::OftOnly | recipe::Bias::LoraOnly => Bias::Adapted,
        },
        target_modules: adapter.target_modules.as_ref().map(pattern),
        exclude_modules: adapter.exclude_modules.as_ref().map(pattern),
        layers_to_transform: adapter.layers_to_transform.clone().map(Layers::Many),
        layers_pattern: adapter.layers_pattern.as_ref().map(|value| match value {
            OneOrMany::One(text) => LayerPatterns::One(text.clone()),
            OneOrMany::Many(list) => LayerPatterns::Many(list.clone()),
        }),
        modules_to_save: adapter.modules_to_save.clone(),
        task_type: task_type.map(str::to_owned),
        ..Common::default()
    }
}

/// The official code constrains ‖Q‖ to `eps·b²/√r`, PEFT to `eps/√r`: the factor is b², which one file can hold only when all
/// adapted layers share b. `by_layer`, the largest is taken: PEFT projects when it loads, and a smaller bound would change what was
/// trained.
fn official_factor(
    config: &AdapterConfig,
    modules: &[Module],
    by_layer: bool,
) -> Result<f64, Failure> {
    let targets = resolve(config, modules)?.targets;
    let mut sizes: Vec<usize> = targets
        .iter()
        .filter_map(|target| match target.rule {
            TargetRule::Oft { block_size, .. } => Some(block_size),
            _ => None,
        })
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    match *sizes.as_slice() {
        [b] => Ok((b * b) as f64),
        [.., b] if by_layer => Ok((b * b) as f64),
        _ => Err(Failure::usage(format!(
            "`adapter.eps_scaling = \"official\"` needs one block size for all layers, but the adapted layers have {sizes:?}"
        ))
        .with_hint("set `adapter.oft_block_size` instead of `adapter.r`, or use `eps_scaling = \"peft\"`")),
    }
}
