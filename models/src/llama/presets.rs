//! Published sizes. A test ties each name to its parameter count: a name over wrong numbers is found at once.

use super::LlamaConfig;
use crate::{ModelError, RopeScaling};

/// A size: hidden, ffn, layers, heads, key/value heads, head width, vocabulary, context; then theta, rope factor (0 is none), tied head.
type Preset = (&'static str, [usize; 8], f64, f64, bool);

const PRESETS: [Preset; 11] = [
    (
        "llama2-7b",
        [4096, 11008, 32, 32, 32, 128, 32000, 4096],
        1e4,
        0.0,
        false,
    ),
    (
        "llama2-13b",
        [5120, 13824, 40, 40, 40, 128, 32000, 4096],
        1e4,
        0.0,
        false,
    ),
    (
        "llama2-70b",
        [8192, 28672, 80, 64, 8, 128, 32000, 4096],
        1e4,
        0.0,
        false,
    ),
    (
        "llama3-8b",
        [4096, 14336, 32, 32, 8, 128, 128_256, 8192],
        5e5,
        0.0,
        false,
    ),
    (
        "llama3-70b",
        [8192, 28672, 80, 64, 8, 128, 128_256, 8192],
        5e5,
        0.0,
        false,
    ),
    (
        "llama3.1-8b",
        [4096, 14336, 32, 32, 8, 128, 128_256, 131_072],
        5e5,
        8.0,
        false,
    ),
    (
        "llama3.2-1b",
        [2048, 8192, 16, 32, 8, 64, 128_256, 131_072],
        5e5,
        32.0,
        true,
    ),
    (
        "llama3.2-3b",
        [3072, 8192, 28, 24, 8, 128, 128_256, 131_072],
        5e5,
        32.0,
        true,
    ),
    (
        "mistral-7b",
        [4096, 14336, 32, 32, 8, 128, 32000, 32768],
        1e4,
        0.0,
        false,
    ),
    (
        "tinyllama-1.1b",
        [2048, 5632, 22, 32, 4, 64, 32000, 2048],
        1e4,
        0.0,
        false,
    ),
    (
        "llemma-7b",
        [4096, 11008, 32, 32, 32, 128, 32016, 4096],
        1e4,
        0.0,
        false,
    ),
];

impl LlamaConfig {
    /// Names that [`Self::preset`] knows.
    pub fn presets() -> Vec<&'static str> {
        PRESETS.iter().map(|preset| preset.0).collect()
    }

    /// A published size.
    ///
    /// # Errors
    /// [`ModelError::Preset`] for an unknown name.
    pub fn preset(name: &str) -> Result<Self, ModelError> {
        let found = PRESETS.iter().find(|preset| preset.0 == name);
        let unknown = || ModelError::Preset {
            name: name.to_owned(),
            known: Self::presets(),
        };
        let &(_, sizes, theta, factor, tied) = found.ok_or_else(unknown)?;
        let [
            hidden,
            ffn,
            layers,
            heads,
            key_value,
            width,
            vocabulary,
            context,
        ] = sizes;
        let llama3 = vocabulary > 100_000;
        let mistral = name.starts_with("mistral");
        Ok(Self {
            model_type: if mistral { "mistral" } else { "llama" }.to_owned(),
            hidden_size: hidden,
            intermediate_size: ffn,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: key_value,
            head_dim: width,
            vocab_size: vocabulary,
            max_position_embeddings: context,
            rms_norm_eps: 1e-5,
            rope_theta: theta,
            rope_scaling: (factor > 0.0).then_some(RopeScaling::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192.0,
            }),
            tie_word_embeddings: tied,
            sliding_window: mistral.then_some(4096),
            bos_token_id: Some(if llama3 { 128_000 } else { 1 }),
            eos_token_ids: vec![if llama3 { 128_001 } else { 2 }],
            initializer_range: 0.02,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_published_parameter_counts() {
        let published = [
            ("llama2-7b", 6_738_415_616),
            ("llama2-13b", 13_015_864_320),
            ("llama2-70b", 68_976_648_192),
            ("llama3-8b", 8_030_261_248),
            ("llama3-70b", 70_553_706_496),
            ("llama3.1-8b", 8_030_261_248),
            ("llama3.2-1b", 1_235_814_400),
            ("llama3.2-3b", 3_212_749_824),
            ("mistral-7b", 7_241_732_096),
            ("tinyllama-1.1b", 1_100_048_384),
            ("llemma-7b", 6_738_546_688),
        ];
        assert_eq!(published.map(|row| row.0).to_vec(), LlamaConfig::presets());
        for (name, count) in published {
            assert_eq!(
                LlamaConfig::preset(name).unwrap().parameter_count(),
                count,
                "{name}"
            );
        }
    }
}
