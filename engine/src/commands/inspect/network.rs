//! The networks of a diffusion pipeline, each in its own directory.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use temper_adapters::peft::{Module, ModuleKind};
use temper_adapters::weights::Checkpoint;
use temper_models::{ClipTextConfig, ControlConfig, ModelError, UnetConfig, VaeConfig};

use super::model::{has_weights, say_fit, totals};
use crate::Failure;
use crate::commands::report::Report;

/// A network by its configuration.
#[derive(Debug)]
pub(super) enum Network {
    Unet(UnetConfig),
    Vae(VaeConfig),
    Text(ClipTextConfig),
    Control(ControlConfig),
}

impl Network {
    /// The network of a directory, `None` when its configuration is that of something else.
    pub(super) fn of(path: &Path) -> Option<Result<Self, ModelError>> {
        let text = std::fs::read_to_string(path.join("config.json")).ok()?;
        let config: Value = serde_json::from_str(&text).ok()?;
        let name = |key| config.get(key).and_then(Value::as_str);
        match (name("_class_name"), name("model_type")) {
            (Some("UNet2DConditionModel"), _) => {
                Some(UnetConfig::from_json(&config).map(Self::Unet))
            }
            (Some("AutoencoderKL"), _) => Some(VaeConfig::from_json(&config).map(Self::Vae)),
            (Some("ControlNetConditioningEmbedding"), _) => {
                Some(ControlConfig::from_json(&config).map(Self::Control))
            }
            (_, Some("clip_text_model")) => {
                Some(ClipTextConfig::from_json(&config).map(Self::Text))
            }
            _ => None,
        }
    }

    pub(super) fn class(&self) -> &'static str {
        match self {
            Self::Unet(_) => "UNet2DConditionModel",
            Self::Vae(_) => "AutoencoderKL",
            Self::Text(config) if config.projection.is_some() => "CLIPTextModelWithProjection",
            Self::Text(_) => "CLIPTextModel",
            Self::Control(_) => "ControlNetConditioningEmbedding",
        }
    }

    pub(super) fn parameters(&self) -> usize {
        match self {
            Self::Unet(config) => config.parameter_count(),
            Self::Vae(config) => config.parameter_count(),
            Self::Text(config) => config.parameter_count(),
            Self::Control(config) => config.parameter_count(),
        }
    }

    pub(super) fn modules(&self) -> Vec<Module> {
        match self {
            Self::Unet(config) => config.modules(),
            Self::Vae(config) => config.modules(),
            Self::Text(config) => config.modules(),
            Self::Control(config) => config.modules(),
        }
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::Unet(config) => config.tensors(),
            Self::Vae(config) => config.tensors(),
            Self::Text(config) => config.tensors(),
            Self::Control(config) => config.tensors(),
        }
    }

    fn describe(&self, report: &mut Report) {
        report.fact("architecture", self.class());
        report.count("parameters", self.parameters());
        match self {
            Self::Unet(config) => unet(config, report),
            Self::Vae(config) => vae(config, report),
            Self::Text(config) => text(config, report),
            Self::Control(config) => {
                report.fact("pixels_per_latent", config.reduction());
                report.note("the encoder of control pictures: give it to `temper sample --control` with --control-model");
            }
        }
        if matches!(self, Self::Unet(_) | Self::Text(_)) {
            targets(&self.modules(), report);
        }
    }
}

fn unet(config: &UnetConfig, report: &mut Report) {
    report.fact("latent_channels_in", config.in_channels());
    report.fact("latent_channels_out", config.out_channels());
    report.fact("widths", config.block_out_channels().to_vec());
    report.fact("text_width", config.cross_attention_dim());
    report.fact("sample_size", config.sample_size());
    let conditions = config
        .addition()
        .map_or("text", |_| "text, pooled text and picture sizes");
    report.fact("conditions", conditions);
}

fn vae(config: &VaeConfig, report: &mut Report) {
    report.fact("latent_channels", config.latent_channels);
    report.fact("widths", config.block_out_channels.clone());
    report.fact("pixels_per_latent", config.downscale());
    report.fact("scaling_factor", config.scaling_factor);
}

fn text(config: &ClipTextConfig, report: &mut Report) {
    report.fact("layers", config.encoder.num_hidden_layers);
    report.fact("hidden_size", config.encoder.hidden_size);
    report.fact("attention_heads", config.encoder.num_attention_heads);
    report.fact("vocabulary", config.vocab_size);
    report.fact("positions", config.max_position_embeddings);
    report.fact("activation", config.encoder.hidden_act.name());
    report.fact("projection", config.projection);
}

/// Layers that an adapter can name in `target_modules`, by the last part of their names.
fn targets(modules: &[Module], report: &mut Report) {
    let mut found: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for module in modules {
        let kind = match module.kind {
            ModuleKind::Linear { .. } => "linear",
            ModuleKind::Conv2d { .. } => "convolution",
            _ => continue,
        };
        // Numbers tell nothing without what they count: `to_out.0`, `net.2`.
        let mut parts: Vec<&str> = module.name.rsplit('.').collect();
        let numbers = parts
            .iter()
            .take_while(|part| part.parse::<usize>().is_ok());
        parts.truncate(numbers.count() + 1);
        parts.reverse();
        *found.entry((parts.join("."), kind)).or_default() += 1;
    }
    let rows = found
        .into_iter()
        .map(|((name, kind), count)| vec![json!(name), json!(kind), json!(count)]);
    report.table(
        "adapter_targets",
        &["name", "layer", "count"],
        rows.collect(),
    );
}

/// A directory with one network. The second value is whether its weights fit.
pub(super) fn inspect(
    path: &Path,
    network: Result<Network, ModelError>,
) -> Result<(Report, bool), Failure> {
    let mut report = Report::new("model", path);
    let network = match network {
        Ok(network) => network,
        Err(error) => {
            report.note(format!("the architecture is not usable here: {error}"));
            return Ok((report, false));
        }
    };
    network.describe(&mut report);
    if !has_weights(path) {
        report.fact("weights", "none in this directory");
        return Ok((report, true));
    }
    let weights = Checkpoint::open(path)?;
    totals(&weights, &mut report);
    let fits = fit(&network, &weights, &mut report);
    Ok((report, fits))
}

/// Compares the weights with what the network needs, under the names of today.
fn fit(network: &Network, weights: &Checkpoint, report: &mut Report) -> bool {
    let size = |shape: &[usize]| shape.iter().product::<usize>();
    let needed: BTreeMap<String, Vec<usize>> = network.tensors().into_iter().collect();
    let mut found = BTreeMap::new();
    for name in weights.names() {
        if let Some(info) = weights.info(name) {
            found.insert(today(network, name), info.shape.clone());
        }
    }
    let missing: Vec<String> = needed
        .keys()
        .filter(|name| !found.contains_key(*name))
        .cloned()
        .collect();
    // A buffer of numbers 0, 1, 2, … that old files hold does no harm.
    let surplus: Vec<String> = found
        .keys()
        .filter(|name| !needed.contains_key(*name) && !name.ends_with("position_ids"))
        .cloned()
        .collect();
    // Old autoencoders keep matrices as 1×1 kernels.
    let wrong: Vec<Vec<Value>> = needed
        .iter()
        .filter_map(|(name, needed)| {
            let found = found
                .get(name)
                .filter(|found| size(found) != size(needed))?;
            Some(vec![json!(name), json!(needed), json!(found)])
        })
        .collect();
    let fits = missing.is_empty() && surplus.is_empty() && wrong.is_empty();
    say_fit(fits, [&missing, &surplus], wrong, report);
    fits
}

/// The name that newer files have for a tensor.
fn today(network: &Network, name: &str) -> String {
    match network {
        Network::Unet(_) | Network::Control(_) => name.to_owned(),
        Network::Vae(_) => [
            (".query.", ".to_q."),
            (".key.", ".to_k."),
            (".value.", ".to_v."),
            (".proj_attn.", ".to_out.0."),
        ]
        .iter()
        .fold(name.to_owned(), |name, (old, new)| name.replace(old, new)),
        Network::Text(_) if name.starts_with("text_") => name.to_owned(),
        Network::Text(_) => format!("text_model.{name}"),
    }
}
