//! Whether the tensors of an adapter agree with its configuration and with each other.

use std::collections::BTreeMap;

use super::adapter::AdapterTensor;
use super::error::KeyProblem;
use super::keys::{Slot, key};
use super::{AdapterConfig, LoraConfig, OftConfig, PeftError};
use super::{adjust_block_size, block_size_from_cols, cols_from_block_size};
use crate::weights::{Dtype, HostTensor};

/// Everything that is wrong with `tensors`.
pub(crate) fn problems(
    config: &AdapterConfig,
    tensors: &[AdapterTensor],
) -> Result<Vec<KeyProblem>, PeftError> {
    let mut found = Vec::new();
    let mut pairs: BTreeMap<&str, LoraParts<'_>> = BTreeMap::new();
    for AdapterTensor {
        module,
        slot,
        tensor,
    } in tensors
    {
        if !matches!(
            tensor.dtype(),
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64
        ) {
            let dtype = tensor.dtype().to_string();
            found.push(KeyProblem::Dtype {
                key: key(module, slot, true),
                dtype,
            });
        }
        match (config, slot) {
            (_, Slot::Bias | Slot::Saved(_)) => {}
            (AdapterConfig::Oft(oft), Slot::OftR) => {
                if let Err(expected) = check_rotation(oft, tensor.shape()) {
                    found.push(shape_problem(module, slot, tensor, expected));
                }
            }
            (AdapterConfig::Lora(_), Slot::LoraA) => {
                pairs.entry(module).or_default().a = Some(tensor);
            }
            (AdapterConfig::Lora(_), Slot::LoraB) => {
                pairs.entry(module).or_default().b = Some(tensor);
            }
            (AdapterConfig::Lora(_), Slot::LoraMagnitude) => {
                pairs.entry(module).or_default().magnitude = Some(tensor);
            }
            _ => found.push(KeyProblem::WrongMethod {
                key: key(module, slot, true),
            }),
        }
    }
    if let AdapterConfig::Lora(lora) = config {
        for (module, parts) in pairs {
            check_low_rank(lora, module, &parts, &mut found)?;
        }
    }
    Ok(found)
}

#[derive(Default)]
struct LoraParts<'a> {
    a: Option<&'a HostTensor>,
    b: Option<&'a HostTensor>,
    magnitude: Option<&'a HostTensor>,
}

fn shape_problem(module: &str, slot: &Slot, tensor: &HostTensor, expected: String) -> KeyProblem {
    KeyProblem::Shape {
        key: key(module, slot, true),
        shape: tensor.shape().to_vec(),
        expected,
    }
}

/// The packed rotation must be one the configuration can produce for some input size.
fn check_rotation(oft: &OftConfig, shape: &[usize]) -> Result<(), String> {
    let [rows, cols] = *shape else {
        return Err("[blocks, b(b-1)/2]".to_owned());
    };
    let Some(size) = block_size_from_cols(cols) else {
        return Err(format!(
            "[{rows}, b(b-1)/2] for a block size b of at least 2"
        ));
    };
    if oft.block_share {
        return if rows == 1 {
            Ok(())
        } else {
            Err(format!("[1, {cols}], as block_share is set"))
        };
    }
    let Some(inputs) = rows.checked_mul(size).filter(|inputs| *inputs > 0) else {
        return Err("at least one block".to_owned());
    };
    let given = match oft.r {
        0 => adjust_block_size(oft.oft_block_size, inputs),
        asked => inputs / adjust_block_size(asked, inputs).max(1),
    };
    if given == size {
        return Ok(());
    }
    let (blocks, cols) = (
        inputs.checked_div(given).unwrap_or_default(),
        cols_from_block_size(given),
    );
    Err(format!(
        "[{blocks}, {cols}], as the configuration gives blocks of {given} for {inputs} inputs"
    ))
}

fn check_low_rank(
    lora: &LoraConfig,
    module: &str,
    parts: &LoraParts<'_>,
    found: &mut Vec<KeyProblem>,
) -> Result<(), PeftError> {
    let rank = lora.rank(module)?;
    let slots = [
        (Slot::LoraA, parts.a, true, "lora_A"),
        (Slot::LoraB, parts.b, true, "lora_B"),
        (
            Slot::LoraMagnitude,
            parts.magnitude,
            lora.use_dora,
            "lora_magnitude_vector",
        ),
    ];
    for (slot, tensor, needed, missing) in slots {
        let Some(tensor) = tensor else {
            if needed {
                found.push(KeyProblem::Incomplete {
                    module: module.to_owned(),
                    missing,
                });
            }
            continue;
        };
        let (good, expected) = match (&slot, tensor.shape()) {
            (Slot::LoraA, shape) => (
                matches!(shape.len(), 2 | 4) && shape[0] == rank,
                format!("[{rank}, inputs]"),
            ),
            (Slot::LoraB, shape) => (
                matches!(shape.len(), 2 | 4) && shape[1] == rank,
                format!("[outputs, {rank}]"),
            ),
            (_, shape) => (
                lora.use_dora && !shape.is_empty(),
                "none, as use_dora is false".to_owned(),
            ),
        };
        if !good {
            found.push(shape_problem(module, &slot, tensor, expected));
        }
    }
    Ok(())
}
