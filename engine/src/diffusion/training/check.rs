//! Parts that must belong together, compared before the first step.

use super::latents::LatentFile;
use super::networks::Networks;
use crate::Failure;
use crate::recipe::DiffusionRecipe;

/// Compares the recipe with the networks. (A pipeline compares its own parts when it is loaded.)
pub(super) fn fits(
    recipe: &DiffusionRecipe,
    networks: &Networks,
    latents: Option<&LatentFile>,
) -> Result<(), Failure> {
    let Some(unet) = networks.unet() else {
        return Ok(());
    };
    let config = unet.config();
    if let Some(file) = latents {
        let (channels, width) = file.sizes();
        if channels != config.in_channels() || width != config.cross_attention_dim() {
            let message = format!(
                "`{}` has latents of {channels} channels and texts of width {width}; the U-Net takes {} (`in_channels`) and {} (`cross_attention_dim`)",
                recipe.images.path.display(),
                config.in_channels(),
                config.cross_attention_dim()
            );
            return Err(Failure::run(message).with_hint("the file was made for another model"));
        }
    }
    let Some(pipeline) = networks.pipeline() else {
        return Ok(());
    };
    // Every level of the U-Net halves the latents; an odd side is rounded and cut, which costs detail but works.
    let factor = pipeline.factor();
    let resolution = recipe.images.resolution;
    if !resolution.is_multiple_of(factor) {
        let message = format!(
            "`images.resolution = {resolution}` is not a multiple of {factor}, by which this autoencoder shrinks images"
        );
        return Err(Failure::usage(message)
            .with_hint(format!("write {}", resolution.next_multiple_of(factor))));
    }
    Ok(())
}
