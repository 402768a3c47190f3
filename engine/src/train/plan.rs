//! What a run will take, known before any weight is read.

use std::fmt;

use temper_adapters::peft::{AdapterConfig, Module, TargetRule, resolve};
use temper_adapters::trained_beside;
use temper_models::LlamaConfig;

use crate::Failure;

/// Sizes that decide the memory of a run.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The model.
    pub config: &'a LlamaConfig,
    /// The adapter; `None` for full fine-tuning.
    pub adapter: Option<&'a AdapterConfig>,
    /// Rows of one forward pass.
    pub micro_batch: usize,
    /// Longest row in tokens.
    pub tokens: usize,
    /// Largest number of target tokens of one forward pass.
    pub targets: usize,
    /// Bytes of one weight or activation.
    pub compute_bytes: usize,
    /// Recompute blocks in the backward pass.
    pub recompute: bool,
    /// Computed by the host loops, which keep no scores.
    pub on_host: bool,
    /// Bytes of the tokenised data held in memory.
    pub data_bytes: u64,
}

/// Parameters and bytes by component.
///
/// # Examples
/// ```
/// use temper_engine::train::{MemoryPlan, PlanInput};
/// use temper_models::LlamaConfig;
///
/// let config = LlamaConfig::preset("llama2-7b").unwrap();
/// let input = PlanInput {
///     config: &config, adapter: None, micro_batch: 1, tokens: 512, targets: 512, compute_bytes: 2,
///     recompute: true, on_host: false, data_bytes: 0,
/// };
/// let plan = MemoryPlan::new(&input).unwrap();
/// assert_eq!(plan.trainable, 6_738_415_616);
/// ```
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// All parameters, the adapter's included.
    pub parameters: usize,
    /// Trained parameters.
    pub trainable: usize,
    /// Bytes by component, in the order of a step.
    pub components: Vec<(&'static str, u64)>,
}

/// Resident size of the binary with its threads and the work buffers of its products, without a model (measured: 28 to 33 MB on Linux).
const PROCESS: u64 = 30_000_000;

/// Share of the tensors' bytes that the allocator keeps between them (measured over runs from 20 to 650 MB: 0 to 6 %).
const ALLOCATOR: f64 = 0.03;

/// Floats of logits that the loss holds at a time (see `cross_entropy`).
const LOGITS: usize = 8 << 20;

impl MemoryPlan {
    /// Plans a run.
    ///
    /// # Errors
    /// An adapter that does not fit the model.
    pub fn new(input: &PlanInput<'_>) -> Result<Self, Failure> {
        let base = input.config.parameter_count();
        let modules = input.config.modules();
        let adapter = match input.adapter {
            None => None,
            Some(config) => Some(adapter_sizes(config, &modules, &input.config.tensors())?),
        };
        let trainable = adapter.as_ref().map_or(base, |sizes| sizes.trained);
        let full = adapter.is_none();
        let weights = if full {
            4 * base
        } else {
            input.compute_bytes * base
        };
        let tokens = input.micro_batch * input.tokens;
        let c = input.config.hidden_size;
        let layers = input.config.num_hidden_layers;
        let block = input.block_floats() * tokens * input.compute_bytes;
        let rotations = adapter.as_ref().map_or(0, |sizes| 4 * sizes.rotations);
        let rotations = if input.recompute {
            rotations / layers
        } else {
            rotations
        };
        let activations = if input.recompute {
            block + layers * tokens * c * input.compute_bytes
        } else {
            layers * block
        };
        let head = input.head_bytes(full);
        let backward = tokens * (3 * input.config.intermediate_size + 2 * c) * input.compute_bytes;
        let components = vec![
            ("data", input.data_bytes),
            ("weights", weights as u64),
            (
                "adapter",
                adapter.as_ref().map_or(0, |sizes| 4 * sizes.added as u64),
            ),
            ("gradients", 4 * trainable as u64),
            ("optimizer moments", 8 * trainable as u64),
            ("activations", (activations + rotations) as u64),
            // The head's chunk and the backward pass of a block are not alive together.
            ("loss and backward buffers", head.max(backward) as u64),
        ];
        let added = adapter.map_or(0, |sizes| sizes.added);
        Ok(Self::of_tensors(base + added, trainable, components))
    }

    /// A plan of what tensors take, with what the process and the allocator take beside them.
    pub(crate) fn of_tensors(
        parameters: usize,
        trainable: usize,
        tensors: Vec<(&'static str, u64)>,
    ) -> Self {
        let total: u64 = tensors.iter().map(|(_, bytes)| bytes).sum();
        let mut components = vec![("process", PROCESS)];
        components.extend(tensors);
        components.push(("allocator", (total as f64 * ALLOCATOR) as u64));
        components.retain(|(_, bytes)| *bytes > 0);
        Self {
            parameters,
            trainable,
            components,
        }
    }

    /// Bytes of everything together.
    pub fn total(&self) -> u64 {
        self.components.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl PlanInput<'_> {
    /// Values of one token that one block keeps for its backward pass: the normalised inputs, rotated queries and keys, values,
    /// attention outputs, gate, up and their product.
    fn block_floats(&self) -> usize {
        let config = self.config;
        let query = config.num_attention_heads * config.head_dim;
        let key = config.num_key_value_heads * config.head_dim;
        let kept = 4 * config.hidden_size + 3 * query + 2 * key + 3 * config.intermediate_size;
        let scores = if self.on_host {
            0
        } else {
            3 * config.num_attention_heads * self.tokens
        };
        kept + scores
    }

    /// One chunk of logits, and the gradients that the loss computes at once.
    fn head_bytes(&self, full: bool) -> usize {
        let (v, c) = (self.config.vocab_size, self.config.hidden_size);
        let rows = (LOGITS / v).clamp(16, 1024).min(self.targets.max(1));
        let weight_gradients = if full { 2 * v * c } else { 0 };
        4 * (rows * v + 3 * self.targets * c + weight_gradients)
    }
}

/// Sizes of an adapter, known from its configuration alone.
pub(crate) struct AdapterSizes {
    /// Values that the graphs of all rotations hold: powers of the skew matrices, or the inverse and the rotation.
    pub(crate) rotations: usize,
    /// Values that the adapter adds to the model.
    pub(crate) added: usize,
    /// Values trained: the added ones, `modules_to_save` and biases.
    pub(crate) trained: usize,
}

/// Counts what an adapter adds to a network of these modules and tensors.
pub(crate) fn adapter_sizes(
    config: &AdapterConfig,
    modules: &[Module],
    tensors: &[(String, Vec<usize>)],
) -> Result<AdapterSizes, Failure> {
    let resolution = resolve(config, modules)?.require_all()?;
    let (mut added, mut rotations) = (0, 0);
    for target in &resolution.targets {
        let (inputs, outputs) = (
            target.kind.rotated_inputs().unwrap_or(0),
            target.kind.outputs().unwrap_or(0),
        );
        added += match (target.rule, config) {
            (
                TargetRule::Oft {
                    block_size: b,
                    blocks,
                },
                AdapterConfig::Oft(oft),
            ) => {
                let stored = if oft.block_share { 1 } else { blocks };
                let terms = if oft.use_cayley_neumann {
                    oft.num_cayley_neumann_terms
                } else {
                    2
                };
                rotations += stored * b * b * (terms + 3);
                stored * b * (b - 1) / 2
            }
            (TargetRule::Lora { rank, .. }, AdapterConfig::Lora(lora)) => {
                rank * (inputs + outputs) + if lora.use_dora { outputs } else { 0 }
            }
            _ => 0,
        };
    }
    let beside = trained_beside(config, modules, &resolution.targets).map_err(Failure::usage)?;
    let beside = tensors.iter().filter(|(name, _)| beside.contains(name));
    let beside: usize = beside
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    Ok(AdapterSizes {
        rotations,
        added,
        trained: added + beside,
    })
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * self.trainable as f64 / self.parameters as f64;
        writeln!(
            f,
            "parameters            {:>16}",
            grouped(self.parameters as u64)
        )?;
        writeln!(
            f,
            "trainable parameters  {:>16}  ({share:.2} %)",
            grouped(self.trainable as u64)
        )?;
        writeln!(f, "memory plan")?;
        for (name, bytes) in &self.components {
            writeln!(f, "  {name:<26} {:>10}", size(*bytes))?;
        }
        write!(f, "  {:<26} {:>10}", "peak", size(self.total()))
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that keeps a digit before the point.
pub(crate) fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
        assert_eq!(size(1_500_000_000), "1.50 GB");
    }

    #[test]
    fn a_full_run_of_7b_needs_sixteen_bytes_a_parameter() {
        let config = LlamaConfig::preset("llama2-7b").unwrap();
        let input = PlanInput {
            config: &config,
            adapter: None,
            micro_batch: 1,
            tokens: 512,
            targets: 512,
            compute_bytes: 2,
            recompute: true,
            on_host: false,
            data_bytes: 0,
        };
        let plan = MemoryPlan::new(&input).unwrap();
        let states: u64 = plan
            .components
            .iter()
            .filter(|(name, _)| ["weights", "gradients", "optimizer moments"].contains(name))
            .map(|(_, b)| b)
            .sum();
        assert_eq!(states, 16 * 6_738_415_616);
    }
}
