//! Published sizes. A test ties each name to its parameter count: a name over wrong numbers is found at once.

use serde_json::{Value, json};

use super::UnetConfig;
use crate::ModelError;

const PRESETS: [&str; 3] = ["sd15", "sd21", "sdxl"];

impl UnetConfig {
    /// Names that [`Self::preset`] knows.
    pub fn presets() -> Vec<&'static str> {
        PRESETS.to_vec()
    }

    /// A published size: Stable Diffusion 1.5, 2.1 (768 pixels) or XL base.
    ///
    /// # Errors
    /// [`ModelError::Preset`] for an unknown name.
    pub fn preset(name: &str) -> Result<Self, ModelError> {
        let own = match name {
            "sd15" => json!({
                "attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64,
            }),
            "sd21" => json!({
                "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "sample_size": 96,
                "use_linear_projection": true, "upcast_attention": true,
            }),
            "sdxl" => json!({
                "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048, "sample_size": 128,
                "use_linear_projection": true, "block_out_channels": [320, 640, 1280],
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
                "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
            }),
            _ => {
                return Err(ModelError::Preset {
                    name: name.to_owned(),
                    known: Self::presets(),
                });
            }
        };
        let mut value = common();
        if let (Value::Object(all), Value::Object(own)) = (&mut value, own) {
            all.extend(own);
        }
        Self::from_json(&value)
    }
}

/// What all three share, with every key that older readers want to see.
fn common() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "act_fn": "silu", "in_channels": 4, "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
        "down_block_types": [
            "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D",
        ],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "center_input_sample": false, "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0,
        "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32,
        "only_cross_attention": false, "transformer_layers_per_block": 1, "upcast_attention": false,
        "use_linear_projection": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_published_numbers_of_parameters_and_tensors() {
        for (name, parameters, tensors) in [
            ("sd15", 859_520_964, 686),
            ("sd21", 865_910_724, 686),
            ("sdxl", 2_567_463_684, 1680),
        ] {
            let config = UnetConfig::preset(name).unwrap();
            assert_eq!(config.parameter_count(), parameters, "{name}");
            assert_eq!(config.tensors().len(), tensors, "{name}");
        }
    }

    #[test]
    fn an_unknown_preset_is_refused_with_the_known_names() {
        let message = UnetConfig::preset("sd3").unwrap_err().to_string();
        assert!(
            message.contains("sd3") && message.contains("sdxl"),
            "{message}"
        );
    }
}
