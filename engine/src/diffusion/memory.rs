//! Whether a picture fits the machine.

use burn::tensor::FloatDType;
use bytesize::ByteSize;

use super::{DiffusionError, Pipeline};
use crate::device::Backend;
use crate::run::available_bytes;

/// What is held in truth, over what the layers read and write (measured on `cpu` from 512 to 768 pixels: 1.3 to 1.4).
const AROUND: f64 = 1.3;

impl Pipeline {
    /// Whether drawing a picture of this size, with or without guidance, fits the memory that is left. Not asked of graphics cards,
    /// which do not say what they have.
    ///
    /// # Errors
    /// [`DiffusionError::TooLarge`].
    pub fn check_memory(
        &self,
        size: (usize, usize),
        is_guided: bool,
    ) -> Result<(), DiffusionError> {
        let left = available_bytes().filter(|_| self.device.backend == Backend::Cpu);
        match left.and_then(|left| self.too_large(size, is_guided, left)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn too_large(
        &self,
        size: (usize, usize),
        is_guided: bool,
        left: u64,
    ) -> Option<DiffusionError> {
        let (width, height) = size;
        let (needed, place) = self.peak(size, is_guided);
        // Sides are whole latents, and what is held grows with the pixels.
        let scale = (left as f64 / needed as f64).sqrt();
        let step = 8 * self.factor();
        let shrunk = |side: usize| (side as f64 * scale) as usize / step * step;
        let fits = Some((shrunk(width), shrunk(height)));
        (needed > left).then(|| DiffusionError::TooLarge {
            width,
            height,
            place,
            needed: ByteSize(needed).to_string(),
            available: ByteSize(left).to_string(),
            fits: fits.filter(|(width, height)| *width > 0 && *height > 0),
        })
    }

    /// Bytes of the fullest moment, and the network it is in.
    fn peak(&self, (width, height): (usize, usize), is_guided: bool) -> (u64, &'static str) {
        let latents = [height, width].map(|side| side / self.factor());
        let value: u64 = match self.compute {
            FloatDType::F16 | FloatDType::BF16 => 2,
            _ => 4,
        };
        let rows = if is_guided { 2 } else { 1 };
        let step = value * self.unet.config().forward_values(rows, latents);
        let decoding = 4 * self.vae.config().decode_values(latents);
        let (most, place) = if step > decoding {
            (step, "a step of the UNet")
        } else {
            (decoding, "the autoencoder")
        };
        ((most as f64 * AROUND) as u64, place)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::device;

    #[test]
    fn a_picture_beyond_the_memory_is_refused_with_a_size_that_fits() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-diffusion");
        let open = device::open("cpu").unwrap();
        let pipeline = Pipeline::open(&root, FloatDType::F32, &open).unwrap();
        let left = 1 << 30;
        assert!(pipeline.too_large((256, 256), true, left).is_none());
        let error = pipeline.too_large((16384, 8192), true, left).unwrap();
        let hint = error.hint().unwrap();
        assert!(error.to_string().contains("16384 x 8192"), "{error}");
        let Some(DiffusionError::TooLarge { fits, .. }) =
            pipeline.too_large((16384, 8192), true, left)
        else {
            panic!("refused")
        };
        let (width, height) = fits.unwrap();
        assert!(hint.contains(&format!("--width {width}")), "{hint}");
        assert!(width.abs_diff(2 * height) <= 64, "the shape is kept");
        assert!(pipeline.too_large((width, height), true, left).is_none());
        assert!(
            pipeline
                .too_large((2 * width, height), true, left)
                .is_some()
        );
    }
}
