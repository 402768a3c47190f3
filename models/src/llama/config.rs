//! Sizes of LLaMA models, from `config.json` or a preset.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::keys::{Keys, load_json};
use crate::{ModelError, Rope, RopeScaling};

/// The architecture of a LLaMA-family checkpoint, under the names of its `config.json`.
///
/// # Examples
/// ```
/// let config = temper_models::LlamaConfig::preset("llama2-7b").unwrap();
/// assert_eq!(config.parameter_count(), 6_738_415_616);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Family: `llama` or `mistral`.
    pub model_type: String,
    /// Model width C.
    pub hidden_size: usize,
    /// Feed-forward width F.
    pub intermediate_size: usize,
    /// Decoder blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads (grouped-query attention when fewer than query heads).
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest context.
    pub max_position_embeddings: usize,
    /// Added to the mean square under the root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// The output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Mistral: how many tokens back a token may look.
    pub sliding_window: Option<usize>,
    /// First token of a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Standard deviation of random weights.
    pub initializer_range: f64,
}

impl LlamaConfig {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// When the file cannot be read, a key is missing or wrong, or the architecture is not supported.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        load_json(&directory.join("config.json"), Self::from_json)
    }

    /// Reads the content of a `config.json`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_json(value: &Value) -> Result<Self, ModelError> {
        let keys = Keys(value);
        let model_type = value
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or("llama")
            .to_owned();
        keys.check_supported(&model_type)?;
        let heads = keys.size("num_attention_heads")?;
        let hidden = keys.size("hidden_size")?;
        let config = Self {
            hidden_size: hidden,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers: keys.size("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: keys.size_or("num_key_value_heads", heads)?,
            head_dim: keys
                .optional_size("head_dim")?
                .unwrap_or(hidden / heads.max(1)),
            vocab_size: keys.size("vocab_size")?,
            max_position_embeddings: keys.size_or("max_position_embeddings", 2048)?,
            rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta: keys.rope_number("rope_theta")?.unwrap_or(1e4),
            rope_scaling: keys.rope_scaling()?,
            tie_word_embeddings: keys.flag("tie_word_embeddings"),
            sliding_window: if model_type == "mistral" {
                keys.optional_size("sliding_window")?
            } else {
                None
            },
            bos_token_id: keys.ids("bos_token_id").first().copied(),
            eos_token_ids: keys.ids("eos_token_id"),
            initializer_range: keys.number("initializer_range")?.unwrap_or(0.02),
            model_type,
        };
        config.check()
    }

    fn check(self) -> Result<Self, ModelError> {
        let wrong = |key: &str, found: usize, expected| Err(ModelError::key(key, found, expected));
        if self.num_key_value_heads == 0
            || !self
                .num_attention_heads
                .is_multiple_of(self.num_key_value_heads)
        {
            return wrong(
                "num_key_value_heads",
                self.num_key_value_heads,
                "a divisor of `num_attention_heads`",
            );
        }
        if self.num_hidden_layers > 10_000 {
            return wrong("num_hidden_layers", self.num_hidden_layers, "at most 10000");
        }
        for (key, value) in [
            ("rope_theta", self.rope_theta),
            ("rms_norm_eps", self.rms_norm_eps),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(ModelError::key(key, value, "a number above 0"));
            }
        }
        if !self.head_dim.is_multiple_of(2) {
            return wrong("head_dim", self.head_dim, "an even number (rotary pairs)");
        }
        Ok(self)
    }

    /// The same as a `config.json`, in the classic form that every reader understands.
    pub fn to_json(&self) -> Value {
        let scaling = self.rope_scaling.map(|scaling| match scaling {
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings as u64,
            }),
        });
        let eos = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let mistral = self.model_type == "mistral";
        let mut value = json!({
            "architectures": [if mistral { "MistralForCausalLM" } else { "LlamaForCausalLM" }],
            "model_type": self.model_type, "bos_token_id": self.bos_token_id, "eos_token_id": eos,
            "hidden_act": "silu", "hidden_size": self.hidden_size, "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers, "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads, "head_dim": self.head_dim, "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings, "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta, "rope_scaling": scaling, "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": false, "mlp_bias": false, "initializer_range": self.initializer_range,
        });
        if let (Some(window), Some(map)) = (self.sliding_window, value.as_object_mut()) {
            map.insert("sliding_window".to_owned(), json!(window));
        }
        value
    }

    /// Every tensor of the checkpoint: name and shape, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (c, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (
            self.num_attention_heads * self.head_dim,
            self.num_key_value_heads * self.head_dim,
        );
        let mut tensors = vec![(
            "model.embed_tokens.weight".to_owned(),
            vec![self.vocab_size, c],
        )];
        for layer in 0..self.num_hidden_layers {
            let mut add = |name: &str, shape: Vec<usize>| {
                tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
            };
            add("input_layernorm", vec![c]);
            add("self_attn.q_proj", vec![q, c]);
            add("self_attn.k_proj", vec![kv, c]);
            add("self_attn.v_proj", vec![kv, c]);
            add("self_attn.o_proj", vec![c, q]);
            add("post_attention_layernorm", vec![c]);
            add("mlp.gate_proj", vec![f, c]);
            add("mlp.up_proj", vec![f, c]);
            add("mlp.down_proj", vec![c, f]);
        }
        tensors.push(("model.norm.weight".to_owned(), vec![c]));
        if !self.tie_word_embeddings {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab_size, c]));
        }
        tensors
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.tensors()
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    /// The rotary frequencies.
    pub fn rope(&self) -> Rope {
        Rope::new(self.head_dim, self.rope_theta, self.rope_scaling)
    }

    /// Refuses texts longer than the model can place.
    ///
    /// # Errors
    /// [`ModelError::TooLong`], also beyond Mistral's sliding window, whose mask is not built.
    pub fn check_length(&self, tokens: usize) -> Result<(), ModelError> {
        let limit = (self.max_position_embeddings, "max_position_embeddings");
        let window = self
            .sliding_window
            .map(|window| (window, "sliding_window (attention beyond it is not built)"));
        match [Some(limit), window]
            .into_iter()
            .flatten()
            .find(|(limit, _)| tokens > *limit)
        {
            Some((limit, what)) => Err(ModelError::TooLong {
                tokens,
                limit,
                what,
            }),
            None => Ok(()),
        }
    }
}

impl<'a> Keys<'a> {
    /// One id, a list of ids, or none.
    fn ids(self, key: &str) -> Vec<u32> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.0.get(key) {
            Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// `rope_parameters` (newer files) or `rope_scaling` (older ones).
    fn rope_table(self) -> Option<&'a Map<String, Value>> {
        ["rope_parameters", "rope_scaling"]
            .iter()
            .find_map(|key| self.0.get(key)?.as_object())
    }

    fn rope_number(self, key: &'static str) -> Result<Option<f64>, ModelError> {
        let nested = self.rope_table().and_then(|table| table.get(key));
        number(nested.or_else(|| self.0.get(key))).map_err(|()| self.wrong(key, "a number"))
    }

    fn rope_scaling(self) -> Result<Option<RopeScaling>, ModelError> {
        let Some(table) = self.rope_table() else {
            return Ok(None);
        };
        let kind = ["rope_type", "type"]
            .iter()
            .find_map(|key| table.get(*key)?.as_str())
            .unwrap_or("default");
        let need = |key: &'static str| {
            let missing = || ModelError::key(&format!("rope_scaling.{key}"), "missing", "a number");
            number(table.get(key)).ok().flatten().ok_or_else(missing)
        };
        match kind {
            "default" => Ok(None),
            "linear" => Ok(Some(RopeScaling::Linear {
                factor: need("factor")?,
            })),
            "llama3" => Ok(Some(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position_embeddings: need("original_max_position_embeddings")?,
            })),
            other => Err(ModelError::Unsupported {
                what: format!("rope scaling `{other}`"),
                hint: "supported are default, linear and llama3",
            }),
        }
    }

    fn check_supported(self, model_type: &str) -> Result<(), ModelError> {
        let unsupported = |what: String, hint| Err(ModelError::Unsupported { what, hint });
        if !["llama", "mistral"].contains(&model_type) {
            return unsupported(
                format!("model_type `{model_type}`"),
                "supported are llama and mistral",
            );
        }
        for key in ["attention_bias", "mlp_bias"] {
            if self.flag(key) {
                return unsupported(format!("`{key}`"), "LLaMA checkpoints have no biases");
            }
        }
        match self
            .0
            .get("hidden_act")
            .and_then(Value::as_str)
            .unwrap_or("silu")
        {
            "silu" | "swish" => Ok(()),
            other => unsupported(format!("hidden_act `{other}`"), "supported is silu"),
        }
    }
}

fn number(value: Option<&Value>) -> Result<Option<f64>, ()> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_and_reading_a_config_gives_it_back() {
        for name in LlamaConfig::presets() {
            let config = LlamaConfig::preset(name).unwrap();
            assert_eq!(
                LlamaConfig::from_json(&config.to_json()).unwrap(),
                config,
                "{name}"
            );
        }
    }

    #[test]
    fn both_places_of_rope_theta_are_read() {
        let mut value = LlamaConfig::preset("llama3-8b").unwrap().to_json();
        value["rope_theta"] = Value::Null;
        value["rope_parameters"] = json!({"rope_theta": 123.0, "rope_type": "default"});
        let config = LlamaConfig::from_json(&value).unwrap();
        assert_eq!((config.rope_theta, config.rope_scaling), (123.0, None));
    }

    #[test]
    fn unsupported_and_broken_configs_name_the_key() {
        let base = LlamaConfig::preset("llama2-7b").unwrap().to_json();
        let message = |key: &str, wrong: Value| {
            let mut value = base.clone();
            value[key] = wrong;
            LlamaConfig::from_json(&value).unwrap_err().to_string()
        };
        assert!(message("model_type", json!("gpt2")).contains("gpt2"));
        assert!(message("attention_bias", json!(true)).contains("attention_bias"));
        assert!(message("hidden_size", json!("wide")).contains("hidden_size"));
        assert!(message("hidden_size", json!(-3)).contains("hidden_size"));
        assert!(message("vocab_size", json!(1_u64 << 60)).contains("vocab_size"));
        assert!(message("num_key_value_heads", json!(5)).contains("divisor"));
        assert!(
            message("rope_scaling", json!({"rope_type": "yarn", "factor": 2})).contains("yarn")
        );
        assert!(message("rope_scaling", json!({"type": "linear"})).contains("rope_scaling.factor"));
    }

    #[test]
    fn a_text_beyond_the_sliding_window_is_refused_by_name() {
        let config = LlamaConfig::preset("mistral-7b").unwrap();
        assert!(config.check_length(4096).is_ok());
        assert!(
            config
                .check_length(4097)
                .unwrap_err()
                .to_string()
                .contains("sliding_window")
        );
    }
}
