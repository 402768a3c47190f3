//! Which modules an adapter applies to, by PEFT's rules.

use regex::Regex;

use super::common::{Common, LayerPatterns, Layers, ModulePattern};
use super::{AdapterConfig, PeftError};

/// Whether `config` adapts the module called `module`.
///
/// Rules, in order: `exclude_modules` and `modules_to_save` win; a `target_modules` expression must
/// match the whole name; a listed name must equal it or be its last part (`q_proj` for
/// `layers.0.q_proj`), and in the latter case the layer number must be in `layers_to_transform`.
/// For `all-linear` every name counts: restricting it to linear layers is up to
/// [`resolve`](super::resolve), which knows them.
///
/// # Errors
/// [`PeftError::Pattern`] when an expression cannot be run.
///
/// ```
/// use std::path::Path;
/// use temper_adapters::peft::{AdapterConfig, is_target};
///
/// let text = br#"{"peft_type": "OFT", "oft_block_size": 8, "target_modules": ["q_proj"]}"#;
/// let (config, _) = AdapterConfig::parse(text, Path::new("adapter_config.json"))?;
/// assert!(is_target(&config, "model.layers.0.self_attn.q_proj")?);
/// assert!(!is_target(&config, "model.layers.0.self_attn.v_proj")?);
/// # Ok::<(), temper_adapters::peft::PeftError>(())
/// ```
pub fn is_target(config: &AdapterConfig, module: &str) -> Result<bool, PeftError> {
    Ok(Matcher::new(config.common())?.verdict(module) == Verdict::Target)
}

/// What a configuration makes of one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Adapted.
    Target,
    /// Named in `exclude_modules`.
    Excluded,
    /// Stored whole, hence not adapted.
    Saved,
    /// Left alone.
    Other,
}

/// The rules of one configuration, its expressions compiled.
#[derive(Debug)]
pub(crate) struct Matcher<'a> {
    targets: Option<Names<'a>>,
    excluded: Option<Names<'a>>,
    saved: Vec<Regex>,
    layers: Option<&'a Layers>,
    layer_number: Vec<Regex>,
}

#[derive(Debug)]
enum Names<'a> {
    List(&'a [String]),
    Whole(Regex),
    Every,
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(common: &'a Common) -> Result<Self, PeftError> {
        let saved = common.modules_to_save.iter().flatten();
        let layers = common.layers_to_transform.as_ref();
        Ok(Self {
            targets: common.target_modules.as_ref().map(Names::new).transpose()?,
            excluded: common
                .exclude_modules
                .as_ref()
                .map(Names::new)
                .transpose()?,
            saved: saved
                .map(|name| compile(name, &format!(r"\A(?:(^|.*\.){name}($|\..*))")))
                .collect::<Result<_, _>>()?,
            layers: layers.filter(|layers| **layers != Layers::Many(Vec::new())),
            layer_number: layer_expressions(common.layers_pattern.as_ref())?,
        })
    }

    pub(crate) fn verdict(&self, module: &str) -> Verdict {
        if self
            .excluded
            .as_ref()
            .is_some_and(|names| names.matches(module))
        {
            return Verdict::Excluded;
        }
        if self.saves(module) {
            return Verdict::Saved;
        }
        let target = match &self.targets {
            // A full name is meant as it stands, whatever its layer.
            Some(Names::List(names)) if names.iter().any(|name| name == module) => true,
            Some(names @ Names::List(_)) => names.matches(module) && self.layer_matches(module),
            Some(names) => names.matches(module),
            None => false,
        };
        if target {
            Verdict::Target
        } else {
            Verdict::Other
        }
    }

    /// Whether `modules_to_save` covers the module.
    pub(crate) fn saves(&self, module: &str) -> bool {
        self.saved
            .iter()
            .any(|expression| expression.is_match(module))
    }

    fn layer_matches(&self, module: &str) -> bool {
        let Some(layers) = self.layers else {
            return true;
        };
        let found = self
            .layer_number
            .iter()
            .find_map(|expression| expression.captures(module));
        let number = found.and_then(|found| found.name("idx")?.as_str().parse::<usize>().ok());
        number.is_some_and(|number| match layers {
            Layers::One(layer) => number == *layer,
            Layers::Many(layers) => layers.contains(&number),
        })
    }
}

impl<'a> Names<'a> {
    fn new(pattern: &'a ModulePattern) -> Result<Self, PeftError> {
        Ok(match pattern {
            ModulePattern::Names(names) => Self::List(names),
            ModulePattern::Regex(text) => Self::Whole(compile(text, &format!(r"\A(?:{text})\z"))?),
            ModulePattern::AllLinear => Self::Every,
        })
    }

    fn matches(&self, module: &str) -> bool {
        match self {
            Self::List(names) => names.iter().any(|name| ends_with(module, name)),
            Self::Whole(expression) => expression.is_match(module),
            Self::Every => true,
        }
    }
}

/// Whether `name` is `module`, or the last of its dotted parts.
pub(crate) fn ends_with(module: &str, name: &str) -> bool {
    module
        .strip_suffix(name)
        .is_some_and(|start| start.is_empty() || start.ends_with('.'))
}

/// The value of the first pattern that matches `module` or its last parts.
pub(crate) fn pattern_key<'a, T>(
    patterns: &'a [(String, T)],
    module: &str,
) -> Result<Option<&'a T>, PeftError> {
    for (pattern, value) in patterns {
        if compile(pattern, &format!(r"\A(.*\.)?({pattern})\z"))?.is_match(module) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Expressions that find the layer number: the first number that follows the named list, or any
/// part of the name when no list is given.
fn layer_expressions(patterns: Option<&LayerPatterns>) -> Result<Vec<Regex>, PeftError> {
    let names: &[String] = match patterns {
        None => &[],
        Some(LayerPatterns::One(name)) if name.is_empty() => &[],
        Some(LayerPatterns::One(name)) => std::slice::from_ref(name),
        Some(LayerPatterns::Many(names)) => names,
    };
    if names.is_empty() {
        let any = r"\A.*?\.[^.]*\.(?P<idx>\d+)\.";
        return Ok(vec![compile(any, any)?]);
    }
    let named = |name: &String| compile(name, &format!(r"\A(?:(?:^|.*?\.){name}\.(?P<idx>\d+)\.)"));
    names.iter().map(named).collect()
}

fn compile(written: &str, expression: &str) -> Result<Regex, PeftError> {
    Regex::new(expression).map_err(|source| PeftError::Pattern {
        pattern: written.to_owned(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> ModulePattern {
        ModulePattern::Names(list.iter().map(|name| (*name).to_owned()).collect())
    }

    fn targets(common: &Common, module: &str) -> bool {
        Matcher::new(common).unwrap().verdict(module) == Verdict::Target
    }

    #[test]
    fn listed_name_matches_itself_and_as_last_parts() {
        let common = Common {
            target_modules: Some(names(&["attn.q", "conv"])),
            ..Common::default()
        };
        for yes in ["attn.q", "layers.0.attn.q", "conv", "a.conv"] {
            assert!(targets(&common, yes), "{yes}");
        }
        for no in ["xattn.q", "attn.q.more", "deconv", "q"] {
            assert!(!targets(&common, no), "{no}");
        }
    }

    #[test]
    fn expression_must_match_the_whole_name() {
        let regex = Some(ModulePattern::Regex(r".*\.q|v".to_owned()));
        let common = Common {
            target_modules: regex,
            ..Common::default()
        };
        assert!(targets(&common, "a.q") && targets(&common, "v"));
        assert!(!targets(&common, "a.v") && !targets(&common, "a.q_proj"));
    }

    #[test]
    fn exclusion_and_saved_modules_win() {
        let common = Common {
            target_modules: Some(names(&["q"])),
            exclude_modules: Some(names(&["0.q"])),
            modules_to_save: Some(vec!["head".to_owned()]),
            ..Common::default()
        };
        assert!(targets(&common, "layers.1.q"));
        assert!(!targets(&common, "layers.0.q"));
        assert!(!targets(&common, "head.q") && !targets(&common, "a.head.b.q"));
        assert!(targets(&common, "ahead.q"));
    }

    #[test]
    fn layer_number_is_the_first_one_and_full_names_ignore_it() {
        let common = Common {
            target_modules: Some(names(&["q", "model.layers.9.q"])),
            layers_to_transform: Some(Layers::Many(vec![1, 3])),
            ..Common::default()
        };
        assert!(targets(&common, "model.layers.1.experts.0.q"));
        assert!(!targets(&common, "model.layers.0.experts.1.q"));
        assert!(targets(&common, "model.layers.9.q"));
        // Without a part before the list, the unnamed rule finds no number.
        assert!(!targets(&common, "layers.1.q"));
        let named = Common {
            layers_pattern: Some(LayerPatterns::One("layers".into())),
            ..common
        };
        assert!(targets(&named, "layers.1.q"));
        assert!(!targets(&named, "model.blocks.1.q"));
    }

    #[test]
    fn empty_layer_list_means_all_layers() {
        let common = Common {
            target_modules: Some(names(&["q"])),
            layers_to_transform: Some(Layers::Many(Vec::new())),
            ..Common::default()
        };
        assert!(targets(&common, "model.layers.5.q"));
    }

    #[test]
    fn look_around_is_refused_by_name() {
        let regex = Some(ModulePattern::Regex("(?!x)q".to_owned()));
        let common = Common {
            target_modules: regex,
            ..Common::default()
        };
        let message = Matcher::new(&common).unwrap_err().to_string();
        assert!(message.contains("`(?!x)q`"), "{message}");
    }

    #[test]
    fn first_matching_pattern_gives_the_value() {
        let patterns = [("layers.0.*q".to_owned(), 1), ("q".to_owned(), 2)];
        assert_eq!(
            pattern_key(&patterns, "m.layers.0.attn.q").unwrap(),
            Some(&1)
        );
        assert_eq!(
            pattern_key(&patterns, "m.layers.1.attn.q").unwrap(),
            Some(&2)
        );
        assert_eq!(pattern_key(&patterns, "m.layers.1.attn.eq").unwrap(), None);
    }
}
