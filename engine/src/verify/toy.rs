//! The small model that the checks run on, the same on every device.

use burn::tensor::{Device, FloatDType};
use temper_adapters::peft::{AdapterConfig, LoraConfig, ModulePattern, OftConfig};
use temper_adapters::{Adaptable, RandomSource, attach};
use temper_datasets::random;
use temper_models::{Gradients, Llama, LlamaConfig, TokenBatch};

use crate::Failure;

/// Tokens of a row.
pub(super) const TOKENS: usize = 12;

/// Two blocks with grouped keys; every size is small and none is a power of two times another by accident.
pub(super) fn config() -> LlamaConfig {
    LlamaConfig {
        model_type: "llama".to_owned(),
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        vocab_size: 64,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: None,
        tie_word_embeddings: false,
        sliding_window: None,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        initializer_range: 0.2,
    }
}

/// Random numbers by purpose, the same everywhere.
pub(super) fn source() -> RandomSource {
    RandomSource::new(|purpose| random::rng(7, purpose, 0, 0))
}

/// What is trained.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    Full,
    OftSeries,
    OftExact,
    Lora,
    Dora,
}

impl Method {
    pub(super) const ALL: [Self; 5] = [
        Self::Full,
        Self::OftSeries,
        Self::OftExact,
        Self::Lora,
        Self::Dora,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::OftSeries => "OFT series",
            Self::OftExact => "OFT exact",
            Self::Lora => "LoRA",
            Self::Dora => "DoRA",
        }
    }

    pub(super) fn config(self) -> Option<AdapterConfig> {
        let mut config = match self {
            Self::Full => return None,
            Self::OftSeries | Self::OftExact => AdapterConfig::Oft(OftConfig {
                oft_block_size: 8,
                use_cayley_neumann: matches!(self, Self::OftSeries),
                ..OftConfig::default()
            }),
            Self::Lora | Self::Dora => AdapterConfig::Lora(LoraConfig {
                r: 4,
                use_dora: matches!(self, Self::Dora),
                ..LoraConfig::default()
            }),
        };
        config.common_mut().target_modules = Some(ModulePattern::AllLinear);
        Some(config)
    }

    /// The model on a device, ready to train.
    pub(super) fn model(self, compute: FloatDType, device: &Device) -> Result<Llama, Failure> {
        let mut model = Llama::random(config(), compute, device, &source());
        train(&mut model, self.config().as_ref(), device)?;
        Ok(model)
    }
}

/// Trains the whole model, or an adapter whose parameters are moved away from their start, where many gradients vanish.
pub(super) fn train(
    model: &mut dyn Adaptable,
    adapter: Option<&AdapterConfig>,
    device: &Device,
) -> Result<(), Failure> {
    let Some(config) = adapter else {
        model.visit_mut(&mut |param| param.set_trainable(true));
        return Ok(());
    };
    attach(model, config, &source())?;
    model.visit_mut(&mut |param| {
        if param.is_trainable() {
            let noise = noise(param.name(), param.numel(), 0.1, device);
            param.set(param.plain() + noise);
        }
    });
    Ok(())
}

/// Normal numbers on a device, drawn on the host.
pub(super) fn noise(
    purpose: &str,
    n: usize,
    deviation: f32,
    device: &Device,
) -> burn::tensor::Tensor<1> {
    let values = source().normal(purpose, n, deviation);
    burn::tensor::Tensor::from_data(burn::tensor::TensorData::new(values, [n]), device)
}

/// `rows` rows of random ids; row `r` has a prompt of `2 + r % 5` tokens that are no targets.
pub(super) fn batch(rows: usize) -> TokenBatch {
    let draws = source().uniform("ids", rows * TOKENS, 0.5);
    let ids = draws
        .iter()
        .map(|u| 3 + ((u + 0.5) * 60.0) as u32)
        .collect();
    let mut batch = TokenBatch::unpadded([rows, TOKENS], ids);
    for row in 0..rows {
        batch.labels[row * TOKENS..row * TOKENS + 2 + row % 5].fill(temper_models::IGNORE);
    }
    batch
}

/// One row of a batch.
pub(super) fn row(batch: &TokenBatch, row: usize) -> TokenBatch {
    let span = row * TOKENS..(row + 1) * TOKENS;
    TokenBatch {
        shape: [1, TOKENS],
        input_ids: batch.input_ids[span.clone()].to_vec(),
        labels: batch.labels[span.clone()].to_vec(),
        starts: batch.starts[span.clone()].to_vec(),
        positions: batch.positions[span].to_vec(),
    }
}

/// Loss and gradients of one step over a batch.
pub(super) fn gradients(
    model: &Llama,
    batch: &TokenBatch,
    recompute: bool,
) -> Result<(f64, Gradients), Failure> {
    let mut sums = Gradients::new();
    let loss = model.accumulate(batch, 1.0 / batch.targets() as f64, recompute, &mut sums)?;
    Ok((f64::from(loss.into_scalar::<f32>()), sums))
}

/// The values of a tensor.
pub(super) fn values<const D: usize>(tensor: burn::tensor::Tensor<D>) -> Vec<f32> {
    let tensor = if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    };
    tensor.into_data().iter::<f32>().collect()
}

/// Largest difference, relative to the largest value of `expected` (at least 1e-6).
pub(super) fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let size = expected
        .iter()
        .map(|v| f64::from(v.abs()))
        .fold(1e-6, f64::max);
    let difference = |(a, b): (&f32, &f32)| f64::from((a - b).abs());
    let worst = found
        .iter()
        .zip(expected)
        .map(difference)
        .fold(
            0.0,
            |a: f64, b| if b.is_nan() { f64::INFINITY } else { a.max(b) },
        );
    worst / size
}

/// The largest [`relative_error`] over all tensors; infinite when the sets differ.
pub(super) fn gradient_error(found: &Gradients, expected: &Gradients) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let each = |(name, expected): (&String, &burn::tensor::Tensor<1>)| match found.get(name) {
        Some(found) => relative_error(&values(found.clone()), &values(expected.clone())),
        None => f64::INFINITY,
    };
    expected.iter().map(each).fold(0.0, f64::max)
}

/// Euclidean distance of two sets of gradients, relative to the norm of `expected`; infinite when the sets differ.
pub(super) fn distance(found: &Gradients, expected: &Gradients) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let square = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>()
    };
    let (mut apart, mut size) = (0.0, 0.0);
    for (name, expected) in expected {
        let Some(found) = found.get(name) else {
            return f64::INFINITY;
        };
        let (found, expected) = (values(found.clone()), values(expected.clone()));
        apart += square(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        size += square(&mut expected.into_iter());
    }
    (apart / size).sqrt()
}
