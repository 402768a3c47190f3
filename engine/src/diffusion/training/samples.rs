//! Images made while training, from the same noise each time, so that one sees what is learned.

use std::ops::ControlFlow;

use temper_adapters::Parameters;
use temper_datasets::images::{grid, write_png};
use temper_models::SchedulerConfig;

use super::networks::Networks;
use super::photos::Photos;
use crate::Failure;
use crate::diffusion::{Control, DiffusionError, Event, Guidance, SampleRequest, sample};
use crate::recipe::{DiffusionRecipe, ImageSample};
use crate::run::RunDir;

/// What is made, and how.
#[derive(Debug)]
pub(super) struct Shows {
    sample: ImageSample,
    seed: u64,
    clip_skip: usize,
    scheduler: Option<SchedulerConfig>,
    recipe: String,
}

impl Shows {
    /// `None` when the recipe has no prompts.
    pub(super) fn new(
        recipe: &DiffusionRecipe,
        scheduler: &SchedulerConfig,
    ) -> Result<Option<Self>, Failure> {
        if recipe.sample.prompts().is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            scheduler: sampler(&recipe.sample, scheduler)?,
            sample: recipe.sample.clone(),
            seed: recipe.sample.seed.unwrap_or(recipe.seed),
            clip_skip: recipe.diffusion.clip_skip.unwrap_or(0),
            recipe: recipe.to_toml(),
        }))
    }

    /// Leaves `samples/step-000100.png`: a row of images for each prompt; where a picture is followed, that of the first photograph.
    /// False when `stop` came true before the end.
    pub(super) fn show(
        &self,
        (networks, photos): (&Networks, Option<&Photos>),
        step: u64,
        run: &RunDir,
        stop: &dyn Fn() -> bool,
    ) -> Result<bool, Failure> {
        let path = run
            .path()
            .join("samples")
            .join(format!("step-{step:06}.png"));
        let Some(pipeline) = networks.frozen_pipeline().filter(|_| !path.exists()) else {
            return Ok(true);
        };
        std::fs::create_dir_all(run.path().join("samples"))?;
        let side = || pipeline.usual_size();
        let size = (
            self.sample.width.unwrap_or_else(side),
            self.sample.height.unwrap_or_else(side),
        );
        let encoder = networks.control.as_ref().map(Parameters::frozen);
        let hint = match photos.filter(|_| encoder.is_some()) {
            Some(photos) => photos.hint(size, &pipeline.device.device)?,
            None => None,
        };
        let control = encoder.as_ref().zip(hint);
        let request = SampleRequest {
            control: control.map(|(encoder, hint)| Control { encoder, hint }),
            prompts: self.sample.prompts().to_vec(),
            seed: self.seed,
            count: self.sample.count,
            scheduler: self.scheduler.clone(),
            clip_skip: self.clip_skip,
            ..request(&self.sample)
        };
        let made = sample(&pipeline, &request, &mut |_: Event<'_>| {
            if stop() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let photos = match made {
            Err(DiffusionError::Interrupted) => return Ok(false),
            made => made?,
        };
        let sheet = grid(&photos, self.sample.count, 2);
        let metadata = [
            ("prompts".to_owned(), self.sample.prompts().join("\n")),
            ("seed".to_owned(), self.seed.to_string()),
            ("step".to_owned(), step.to_string()),
            ("recipe".to_owned(), self.recipe.clone()),
        ];
        write_png(&path, &sheet, &metadata)?;
        Ok(true)
    }
}

/// What `[sample]` says of all images.
pub(super) fn request(sample: &ImageSample) -> SampleRequest<'static> {
    SampleRequest {
        negative: (!sample.negative_prompt.is_empty()).then(|| sample.negative_prompt.clone()),
        steps: sample.steps,
        guidance: Guidance {
            scale: sample.guidance_scale,
            rescale: 0.0,
        },
        width: sample.width,
        height: sample.height,
        ..SampleRequest::default()
    }
}

/// The sampler that `[sample]` names, for the model's noise process.
pub(super) fn sampler(
    sample: &ImageSample,
    scheduler: &SchedulerConfig,
) -> Result<Option<SchedulerConfig>, Failure> {
    let named = sample.scheduler.as_deref();
    Ok(named.map(|name| scheduler.with_kind(name)).transpose()?)
}
