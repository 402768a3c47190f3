//! Texts and images in one space: what CLIP-I and CLIP-T are measured in.

use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor};

use super::{ClipText, ClipVision, Preprocessor};
use crate::ModelError;

/// Both sides of a CLIP model (`CLIPModel`), from one directory.
///
/// # Examples
/// ```no_run
/// use burn::tensor::{Device, FloatDType, Tensor};
/// use temper_models::Clip;
///
/// let device = Device::flex();
/// let clip = Clip::load(std::path::Path::new("clip-vit-base-patch32"), FloatDType::F32, &device)?;
/// let images = clip.image_embeds(Tensor::zeros([2, 3, 224, 224], &device))?;
/// assert_eq!(images.dims(), [2, 512]);
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clip {
    /// The text side, with its projection.
    pub text: ClipText,
    /// The image side, with its projection.
    pub vision: ClipVision,
    /// How images become `pixel_values`.
    pub preprocessor: Preprocessor,
}

impl Clip {
    /// Loads a `CLIPModel` directory: config.json, weights, and `preprocessor_config.json` (CLIP's own numbers without it).
    ///
    /// # Errors
    /// Whatever is wrong with the directory, naming file and tensor.
    pub fn load(
        directory: &Path,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let vision = ClipVision::load(directory, compute, device)?;
        let fallback = Preprocessor::clip(vision.config().vision.image_size);
        Ok(Self {
            text: ClipText::load(directory, compute, device)?,
            preprocessor: Preprocessor::load(directory, fallback)?,
            vision,
        })
    }

    /// Embeddings of images, `[B, P]`, each of unit length.
    ///
    /// # Errors
    /// As [`ClipVision::forward`].
    pub fn image_embeds(&self, pixel_values: Tensor<4>) -> Result<Tensor<2>, ModelError> {
        Ok(unit(self.vision.forward(pixel_values)?.image_embeds))
    }

    /// Embeddings of texts, `[B, P]`, each of unit length.
    ///
    /// # Errors
    /// As [`ClipText::forward`]; [`ModelError::Unsupported`] when the text side has no projection.
    pub fn text_embeds(&self, ids: &[u32], shape: [usize; 2]) -> Result<Tensor<2>, ModelError> {
        let embeds = self.text.forward(ids, shape)?.text_embeds;
        embeds.map(unit).ok_or_else(|| ModelError::Unsupported {
            what: "texts compared with images by an encoder without `text_projection`".to_owned(),
            hint: "give the directory of a whole CLIP model",
        })
    }
}

/// Rows divided by their length.
fn unit(rows: Tensor<2>) -> Tensor<2> {
    let length = rows.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    rows / length
}
