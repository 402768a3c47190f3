//! Recipes that train on latents of a file.

use super::Checker;
use crate::recipe::{DiffusionRecipe, ImagesKind, MasksFrom};

impl Checker<'_> {
    /// There are no images, texts or draws of noise that these settings could change.
    pub(super) fn latents(&mut self, recipe: &DiffusionRecipe) {
        if recipe.images.kind != ImagesKind::Latents {
            return;
        }
        let diffusion = &recipe.diffusion;
        let (images, nothing) = (&recipe.images, "there are no images or texts");
        let noise = "the noise is that of the file";
        for (key, used, why) in [
            (
                "diffusion.train_text_encoder",
                diffusion.train_text_encoder,
                nothing,
            ),
            ("diffusion.control", diffusion.control.is_some(), nothing),
            ("images.masks", images.masks != MasksFrom::None, nothing),
            ("images.class_dir", images.class_dir.is_some(), nothing),
            ("images.flip", images.flip, nothing),
            ("images.buckets", images.buckets, nothing),
            (
                "images.caption_dropout",
                images.caption_dropout > 0.0,
                nothing,
            ),
            (
                "diffusion.offset_noise",
                diffusion.offset_noise > 0.0,
                noise,
            ),
            (
                "diffusion.input_perturbation",
                diffusion.input_perturbation > 0.0,
                noise,
            ),
        ] {
            if used {
                self.problem(
                    &[key, "images.kind"],
                    format!("`{key}` does not go with `images.kind = \"latents\"`: {why}"),
                    "take it out",
                );
            }
        }
    }
}
