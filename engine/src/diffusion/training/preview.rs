//! What a recipe on images trains on, picture by picture, without the model.

use std::sync::Arc;

use temper_datasets::images::{Crop, ImageEntry, ImageLoader, Masks, Placement};

use super::latents::LatentFile;
use super::photos::{loader_config, open_instance};
use super::prior;
use super::remarks::remarks;
use crate::Failure;
use crate::recipe::{DiffusionRecipe, ImagesKind, shorten};
use crate::run::printable;

/// A table of the first `rows` pictures (all of them, if it is `None`), and what becomes of them.
///
/// # Errors
/// If the images cannot be used.
pub fn preview(recipe: &DiffusionRecipe, rows: Option<usize>) -> Result<String, Failure> {
    let images = &recipe.images;
    if images.kind == ImagesKind::Latents {
        let file = LatentFile::open(&images.path, images.prior_loss_weight > 0.0)?;
        return Ok(format!(
            "no pictures but latents: {} steps of {} in `{}`",
            file.steps(),
            file.rows(),
            images.path.display()
        ));
    }
    let set = Arc::new(open_instance(recipe)?);
    // Nothing is encoded here, so that the autoencoder's factor does not matter.
    let loader = ImageLoader::new(set, None, loader_config(recipe, 1))?;
    let shown = rows.unwrap_or(usize::MAX);
    let mut lines = table(&loader, shown);
    let all = loader.instance().entries().len();
    if shown < all {
        lines.push(format!("… and {} more", all - shown));
    }
    lines.push(String::new());
    lines.push(format!(
        "{} in `{}`",
        loader.instance().report(),
        images.path.display()
    ));
    lines.extend(settings(recipe, &loader));
    lines.extend(class(recipe)?);
    lines.extend(
        remarks(&loader)
            .into_iter()
            .map(|remark| format!("note: {remark}")),
    );
    Ok(printable(&lines.join("\n")).into_owned())
}

/// A line for each picture, in columns.
fn table(loader: &ImageLoader, shown: usize) -> Vec<String> {
    let folder = &loader.instance().config().folder;
    let masks = &loader.instance().config().masks;
    let has_mask = |entry: &ImageEntry| match masks {
        Masks::None => false,
        Masks::Alpha => entry.transparent,
        Masks::Folder(_) | Masks::Metadata => entry.mask.is_some(),
    };
    let row = |(entry, size): (&ImageEntry, (usize, usize))| {
        let file = entry.path.strip_prefix(folder).unwrap_or(&entry.path);
        let place = Placement::center((entry.width, entry.height), size);
        [
            file.display().to_string(),
            sides((entry.width, entry.height)),
            sides((place.resized[1], place.resized[0])),
            sides(size),
            if has_mask(entry) { "yes" } else { "no" }.to_owned(),
            shorten(&entry.caption),
        ]
    };
    let head = [
        "file",
        "original",
        "scaled to",
        "trained at",
        "mask",
        "caption",
    ];
    let mut cells = vec![head.map(str::to_owned)];
    cells.extend(loader.sized().take(shown).map(row));
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let lengths = cells.iter().map(|row| row[column].chars().count());
        lengths.max().unwrap_or_default()
    });
    let line = |row: &[String; 6]| {
        let padded = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect()
}

fn settings(recipe: &DiffusionRecipe, loader: &ImageLoader) -> [String; 3] {
    let config = loader.config();
    let crop = match config.crop {
        Crop::Center => "the middle",
        Crop::Random => "another part for every step",
    };
    let mirrored = if config.flip {
        "half of them, by chance"
    } else {
        "never"
    };
    let counts = loader.counts();
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(size, count)| format!("{count} of {}", sides(size)))
        .collect();
    let dropped = match recipe.images.caption_dropout {
        0.0 => String::new(),
        share => format!("   shown without a caption: {share} of them"),
    };
    [
        format!("crop: {crop}   mirrored: {mirrored}{dropped}"),
        format!("an epoch: {}", counts.join(", ")),
        format!(
            "steps of an epoch: {}, images of a step: up to {}",
            loader.steps_per_epoch(),
            loader.largest_batch()
        ),
    ]
}

/// The images of the class, which the model makes as far as they are missing.
fn class(recipe: &DiffusionRecipe) -> Result<Option<String>, Failure> {
    let images = &recipe.images;
    let (Some(directory), Some(prompt)) = (&images.class_dir, &images.class_prompt) else {
        return Ok(None);
    };
    let there = if directory.is_dir() {
        prior::count(directory)?
    } else {
        0
    };
    let missing = images.num_class_images.saturating_sub(there);
    Ok(Some(format!(
        "images of the class: {there} in `{}`, {missing} will be made: {}",
        directory.display(),
        shorten(prompt)
    )))
}

fn sides((width, height): (usize, usize)) -> String {
    format!("{width} × {height}")
}
