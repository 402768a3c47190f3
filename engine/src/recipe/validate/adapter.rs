//! `[adapter]`: only keys of the chosen kind, and only values that train something.

use super::Checker;
use crate::recipe::{Adapter, AdapterKind, Bias, OneOrMany};

const OFT_KEYS: &[&str] = &[
    "oft_block_size",
    "coft",
    "eps",
    "eps_scaling",
    "block_share",
    "use_cayley_neumann",
    "num_cayley_neumann_terms",
    "module_dropout",
];
const LORA_KEYS: &[&str] = &[
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
];
const SHARED_KEYS: &[&str] = &[
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "bias",
    "init_from",
    "r",
];

impl Checker<'_> {
    pub(super) fn adapter(&mut self, adapter: &Adapter) {
        match adapter.kind {
            AdapterKind::Full => self.foreign(adapter.kind, &[SHARED_KEYS, OFT_KEYS, LORA_KEYS]),
            AdapterKind::Oft => {
                self.foreign(adapter.kind, &[LORA_KEYS]);
                self.oft(adapter);
            }
            AdapterKind::Lora => {
                self.foreign(adapter.kind, &[OFT_KEYS]);
                self.lora(adapter);
            }
        }
        if adapter.kind != AdapterKind::Full || self.report.is_bad("adapter.kind") {
            self.selection(adapter);
        }
    }

    /// Refuses keys that the kind does not have.
    fn foreign(&mut self, kind: AdapterKind, lists: &[&[&str]]) {
        let kind = kind.as_str();
        for key in lists.iter().copied().flatten() {
            let full = format!("adapter.{key}");
            if self.written(&full) {
                let message = format!("`{full}` is not used by `kind = \"{kind}\"`");
                let hint = format!(
                    "take it out, or change `kind`; `--set 'adapter={{kind=\"{kind}\"}}'` \
                    replaces the whole section"
                );
                self.problem(&[&full, "adapter.kind"], message, hint);
            }
        }
    }

    fn oft(&mut self, adapter: &Adapter) {
        let keys = ["adapter.oft_block_size", "adapter.r", "adapter.kind"];
        match (adapter.oft_block_size, adapter.r.unwrap_or(0)) {
            (Some(0), 0) => self.problem(
                &keys,
                "`adapter.oft_block_size` and `adapter.r` are both 0",
                "give the side of a block, as in `oft_block_size = 32`, or the number of blocks \
                `r`",
            ),
            (Some(size), blocks) if size > 0 && blocks > 0 => self.problem(
                &keys,
                format!(
                    "`adapter.oft_block_size = {size}` and `adapter.r = {blocks}` exclude \
                each other"
                ),
                "keep one: the side of a block, or the number of blocks",
            ),
            (Some(1), _) => self.problem(
                &keys,
                "`adapter.oft_block_size = 1` has no parameters: a rotation needs at least 2 \
                dimensions",
                "PEFT's default is 32",
            ),
            _ => {}
        }
        if adapter.module_dropout.is_some_and(|dropout| dropout != 0.0) {
            self.problem(
                &["adapter.module_dropout", "adapter.kind"],
                "`adapter.module_dropout` has no effect in PEFT's OFT and is not imitated",
                "write 0 or take it out",
            );
        }
        self.oft_dependents(adapter);
        self.bias(adapter, Bias::LoraOnly, "lora_only");
    }

    /// Keys that mean something only beside another.
    fn oft_dependents(&mut self, adapter: &Adapter) {
        for key in ["adapter.eps", "adapter.eps_scaling"] {
            if self.written(key) && adapter.coft != Some(true) {
                self.problem(
                    &[key, "adapter.coft", "adapter.kind"],
                    format!("`{key}` is used only with `coft = true`"),
                    "add `coft = true`, or take it out",
                );
            }
        }
        if self.written("adapter.num_cayley_neumann_terms")
            && adapter.use_cayley_neumann == Some(false)
        {
            self.problem(
                &[
                    "adapter.num_cayley_neumann_terms",
                    "adapter.use_cayley_neumann",
                    "adapter.kind",
                ],
                "`adapter.num_cayley_neumann_terms` is used only with `use_cayley_neumann = true`",
                "the exact rotation has no terms; take it out",
            );
        }
    }

    fn lora(&mut self, adapter: &Adapter) {
        if adapter.r == Some(0) {
            self.problem(
                &["adapter.r", "adapter.kind"],
                "`adapter.r` must be at least 1 for `kind = \"lora\"`",
                "8 and 16 are common ranks",
            );
        }
        for (name, rank) in adapter.rank_pattern.iter().flatten() {
            if *rank == 0 {
                self.problem(
                    &["adapter.rank_pattern", "adapter.kind"],
                    format!("`adapter.rank_pattern` gives `{name}` rank 0"),
                    "to leave layers alone write `exclude_modules`",
                );
            }
        }
        for (name, alpha) in adapter.alpha_pattern.iter().flatten() {
            if *alpha <= 0.0 {
                self.problem(
                    &["adapter.alpha_pattern", "adapter.kind"],
                    format!("`adapter.alpha_pattern` gives `{name}` alpha {alpha}"),
                    "alpha must be above 0",
                );
            }
        }
        self.bias(adapter, Bias::OftOnly, "oft_only");
    }

    fn bias(&mut self, adapter: &Adapter, other: Bias, name: &str) {
        if adapter.bias == Some(other) {
            let kind = adapter.kind.as_str();
            self.problem(
                &["adapter.bias", "adapter.kind"],
                format!("`adapter.bias = \"{name}\"` does not go with `kind = \"{kind}\"`"),
                format!("did you mean `{kind}_only`?"),
            );
        }
    }

    fn selection(&mut self, adapter: &Adapter) {
        self.pattern("adapter.target_modules", adapter.target_modules.as_ref());
        self.pattern("adapter.exclude_modules", adapter.exclude_modules.as_ref());
        if adapter.layers_pattern.is_some() && adapter.layers_to_transform.is_none() {
            self.problem(
                &["adapter.layers_pattern", "adapter.layers_to_transform"],
                "`adapter.layers_pattern` is used only with `layers_to_transform`",
                "add `layers_to_transform = [...]`, or take it out",
            );
        }
        let is_regex =
            matches!(&adapter.target_modules, Some(OneOrMany::One(t)) if t != "all-linear");
        if is_regex && adapter.layers_to_transform.is_some() {
            self.problem(
                &["adapter.layers_to_transform", "adapter.target_modules"],
                "`adapter.layers_to_transform` does not go with a regular expression in \
                `target_modules`",
                "name the layers in the expression, or write `target_modules` as a list",
            );
        }
        if let Some(from) = &adapter.init_from {
            self.local_or_hub("adapter.init_from", from, false);
            self.adapter_directory(from);
        }
    }

    /// A plain word is a regular expression that no layer matches: PEFT compares it with whole
    /// names.
    fn pattern(&mut self, key: &str, pattern: Option<&OneOrMany>) {
        match pattern {
            Some(OneOrMany::One(text)) if text != "all-linear" && is_plain_word(text) => self
                .problem(
                    &[key],
                    format!(
                        "`{key}`: `{text}` as a text must match whole layer names, and none is \
                called so"
                    ),
                    format!("write a list of name endings: `[\"{text}\"]`"),
                ),
            Some(OneOrMany::Many(names)) if names.iter().any(|name| name == "all-linear") => self
                .problem(
                    &[key],
                    format!("`{key}`: `all-linear` is not a layer"),
                    "write `\"all-linear\"` without brackets",
                ),
            _ => {}
        }
    }

    fn adapter_directory(&mut self, from: &str) {
        let directory = self.path(from);
        if directory.exists() && !directory.join("adapter_config.json").is_file() {
            self.problem(
                &["adapter.init_from"],
                format!("`adapter.init_from`: there is no `adapter_config.json` in `{from}`"),
                "give the directory that holds `adapter_config.json` and \
                `adapter_model.safetensors`",
            );
        }
    }
}

fn is_plain_word(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
}
