//! Whether the parts of a pipeline belong together. Only sizes are looked at.

use temper_datasets::ClipTokenizer;
use temper_models::{ClipTextConfig, UnetConfig, VaeConfig};

use super::DiffusionError;

/// The sizes of the parts.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) unet: &'a UnetConfig,
    pub(crate) vae: &'a VaeConfig,
    pub(crate) texts: Vec<&'a ClipTextConfig>,
    pub(crate) tokenizers: Vec<&'a ClipTokenizer>,
}

fn mismatch(what: String) -> Result<(), DiffusionError> {
    Err(DiffusionError::Mismatch { what })
}

impl Parts<'_> {
    /// Compares the parts with each other.
    ///
    /// # Errors
    /// [`DiffusionError::Mismatch`] naming both sizes.
    pub(crate) fn check(&self) -> Result<(), DiffusionError> {
        self.check_widths_and_channels()?;
        self.check_tokenizers()?;
        self.check_pooled()
    }

    /// What configurations alone tell.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(crate) fn check_widths_and_channels(&self) -> Result<(), DiffusionError> {
        self.check_latents()?;
        self.check_widths()
    }

    fn check_latents(&self) -> Result<(), DiffusionError> {
        let latent = self.vae.latent_channels;
        let (inputs, outputs) = (self.unet.in_channels(), self.unet.out_channels());
        if [inputs, outputs] == [latent; 2] {
            return Ok(());
        }
        mismatch(format!(
            "the VAE has {latent} latent channels (`latent_channels`), the UNet takes {inputs} and gives {outputs} \
             (`in_channels`, `out_channels`)"
        ))
    }

    fn check_widths(&self) -> Result<(), DiffusionError> {
        let widths: Vec<usize> = self
            .texts
            .iter()
            .map(|text| text.encoder.hidden_size)
            .collect();
        let wanted = self.unet.cross_attention_dim();
        if widths.iter().sum::<usize>() == wanted {
            return Ok(());
        }
        let widths: Vec<String> = widths.iter().map(usize::to_string).collect();
        mismatch(format!(
            "the text encoder is {} wide (`hidden_size`), the UNet attends to texts of width {wanted} \
             (`cross_attention_dim`)",
            widths.join(" + ")
        ))
    }

    fn check_tokenizers(&self) -> Result<(), DiffusionError> {
        let mut lengths = Vec::new();
        for (tokenizer, text) in self.tokenizers.iter().zip(&self.texts) {
            let (ids, rows) = (tokenizer.vocab_size(), text.vocab_size);
            if ids > rows {
                return mismatch(format!(
                    "the tokenizer has {ids} ids, the text encoder {rows} (`vocab_size`)"
                ));
            }
            let (length, positions) = (tokenizer.max_length(), text.max_position_embeddings);
            if length > positions {
                return mismatch(format!(
                    "the tokenizer gives {length} tokens (`model_max_length`), the text encoder has {positions} positions \
                     (`max_position_embeddings`)"
                ));
            }
            lengths.push(length);
        }
        match lengths.as_slice() {
            [first, second] if first != second => mismatch(format!(
                "the first tokenizer gives {first} tokens, the second {second}"
            )),
            _ => Ok(()),
        }
    }

    /// SDXL: the pooled text and six numbers fill what `add_embedding` takes.
    fn check_pooled(&self) -> Result<(), DiffusionError> {
        let (Some(addition), Some(text)) = (self.unet.addition(), self.texts.last()) else {
            return Ok(());
        };
        let Some(pooled) = text.projection else {
            return mismatch(
                "the UNet takes pooled texts (`addition_embed_type` is `text_time`), the last text encoder gives none"
                    .to_owned(),
            );
        };
        let (each, wanted) = (addition.time_embed_dim, addition.input_dim);
        let given = pooled + 6 * each;
        if given == wanted {
            return Ok(());
        }
        mismatch(format!(
            "the pooled text ({pooled}) and six sizes of {each} make {given} values, the UNet takes {wanted} \
             (`projection_class_embeddings_input_dim`)"
        ))
    }
}
