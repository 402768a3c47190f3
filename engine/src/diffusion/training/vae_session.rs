//! Autoencoders as a kind of training: reconstruction, and latents that are not far from normal.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use temper_adapters::{Adaptable, Parameters};
use temper_datasets::images::{ImageBatch, ImageLoader, Photo, grid, write_png};
use temper_models::{Gradients, Vae};

use super::batch::normal;
use super::networks::{Networks, Stage, VAE, gather};
use super::open::Opened;
use super::photos::{loader_config, open_instance};
use super::remarks::remarks;
use super::result;
use super::session::total_steps;
use crate::Failure;
use crate::diffusion::sampling::photo;
use crate::recipe::{DiffusionRecipe, Init};
use crate::run::{RunDir, Signals, Unit, note, write_atomic};
use crate::train::{Learner, Session, StepReport, TrainerOptions, options};

/// An autoencoder with its images.
struct VaeLearner {
    networks: Networks,
    loader: ImageLoader,
    kl_weight: f64,
    micro_batch: usize,
    seed: u64,
    validation: Vec<ImageBatch>,
    shown: usize,
}

impl VaeLearner {
    fn vae(&self) -> Result<&Vae, Failure> {
        self.networks
            .vae()
            .ok_or_else(|| Failure::run("there is no autoencoder to train"))
    }

    /// Images `[B, 3, H, W]`, and normal numbers for their latents.
    fn inputs(
        &self,
        vae: &Vae,
        batch: &ImageBatch,
        purpose: &'static str,
        step: u64,
    ) -> Result<[Tensor<4>; 2], Failure> {
        let device = super::objective::device_of(&self.networks)?;
        let rows = batch.examples.len();
        let pixels: Vec<f32> = batch
            .examples
            .iter()
            .flat_map(|example| example.pixels.iter().copied())
            .collect();
        let shape = [rows, 3, batch.height, batch.width];
        let images = Tensor::from_data(TensorData::new(pixels, shape), &device);
        let (config, factor) = (vae.config(), vae.config().downscale());
        let latent = [
            config.latent_channels,
            batch.height / factor,
            batch.width / factor,
        ];
        let eps = normal(self.seed, purpose, step, rows, latent, &device);
        Ok([images, eps])
    }
}

impl Learner for VaeLearner {
    fn gradients(&mut self, step: u64, sums: &mut Gradients) -> Result<StepReport, Failure> {
        let batch = self.loader.step(step)?;
        let vae = self.vae()?;
        let rows = batch.examples.len();
        let [images, eps] = self.inputs(vae, &batch, "latent", step)?;
        let micro = self.micro_batch.clamp(1, rows);
        let mut total = 0.0;
        let mut all = Gradients::new();
        for start in (0..rows).step_by(micro) {
            let count = micro.min(rows - start);
            let share = count as f64 / rows as f64;
            let [images, eps] =
                [&images, &eps].map(|tensor| tensor.clone().narrow(0, start, count));
            let mut part = Gradients::new();
            let made = vae.accumulate(images, eps, self.kl_weight, &mut part);
            total += share * f64::from(made.loss.into_scalar::<f32>());
            for (name, gradient) in part {
                let gradient = if count == rows {
                    gradient
                } else {
                    gradient.mul_scalar(share)
                };
                let sum = match all.remove(&name) {
                    Some(sum) => sum + gradient,
                    None => gradient,
                };
                all.insert(name, sum);
            }
        }
        gather(VAE, all, sums);
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

    /// Mean squared error of images that are encoded to the mean and decoded.
    fn evaluate(&self) -> Result<Option<(f64, u64)>, Failure> {
        let vae = self.vae()?.frozen();
        let (mut total, mut count) = (0.0, 0);
        for batch in &self.validation {
            let [images, _] = self.inputs(&vae, batch, "validation", 0)?;
            let rows = images.dims()[0];
            let again = vae.decode(vae.encode(images.clone()).mean);
            let error = (again - images).square().mean();
            total += rows as f64 * f64::from(error.into_scalar::<f32>());
            count += rows as u64;
        }
        Ok((count > 0).then(|| (total / count as f64, count)))
    }

    fn unit(&self) -> Unit {
        Unit::Images
    }

    /// Images above, what the autoencoder makes of them below.
    fn show(&self, step: u64, run: &RunDir, _: &dyn Fn() -> bool) -> Result<bool, Failure> {
        let path = run
            .path()
            .join("samples")
            .join(format!("step-{step:06}.png"));
        let Some(first) = self.validation.first().filter(|_| self.shown > 0) else {
            return Ok(true);
        };
        let vae = self.vae()?.frozen();
        let mut rows: [Vec<Photo>; 2] = Default::default();
        let same_size =
            |batch: &&ImageBatch| (batch.width, batch.height) == (first.width, first.height);
        for batch in self.validation.iter().filter(same_size).take(self.shown) {
            let [images, _] = self.inputs(&vae, batch, "validation", 0)?;
            let images = images.narrow(0, 0, 1);
            rows[1].push(photo(vae.decode(vae.encode(images.clone()).mean))?);
            rows[0].push(photo(images)?);
        }
        std::fs::create_dir_all(run.path().join("samples"))?;
        let columns = rows[0].len();
        let sheet = grid(&rows.concat(), columns, 2);
        write_png(&path, &sheet, &[("step".to_owned(), step.to_string())])?;
        Ok(true)
    }

    fn describe_step(&self, step: u64) -> String {
        let plan = self.loader.plan(step);
        let entries = self.loader.instance().entries();
        let names: Vec<String> = plan
            .examples
            .iter()
            .filter_map(|example| entries.get(example.index))
            .map(|entry| entry.path.display().to_string())
            .collect();
        format!("[{}]", names.join(", "))
    }
}

/// A run that trains an autoencoder.
pub(super) struct VaeSession {
    recipe: DiffusionRecipe,
    learner: VaeLearner,
    options: TrainerOptions,
    device: String,
    quiet: bool,
}

impl VaeSession {
    pub(super) fn new(recipe: &DiffusionRecipe, quiet: bool) -> Result<Self, Failure> {
        let set = Arc::new(open_instance(recipe)?);
        let opened = Opened::new(recipe)?;
        let Stage::Vae(vae) = &opened.networks.stage else {
            return Err(Failure::run("there is no autoencoder to train"));
        };
        let loader = ImageLoader::new(set, None, loader_config(recipe, vae.config().downscale()))?;
        let options = TrainerOptions {
            show_every: recipe.sample.every as u64,
            ema_decay: recipe.diffusion.ema_decay,
            ..options(&recipe.train, total_steps(recipe, loader.steps_per_epoch()))
        };
        let mut validation = Vec::new();
        let planned = loader.distinct();
        let chosen = planned.iter().filter(|example| !example.placement.flip);
        for example in chosen.take(recipe.validation.images) {
            let example = loader.load(example)?;
            validation.push(ImageBatch {
                height: example.height,
                width: example.width,
                examples: vec![example],
                epoch: 0.0,
            });
        }
        let learner = VaeLearner {
            networks: opened.networks,
            loader,
            kl_weight: recipe.diffusion.kl_weight,
            micro_batch: recipe.train.micro_batch_size,
            seed: recipe.seed,
            validation,
            shown: recipe.sample.count,
        };
        Ok(Self {
            recipe: recipe.clone(),
            learner,
            options,
            device: opened.device.name.clone(),
            quiet,
        })
    }
}

impl VaeSession {
    /// Writes into the configuration of a new autoencoder what brings its latents to deviation 1, as diffusion models want them
    /// (arXiv 2112.10752, section G): one over the deviation of the latents of its images.
    fn scale(&self, config: &Path) -> Result<(), Failure> {
        const ENOUGH: usize = 256;
        let vae = self.learner.vae()?.frozen();
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
        for planned in self.learner.loader.distinct().iter().take(ENOUGH) {
            let example = self.learner.loader.load(planned)?;
            let batch = ImageBatch {
                height: example.height,
                width: example.width,
                examples: vec![example],
                epoch: 0.0,
            };
            let [images, _] = self.learner.inputs(&vae, &batch, "latent", 0)?;
            for value in vae.encode(images).mean.into_data().iter::<f64>() {
                sum += value;
                squares += value * value;
                count += 1.0;
            }
        }
        let deviation = (squares / count - (sum / count).powi(2)).sqrt();
        if !deviation.is_normal() {
            return Ok(());
        }
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(config)?)?;
        json["scaling_factor"] = serde_json::json!(deviation.recip());
        let text = serde_json::to_string_pretty(&json)? + "\n";
        Ok(write_atomic(config, text.as_bytes())?)
    }
}

impl Session for VaeSession {
    fn learner(&self) -> &dyn Learner {
        &self.learner
    }

    fn learner_mut(&mut self) -> &mut dyn Learner {
        &mut self.learner
    }

    fn options(&self) -> TrainerOptions {
        self.options
    }

    fn device(&self) -> &str {
        &self.device
    }

    fn data_fingerprint(&self) -> String {
        self.learner.loader.fingerprint()
    }

    fn model_settings(&self) -> String {
        let vae = self.learner.vae().map(|vae| vae.config().to_json());
        vae.unwrap_or_default().to_string()
    }

    fn prepare(&mut self, _: &RunDir, _: bool, _: &Signals) -> Result<(), Failure> {
        if !self.quiet {
            note(&self.learner.loader.instance().report().to_string());
            for remark in remarks(&self.learner.loader) {
                note(&remark);
            }
        }
        Ok(())
    }

    fn finish(&mut self, run: &RunDir) -> Result<(), Failure> {
        let adapters = result::Adapters {
            unet: None,
            texts: Vec::new(),
        };
        result::save(&self.learner.networks, &adapters, run)?;
        if self.recipe.model.init == Init::Random {
            self.scale(&run.model().join("config.json"))?;
        }
        Ok(())
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let samples = self.recipe.run.dir.join("samples");
        writeln!(out, "samples         {}", samples.display())
    }

    fn results(&self) -> Vec<&'static str> {
        vec!["model"]
    }
}
