//! Text encoders on disk, in both layouts of names.

use std::path::Path;

use burn::tensor::{Device, FloatDType};
use temper_adapters::weights::{Checkpoint, Dtype};
use temper_adapters::{Param, Parameters};

use super::{ClipLayout, ClipText, ClipTextConfig};
use crate::ModelError;
use crate::weights::{ParamSource, SaveDirectory};

const PREFIX: &str = "text_model.";

impl ClipText {
    /// Loads `directory` (config.json and safetensors): a text encoder, or the text side of a whole CLIP model.
    ///
    /// Matrices and embeddings are kept in `compute`, norms and biases in f32. A stored `position_ids` is ignored: it counts.
    ///
    /// # Errors
    /// Whatever is wrong with the directory, naming file and tensor.
    pub fn load(
        directory: &Path,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let config = ClipTextConfig::load(directory)?;
        let checkpoint = Checkpoint::open(directory)?;
        Self::from_checkpoint(config, &checkpoint, compute, device)
    }

    /// The same from an opened checkpoint.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_checkpoint(
        mut config: ClipTextConfig,
        checkpoint: &Checkpoint,
        compute: FloatDType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let layout = ClipLayout::of(checkpoint);
        let projection = checkpoint.info("text_projection.weight");
        if let (false, Some([width, _])) = (config.declared, projection.map(|info| &info.shape[..]))
        {
            config.projection = Some(*width);
        }
        let projects = config.projection.is_some();
        let checkpoint = checkpoint.renamed(|name| canonical(name, layout, projects))?;
        let source = ParamSource::checkpoint(config.tensors(), &checkpoint, compute, device)?;
        Self::build(config, layout, compute, &source)
    }

    /// Writes config.json and `model.safetensors` (sharded above `max_shard_bytes`) in `dtype`, in the layout it was read in.
    ///
    /// Adapters must be merged first: the directory holds plain weights alone.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(
        &self,
        directory: &Path,
        dtype: Dtype,
        max_shard_bytes: u64,
    ) -> Result<(), ModelError> {
        let stored = |name: &str| match self.layout {
            ClipLayout::Prefixed => name.to_owned(),
            ClipLayout::Bare => name.strip_prefix(PREFIX).unwrap_or(name).to_owned(),
        };
        let mut params = Vec::new();
        self.visit(&mut |param| {
            params.push(Param::new(
                stored(param.name()),
                param.shape(),
                param.plain(),
            ));
        });
        let tensors = self.config.tensors().into_iter();
        SaveDirectory {
            directory,
            stem: "model",
            config: &self.config.to_json(),
            dtype,
            max_shard_bytes,
        }
        .write(
            &Stored(params),
            tensors
                .map(|(name, shape)| (stored(&name), shape))
                .collect(),
        )
    }
}

impl ClipLayout {
    fn of(checkpoint: &Checkpoint) -> Self {
        if checkpoint.names().any(|name| name.starts_with(PREFIX)) {
            Self::Prefixed
        } else {
            Self::Bare
        }
    }
}

/// The name in memory of tensor `name`; `None` for what the text side does not need.
fn canonical(name: &str, layout: ClipLayout, projects: bool) -> Option<String> {
    let foreign = name.starts_with("vision_model.") || name.starts_with("visual_projection.");
    if foreign || name == "logit_scale" || name.ends_with("position_ids") {
        return None;
    }
    match (name, layout) {
        ("text_projection.weight", _) => projects.then(|| name.to_owned()),
        (_, ClipLayout::Prefixed) => Some(name.to_owned()),
        (_, ClipLayout::Bare) => Some(format!("{PREFIX}{name}")),
    }
}

/// Parameters under the names they get on disk.
struct Stored(Vec<Param>);

impl Parameters for Stored {
    fn visit(&self, visit: &mut dyn FnMut(&Param)) {
        self.0.iter().for_each(visit);
    }

    fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut Param)) {
        self.0.iter_mut().for_each(visit);
    }
}
