//! How much a forward pass holds, known from the sizes alone.

use super::UnetConfig;
use super::plan::LayerPlan;

/// Height and width.
type Size = [usize; 2];

impl UnetConfig {
    /// Values that a forward pass without gradients over latents `[batch, C, height, width]` holds at its fullest, about: the
    /// skips, and what the layer at work reads and writes. Attention is taken to keep no scores, as on `cpu`.
    pub fn forward_values(&self, batch: usize, [height, width]: Size) -> u64 {
        let mut size = [height, width];
        let mut channels = self.in_channels();
        let mut skips: Vec<(Size, u64)> = Vec::new();
        let mut most = 0;
        for segment in self.plan() {
            if segment.pops {
                skips.pop();
            }
            let before = pixels(size);
            let values = match &segment.layer {
                LayerPlan::Input => {
                    channels = self.block_out_channels()[0];
                    before * channels as u64
                }
                LayerPlan::Pair(resnet, transformer) => {
                    channels = resnet.outputs;
                    // Picture and residual stream, the doubled hidden layer of the feed-forward part and its gated half.
                    let gated = transformer.as_ref().map_or(0, |plan| 14 * plan.channels);
                    before * resnet.values().max(gated) as u64
                }
                LayerPlan::Downsample(_, width) => {
                    size = size.map(|side| side.div_ceil(2));
                    (before + pixels(size)) * *width as u64
                }
                LayerPlan::Upsample(_, width) => {
                    size = skips.last().map_or(size, |(size, _)| *size);
                    2 * pixels(size) * *width as u64
                }
                LayerPlan::Output => 2 * before * channels as u64,
            };
            let kept: u64 = skips.iter().map(|(_, values)| values).sum();
            most = most.max(kept + values);
            if segment.pushes {
                skips.push((size, pixels(size) * channels as u64));
            }
        }
        most * batch as u64
    }
}

fn pixels([height, width]: Size) -> u64 {
    height as u64 * width as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_grows_with_the_pixels_and_the_batch() {
        let sd15 = UnetConfig::preset("sd15").unwrap();
        let small = sd15.forward_values(1, [64, 64]);
        // The last transformers, at full size: 14 times 320 channels beside the skips that are left.
        let pixels = 64 * 64;
        assert_eq!(small, pixels * (14 * 320 + 2 * 320));
        assert_eq!(sd15.forward_values(2, [64, 128]), 4 * small);
    }
}
