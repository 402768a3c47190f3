//! Images of the class a subject belongs to, made by the model itself before it is changed (arXiv 2208.12242, section 3.2).

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use temper_datasets::images::{read_png_text, write_png};

use super::networks::Networks;
use super::samples::{request, sampler};
use crate::Failure;
use crate::diffusion::{DiffusionError, Pipeline, SampleRequest, sample};
use crate::recipe::{DiffusionRecipe, Init, shorten};
use crate::run::{Progress, Signals, Verbosity, note};

/// Makes what is missing to `num_class_images` in `class_dir`, as `[sample]` says. What is there already, from whatever source, counts;
/// an interrupted run goes on where it stopped.
pub(super) fn make(
    recipe: &DiffusionRecipe,
    networks: &Networks,
    signals: &Signals,
    verbosity: Verbosity,
) -> Result<(), Failure> {
    let images = &recipe.images;
    let (Some(directory), Some(prompt)) = (&images.class_dir, &images.class_prompt) else {
        return Ok(());
    };
    std::fs::create_dir_all(directory)?;
    let there = count(directory)?;
    note_other_prompts(directory, prompt)?;
    let missing = images.num_class_images.saturating_sub(there);
    let Some(pipeline) = networks.frozen_pipeline().filter(|_| missing > 0) else {
        return Ok(());
    };
    if recipe.model.init == Init::Random {
        let message = format!(
            "`images.class_dir`: `{}` has {there} images, and a model with random weights cannot make the others",
            directory.display()
        );
        return Err(Failure::usage(message)
            .with_hint("put images of the class there, or take `class_dir` out"));
    }
    note(&format!(
        "making {missing} images of the class: {}",
        shorten(prompt)
    ));
    let mut progress = Progress::new("class images", missing as u64, verbosity);
    let scheduler = sampler(&recipe.sample, &pipeline.scheduler)?;
    let (mut done, mut number) = (0, 0_u64);
    while done < missing {
        let path = directory.join(format!("class-{number:06}.png"));
        number += 1;
        if path.exists() {
            continue;
        }
        let request = SampleRequest {
            prompts: vec![prompt.clone()],
            seed: recipe.seed,
            first: number - 1,
            width: Some(images.resolution),
            height: Some(images.resolution),
            scheduler: scheduler.clone(),
            clip_skip: recipe.diffusion.clip_skip.unwrap_or(0),
            ..request(&recipe.sample)
        };
        if !one(&pipeline, &request, signals, &path)? {
            return Err(interrupted(signals, directory, there + done));
        }
        done += 1;
        progress.update(done as u64, "");
    }
    progress.finish();
    Ok(())
}

/// Class images that were made for another prompt teach the model that they show this one.
fn note_other_prompts(directory: &Path, prompt: &str) -> Result<(), Failure> {
    let (mut others, mut said) = (0, String::new());
    for image in images_in(directory)? {
        let texts = read_png_text(&image).unwrap_or_default();
        if let Some((_, other)) = texts.into_iter().find(|(key, _)| key == PROMPT)
            && other != prompt
        {
            others += 1;
            said = other;
        }
    }
    if others > 0 {
        note(&format!(
            "warning: {others} images in `{}` were made for `{}`, not for `images.class_prompt`; name another `class_dir` to have them made anew",
            directory.display(),
            shorten(&said)
        ));
    }
    Ok(())
}

/// Makes one image. False when a signal came before its end.
fn one(
    pipeline: &Pipeline,
    request: &SampleRequest<'_>,
    signals: &Signals,
    path: &Path,
) -> Result<bool, Failure> {
    let made = sample(pipeline, request, &mut |_| match signals.stop_requested() {
        Some(_) => ControlFlow::Break(()),
        None => ControlFlow::Continue(()),
    });
    let photos = match made {
        Err(DiffusionError::Interrupted) => return Ok(false),
        made => made?,
    };
    let prompt = (PROMPT.to_owned(), request.prompts.concat());
    for photo in &photos {
        write_png(path, photo, std::slice::from_ref(&prompt))?;
    }
    Ok(true)
}

/// Images in a directory, by the endings of their names. What a write left unfinished does not count.
pub(super) fn count(directory: &Path) -> Result<usize, Failure> {
    Ok(images_in(directory)?.len())
}

fn images_in(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut images = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let is_image = ending.is_some_and(|ending| {
            ENDINGS
                .iter()
                .any(|known| ending.eq_ignore_ascii_case(known))
        });
        if is_image && path.is_file() {
            images.push(path);
        }
    }
    Ok(images)
}

/// Under this key an image says what it was made for.
const PROMPT: &str = "prompt";

/// Endings of the names of images.
const ENDINGS: [&str; 7] = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tiff"];

fn interrupted(signals: &Signals, directory: &Path, made: usize) -> Failure {
    let signal = signals.stop_requested().unwrap_or_default();
    let message = format!(
        "stopped by signal {signal} with {made} images in `{}`",
        directory.display()
    );
    Failure::interrupted(signal, message)
        .with_hint("the same command with --resume goes on from here")
}
