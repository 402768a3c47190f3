//! The layers of a pipeline by name, from its configurations alone.

use std::path::Path;

use temper_adapters::formats::{KohyaModel, Modules};
use temper_adapters::peft::Module;
use temper_adapters::weights::Checkpoint;
use temper_models::single_file::split;
use temper_models::{ClipTextConfig, ModelError, Prediction, SchedulerConfig, UnetConfig};

use super::{Component, DiffusionError, ModelIndex, Place};

/// Names and sizes of the layers that adapters can change.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModuleNames {
    unet: Vec<Module>,
    text_encoder: Vec<Module>,
    text_encoder_2: Vec<Module>,
    model: Option<KohyaModel>,
}

impl ModuleNames {
    /// Of a pipeline (directory or file), or of a directory with a UNet or a text encoder alone.
    ///
    /// # Errors
    /// [`DiffusionError`] when the directory is none of those.
    pub(crate) fn of(path: &Path) -> Result<Self, DiffusionError> {
        match Place::of(path) {
            Ok(Place::Directory) => return Self::of_pipeline(&ModelIndex::load(path)?),
            Ok(Place::File(file)) => return Self::of_file(&file),
            // A network in a directory of its own.
            Err(_) => {}
        }
        let class = std::fs::read_to_string(path.join("config.json")).unwrap_or_default();
        if class.contains("\"clip_text_model\"") {
            let config = ClipTextConfig::load(path)?;
            return Ok(Self {
                text_encoder: config.modules(),
                ..Self::default()
            });
        }
        let config = UnetConfig::load(path)?;
        Ok(Self {
            unet: config.modules(),
            model: Some(model_of(&config, None)),
            ..Self::default()
        })
    }

    fn of_file(file: &Path) -> Result<Self, DiffusionError> {
        let parts = split(&Checkpoint::open(file).map_err(ModelError::from)?)?;
        let unet = UnetConfig::from_json(&parts.unet.config)?;
        let texts = parts.text_encoders.iter();
        let texts = texts.map(|part| Ok(ClipTextConfig::from_json(&part.config)?.modules()));
        let mut texts = texts.collect::<Result<Vec<_>, ModelError>>()?.into_iter();
        Ok(Self {
            unet: unet.modules(),
            text_encoder: texts.next().unwrap_or_default(),
            text_encoder_2: texts.next().unwrap_or_default(),
            model: Some(model_of(&unet, None)),
        })
    }

    fn of_pipeline(index: &ModelIndex) -> Result<Self, DiffusionError> {
        let of = |part: Component| DiffusionError::of(part.name());
        let unet = index.folder(Component::Unet)?;
        let unet = UnetConfig::load(&unet).map_err(of(Component::Unet))?;
        let scheduler = index.folder(Component::Scheduler)?;
        let scheduler = SchedulerConfig::load(&scheduler).map_err(of(Component::Scheduler))?;
        let text = |part: Component| -> Result<Vec<Module>, DiffusionError> {
            if !index.has(part) {
                return Ok(Vec::new());
            }
            let config = ClipTextConfig::load(&index.folder(part)?).map_err(of(part))?;
            Ok(config.modules())
        };
        Ok(Self {
            unet: unet.modules(),
            text_encoder: text(Component::TextEncoder)?,
            text_encoder_2: text(Component::TextEncoder2)?,
            model: Some(model_of(&unet, Some(scheduler.prediction_type))),
        })
    }

    pub(crate) fn modules(&self) -> Modules<'_> {
        Modules {
            unet: &self.unet,
            text_encoder: &self.text_encoder,
            text_encoder_2: &self.text_encoder_2,
        }
    }

    /// What kohya's tools call the model.
    pub(crate) fn kohya_model(&self) -> KohyaModel {
        self.model.unwrap_or(KohyaModel::Other)
    }
}

/// By the widths that the published models have.
fn model_of(unet: &UnetConfig, prediction: Option<Prediction>) -> KohyaModel {
    let is_published = unet.block_out_channels().first() == Some(&320);
    match (is_published, unet.addition(), unet.cross_attention_dim()) {
        (true, Some(_), 2048) => KohyaModel::Sdxl,
        (true, None, 768) => KohyaModel::Sd1,
        (true, None, 1024) if prediction == Some(Prediction::VPrediction) => KohyaModel::Sd2V,
        (true, None, 1024) => KohyaModel::Sd2,
        _ => KohyaModel::Other,
    }
}
