//! What is known of the networks of a run without their weights.

use std::path::{Path, PathBuf};

use temper_adapters::peft::{AdapterConfig, Module};
use temper_models::{ClipTextConfig, ControlConfig, ModelError, UnetConfig, VaeConfig};

use super::networks::TEXT;
use super::open::{config, control_config, part};
use super::text::{UnusedText, for_text};
use crate::Failure;
use crate::diffusion::{Configs, Parts, configs_of_file};
use crate::recipe::{DiffusionRecipe, ImagesKind, Init, Trained};
use crate::train::{AdapterText, adapter_sizes, peft_config};

/// Models of the hub whose sizes are known without a download.
const PUBLISHED: [(&str, &str); 6] = [
    ("stable-diffusion-v1-5", "sd15"),
    ("stable-diffusion-v1-4", "sd15"),
    ("stable-diffusion-2-1-base", "sd21"),
    ("stable-diffusion-2-1", "sd21"),
    ("stable-diffusion-2", "sd21"),
    ("stable-diffusion-xl-base-1.0", "sdxl"),
];

/// Name and preset of a model of the hub that is not a local path.
pub(super) fn published(recipe: &DiffusionRecipe) -> Option<(&'static str, &'static str)> {
    let path = recipe.model.path.as_deref().unwrap_or_default();
    let name = path.split('@').next().unwrap_or(path).rsplit('/').next();
    let known = PUBLISHED.iter().find(|(known, _)| Some(*known) == name);
    known.copied().filter(|_| !Path::new(path).exists())
}

/// Numbers of values of one network.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Its own parameters.
    pub(super) parameters: usize,
    /// Whether these are trained, all of them.
    pub(super) is_whole: bool,
    /// What is trained, adapters included.
    pub(super) trained: usize,
    /// Parameters of adapters.
    pub(super) added: usize,
    /// What the rotations of adapters keep for the backward pass.
    pub(super) rotations: usize,
    /// What the backward pass keeps of one image, and what it keeps when blocks are recomputed.
    activations: [usize; 2],
}

impl Network {
    pub(super) fn kept(&self, recomputed: bool) -> usize {
        self.activations[usize::from(recomputed)]
    }

    fn frozen(parameters: usize) -> Self {
        Self {
            parameters,
            ..Self::default()
        }
    }

    fn whole(parameters: usize, trained: usize, activations: [usize; 2]) -> Self {
        Self {
            parameters,
            is_whole: true,
            trained,
            activations,
            ..Self::default()
        }
    }
}

/// The networks of a recipe.
pub(super) struct Sizes {
    /// Parameters of the network that the recipe is about.
    tensors: Vec<(String, Vec<usize>)>,
    /// Its modules.
    pub(super) modules: Vec<Module>,
    activations: [usize; 2],
    is_xl: bool,
    /// Parameters of the frozen autoencoder.
    vae: usize,
    texts: Vec<ClipTextConfig>,
    control: Option<ControlConfig>,
}

impl Sizes {
    pub(super) fn known(recipe: &DiffusionRecipe) -> Result<Self, Failure> {
        if recipe.diffusion.train == Trained::Vae {
            return Self::of_vae(recipe);
        }
        let published = published(recipe).filter(|_| recipe.model.init == Init::Pretrained);
        Self::of_unet(
            recipe,
            match (published, recipe.model.init) {
                (Some((_, preset)), _) => published_configs(preset)?,
                (None, Init::Random) => {
                    let unet = UnetConfig::from_json(&config(recipe)?)?;
                    let around = recipe.model.path.as_deref().map(Path::new);
                    let mut configs = local(recipe, unet, around)?;
                    // A network with random weights learns with one text encoder.
                    configs.texts.truncate(1);
                    configs
                }
                (None, Init::Pretrained) => {
                    let folder = part(recipe, "unet")?;
                    if folder.is_file() {
                        configs_of_file(&folder)?
                    } else {
                        local(recipe, UnetConfig::load(&folder)?, folder.parent())?
                    }
                }
            },
        )
    }

    fn of_unet(recipe: &DiffusionRecipe, configs: Configs) -> Result<Self, Failure> {
        let Configs { unet, vae, texts } = configs;
        // Latents and texts of a file need no network to make them.
        let is_alone = recipe.images.kind == ImagesKind::Latents;
        if let (Some(vae), false, false) = (&vae, is_alone, texts.is_empty()) {
            let parts = Parts {
                unet: &unet,
                vae,
                texts: texts.iter().collect(),
                tokenizers: Vec::new(),
            };
            parts.check_widths_and_channels()?;
        }
        check_clip_skip(recipe, unet.addition().is_some(), &texts)?;
        let factor = vae.as_ref().map_or(8, VaeConfig::downscale);
        let side = recipe.images.resolution / factor;
        let control = recipe.diffusion.control;
        Ok(Self {
            tensors: unet.tensors(),
            modules: unet.modules(),
            activations: activations(&unet, side * side),
            is_xl: unet.addition().is_some(),
            vae: vae
                .filter(|_| !is_alone)
                .map_or(0, |vae| vae.parameter_count()),
            texts: if is_alone { Vec::new() } else { texts },
            control: control.map(|_| control_config(&unet, factor)).transpose()?,
        })
    }

    fn of_vae(recipe: &DiffusionRecipe) -> Result<Self, Failure> {
        let vae = match recipe.model.init {
            Init::Random => VaeConfig::from_json(&config(recipe)?)?,
            Init::Pretrained => VaeConfig::load(&part(recipe, "vae")?)?,
        };
        let pixels = recipe.images.resolution * recipe.images.resolution;
        // About eight values of each channel in each of five residual blocks a level, on both sides.
        let kept = |(level, channels): (usize, &usize)| 80 * channels * (pixels >> (2 * level));
        let kept: usize = vae.block_out_channels.iter().enumerate().map(kept).sum();
        Ok(Self {
            tensors: vae.tensors(),
            modules: vae.modules(),
            activations: [kept, kept],
            is_xl: false,
            vae: 0,
            texts: Vec::new(),
            control: None,
        })
    }

    /// Every network, the one that the recipe is about first.
    pub(super) fn all(
        &self,
        recipe: &DiffusionRecipe,
        adapter: Option<&AdapterConfig>,
    ) -> Result<Vec<Network>, Failure> {
        let mut all = vec![self.main(adapter)?, Network::frozen(self.vae)];
        for number in 0..self.texts.len() {
            all.push(self.text(recipe, number)?);
        }
        if let Some(control) = &self.control {
            let pixels = recipe.images.resolution * recipe.images.resolution;
            // Two convolutions a level, each with its input and its activation.
            let kept = |(level, channels): (usize, &usize)| 4 * channels * (pixels >> (2 * level));
            let kept = control
                .block_out_channels
                .iter()
                .enumerate()
                .map(kept)
                .sum();
            let parameters = control.parameter_count();
            all.push(Network::whole(parameters, parameters, [kept, kept]));
        }
        Ok(all)
    }

    fn main(&self, adapter: Option<&AdapterConfig>) -> Result<Network, Failure> {
        let parameters = count(&self.tensors);
        let Some(adapter) = adapter else {
            return Ok(Network::whole(parameters, parameters, self.activations));
        };
        let sizes = adapter_sizes(adapter, &self.modules, &self.tensors)?;
        Ok(Network {
            parameters,
            is_whole: false,
            trained: sizes.trained,
            added: sizes.added,
            rotations: sizes.rotations,
            activations: self.activations,
        })
    }

    fn text(&self, recipe: &DiffusionRecipe, number: usize) -> Result<Network, Failure> {
        let text = &self.texts[number];
        let parameters = text.parameter_count();
        if !recipe.diffusion.train_text_encoder {
            return Ok(Network::frozen(parameters));
        }
        let (layers, is_last) = (
            text.encoder.num_hidden_layers,
            number + 1 == self.texts.len(),
        );
        let skipped = recipe.diffusion.clip_skip.unwrap_or(0);
        let unused = UnusedText::new(layers, skipped, self.is_xl, is_last);
        unused.check(TEXT[number.min(1)], recipe.adapter.as_ref())?;
        // As a transformer block of the U-Net, without its second attention.
        let kept = text.max_position_embeddings * text.encoder.hidden_size * layers * 24;
        let own = recipe.adapter.as_ref().map(for_text);
        let (own, all) = (own.as_ref(), text.modules());
        let own = own.map(|adapter| AdapterText {
            adapter,
            base: "",
            task_type: None,
            bounds_by_layer: true,
        });
        let mut tensors = text.tensors();
        tensors.retain(|(name, _)| !unused.holds(name));
        let Some(adapter) = peft_config(own, &all)? else {
            return Ok(Network::whole(parameters, count(&tensors), [kept, kept]));
        };
        let used = all.iter().filter(|module| !unused.holds(&module.name));
        let used: Vec<_> = used.cloned().collect();
        let (all, used) = (
            adapter_sizes(&adapter, &all, &tensors)?,
            adapter_sizes(&adapter, &used, &tensors)?,
        );
        Ok(Network {
            parameters,
            is_whole: false,
            trained: used.trained,
            added: all.added,
            rotations: all.rotations,
            activations: [kept, kept],
        })
    }
}

/// More layers cannot be left out than there are; SDXL reads the state before the last anyway.
fn check_clip_skip(
    recipe: &DiffusionRecipe,
    is_xl: bool,
    texts: &[ClipTextConfig],
) -> Result<(), Failure> {
    let skip = recipe.diffusion.clip_skip.unwrap_or(0);
    let layers = texts.iter().map(|text| text.encoder.num_hidden_layers);
    match layers
        .min()
        .map(|layers| layers.saturating_sub(usize::from(is_xl)))
    {
        Some(layers) if layers < skip => Err(Failure::usage(ModelError::ClipSkip { skip, layers })),
        _ => Ok(()),
    }
}

fn count(tensors: &[(String, Vec<usize>)]) -> usize {
    let counts = tensors
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>());
    counts.sum()
}

fn published_configs(preset: &str) -> Result<Configs, Failure> {
    let texts = match preset {
        "sdxl" => vec!["sdxl-1", "sdxl-2"],
        _ => vec![preset],
    };
    let texts = texts.into_iter().map(ClipTextConfig::preset);
    Ok(Configs {
        unet: UnetConfig::preset(preset)?,
        vae: Some(VaeConfig::preset(preset)?),
        texts: texts.collect::<Result<_, _>>()?,
    })
}

/// The networks around a U-Net, as far as their configurations are at hand.
fn local(
    recipe: &DiffusionRecipe,
    unet: UnetConfig,
    base: Option<&Path>,
) -> Result<Configs, Failure> {
    let model = &recipe.model;
    let folder = |own: &Option<PathBuf>, name: &str| {
        let folder = own.clone().or_else(|| base.map(|base| base.join(name)));
        folder.filter(|folder| folder.join("config.json").is_file())
    };
    let vae = folder(&model.vae, "vae").map(|folder| VaeConfig::load(&folder));
    let texts = [
        folder(&model.text_encoder, "text_encoder"),
        folder(&None, "text_encoder_2"),
    ];
    let texts = texts
        .iter()
        .flatten()
        .map(|folder| ClipTextConfig::load(folder));
    Ok(Configs {
        unet,
        vae: vae.transpose()?,
        texts: texts.collect::<Result<_, _>>()?,
    })
}

/// An estimate from the structure: a residual block keeps about eight values of every channel and pixel, a transformer block
/// thirty-four; recomputed, only the inputs of the blocks are kept, and one block at a time.
fn activations(config: &UnetConfig, pixels: usize) -> [usize; 2] {
    let json = config.to_json();
    let types = json["down_block_types"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let layers = json["layers_per_block"].as_u64().unwrap_or(2) as usize;
    let (mut whole, mut inputs, mut largest) = (0, 0, 0);
    for (level, channels) in config.block_out_channels().iter().enumerate() {
        let values = channels * (pixels >> (2 * level));
        let depth = match &json["transformer_layers_per_block"] {
            serde_json::Value::Array(list) => list.get(level).and_then(serde_json::Value::as_u64),
            one => one.as_u64(),
        };
        let attends = types.get(level).and_then(serde_json::Value::as_str);
        let depth = attends
            .filter(|name| name.contains("CrossAttn"))
            .map_or(0, |_| depth.unwrap_or(1) as usize);
        let block = values * (8 + 34 * depth);
        // Down and up: the way up has one block more.
        whole += (2 * layers + 1) * block;
        inputs += (4 * layers + 3) * values;
        largest = largest.max(block);
    }
    [whole, inputs + largest]
}
