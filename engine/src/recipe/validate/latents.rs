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
        for (key, used) in [
            ("diffusion.train_text_encoder", diffusion.train_text_encoder),
            ("diffusion.control", diffusion.control.is_some()),
            ("images.masks", recipe.images.masks != MasksFrom::None),
            ("images.class_dir", recipe.images.class_dir.is_some()),
            ("images.flip", recipe.images.flip),
            ("images.buckets", recipe.images.buckets),
            (
                "images.caption_dropout",
                recipe.images.caption_dropout > 0.0,
            ),
        ] {
            if used {
                self.problem(
                    &[key, "images.kind"],
                    format!("`{key}` does not go with `images.kind = \"latents\"`: there are no images or texts"),
                    "take it out",
                );
            }
        }
        for (key, used) in [
            ("diffusion.offset_noise", diffusion.offset_noise > 0.0),
            (
                "diffusion.input_perturbation",
                diffusion.input_perturbation > 0.0,
            ),
        ] {
            if used {
                self.problem(
                    &[key, "images.kind"],
                    format!("`{key}` does not go with `images.kind = \"latents\"`: the file holds the noise"),
                    "take it out, or put it into the noise of the file",
                );
            }
        }
    }
}
