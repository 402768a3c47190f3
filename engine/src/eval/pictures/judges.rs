//! The models that compare pictures.

use std::path::{Path, PathBuf};

use burn::tensor::{FloatDType, Tensor, TensorData};
use serde::Serialize;
use temper_datasets::ClipTokenizer;
use temper_datasets::images::{Filter, ModelInput, Photo, ResizeMode};
use temper_models::{Clip, DinoVit, Lpips, ModelError};

use crate::device::OpenDevice;
use crate::eval::{EvalError, fingerprint};
use crate::recipe::shorten;
use crate::run::{RunError, hash_file, note};

/// Rows that a model takes at once.
pub(crate) const BATCH: usize = 16;

/// Which model measured, so that figures are compared with those of the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JudgeId {
    /// As it was named.
    pub path: PathBuf,
    /// Of its configuration and weights.
    pub sha256: String,
    /// How pictures are brought to its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

/// The models of an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JudgeIds {
    /// CLIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<JudgeId>,
    /// A vision transformer trained by DINO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dino: Option<JudgeId>,
    /// LPIPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lpips: Option<JudgeId>,
}

/// Where the models lie.
#[derive(Clone, Debug, Default)]
pub(crate) struct JudgePaths {
    pub(crate) clip: Option<PathBuf>,
    pub(crate) dino: Option<PathBuf>,
    pub(crate) lpips: Option<PathBuf>,
}

/// The loaded models; what is not given is not measured.
pub(crate) struct Judges {
    clip: Option<(Clip, ModelInput, PathBuf)>,
    dino: Option<(DinoVit, ModelInput)>,
    pub(crate) lpips: Option<Lpips>,
    pub(crate) ids: JudgeIds,
    pub(crate) device: OpenDevice,
}

/// A picture as the models want it.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    pub(crate) clip: Option<Vec<f32>>,
    pub(crate) dino: Option<Vec<f32>>,
}

impl Judges {
    pub(crate) fn load(
        paths: &JudgePaths,
        dtype: FloatDType,
        device: OpenDevice,
    ) -> Result<Self, EvalError> {
        let mut ids = JudgeIds::default();
        let mut clip = None;
        if let Some(path) = &paths.clip {
            let model = Clip::load(path, dtype, &device.device).map_err(unusable("clip", path))?;
            let side = model.vision.config().vision.image_size;
            let input = input(path, || ModelInput::clip(side))?;
            ids.clip = Some(identify(path, Some(&input))?);
            clip = Some((model, input, path.clone()));
        }
        let mut dino = None;
        if let Some(path) = &paths.dino {
            let model =
                DinoVit::load(path, dtype, &device.device).map_err(unusable("dino", path))?;
            let side = model.config().vision.image_size;
            let input = input(path, || ModelInput::dino(side))?;
            ids.dino = Some(identify(path, Some(&input))?);
            dino = Some((model, input));
        }
        let lpips = match &paths.lpips {
            Some(path) => {
                let model = Lpips::load(path, &device.device).map_err(unusable("lpips", path))?;
                ids.lpips = Some(identify(path, None)?);
                Some(model)
            }
            None => None,
        };
        Ok(Self {
            clip,
            dino,
            lpips,
            ids,
            device,
        })
    }

    pub(crate) fn has_clip(&self) -> bool {
        self.clip.is_some()
    }

    pub(crate) fn inputs(&self, photo: &Photo) -> Result<Inputs, temper_datasets::DataError> {
        let apply = |input: &ModelInput| input.apply(photo);
        Ok(Inputs {
            clip: self
                .clip
                .as_ref()
                .map(|(_, input, _)| apply(input))
                .transpose()?,
            dino: self
                .dino
                .as_ref()
                .map(|(_, input)| apply(input))
                .transpose()?,
        })
    }

    /// Embeddings of unit length by CLIP, one a picture; nothing without CLIP.
    pub(crate) fn clip_images(&self, pixels: &[&[f32]]) -> Result<Vec<Vec<f64>>, EvalError> {
        let Some((model, input, _)) = &self.clip else {
            return Ok(Vec::new());
        };
        rows("CLIP", model.image_embeds(self.tensor(pixels, input))?)
    }

    /// The same by DINO.
    pub(crate) fn dino_images(&self, pixels: &[&[f32]]) -> Result<Vec<Vec<f64>>, EvalError> {
        let Some((model, input)) = &self.dino else {
            return Ok(Vec::new());
        };
        rows("DINO", model.embed(self.tensor(pixels, input))?)
    }

    /// Embeddings of unit length of prompts; nothing without CLIP.
    pub(crate) fn clip_texts(&self, texts: &[String]) -> Result<Vec<Vec<f64>>, EvalError> {
        let Some((model, _, path)) = self.clip.as_ref().filter(|_| !texts.is_empty()) else {
            return Ok(Vec::new());
        };
        let tokenizer = ClipTokenizer::load(path)?;
        let mut embeddings = Vec::with_capacity(texts.len());
        for some in texts.chunks(BATCH) {
            let mut ids = Vec::new();
            for text in some {
                let tokens = tokenizer.encode(text)?;
                ids.extend(tokens.ids);
                if let Some(cut) = tokens.truncated {
                    note(&format!(
                        "warning: CLIP does not read the end of a prompt: `{}`",
                        shorten(&cut)
                    ));
                }
            }
            let embeds = model.text_embeds(&ids, [some.len(), tokenizer.max_length()])?;
            embeddings.extend(rows("CLIP", embeds)?);
        }
        Ok(embeddings)
    }

    fn tensor(&self, pixels: &[&[f32]], input: &ModelInput) -> Tensor<4> {
        let [height, width] = input.crop;
        let shape = [pixels.len(), 3, height, width];
        Tensor::from_data(TensorData::new(pixels.concat(), shape), &self.device.device)
    }
}

fn unusable(option: &'static str, path: &Path) -> impl FnOnce(ModelError) -> EvalError {
    let path = path.to_owned();
    move |source| EvalError::Judge {
        path,
        option,
        source: Box::new(source),
    }
}

/// What the directory says of its input, or what the model was trained on.
fn input(path: &Path, usual: impl FnOnce() -> ModelInput) -> Result<ModelInput, EvalError> {
    if path.join("preprocessor_config.json").is_file() {
        return Ok(ModelInput::load(path)?);
    }
    Ok(usual())
}

fn identify(path: &Path, input: Option<&ModelInput>) -> Result<JudgeId, EvalError> {
    let sha256 = if path.is_file() {
        hash_file(path)
            .map_err(|source| RunError::io("read", path, source))?
            .1
    } else {
        fingerprint(path, |name| {
            name == "config.json" || name.ends_with(".safetensors")
        })?
    };
    Ok(JudgeId {
        path: path.to_owned(),
        sha256,
        input: input.map(describe),
    })
}

fn describe(input: &ModelInput) -> String {
    let filter = match input.filter {
        Filter::Bilinear => "bilinear",
        Filter::Bicubic => "bicubic",
        Filter::Lanczos => "lanczos",
    };
    let size = match input.resize {
        ResizeMode::ShorterSide(side) => format!("shorter side to {side}"),
        ResizeMode::Exact(height, width) => format!("to {width} × {height}"),
    };
    let [height, width] = input.crop;
    format!("{size}, {filter}, middle {width} × {height}")
}

/// Rows of unit length.
fn rows(model: &str, embeds: Tensor<2>) -> Result<Vec<Vec<f64>>, EvalError> {
    let width = embeds.dims()[1];
    let data = embeds.cast(FloatDType::F32).into_data();
    let values: Vec<f64> = data.iter::<f32>().map(f64::from).collect();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(EvalError::NotFinite {
            model: model.to_owned(),
        });
    }
    let unit = |row: &[f64]| {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        row.iter().map(|x| x / length).collect()
    };
    Ok(values.chunks_exact(width).map(unit).collect())
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
