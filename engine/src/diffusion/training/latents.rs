//! `images.kind = "latents"`: everything a step sees comes from one file, so that runs of other trainers can be repeated.
//!
//! Tensors of the file: `latents` and `noise` `[S, B, C, h, w]`, `timesteps` `[S, B]`, and the text as `encoder_hidden_states` (or
//! `text_emb`) `[B, T, D]`, the same for all steps, or `[S, B, T, D]`. Step i reads row i mod S. With `images.prior_loss_weight`
//! above 0 the second half of the rows is the class.
//!
//! Held out, where there are any: `validation_latents` `[V, C, h, w]` and their texts `validation_encoder_hidden_states`
//! `[V, T, D]`. Timesteps and noise of the validation are those of `[validation]`, as for photographs.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use temper_adapters::weights::{Checkpoint, Dtype};

use super::batch::{Batch, Texts, normal};
use super::cache::key;
use crate::Failure;
use crate::diffusion::Conditioning;
use crate::recipe::Validation;

/// The content of such a file.
#[derive(Debug)]
pub(super) struct LatentFile {
    latents: Block,
    noise: Block,
    timesteps: Vec<Vec<usize>>,
    text: Block,
    class_rows: usize,
    held_out: Option<[Block; 2]>,
    fingerprint: String,
}

/// Values of all steps, `[S, …]`; S is 1 where they are the same for all.
#[derive(Debug)]
struct Block {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Block {
    fn read(
        file: &Path,
        checkpoint: &Checkpoint,
        name: &str,
        ranks: &[usize],
    ) -> Result<Self, Failure> {
        let Some(info) = checkpoint.info(name) else {
            return Err(missing(file, name));
        };
        let shape = info.shape.clone();
        if !ranks.contains(&shape.len()) {
            let message = format!(
                "`{name}` of `{}` has shape {shape:?}, expected {} dimensions",
                file.display(),
                ranks
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" or ")
            );
            return Err(Failure::run(message).with_hint(LAYOUT));
        }
        Ok(Self {
            values: checkpoint.read_f32(name)?,
            shape,
        })
    }

    fn step<const D: usize>(&self, step: u64, device: &Device) -> Tensor<D> {
        let mut shape = [0; D];
        let per_step = self.shape.len() == D + 1;
        shape.copy_from_slice(&self.shape[usize::from(per_step)..]);
        let count: usize = shape.iter().product();
        let row = if per_step {
            step as usize % self.shape[0]
        } else {
            0
        };
        let values = self.values[row * count..(row + 1) * count].to_vec();
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

/// Latents and texts that are not trained on.
const HELD_OUT: [&str; 2] = ["validation_latents", "validation_encoder_hidden_states"];

const LAYOUT: &str = "`latents` and `noise` are [steps, rows, channels, height, width], `timesteps` [steps, rows], \
    `encoder_hidden_states` [rows, tokens, width] or [steps, rows, tokens, width]";

fn missing(file: &Path, name: &str) -> Failure {
    Failure::run(format!("`{}` has no tensor `{name}`", file.display())).with_hint(LAYOUT)
}

impl LatentFile {
    /// Reads and checks a file. With `with_class` the second half of the rows is the class.
    pub(super) fn open(file: &Path, with_class: bool) -> Result<Self, Failure> {
        let checkpoint = Checkpoint::open(file)?;
        let read = |name: &str, ranks: &[usize]| Block::read(file, &checkpoint, name, ranks);
        let (latents, noise) = (read("latents", &[5])?, read("noise", &[5])?);
        let text = match checkpoint.info("encoder_hidden_states") {
            Some(_) => read("encoder_hidden_states", &[3, 4])?,
            None if checkpoint.info("text_emb").is_some() => read("text_emb", &[3, 4])?,
            None => return Err(missing(file, "encoder_hidden_states")),
        };
        let timesteps = timesteps(file, &checkpoint)?;
        let (steps, rows) = (latents.shape[0], latents.shape[1]);
        let text_rows = text.shape[text.shape.len() - 3];
        let fits = noise.shape == latents.shape
            && timesteps.len() == steps
            && timesteps.iter().all(|row| row.len() == rows)
            && text_rows == rows
            && (text.shape.len() == 3 || text.shape[0] == steps)
            && rows > 0
            && steps > 0;
        if !fits {
            let message = format!(
                "the tensors of `{}` have different numbers of steps or rows, or none: latents {:?}, noise {:?}, text {:?}",
                file.display(),
                latents.shape,
                noise.shape,
                text.shape
            );
            return Err(Failure::run(message).with_hint(LAYOUT));
        }
        if with_class && !rows.is_multiple_of(2) {
            let message = format!(
                "`{}` has {rows} rows a step: they have no second half for the class",
                file.display()
            );
            return Err(Failure::usage(message)
                .with_hint("write `prior_loss_weight = 0` in `[images]` when there is no class"));
        }
        let held_out = match checkpoint.info(HELD_OUT[0]) {
            Some(_) => Some([read(HELD_OUT[0], &[4])?, read(HELD_OUT[1], &[3])?]),
            None => None,
        };
        if let Some([held, texts]) = &held_out {
            check_held_out(file, [held, texts], [&latents, &text])?;
        }
        Ok(Self {
            held_out,
            class_rows: if with_class { rows / 2 } else { 0 },
            fingerprint: key(&[&std::fs::read(file)?]),
            latents,
            noise,
            timesteps,
            text,
        })
    }

    /// Refuses a `train.batch_size` that the file does not have; 1, its default, stands for whatever there is.
    pub(super) fn check_batch(&self, file: &Path, batch_size: usize) -> Result<(), Failure> {
        let rows = self.rows();
        if batch_size == 1 || batch_size == rows {
            return Ok(());
        }
        let message = format!(
            "`train.batch_size = {batch_size}`, but a step of `{}` has {rows} rows",
            file.display()
        );
        Err(Failure::usage(message)
            .with_hint("take `batch_size` out: the file says how many rows a step has"))
    }

    /// Rows of a step.
    pub(super) fn rows(&self) -> usize {
        self.latents.shape[1]
    }

    /// Steps before the file begins anew.
    pub(super) fn steps(&self) -> usize {
        self.latents.shape[0]
    }

    /// Channels of a latent and width of a text, to compare with the U-Net.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (
            self.latents.shape[2],
            self.text.shape[self.text.shape.len() - 1],
        )
    }

    /// The held-out images at the timesteps of `validation`, a batch each; none where the file has none. Noise as for
    /// photographs: number i at (seed, "validation", i).
    pub(super) fn validation(&self, validation: &Validation, on: &Device) -> Vec<Batch> {
        let Some([held, texts]) = &self.held_out else {
            return Vec::new();
        };
        let count = validation.timesteps.len();
        let shape = [held.shape[1], held.shape[2], held.shape[3]];
        let batch = |number: usize| {
            let latents: Tensor<3> = held.step(number as u64, on);
            let hidden: Tensor<2> = texts.step(number as u64, on);
            Batch {
                latents: latents.unsqueeze::<4>().repeat_dim(0, count),
                noise: normal(
                    validation.seed,
                    "validation",
                    number as u64,
                    count,
                    shape,
                    on,
                ),
                input_noise: None,
                timesteps: validation.timesteps.clone(),
                is_class: vec![false; count],
                text: Texts::Encoded(Conditioning {
                    hidden: hidden.unsqueeze::<3>().repeat_dim(0, count),
                    pooled: None,
                }),
                time_ids: None,
                masks: None,
                hints: None,
            }
        };
        (0..held.shape[0].min(validation.images))
            .map(batch)
            .collect()
    }

    /// Whether there is something to validate on.
    pub(super) fn holds_out(&self) -> bool {
        self.held_out.is_some()
    }

    /// A name for the content.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What step `step` sees.
    pub(super) fn step(&self, step: u64, device: &Device) -> Batch {
        let rows = self.rows();
        let instance = rows - self.class_rows;
        Batch {
            latents: self.latents.step(step, device),
            noise: self.noise.step(step, device),
            input_noise: None,
            timesteps: self.timesteps[step as usize % self.timesteps.len()].clone(),
            is_class: (0..rows).map(|row| row >= instance).collect(),
            text: Texts::Encoded(Conditioning {
                hidden: self.text.step(step, device),
                pooled: None,
            }),
            time_ids: None,
            masks: None,
            hints: None,
        }
    }
}

/// Held-out images must be what the model takes: a text for each, channels and widths of the others.
fn check_held_out(
    file: &Path,
    [held, texts]: [&Block; 2],
    [latents, text]: [&Block; 2],
) -> Result<(), Failure> {
    let width = |block: &Block| block.shape[block.shape.len() - 1];
    let fits = held.shape[0] == texts.shape[0]
        && held.shape[1] == latents.shape[2]
        && width(texts) == width(text);
    if fits {
        return Ok(());
    }
    let message = format!(
        "`{}` of `{}` has shape {:?} and `{}` {:?}: they need a text for each image, and channels and width of the others, {} and {}",
        HELD_OUT[0],
        file.display(),
        held.shape,
        HELD_OUT[1],
        texts.shape,
        latents.shape[2],
        width(text)
    );
    Err(Failure::run(message).with_hint(
        "`validation_latents` is [images, channels, height, width], `validation_encoder_hidden_states` [images, tokens, width]",
    ))
}

fn timesteps(file: &Path, checkpoint: &Checkpoint) -> Result<Vec<Vec<usize>>, Failure> {
    let name = "timesteps";
    let info = checkpoint.info(name).ok_or_else(|| missing(file, name))?;
    let [steps, rows] = info.shape[..] else {
        let message = format!(
            "`timesteps` of `{}` has shape {:?}",
            file.display(),
            info.shape
        );
        return Err(Failure::run(message).with_hint(LAYOUT));
    };
    let bytes = checkpoint.bytes(name)?;
    let values: Vec<usize> = match info.dtype {
        Dtype::I64 => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| usize::try_from(i64::from_le_bytes(*bytes)).unwrap_or(usize::MAX))
            .collect(),
        Dtype::I32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| usize::try_from(i32::from_le_bytes(*bytes)).unwrap_or(usize::MAX))
            .collect(),
        _ => checkpoint
            .read_f32(name)?
            .into_iter()
            .map(|value| {
                if value.fract() == 0.0 && value >= 0.0 {
                    value as usize
                } else {
                    usize::MAX
                }
            })
            .collect(),
    };
    if let Some(row) = values.iter().position(|t| *t == usize::MAX) {
        let message = format!(
            "`timesteps` of `{}`: value {row} is not a whole number from 0 on",
            file.display()
        );
        return Err(Failure::run(message));
    }
    Ok((0..steps)
        .map(|step| values[step * rows..(step + 1) * rows].to_vec())
        .collect())
}
