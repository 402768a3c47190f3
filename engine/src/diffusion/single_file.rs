//! A pipeline from a checkpoint in one file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::FloatDType;
use temper_adapters::weights::Checkpoint;
use temper_datasets::ClipTokenizer;
use temper_models::single_file::{Family, Part, split};
use temper_models::{
    ClipText, ClipTextConfig, ModelError, SchedulerConfig, Unet, UnetConfig, Vae, VaeConfig,
};

use super::{DiffusionError, ModelIndex, Pipeline};
use crate::device::OpenDevice;
use crate::hub;
use crate::run::note;

/// Every Stable Diffusion has the vocabulary of this model.
const TOKENIZER: &str = "openai/clip-vit-large-patch14";

impl Pipeline {
    /// Loads a checkpoint in one file. It holds no tokenizer: that is looked for in a folder `tokenizer` beside the file, beside the
    /// file itself, and on the hub. Nor does it hold a scheduler: it gets the one of its family.
    ///
    /// # Errors
    /// What is wrong with the file; [`DiffusionError::NoTokenizer`]; parts that do not fit each other.
    pub(super) fn load_file(
        file: &Path,
        compute: FloatDType,
        device: &OpenDevice,
    ) -> Result<Self, DiffusionError> {
        let checkpoint = Checkpoint::open(file).map_err(ModelError::from)?;
        let parts = split(&checkpoint)?;
        let family = parts.family;
        let on = &device.device;
        let encoders = if family == Family::Sdxl { 2 } else { 1 };
        let missing = |component| DiffusionError::MissingComponent {
            directory: file.to_owned(),
            component,
            expected: file.to_owned(),
        };
        let vae = parts.vae.ok_or_else(|| missing("vae"))?;
        if parts.text_encoders.len() != encoders {
            return Err(missing("text_encoder"));
        }
        let tokenizers = tokenizers(file, family)?;
        let text = |part: &Part| {
            let config = ClipTextConfig::from_json(&part.config)?;
            ClipText::from_checkpoint(config, &part.weights, compute, on)
        };
        let text_encoders = parts.text_encoders.iter().map(text);
        let text_encoders: Result<Vec<_>, ModelError> = text_encoders.collect();
        let of = DiffusionError::of;
        let vae_config = VaeConfig::from_json(&vae.config).map_err(of("vae"))?;
        let vae = Vae::from_checkpoint(vae_config, &vae.weights, FloatDType::F32, on);
        let unet_config = UnetConfig::from_json(&parts.unet.config).map_err(of("unet"))?;
        let unet = Unet::from_checkpoint(unet_config, &parts.unet.weights, compute, on);
        let scheduler = scheduler(family)?;
        let class = scheduler.kind.class_name();
        let pipeline = Self {
            unet: unet.map_err(of("unet"))?,
            vae: vae.map_err(of("vae"))?,
            text_encoders: text_encoders.map_err(of("text_encoder"))?,
            tokenizers,
            scheduler,
            compute,
            device: device.clone(),
            index: ModelIndex::of_parts(file.to_owned(), encoders == 2, class),
            from_file: true,
        };
        pipeline.check()?;
        Ok(pipeline)
    }
}

/// The U-Net of a checkpoint in one file, alone.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn unet_of_file(
    file: &Path,
    compute: FloatDType,
    device: &OpenDevice,
) -> Result<Unet, DiffusionError> {
    let checkpoint = Checkpoint::open(file).map_err(ModelError::from)?;
    let part = split(&checkpoint)?.unet;
    let of = DiffusionError::of;
    let config = UnetConfig::from_json(&part.config).map_err(of("unet"))?;
    Unet::from_checkpoint(config, &part.weights, compute, &device.device).map_err(of("unet"))
}

/// What the networks of a checkpoint in one file look like.
///
/// # Errors
/// As [`unet_of_file`].
pub(crate) fn configs_of_file(file: &Path) -> Result<Configs, DiffusionError> {
    let parts = split(&Checkpoint::open(file).map_err(ModelError::from)?)?;
    let vae = parts
        .vae
        .as_ref()
        .map(|vae| VaeConfig::from_json(&vae.config));
    let texts = parts.text_encoders.iter();
    Ok(Configs {
        unet: UnetConfig::from_json(&parts.unet.config)?,
        vae: vae.transpose()?,
        texts: texts
            .map(|text| ClipTextConfig::from_json(&text.config))
            .collect::<Result<_, _>>()?,
    })
}

/// Architectures of the networks of a pipeline, as far as they are known.
#[derive(Debug)]
pub(crate) struct Configs {
    pub(crate) unet: UnetConfig,
    pub(crate) vae: Option<VaeConfig>,
    pub(crate) texts: Vec<ClipTextConfig>,
}

/// The sampler that the published pipeline of the family has.
fn scheduler(family: Family) -> Result<SchedulerConfig, ModelError> {
    if family == Family::Sd2 {
        note(
            "warning: the file does not say whether the model predicts noise or velocity; noise is assumed unless `--prediction` \
             or, in a recipe, `diffusion.prediction_type` says `v_prediction`. Wrongly assumed, it makes pictures brown and flat",
        );
    }
    SchedulerConfig::stable_diffusion(match family {
        Family::Sdxl => "euler",
        Family::Sd1 | Family::Sd2 => "ddim",
    })
}

fn tokenizers(file: &Path, family: Family) -> Result<Vec<Arc<ClipTokenizer>>, DiffusionError> {
    let beside = file.parent().unwrap_or(file);
    let here = |folder: &PathBuf| folder.join("vocab.json").is_file();
    let found = [beside.join("tokenizer"), beside.to_owned()]
        .into_iter()
        .find(here);
    let folder = match found {
        Some(folder) => folder,
        None => hub::resolve_tokenizer(TOKENIZER).map_err(|error| DiffusionError::NoTokenizer {
            file: file.to_owned(),
            reason: error.to_string(),
        })?,
    };
    let first = ClipTokenizer::load(folder)?;
    let zero_padded = || first.padded_with("!");
    Ok(match family {
        Family::Sd1 => vec![Arc::new(first)],
        Family::Sd2 => vec![Arc::new(zero_padded()?)],
        Family::Sdxl => {
            let second = Arc::new(zero_padded()?);
            vec![Arc::new(first), second]
        }
    })
}
