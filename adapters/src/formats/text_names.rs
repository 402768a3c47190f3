//! The two namings of CLIP's modules.
//!
//! Published text encoders have `text_model.` before every name; in transformers 5 those without a projection do not. Files of both
//! kinds fit models of both.

use crate::peft::{AdapterConfig, AdapterFile, AdapterTensor, Module, ModulePattern, PeftError};

pub(super) const TEXT_MODEL: &str = "text_model.";
const PROJECTION: &str = "text_projection";

pub(super) fn with_text_model(name: &str) -> String {
    if name.starts_with(TEXT_MODEL) || name == PROJECTION {
        name.to_owned()
    } else {
        format!("{TEXT_MODEL}{name}")
    }
}

pub(super) fn without_text_model(name: &str) -> &str {
    name.strip_prefix(TEXT_MODEL).unwrap_or(name)
}

/// Whether these are the modules of a text encoder whose names have the prefix.
pub(super) fn is_prefixed(modules: &[Module]) -> bool {
    let mut names = modules.iter().map(|module| &module.name);
    names.any(|name| name.starts_with(TEXT_MODEL))
}

/// The adapter of a text encoder with the names that transformers 5 gives to the modules of one like it, as PEFT asks for them.
///
/// # Errors
/// When the names it has cannot be changed: a pattern that spells them out.
pub fn as_in_transformers(
    file: &AdapterFile,
    modules: &[Module],
) -> Result<AdapterFile, PeftError> {
    let projects = modules.iter().any(|module| module.name == PROJECTION);
    named(file, projects)
}

/// The adapter with the names of `modules`, where they are those of a text encoder.
///
/// # Errors
/// As [`as_in_transformers`].
pub fn as_in(file: &AdapterFile, modules: &[Module]) -> Result<AdapterFile, PeftError> {
    let is_text = |module: &Module| without_text_model(&module.name).starts_with("encoder.layers.");
    if !modules.iter().any(is_text) {
        return Ok(file.clone());
    }
    named(file, is_prefixed(modules))
}

fn named(file: &AdapterFile, prefixed: bool) -> Result<AdapterFile, PeftError> {
    let tensors = file.tensors().iter().map(|tensor| AdapterTensor {
        module: renamed_module(&tensor.module, prefixed),
        ..tensor.clone()
    });
    let tensors = tensors.collect();
    AdapterFile::new(renamed(file.config().clone(), prefixed), tensors)
}

fn renamed_module(name: &str, prefixed: bool) -> String {
    if prefixed {
        with_text_model(name)
    } else {
        without_text_model(name).to_owned()
    }
}

/// The configuration without the prefix, if the modules have none. The other way round nothing is to do: names in a configuration are
/// endings.
pub(super) fn renamed(mut config: AdapterConfig, prefixed: bool) -> AdapterConfig {
    if prefixed {
        return config;
    }
    let strip = |name: &mut String| {
        if let Some(rest) = name.strip_prefix(TEXT_MODEL) {
            *name = rest.to_owned();
        }
    };
    let common = config.common_mut();
    for pattern in [&mut common.target_modules, &mut common.exclude_modules] {
        if let Some(ModulePattern::Names(names)) = pattern {
            names.iter_mut().for_each(strip);
        }
    }
    common.modules_to_save.iter_mut().flatten().for_each(strip);
    if let AdapterConfig::Lora(lora) = &mut config {
        let patterns = lora.rank_pattern.iter_mut();
        patterns.for_each(|(name, _)| strip(name));
        let patterns = lora.alpha_pattern.iter_mut();
        patterns.for_each(|(name, _)| strip(name));
    }
    config
}
