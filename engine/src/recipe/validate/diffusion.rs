//! Recipes on images: what excludes what, and files that must be there.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use temper_datasets::images::Buckets;

use super::{Checker, HeldOut};
use crate::recipe::{
    AdapterKind, CaptionsFrom, Control, Diffusion, DiffusionModel, DiffusionRecipe, Images,
    ImagesKind, Init, LossAverage, MasksFrom, PredictionType, Trained,
};

impl Checker<'_> {
    /// Checks a recipe that trains on images.
    pub(in crate::recipe) fn diffusion(&mut self, recipe: &DiffusionRecipe) {
        self.device("device", &recipe.device);
        self.diffusion_model(recipe);
        if let Some(adapter) = &recipe.adapter {
            self.adapter(adapter);
        }
        self.images(&recipe.images);
        self.among_the_images(recipe);
        self.what_is_trained(recipe);
        self.loss(recipe);
        let held_out = HeldOut {
            key: "validation.images",
            what: "images to validate on",
            present: recipe.validation.images > 0,
            add: "set `images` in `[validation]` above 0",
        };
        self.train(&recipe.train, &held_out);
        if recipe.train.loss_average == LossAverage::MicroBatch {
            self.problem(
                &["train.loss_average"],
                "`train.loss_average = \"micro_batch\"` is for texts: all images of a batch weigh the same",
                "take it out",
            );
        }
        self.image_samples(recipe);
    }

    fn diffusion_model(&mut self, recipe: &DiffusionRecipe) {
        let model = &recipe.model;
        match model.init {
            Init::Pretrained => self.pretrained_pipeline(model),
            Init::Random => self.random_network(model),
        }
        let parts = [
            ("model.vae", &model.vae, "config.json"),
            ("model.text_encoder", &model.text_encoder, "config.json"),
            ("model.tokenizer", &model.tokenizer, "vocab.json"),
            ("model.scheduler", &model.scheduler, "scheduler_config.json"),
        ];
        for (key, path, file) in parts {
            if let Some(path) = path
                && !self.path(path).join(file).is_file()
            {
                self.problem(
                    &[key],
                    format!("`{key}`: there is no `{file}` in `{}`", path.display()),
                    "give the directory that holds it",
                );
            }
        }
    }

    fn pretrained_pipeline(&mut self, model: &DiffusionModel) {
        if model.config.is_some() {
            self.problem(
                &["model.config", "model.init"],
                "`model.config` describes a network with random weights, but the weights are pretrained",
                "take `config` out, or write `init = \"random\"`",
            );
        }
        let Some(path) = &model.path else {
            self.problem(
                &["model.path", "model.init"],
                "`model.path` is missing",
                "give a directory in diffusers layout, a checkpoint file or a hub name `org/name`, or write `init = \"random\"`",
            );
            return;
        };
        let local = self.path(path);
        if !local.is_file() {
            self.local_or_hub("model.path", path, false);
        }
        if !local.is_dir() {
            return;
        }
        let is_pipeline = ["unet/config.json", "vae/config.json", "config.json"]
            .iter()
            .any(|file| local.join(file).is_file());
        if local.join("adapter_config.json").is_file() {
            self.problem(
                &["model.path"],
                format!("`model.path`: `{path}` is an adapter, not a model"),
                "give the model it was trained on, and the adapter as `adapter.init_from`",
            );
        } else if !is_pipeline {
            self.problem(
                &["model.path"],
                format!("`model.path`: there is no `unet/config.json` in `{path}`"),
                "a model in diffusers layout has `unet/`, `vae/`, `text_encoder/`, `tokenizer/` and `scheduler/`",
            );
        }
    }

    fn random_network(&mut self, model: &DiffusionModel) {
        match &model.config {
            Some(config) => self.local_file("model.config", config),
            None => self.problem(
                &["model.init", "model.config"],
                "`init = \"random\"` needs an architecture",
                "add `config = \"…/config.json\"`, the configuration of a U-Net or autoencoder",
            ),
        }
        if let Some(path) = &model.path
            && !self.path(path).is_file()
        {
            self.local_or_hub("model.path", path, false);
        }
    }

    fn images(&mut self, images: &Images) {
        if !self.written("images.path") {
            return;
        }
        let path = self.path(&images.path);
        let shown = images.path.display();
        match images.kind {
            ImagesKind::Latents => self.local_file("images.path", &images.path),
            ImagesKind::Photos if !path.is_dir() => self.problem(
                &["images.path"],
                format!("`images.path`: no directory `{shown}`{}", why(&path)),
                super::RELATIVE,
            ),
            ImagesKind::Photos => {}
        }
        self.class_images(images);
        if !images.resolution.is_multiple_of(8) {
            let near = images.resolution.next_multiple_of(8);
            self.problem(
                &["images.resolution"],
                format!(
                    "`images.resolution = {}` is not a multiple of 8, by which the autoencoders of Stable Diffusion shrink images",
                    images.resolution
                ),
                format!("write {near}"),
            );
        }
        self.buckets(images);
        self.masks(images);
    }

    fn buckets(&mut self, images: &Images) {
        if images.buckets && !images.bucket_step.is_multiple_of(8) {
            self.problem(
                &["images.bucket_step"],
                format!(
                    "`images.bucket_step = {}` is not a multiple of 8",
                    images.bucket_step
                ),
                "64 is usual",
            );
        } else if images.buckets {
            let buckets = Buckets::around(images.resolution, images.bucket_step);
            if let Err(error) = buckets.sizes(images.resolution) {
                self.problem(
                    &["images.bucket_step", "images.resolution"],
                    error.to_string(),
                    "write a smaller `bucket_step`, such as 8",
                );
            }
        }
        if images.bucket_step != Images::default().bucket_step && !images.buckets {
            self.problem(
                &["images.bucket_step", "images.buckets"],
                "`images.bucket_step` is used only with `buckets = true`",
                "add `buckets = true`, or take it out",
            );
        }
    }

    fn masks(&mut self, images: &Images) {
        if images.unmasked_weight > 0.0 && images.masks == MasksFrom::None {
            self.problem(
                &["images.unmasked_weight", "images.masks"],
                "`images.unmasked_weight` is used only with masks",
                "add `masks = \"alpha\"` or `masks = \"folder\"`, or take it out",
            );
        }
        match (&images.mask_dir, images.masks) {
            (None, MasksFrom::Folder) => self.problem(
                &["images.mask_dir", "images.masks"],
                "`images.masks = \"folder\"` needs `mask_dir`",
                "add `mask_dir = ...`, the directory of the masks",
            ),
            (Some(_), from) if from != MasksFrom::Folder => self.problem(
                &["images.mask_dir", "images.masks"],
                "`images.mask_dir` is used only with `masks = \"folder\"`",
                "add `masks = \"folder\"`, or take it out",
            ),
            (Some(directory), _) if !self.path(directory).is_dir() => {
                let why = why(&self.path(directory));
                let message = format!(
                    "`images.mask_dir`: no directory `{}`{why}",
                    directory.display()
                );
                self.problem(&["images.mask_dir"], message, super::RELATIVE);
            }
            _ => {}
        }
    }

    fn class_images(&mut self, images: &Images) {
        match (&images.class_dir, &images.class_prompt) {
            (Some(_), None) if images.kind == ImagesKind::Photos => self.problem(
                &["images.class_prompt", "images.class_dir"],
                "`images.class_prompt` is missing: what do the images in `class_dir` show?",
                "for example `class_prompt = \"a photo of dog\"`",
            ),
            (None, Some(_)) => self.problem(
                &["images.class_prompt", "images.class_dir"],
                "`images.class_prompt` is used only with `class_dir`",
                "add `class_dir = ...`, a directory for the images of the class (they are made if there are none), or take it out",
            ),
            _ => {}
        }
        let defaults = Images::default();
        if images.class_dir.is_none() && images.num_class_images != defaults.num_class_images {
            self.problem(
                &["images.num_class_images", "images.class_dir"],
                "`images.num_class_images` is used only with `class_dir` and `class_prompt`",
                "add `class_dir = ...` and `class_prompt = \"a photo of dog\"`, or take it out",
            );
        }
        let photos = images.kind == ImagesKind::Photos;
        let weighs = images.prior_loss_weight != defaults.prior_loss_weight;
        if photos && images.class_dir.is_none() && weighs {
            self.problem(
                &["images.prior_loss_weight", "images.class_dir"],
                "`images.prior_loss_weight` is used only with `class_dir` and `class_prompt`",
                "add `class_dir = ...` and `class_prompt = \"a photo of dog\"`, or take it out",
            );
        }
        if photos && images.class_dir.is_some() && images.prior_loss_weight == 0.0 {
            self.problem(
                &["images.prior_loss_weight", "images.class_dir"],
                "`images.prior_loss_weight = 0` learns nothing from the images in `class_dir`, and each step still computes them",
                "1 is usual; without images of the class take `class_dir` out",
            );
        }
        if let Some(directory) = &images.class_dir
            && real(&self.path(directory)) == real(&self.path(&images.path))
        {
            self.problem(
                &["images.class_dir", "images.path"],
                "`images.class_dir` and `images.path` are the same directory",
                "the images of the class go into a directory of their own",
            );
        }
    }

    /// What the run writes must not be found among the photographs.
    fn among_the_images(&mut self, recipe: &DiffusionRecipe) {
        let images = &recipe.images;
        let photos = images.kind == ImagesKind::Photos && images.recursive;
        let whole = |path: &Path| real(&self.path(path));
        let root = whole(&images.path);
        let below = |path: &Path| photos && whole(path) != root && whole(path).starts_with(&root);
        let found = [
            ("images.class_dir", images.class_dir.as_deref()),
            ("run.dir", Some(recipe.run.dir.as_path())),
        ]
        .map(|(key, path)| (key, path.is_some_and(below)));
        for (key, _) in found.into_iter().filter(|(_, below)| *below) {
            self.problem(
                &[key, "images.path", "images.recursive"],
                format!("`{key}` lies in `images.path`, and with `images.recursive` what is written there would be learned as the subject"),
                "name a directory elsewhere, or take `recursive` out",
            );
        }
    }

    fn what_is_trained(&mut self, recipe: &DiffusionRecipe) {
        let diffusion = &recipe.diffusion;
        let adapts = recipe
            .adapter
            .as_ref()
            .is_some_and(|adapter| adapter.kind != AdapterKind::Full);
        if adapts && recipe.model.init == Init::Random {
            self.problem(
                &["adapter.kind", "model.init"],
                "an adapter on random weights learns nothing of use",
                "train all weights: take `[adapter]` out",
            );
        }
        if diffusion.train == Trained::Vae {
            self.autoencoder(recipe, adapts);
        }
        if diffusion.text_encoder_lr.is_some() && !diffusion.train_text_encoder {
            self.problem(
                &["diffusion.text_encoder_lr", "diffusion.train_text_encoder"],
                "`diffusion.text_encoder_lr` is used only with `train_text_encoder = true`",
                "add `train_text_encoder = true`, or take it out",
            );
        }
        self.latents(recipe);
        self.control(recipe);
        self.without_effect(recipe);
        if diffusion.canny_low > diffusion.canny_high {
            self.problem(
                &["diffusion.canny_low", "diffusion.canny_high"],
                format!(
                    "`diffusion.canny_low = {}` is above `canny_high = {}`",
                    diffusion.canny_low, diffusion.canny_high
                ),
                "100 and 200 are usual",
            );
        }
    }

    /// Settings that were written for something else than this recipe does.
    fn without_effect(&mut self, recipe: &DiffusionRecipe) {
        let (images, shown) = (&recipe.images, &recipe.sample);
        let has_prompt = shown.prompts.is_some() || images.instance_prompt.is_some();
        let draws = images.kind == ImagesKind::Photos && has_prompt;
        if shown.every > 0 && !draws && recipe.diffusion.train == Trained::Unet {
            self.problem(
                &["sample.every", "sample.prompts"],
                "`sample.every` draws nothing: there are no `sample.prompts`",
                "write what to draw, as `prompts = [\"a photo of sks dog\"]`; latents of a file cannot be drawn",
            );
        }
        let (diffusion, usual) = (&recipe.diffusion, Diffusion::default());
        for (key, changed, needs, used) in [
            (
                "diffusion.canny_low",
                diffusion.canny_low != usual.canny_low,
                "diffusion.control",
                diffusion.control == Some(Control::Canny),
            ),
            (
                "diffusion.canny_high",
                diffusion.canny_high != usual.canny_high,
                "diffusion.control",
                diffusion.control == Some(Control::Canny),
            ),
            (
                "diffusion.kl_weight",
                diffusion.kl_weight != usual.kl_weight,
                "diffusion.train",
                diffusion.train == Trained::Vae,
            ),
            (
                "sample.negative_prompt",
                !recipe.sample.negative_prompt.is_empty(),
                "sample.guidance_scale",
                recipe.sample.guidance_scale > 1.0,
            ),
        ] {
            if changed && !used {
                self.problem(
                    &[key, needs],
                    format!("`{key}` does nothing here: `{needs}` does not use it"),
                    "take it out",
                );
            }
        }
    }

    /// Pictures to follow that are listed beside the images.
    fn control(&mut self, recipe: &DiffusionRecipe) {
        if recipe.diffusion.control != Some(Control::Metadata) {
            return;
        }
        let images = &recipe.images;
        // As `Images::fill_defaults` will decide.
        let list = self.path(&images.path).join("metadata.jsonl");
        let found = images.instance_prompt.is_none() && list.is_file();
        let listed = images
            .captions
            .map_or(found, |from| from == CaptionsFrom::Metadata);
        if images.kind == ImagesKind::Photos && !listed {
            self.problem(
                &["diffusion.control", "images.captions"],
                "`diffusion.control = \"metadata\"` needs `images.captions = \"metadata\"`: the same lines name image, text and picture to follow",
                "write `captions = \"metadata\"`, and `conditioning_image` into the lines of `metadata.jsonl`",
            );
        }
        if images.class_dir.is_some() {
            self.problem(
                &["diffusion.control", "images.class_dir"],
                "`diffusion.control = \"metadata\"` does not go with `images.class_dir`: images of the class have no pictures to follow",
                "take `class_dir` out, or write `control = \"canny\"`",
            );
        }
    }

    fn autoencoder(&mut self, recipe: &DiffusionRecipe, adapts: bool) {
        let diffusion = &recipe.diffusion;
        for (key, used) in [
            ("adapter.kind", adapts),
            ("diffusion.train_text_encoder", diffusion.train_text_encoder),
            ("diffusion.control", diffusion.control.is_some()),
            ("diffusion.snr_gamma", diffusion.snr_gamma.is_some()),
            ("images.class_dir", recipe.images.class_dir.is_some()),
            ("images.kind", recipe.images.kind == ImagesKind::Latents),
        ] {
            if used {
                self.problem(
                    &[key, "diffusion.train"],
                    format!("`{key}` does not go with `diffusion.train = \"vae\"`"),
                    "take it out, or train the U-Net",
                );
            }
        }
    }

    fn loss(&mut self, recipe: &DiffusionRecipe) {
        let diffusion = &recipe.diffusion;
        if diffusion.zero_terminal_snr && diffusion.prediction_type == Some(PredictionType::Epsilon)
        {
            self.problem(
                &["diffusion.zero_terminal_snr", "diffusion.prediction_type"],
                "`diffusion.zero_terminal_snr` cannot be learned with `prediction_type = \"epsilon\"`: the noise of a pure-noise input is the input",
                "write `prediction_type = \"v_prediction\"`",
            );
        }
        if recipe.images.captions == Some(CaptionsFrom::Prompt)
            && recipe.images.instance_prompt.is_none()
        {
            self.problem(
                &["images.captions", "images.instance_prompt"],
                "`images.captions = \"prompt\"` needs `instance_prompt`",
                "add `instance_prompt = \"a photo of sks dog\"`",
            );
        }
    }

    fn image_samples(&mut self, recipe: &DiffusionRecipe) {
        for (key, side) in [
            ("sample.width", recipe.sample.width),
            ("sample.height", recipe.sample.height),
        ] {
            if let Some(side) = side
                && !side.is_multiple_of(8)
            {
                self.problem(
                    &[key],
                    format!("`{key} = {side}` is not a multiple of 8"),
                    format!("write {}", side.next_multiple_of(8)),
                );
            }
        }
    }
}

/// What else is at a path that should be a directory, if the system says so: links that go round, a forbidden place.
fn why(path: &Path) -> String {
    match std::fs::metadata(path) {
        Ok(_) => ": it is something else".to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => format!(": {error}"),
    }
}

/// Where a path leads, links followed as far as it exists.
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => real(parent).join(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}
