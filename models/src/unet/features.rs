//! What a diffusers configuration may ask for and this UNet does not do: refused by name, never ignored.

use serde_json::Value;

use crate::ModelError;

/// Keys whose other values change the computation, and the values that are understood; null always is.
const UNDERSTOOD: [(&str, &[&str]); 25] = [
    ("_class_name", &["\"UNet2DConditionModel\""]),
    ("act_fn", &["\"silu\"", "\"swish\""]),
    ("time_embedding_type", &["\"positional\""]),
    ("attention_type", &["\"default\""]),
    ("resnet_time_scale_shift", &["\"default\""]),
    ("addition_embed_type", &["\"text_time\""]),
    ("conv_in_kernel", &["3"]),
    ("conv_out_kernel", &["3"]),
    ("downsample_padding", &["1"]),
    ("mid_block_scale_factor", &["1", "1.0"]),
    ("resnet_out_scale_factor", &["1", "1.0"]),
    ("dropout", &["0", "0.0"]),
    ("center_input_sample", &["false"]),
    ("dual_cross_attention", &["false"]),
    ("class_embeddings_concat", &["false"]),
    ("resnet_skip_time_act", &["false"]),
    ("class_embed_type", &[]),
    ("num_class_embeds", &[]),
    ("encoder_hid_dim", &[]),
    ("encoder_hid_dim_type", &[]),
    ("time_cond_proj_dim", &[]),
    ("time_embedding_act_fn", &[]),
    ("timestep_post_act", &[]),
    ("cross_attention_norm", &["false"]),
    ("attention_bias", &["false"]),
];

/// Refuses what is not built.
///
/// # Errors
/// [`ModelError::Unsupported`] naming key and value; [`ModelError::Key`] when `value` is not an object.
pub(super) fn check_supported(value: &Value) -> Result<(), ModelError> {
    let Some(map) = value.as_object() else {
        return Err(ModelError::key(
            "config.json",
            format!("`{value}`"),
            "an object",
        ));
    };
    for (key, understood) in UNDERSTOOD {
        let Some(value) = map.get(key).filter(|value| !value.is_null()) else {
            continue;
        };
        let written = value.to_string();
        if !understood.contains(&written.as_str()) {
            return Err(ModelError::Unsupported {
                what: format!("`{key}` = {written}"),
                hint: "supported are the UNets of Stable Diffusion 1.x, 2.x and XL",
            });
        }
    }
    Ok(())
}
