//! A language model: token ids to logits.
//!
//! | input | shape | default |
//! |---|---|---|
//! | `input_ids` | `[B, T]` | |
//! | `attention_mask` | `[B, T]`, 1 = token, 0 = padding on either side | all 1 |
//! | `position_ids` | `[B, T]` or `[1, T]` | 0, 1, …, T − 1, whatever the mask, as transformers does |
//! | `labels` | `[B, T]`, not shifted, −100 = no target | no loss |
//!
//! Outputs in f32: `logits [B, T, V]`, `loss [1]` (mean over the targets) with labels, `hidden_states.N [B, T, C]` on request.
//! At padding they mean nothing.

use std::path::Path;

use burn::tensor::{FloatDType, Tensor};
use temper_adapters::Adaptable;
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, WeightsError};
use temper_models::{IGNORE, Llama, TokenBatch, cross_entropy_sum};

use super::tensors::{InputError, Range, integers, open, shape, token_ids};
use super::{Job, Outputs};
use crate::{Failure, run};

const INPUTS: [&str; 4] = ["input_ids", "attention_mask", "position_ids", "labels"];

pub(super) fn outputs(job: Job<'_>) -> Result<Outputs, Failure> {
    let inputs = Inputs::read(&job.args.input)?;
    let mut model = job.options.load_from(job.directory)?.model;
    if job.args.merge {
        Adaptable::merge(&mut model);
    }
    run_model(&model, &inputs, job.args.hidden_states)
}

fn run_model(model: &Llama, inputs: &Inputs, all: bool) -> Result<Outputs, Failure> {
    let batch = &inputs.batch;
    let vocabulary = model.config().vocab_size;
    inputs.check_labels(vocabulary)?;
    let layout = model.layout(batch)?;
    let mut states = model.hidden_states(&batch.input_ids, &layout)?;
    let last = states[states.len() - 1].clone();
    let mut outputs = vec![(
        "logits".to_owned(),
        host(model.project(last.clone()), batch.shape)?,
    )];
    if inputs.labelled {
        let scale = 1.0 / batch.targets() as f64;
        let loss = if scale.is_finite() {
            cross_entropy_sum(last, &model.head_weight(), &batch.shifted_labels(), scale)
                .into_scalar::<f32>()
        } else {
            run::note("warning: no label is a target, so the mean loss is not a number");
            f32::NAN
        };
        outputs.push((
            "loss".to_owned(),
            HostTensor::from_f32(Dtype::F32, vec![1], &[loss])?,
        ));
    }
    if all {
        for (index, state) in states.drain(..).enumerate() {
            outputs.push((format!("hidden_states.{index}"), host(state, batch.shape)?));
        }
    }
    Ok(outputs)
}

/// `[B·T, W]` on a device to `[B, T, W]` in f32 on the host.
fn host(tensor: Tensor<2>, [rows, tokens]: [usize; 2]) -> Result<HostTensor, WeightsError> {
    let [_, width] = tensor.dims();
    let Ok(values) = tensor.cast(FloatDType::F32).into_data().try_to_vec::<f32>() else {
        unreachable!("cast to f32")
    };
    HostTensor::from_f32(Dtype::F32, vec![rows, tokens, width], &values)
}

/// The input tensors, checked.
#[derive(Debug)]
struct Inputs {
    batch: TokenBatch,
    labelled: bool,
    /// Which positions are tokens and not padding.
    shown: Vec<bool>,
}

impl Inputs {
    fn read(file: &Path) -> Result<Self, Failure> {
        let file = open(file, &INPUTS)?;
        let (input_ids, wanted) = token_ids(&file)?;
        let [rows, tokens] = wanted;
        let range = |name, least| Range {
            name,
            tokens,
            least,
            most: i64::from(i32::MAX),
        };
        let mask = optional(&file, "attention_mask", wanted)?;
        let positions = optional(&file, "position_ids", wanted)?;
        let labels = optional(&file, "labels", wanted)?;
        let mask = mask.unwrap_or_else(|| vec![1; rows * tokens]);
        let mask = Range {
            most: 1,
            ..range("attention_mask", 0)
        }
        .check(mask)?;
        let starts = starts(&mask, tokens)?;
        let positions = match positions {
            None => (0..rows).flat_map(|_| 0..tokens as u32).collect(),
            Some(values) => unsigned(&range("position_ids", 0).check(values)?),
        };
        let batch = TokenBatch {
            shape: wanted,
            input_ids,
            labels: match &labels {
                None => vec![IGNORE; rows * tokens],
                Some(labels) => range("labels", i64::from(IGNORE))
                    .check(labels.clone())?
                    .iter()
                    .map(|&l| l as i32)
                    .collect(),
            },
            starts,
            positions,
        };
        let shown = mask.iter().map(|&mask| mask == 1).collect();
        let inputs = Self {
            batch,
            labelled: labels.is_some(),
            shown,
        };
        inputs.warn_of_targets_behind_padding();
        Ok(inputs)
    }

    /// Labels are −100 or in the vocabulary.
    fn check_labels(&self, vocabulary: usize) -> Result<(), Failure> {
        let wrong =
            |&label: &i32| label != IGNORE && !(0..vocabulary as i64).contains(&i64::from(label));
        let Some(at) = self.batch.labels.iter().position(wrong) else {
            return Ok(());
        };
        let tokens = self.batch.shape[1];
        Err(Failure::run(InputError::Value {
            name: "labels",
            value: i64::from(self.batch.labels[at]),
            row: at / tokens,
            column: at % tokens,
            expected: format!("{IGNORE} or a token id below {vocabulary}"),
        }))
    }

    /// A target whose predecessor is padding is predicted from nothing; the frameworks differ there.
    fn warn_of_targets_behind_padding(&self) {
        let labels = self.batch.shifted_labels();
        let count = labels
            .iter()
            .zip(&self.shown)
            .filter(|(label, shown)| **label != IGNORE && !**shown)
            .count();
        if count > 0 {
            run::note(&format!(
                "warning: {count} labels are predicted from padding, where logits mean nothing; set them to {IGNORE}"
            ));
        }
    }
}

/// Where each token's attention begins; padding sees only itself.
fn starts(mask: &[i64], tokens: usize) -> Result<Vec<u32>, Failure> {
    let mut starts = Vec::with_capacity(mask.len());
    for (row, mask) in mask.chunks(tokens).enumerate() {
        let first = mask.iter().position(|&shown| shown == 1).unwrap_or(tokens);
        let last = mask.iter().rposition(|&shown| shown == 1).unwrap_or(0);
        let hole = (first..last).find(|&column| mask[column] == 0);
        if let Some(column) = hole {
            return Err(Failure::run(InputError::Hole { row, column }));
        }
        let start = |column: usize| if mask[column] == 1 { first } else { column };
        starts.extend((0..tokens).map(|column| start(column) as u32));
    }
    Ok(starts)
}

fn optional(
    file: &Checkpoint,
    name: &'static str,
    wanted: [usize; 2],
) -> Result<Option<Vec<i64>>, Failure> {
    if file.info(name).is_none() {
        return Ok(None);
    }
    let tensor = file.read(name)?;
    let values = integers(name, &tensor)?;
    let repeated = name == "position_ids" && tensor.shape() == [1, wanted[1]];
    if repeated {
        return Ok(Some(values.repeat(wanted[0])));
    }
    if tensor.shape() != wanted {
        return Err(shape(name, &tensor, format!("{wanted:?} as `input_ids`")));
    }
    Ok(Some(values))
}

fn unsigned(values: &[i64]) -> Vec<u32> {
    values.iter().map(|&value| value as u32).collect()
}
