//! `[model]` of a diffusion recipe: where the U-Net, the autoencoder and the text encoders come from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::recipe::Init;

/// The `[model]` section of a diffusion recipe.
///
/// ```
/// # use temper_engine::recipe::{DiffusionModel, Init};
/// assert_eq!(DiffusionModel::default().init, Init::Pretrained);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionModel {
    /// A directory in diffusers layout (`unet/`, `vae/`, `text_encoder/`, …), one checkpoint file,
    /// or a hub name `org/name[@revision]`. May be left out only with `init = "random"`.
    pub path: Option<String>,
    /// Whether the weights of what is trained are read from `path` or drawn at random.
    pub init: Init,
    /// The `config.json` of what is trained, for `init = "random"`.
    pub config: Option<PathBuf>,
    /// Directory of the autoencoder. Default: the one of `path`. Training images in pixels alone
    /// needs none.
    pub vae: Option<PathBuf>,
    /// Directory of the text encoder. Default: the one of `path`.
    pub text_encoder: Option<PathBuf>,
    /// Directory of its tokenizer (`vocab.json`, `merges.txt`). Default: the one of `path`.
    pub tokenizer: Option<PathBuf>,
    /// The noise process: a directory with `scheduler_config.json`. Default: the one of `path`, or
    /// for random weights that of Stable Diffusion 1.5.
    pub scheduler: Option<PathBuf>,
}
