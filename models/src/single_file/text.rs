//! Text encoders: CLIP as transformers names it, and OpenCLIP with its fused projections.

use serde_json::{Value, json};
use temper_adapters::weights::{Checkpoint, View};

use super::{Family, MOST, Part, dimension};
use crate::ModelError;

/// The text encoder below `prefix`, if the file has it.
pub(super) fn part(
    checkpoint: &Checkpoint,
    prefix: &str,
    family: Family,
) -> Result<Option<Part>, ModelError> {
    let mut names = checkpoint.names().filter(|name| name.starts_with(prefix));
    if names.next().is_none() {
        return Ok(None);
    }
    if prefix.ends_with("transformer.") {
        let weights = checkpoint.renamed(|name| Some(clip(name.strip_prefix(prefix)?)))?;
        let config = config(&weights, "quick_gelu", false)?;
        return Ok(Some(Part { config, weights }));
    }
    let projects = family == Family::Sdxl;
    let block = |layer: usize| format!("{prefix}transformer.resblocks.{layer}.ln_1.weight");
    let stored = (0..MOST)
        .take_while(|layer| checkpoint.info(&block(*layer)).is_some())
        .count();
    let width = dimension(checkpoint, &format!("{prefix}ln_final.weight"), 0)?;
    // 2.x conditions on the state before the last layer, which diffusers cuts off; some files have cut it off themselves.
    let cut = !(projects || width == 1024 && stored == 23);
    let layers = stored.saturating_sub(usize::from(cut));
    let open = OpenClip {
        layers,
        width,
        projects,
    };
    let mut views = Vec::new();
    for from in checkpoint.names() {
        if let Some(name) = from.strip_prefix(prefix) {
            open.views(from, name, &mut views);
        }
    }
    let weights = checkpoint.views(views)?;
    let config = config(&weights, "gelu", projects)?;
    Ok(Some(Part { config, weights }))
}

/// Some files lack the part `text_model.`.
fn clip(name: &str) -> String {
    if name.starts_with("text_model.") || name.starts_with("text_projection.") {
        name.to_owned()
    } else {
        format!("text_model.{name}")
    }
}

/// Parts of a layer, as OpenCLIP and as transformers name them.
const PARTS: [(&str, &str); 5] = [
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

struct OpenClip {
    layers: usize,
    width: usize,
    projects: bool,
}

impl OpenClip {
    /// What tensor `from`, called `name` below the prefix, becomes: one view, three of a fused projection, or none.
    fn views(&self, from: &str, name: &str, views: &mut Vec<View>) {
        let whole = match name {
            "token_embedding.weight" => "text_model.embeddings.token_embedding.weight",
            "positional_embedding" => "text_model.embeddings.position_embedding.weight",
            "ln_final.weight" => "text_model.final_layer_norm.weight",
            "ln_final.bias" => "text_model.final_layer_norm.bias",
            "text_projection" => {
                // Applied from the right there: `x · P`.
                if self.projects {
                    views.push(View::new(from, "text_projection.weight").transposed());
                }
                return;
            }
            "logit_scale" | "attn_mask" => return,
            _ => {
                self.layer(from, name, views);
                return;
            }
        };
        views.push(View::new(from, whole));
    }

    fn layer(&self, from: &str, name: &str, views: &mut Vec<View>) {
        let parts = name
            .strip_prefix("transformer.resblocks.")
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(layer, part)| Some((layer.parse::<usize>().ok()?, part)));
        let Some((layer, part)) = parts else {
            views.push(View::new(from, from));
            return;
        };
        if layer >= self.layers {
            return;
        }
        let at = format!("text_model.encoder.layers.{layer}");
        if let Some(kind @ ("weight" | "bias")) = part.strip_prefix("attn.in_proj_") {
            for (i, projection) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
                let name = format!("{at}.self_attn.{projection}.{kind}");
                let rows = i * self.width..(i + 1) * self.width;
                views.push(View::new(from, name).rows(rows));
            }
            return;
        }
        let new = PARTS.iter().find_map(|(old, new)| {
            let tensor = part.strip_prefix(old)?;
            Some(format!("{at}.{new}{tensor}"))
        });
        views.push(View::new(from, new.unwrap_or_else(|| from.to_owned())));
    }
}

fn config(weights: &Checkpoint, act: &str, projects: bool) -> Result<Value, ModelError> {
    let layer = |layer: usize| format!("text_model.encoder.layers.{layer}.layer_norm1.weight");
    let layers = (0..MOST)
        .take_while(|i| weights.info(&layer(*i)).is_some())
        .count();
    let tokens = "text_model.embeddings.token_embedding.weight";
    let positions = "text_model.embeddings.position_embedding.weight";
    let vocabulary = dimension(weights, tokens, 0)?;
    let width = dimension(weights, tokens, 1)?;
    let inner = dimension(weights, "text_model.encoder.layers.0.mlp.fc1.weight", 0)?;
    let mut config = json!({
        "architectures": [if projects { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }],
        "model_type": "clip_text_model", "hidden_act": act,
        "vocab_size": vocabulary, "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": (width / 64).max(1),
        "max_position_embeddings": dimension(weights, positions, 0)?,
        "layer_norm_eps": 1e-5, "pad_token_id": 1,
        // CLIP's vocabulary ends with the beginning and the end of a text.
        "bos_token_id": vocabulary.saturating_sub(2), "eos_token_id": vocabulary.saturating_sub(1),
    });
    if projects {
        config["projection_dim"] = dimension(weights, "text_projection.weight", 0)?.into();
    }
    Ok(config)
}
