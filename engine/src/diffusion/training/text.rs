//! What of the text encoders is trained.

use temper_adapters::Parameters;
use temper_models::ClipText;

use crate::Failure;
use crate::recipe::{Adapter, AdapterKind, OneOrMany};

/// Layers of CLIP that adapters go to: the projections of its attention.
const TEXT_TARGETS: [&str; 4] = ["q_proj", "k_proj", "v_proj", "out_proj"];

/// What of a text encoder no gradient reaches: training it would be an error of the recipe elsewhere.
pub(super) struct UnusedText {
    /// From this layer on.
    layers: usize,
    final_layer_norm: bool,
    text_projection: bool,
}

impl UnusedText {
    /// Of an encoder with so many layers. SDXL reads the state before the last layer, without norm, and of its `last` encoder the
    /// pooled text, too, which passes through everything.
    pub(super) fn new(layers: usize, clip_skip: usize, is_xl: bool, is_last: bool) -> Self {
        let whole = is_xl && is_last;
        let skipped = clip_skip + usize::from(is_xl);
        Self {
            layers: if whole {
                layers
            } else {
                layers.saturating_sub(skipped)
            },
            final_layer_norm: is_xl && !is_last,
            text_projection: !whole,
        }
    }

    /// Refuses adapters that no gradient would reach.
    pub(super) fn check(&self, name: &str, adapter: Option<&Adapter>) -> Result<(), Failure> {
        if self.layers > 0 || adapter.is_none_or(|adapter| adapter.kind == AdapterKind::Full) {
            return Ok(());
        }
        let message = format!(
            "`diffusion.train_text_encoder`: what is read of the {name} has passed none of its layers, and adapters of theirs would learn nothing"
        );
        Err(Failure::usage(message)
            .with_hint("lower `diffusion.clip_skip`, or leave the text encoder as it is"))
    }

    pub(super) fn freeze(&self, encoder: &mut ClipText) {
        encoder.visit_mut(&mut |param| {
            if self.holds(param.name()) {
                param.set_trainable(false);
            }
        });
    }

    /// Whether a parameter or module of this name is among it.
    pub(super) fn holds(&self, name: &str) -> bool {
        let layer = name
            .split("layers.")
            .nth(1)
            .and_then(|rest| rest.split('.').next())
            .and_then(|number| number.parse::<usize>().ok());
        layer.is_some_and(|layer| layer >= self.layers)
            || (self.final_layer_norm && name.contains("final_layer_norm"))
            || (self.text_projection && name.contains("text_projection"))
    }
}

/// The recipe's method as it is for text encoders: on all products of attention.
pub(super) fn for_text(adapter: &Adapter) -> Adapter {
    let mut adapter = adapter.clone();
    if adapter.kind != AdapterKind::Full {
        let targets = TEXT_TARGETS.map(str::to_owned);
        adapter.target_modules = Some(OneOrMany::Many(targets.to_vec()));
        adapter.exclude_modules = None;
        adapter.modules_to_save = None;
        adapter.layers_to_transform = None;
        adapter.layers_pattern = None;
    }
    adapter
}
