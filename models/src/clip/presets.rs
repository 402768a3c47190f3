//! Published sizes. A test ties each name to its parameter count.

use serde_json::json;

use super::ClipTextConfig;
use crate::ModelError;

/// Name; layers, width, heads, feed-forward width; activation; projection (0 is none); token that pads.
type Preset = (&'static str, [usize; 4], &'static str, usize);

const PRESETS: [Preset; 3] = [
    ("sd15", [12, 768, 12, 3072], "quick_gelu", 0),
    ("sd21", [23, 1024, 16, 4096], "gelu", 0),
    ("sdxl-2", [32, 1280, 20, 5120], "gelu", 1280),
];

impl ClipTextConfig {
    /// The text encoder of a published model: `sd15` (also SDXL's first), `sd21`, `sdxl-2` (SDXL's second).
    ///
    /// # Errors
    /// [`ModelError::Preset`] for another name.
    pub fn preset(name: &str) -> Result<Self, ModelError> {
        let name = if name == "sdxl-1" { "sd15" } else { name };
        let Some((_, [layers, width, heads, inner], act, projection)) =
            PRESETS.iter().find(|preset| preset.0 == name)
        else {
            return Err(ModelError::Preset {
                name: name.to_owned(),
                known: vec!["sd15", "sd21", "sdxl-1", "sdxl-2"],
            });
        };
        let class = if *projection > 0 {
            "CLIPTextModelWithProjection"
        } else {
            "CLIPTextModel"
        };
        Self::from_json(&json!({
            "architectures": [class], "num_hidden_layers": layers, "hidden_size": width,
            "num_attention_heads": heads, "intermediate_size": inner, "hidden_act": act,
            "projection_dim": if *projection > 0 { *projection } else { *width },
            "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_has_the_published_number_of_parameters() {
        for (name, count) in [
            ("sd15", 123_060_480),
            ("sdxl-1", 123_060_480),
            ("sd21", 340_387_840),
            ("sdxl-2", 694_659_840),
        ] {
            let config = ClipTextConfig::preset(name).unwrap();
            assert_eq!(config.parameter_count(), count, "{name}");
            let again = ClipTextConfig::from_json(&config.to_json()).unwrap();
            assert_eq!(again.tensors(), config.tensors(), "{name}");
        }
        let message = ClipTextConfig::preset("sd3").unwrap_err().to_string();
        assert!(
            message.contains("sd3") && message.contains("sdxl-2"),
            "{message}"
        );
    }
}
