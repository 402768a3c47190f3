//! Diffusion models as learners.

use temper_adapters::{Adaptable, Adapter, RandomSource};
use temper_datasets::random;
use temper_models::Gradients;

use super::batch::{Batch, Texts};
use super::latents::LatentFile;
use super::networks::Networks;
use super::objective::{Objective, Sums};
use super::photos::Photos;
use super::samples::Shows;
use crate::Failure;
use crate::diffusion::Conditioning;
use crate::run::{RunDir, Unit};
use crate::train::{Learner, StepReport};

/// Where steps come from.
#[derive(Debug)]
pub(super) enum Source {
    /// Photographs, encoded here.
    Photos(Box<Photos>),
    /// Latents, noise and texts of a file.
    Latents(Box<LatentFile>),
}

/// A U-Net with its images.
#[derive(Debug)]
pub(super) struct DiffusionLearner {
    pub(super) networks: Networks,
    /// `None` until the run directory is there.
    pub(super) source: Option<Source>,
    pub(super) objective: Objective,
    /// What the validation loss is computed on.
    pub(super) validation: Vec<Batch>,
    pub(super) shows: Option<Shows>,
    /// Rows of one forward and backward pass; `None` takes all at once.
    pub(super) micro_batch: Option<usize>,
    /// Learning rate of the text encoder, as a multiple of the recipe's.
    pub(super) text_rate: f64,
    /// Seed of dropout.
    pub(super) seed: u64,
}

impl DiffusionLearner {
    fn batch(&mut self, step: u64) -> Result<Batch, Failure> {
        match &mut self.source {
            Some(Source::Photos(photos)) => photos.batch(&self.networks, step),
            Some(Source::Latents(file)) => {
                let device = super::objective::device_of(&self.networks)?;
                Ok(file.step(step, &device))
            }
            None => Err(Failure::run("the images are not opened yet")),
        }
    }

    /// Dropout masks are addressed by (seed, layer, step, micro-batch), the same on every device.
    fn set_dropout(&mut self, address: Option<(u64, u64)>) {
        let seed = self.seed;
        let source = address.map(|(step, micro)| {
            RandomSource::new(move |purpose| {
                random::rng(seed, &format!("dropout {purpose}"), step, micro)
            })
        });
        let set = |adapter: Option<&mut Adapter>| {
            if let Some(Adapter::Lora(lora)) = adapter {
                lora.set_dropout(source.clone());
            }
        };
        self.networks
            .visit_linears_mut(&mut |linear| set(linear.adapter_mut()));
        self.networks
            .visit_convs_mut(&mut |conv| set(conv.adapter_mut()));
    }
}

impl Learner for DiffusionLearner {
    fn gradients(&mut self, step: u64, sums: &mut Gradients) -> Result<StepReport, Failure> {
        let batch = self.batch(step)?;
        let weights = self.objective.weights(&batch)?;
        let rows = batch.rows();
        let micro = self.micro_batch.unwrap_or(rows).clamp(1, rows);
        let mut parts = Sums::default();
        let mut total = 0.0;
        for (index, start) in (0..rows).step_by(micro).enumerate() {
            let count = micro.min(rows - start);
            self.set_dropout(Some((step, index as u64)));
            let loss = self.objective.accumulate(
                &self.networks,
                &batch,
                &weights,
                [start, count],
                &mut parts,
            )?;
            total += f64::from(loss.into_scalar::<f32>());
        }
        self.set_dropout(None);
        parts.into_gradients(&self.networks, sums);
        Ok(StepReport {
            loss: total,
            items: rows as u64,
            targets: rows as u64,
        })
    }

    fn model(&self) -> &dyn Adaptable {
        &self.networks
    }

    fn model_mut(&mut self) -> &mut dyn Adaptable {
        &mut self.networks
    }

    fn evaluate(&self) -> Result<Option<(f64, u64)>, Failure> {
        let Some(unet) = self.networks.unet().filter(|_| !self.validation.is_empty()) else {
            return Ok(None);
        };
        let unet = temper_adapters::Parameters::frozen(unet);
        let pipeline = self.networks.frozen_pipeline();
        let control = self
            .networks
            .control
            .as_ref()
            .map(temper_adapters::Parameters::frozen);
        let (mut total, mut count) = (0.0, 0);
        for batch in &self.validation {
            let text: Conditioning = match (&batch.text, &pipeline) {
                (Texts::Encoded(text), _) => text.clone(),
                (Texts::Prompts(prompts), Some(pipeline)) => {
                    pipeline.encode_prompts(prompts, self.objective.clip_skip)?
                }
                (Texts::Prompts(_), None) => return Ok(None),
            };
            let control = match (&control, &batch.hints) {
                (Some(control), Some(hints)) => Some(control.forward(hints)?),
                _ => None,
            };
            let loss = self.objective.validate(&unet, batch, &text, control)?;
            total += loss * batch.rows() as f64;
            count += batch.rows() as u64;
        }
        Ok(Some((total / count as f64, count)))
    }

    fn unit(&self) -> Unit {
        Unit::Images
    }

    fn rate_scale(&self, name: &str) -> f64 {
        if name.starts_with("text_encoder") {
            self.text_rate
        } else {
            1.0
        }
    }

    fn show(&self, step: u64, run: &RunDir, stop: &dyn Fn() -> bool) -> Result<bool, Failure> {
        match &self.shows {
            Some(shows) => {
                let photos = match &self.source {
                    Some(Source::Photos(photos)) => Some(&**photos),
                    Some(Source::Latents(_)) | None => None,
                };
                shows.show((&self.networks, photos), step, run, stop)
            }
            None => Ok(true),
        }
    }

    fn describe_step(&self, step: u64) -> String {
        match &self.source {
            Some(Source::Photos(photos)) => {
                let loader = photos.loader();
                let name = |example: &temper_datasets::images::PlannedExample| {
                    let entry = loader.entry(example);
                    entry.map_or_else(String::new, |entry| entry.path.display().to_string())
                };
                let plan = loader.plan(step);
                let names: Vec<String> = plan.examples.iter().map(name).collect();
                format!("[{}]", names.join(", "))
            }
            Some(Source::Latents(file)) => format!("[row {}]", step as usize % file.steps()),
            None => String::new(),
        }
    }
}
