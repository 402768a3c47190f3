//! `images.kind = "latents"`: everything a step sees comes from one file, so that runs of other trainers can be repeated.
//!
//! Tensors of the file: `latents` and `noise` `[S, B, C, h, w]`, `timesteps` `[S, B]`, and the text as `encoder_hidden_states` (or
//! `text_emb`) `[B, T, D]`, the same for all steps, or `[S, B, T, D]`. Step i reads row i mod S. With `images.prior_loss_weight`
//! above 0 the second half of the rows is the class.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use temper_adapters::weights::{Checkpoint, Dtype};

use super::batch::{Batch, Texts};
use super::cache::key;
use crate::Failure;
use crate::diffusion::Conditioning;

/// The content of such a file.
#[derive(Debug)]
pub(super) struct LatentFile {
    latents: Block,
    noise: Block,
    timesteps: Vec<Vec<usize>>,
    text: Block,
    class_rows: usize,
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
            && rows > 0;
        if !fits {
            let message = format!(
                "the tensors of `{}` have different numbers of steps or rows: latents {:?}, noise {:?}, text {:?}",
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
        Ok(Self {
            class_rows: if with_class { rows / 2 } else { 0 },
            fingerprint: key(&[&std::fs::read(file)?]),
            latents,
            noise,
            timesteps,
            text,
        })
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
