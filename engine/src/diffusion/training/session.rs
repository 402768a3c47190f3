//! Diffusion models as a kind of training.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use temper_datasets::images::{ImageLoader, ImageSet};
use temper_models::NoiseSchedule;

use super::latents::LatentFile;
use super::learner::{DiffusionLearner, Source};
use super::networks::{CONTROL, Networks};
use super::objective::Objective;
use super::open::Opened;
use super::photos::{Photos, loader_config, open_instance};
use super::remarks::{cut, of_another_size, remarks};
use super::result;
use super::samples::Shows;
use super::vae_session::VaeSession;
use super::{check, prior};
use crate::Failure;
use crate::recipe::{DiffusionRecipe, ImagesKind, Length, Run, Trained};
use crate::run::{RunDir, Signals, Summary, Verbosity, note};
use crate::train::{
    Learner, Session, TrainSwitches, TrainerOptions, TrainingRecipe, differs, options, train_any,
    warn,
};

/// Trains what `recipe` says and leaves a complete run directory.
///
/// # Errors
/// Anything that keeps the run from its end; what was saved before stays.
pub fn train(recipe: &DiffusionRecipe, switches: TrainSwitches) -> Result<Summary, Failure> {
    warn(recipe.advice());
    train_any(recipe, switches)
}

impl TrainingRecipe for DiffusionRecipe {
    fn run(&self) -> &Run {
        &self.run
    }

    fn text(&self) -> String {
        self.to_toml()
    }

    fn check_same(&self, stored: &Path) -> Result<(), Failure> {
        let text = std::fs::read_to_string(stored).map_err(|error| {
            Failure::run(format!("cannot read `{}`: {error}", stored.display()))
        })?;
        let old = Self::parse(&text, &stored.display().to_string(), &[])?;
        let mut new = self.clone();
        new.run = old.run.clone();
        new.device.clone_from(&old.device);
        new.sample = old.sample.clone();
        new.train.log_every = old.train.log_every;
        new.train.save_every = old.train.save_every;
        new.train.keep_last = old.train.keep_last;
        new.train.eval_every = old.train.eval_every;
        new.images.cache_latents = old.images.cache_latents;
        new.images.cache_text = old.images.cache_text;
        differs(&new.to_toml(), &old.to_toml(), stored)
    }

    fn open(&self, quiet: bool) -> Result<Box<dyn Session>, Failure> {
        if self.diffusion.train == Trained::Vae {
            return Ok(Box::new(VaeSession::new(self, quiet)?));
        }
        Ok(Box::new(DiffusionSession::new(self, quiet)?))
    }
}

/// A U-Net with its images, and what its result needs.
struct DiffusionSession {
    recipe: DiffusionRecipe,
    options: TrainerOptions,
    learner: DiffusionLearner,
    opened: result::Adapters,
    device: String,
    /// The photographs, until they are part of the learner.
    instance: Option<Arc<ImageSet>>,
    fingerprint: String,
    model_settings: String,
    verbosity: Verbosity,
}

impl DiffusionSession {
    fn new(recipe: &DiffusionRecipe, quiet: bool) -> Result<Self, Failure> {
        let verbosity = if quiet {
            Verbosity::Silent
        } else {
            Verbosity::Normal
        };
        // Images are read before weights: a wrong directory is no reason to wait.
        let (source, instance, fingerprint, epoch) = images(recipe, quiet)?;
        let opened = Opened::new(recipe)?;
        check::fits(recipe, &opened.networks, source.as_ref())?;
        let model_settings = model_settings(recipe, &opened, instance.as_deref())?;
        let total = total_steps(recipe, epoch);
        let options = TrainerOptions {
            show_every: recipe.sample.every as u64,
            ema_decay: recipe.diffusion.ema_decay,
            ..options(&recipe.train, total)
        };
        let objective = Objective {
            noise: NoiseSchedule::new(&opened.scheduler)?,
            snr_gamma: recipe.diffusion.snr_gamma,
            prior_loss_weight: recipe.images.prior_loss_weight,
            clip_skip: recipe.diffusion.clip_skip.unwrap_or(0),
            recompute: recipe.train.gradient_checkpointing,
        };
        let train = &recipe.train;
        let validation = match &source {
            Some(file) => file.validation(&recipe.validation, &opened.device.device),
            // Photographs are encoded when the run directory is there.
            None => Vec::new(),
        };
        let text_lr = recipe.diffusion.text_encoder_lr.unwrap_or(train.lr);
        let learner = DiffusionLearner {
            networks: opened.networks,
            source: source.map(|file| Source::Latents(Box::new(file))),
            objective,
            validation,
            shows: Shows::new(recipe, &opened.scheduler)?,
            micro_batch: (train.micro_batch_size != train.batch_size)
                .then_some(train.micro_batch_size),
            text_rate: text_lr / train.lr,
            seed: recipe.seed,
        };
        Ok(Self {
            recipe: recipe.clone(),
            options,
            learner,
            opened: result::Adapters {
                unet: opened.adapter,
                texts: opened.text_adapters,
            },
            device: opened.device.name,
            instance,
            fingerprint,
            model_settings,
            verbosity,
        })
    }

    fn networks(&self) -> &Networks {
        &self.learner.networks
    }
}

/// The noise process, the configurations of all networks, and what the tokenizers make of the captions.
fn model_settings(
    recipe: &DiffusionRecipe,
    opened: &Opened,
    instance: Option<&ImageSet>,
) -> Result<String, Failure> {
    let networks = &opened.networks;
    let mut settings = vec![opened.scheduler.to_json()];
    settings.extend(networks.unet().map(|unet| unet.config().to_json()));
    settings.extend(networks.vae().map(|vae| vae.config().to_json()));
    settings.extend(networks.texts().map(|(_, text)| text.config().to_json()));
    if let (Some(pipeline), Some(instance)) = (networks.pipeline(), instance) {
        let captions = instance.entries().iter().map(|entry| &entry.caption);
        let texts: Vec<String> = captions
            .chain(&recipe.images.class_prompt)
            .cloned()
            .collect();
        settings.push(pipeline.tokenize(&texts)?.ids.into());
    }
    Ok(serde_json::Value::from(settings).to_string())
}

type Found = (Option<LatentFile>, Option<Arc<ImageSet>>, String, u64);

/// What is learned from, its fingerprint, and the steps of an epoch.
fn images(recipe: &DiffusionRecipe, quiet: bool) -> Result<Found, Failure> {
    if recipe.images.kind == ImagesKind::Latents {
        let with_class = recipe.images.prior_loss_weight > 0.0;
        let file = LatentFile::open(&recipe.images.path, with_class)?;
        file.check_batch(&recipe.images.path, recipe.train.batch_size)?;
        if recipe.train.eval_every > 0 && !file.holds_out() {
            let message = format!(
                "`train.eval_every` needs `validation_latents` and `validation_encoder_hidden_states` in `{}`",
                recipe.images.path.display()
            );
            return Err(Failure::usage(message).with_hint("add them, or take `eval_every` out"));
        }
        let (fingerprint, epoch) = (file.fingerprint().to_owned(), file.steps() as u64);
        return Ok((Some(file), None, fingerprint, epoch));
    }
    let set = open_instance(recipe)?;
    if !quiet {
        note(&set.report().to_string());
    }
    let (fingerprint, set) = (set.fingerprint(), Arc::new(set));
    let loader = ImageLoader::new(set.clone(), None, loader_config(recipe, 1))?;
    Ok((None, Some(set), fingerprint, loader.steps_per_epoch()))
}

/// Steps of the run with so many in an epoch.
pub(super) fn total_steps(recipe: &DiffusionRecipe, epoch: u64) -> u64 {
    match recipe.train.length() {
        Length::Steps(steps) => steps as u64,
        Length::Epochs(epochs) => (epochs * epoch as f64).ceil() as u64,
    }
}

impl Session for DiffusionSession {
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
        self.fingerprint.clone()
    }

    fn model_settings(&self) -> String {
        self.model_settings.clone()
    }

    fn prepare(&mut self, run: &RunDir, _: bool, signals: &Signals) -> Result<(), Failure> {
        let recipe = &self.recipe;
        let Some(instance) = self.instance.take() else {
            return Ok(());
        };
        prior::make(recipe, self.networks(), signals, self.verbosity)?;
        let Some(pipeline) = self.networks().pipeline() else {
            return Err(Failure::run("photographs need a whole pipeline"));
        };
        let steps = self.learner.objective.noise.alphas_cumprod().len();
        let cache = run.path().join("cache");
        let mut photos = Photos::new(recipe, instance, pipeline, steps, &cache)?;
        for remark in remarks(photos.loader()) {
            note(&remark);
        }
        warn(cut(recipe, photos.loader(), pipeline)?);
        warn(of_another_size(recipe, pipeline).into_iter().collect());
        self.learner.validation = photos.validation(self.networks(), &recipe.validation)?;
        // The images of the class may only be there now.
        self.fingerprint += &photos.loader().fingerprint();
        self.learner.source = Some(Source::Photos(Box::new(photos)));
        Ok(())
    }

    fn finish(&mut self, run: &RunDir) -> Result<(), Failure> {
        result::save(&self.learner.networks, &self.opened, run)
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        match &self.learner.shows {
            Some(_) => writeln!(
                out,
                "samples         {}",
                self.recipe.run.dir.join("samples").display()
            ),
            None => Ok(()),
        }
    }

    fn results(&self) -> Vec<&'static str> {
        let control = self.networks().control.is_some().then_some(CONTROL);
        self.opened.directories().chain(control).collect()
    }
}
