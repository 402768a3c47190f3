//! Sizes of a UNet, from diffusers' `config.json` or a preset.

use std::path::Path;

use serde_json::{Value, json};

use super::features::check_supported;
use crate::ModelError;
use crate::keys::{Keys, load_json, size};

/// More levels or layers than any model has; keeps a hostile file from asking for billions.
const MOST_BLOCKS: usize = 64;
/// Wider than any model is; products of sizes stay far below 2^64.
const MOST_CHANNELS: usize = 1 << 20;

/// What the middle of the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MidBlock {
    /// Two residual blocks with a transformer between them (`UNetMidBlock2DCrossAttn`).
    CrossAttention,
    /// One residual block (`UNetMidBlock2D`).
    Residual,
    /// Nothing (null).
    None,
}

/// SDXL's extra conditions (`addition_embed_type` = `text_time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextTime {
    /// Width of the sinusoidal embedding of each time id.
    pub time_embed_dim: usize,
    /// Width of the pooled text embedding and all embedded time ids together.
    pub input_dim: usize,
}

/// The architecture of a UNet, under the names of its `config.json`.
///
/// Keys that mean nothing to the architecture are kept and written again.
///
/// # Examples
/// ```
/// let config = temper_models::UnetConfig::preset("sd15").unwrap();
/// assert_eq!(config.parameter_count(), 859_520_964);
/// assert_eq!(config.tensors().len(), 686);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct UnetConfig {
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) block_out_channels: Vec<usize>,
    /// Which down blocks have transformers.
    pub(super) down_attention: Vec<bool>,
    /// Which up blocks have transformers, from the deepest on.
    pub(super) up_attention: Vec<bool>,
    pub(super) mid_block: MidBlock,
    pub(super) layers_per_block: Vec<usize>,
    /// Heads of each down block.
    pub(super) heads: Vec<usize>,
    pub(super) cross_attention_dim: usize,
    /// Transformer blocks of each attention of a down block.
    pub(super) down_depth: Vec<usize>,
    /// The same of an up block, from the deepest on.
    pub(super) up_depth: Vec<usize>,
    pub(super) only_cross_attention: Vec<bool>,
    pub(super) use_linear_projection: bool,
    pub(super) upcast_attention: bool,
    pub(super) norm_num_groups: usize,
    pub(super) norm_eps: f64,
    pub(super) flip_sin_to_cos: bool,
    pub(super) freq_shift: f64,
    pub(super) time_embedding_dim: usize,
    pub(super) addition: Option<TextTime>,
    /// The file as it was.
    json: Value,
}

impl UnetConfig {
    /// Reads `config.json` of a diffusers directory.
    ///
    /// # Errors
    /// When the file cannot be read, a key is wrong, or the architecture is not supported.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        load_json(&directory.join("config.json"), Self::from_json)
    }

    /// Reads the content of a `config.json`; absent keys have the defaults of diffusers.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_json(value: &Value) -> Result<Self, ModelError> {
        check_supported(value)?;
        let keys = Keys(value);
        let block_out_channels = channels(keys)?;
        let blocks = block_out_channels.len();
        let down_depth = keys
            .per_block("transformer_layers_per_block", blocks, count)?
            .unwrap_or_else(|| vec![1; blocks]);
        let up_depth = keys
            .per_block("reverse_transformer_layers_per_block", blocks, count)?
            .unwrap_or_else(|| down_depth.iter().rev().copied().collect());
        let heads = match keys.per_block("num_attention_heads", blocks, size)? {
            Some(heads) => heads,
            // The older name: the number of heads, whatever it says.
            None => keys
                .per_block("attention_head_dim", blocks, size)?
                .unwrap_or_else(|| vec![8; blocks]),
        };
        let config = Self {
            in_channels: keys.size_or("in_channels", 4)?,
            out_channels: keys.size_or("out_channels", 4)?,
            down_attention: kinds(keys, "down_block_types", DOWN, blocks)?,
            up_attention: kinds(keys, "up_block_types", UP, blocks)?,
            mid_block: mid_block(value)?,
            layers_per_block: keys
                .per_block("layers_per_block", blocks, size)?
                .unwrap_or_else(|| vec![2; blocks]),
            heads,
            cross_attention_dim: cross_attention_dim(keys, blocks)?,
            down_depth,
            up_depth,
            only_cross_attention: keys
                .per_block("only_cross_attention", blocks, Value::as_bool)?
                .unwrap_or_else(|| vec![false; blocks]),
            use_linear_projection: keys.flag("use_linear_projection"),
            upcast_attention: keys.flag("upcast_attention"),
            norm_num_groups: keys.size_or("norm_num_groups", 32)?,
            norm_eps: keys.number("norm_eps")?.unwrap_or(1e-5),
            flip_sin_to_cos: keys
                .get("flip_sin_to_cos")
                .and_then(Value::as_bool)
                .unwrap_or(true),
            freq_shift: keys.number("freq_shift")?.unwrap_or(0.0),
            time_embedding_dim: keys
                .optional_size("time_embedding_dim")?
                .unwrap_or(4 * block_out_channels[0]),
            addition: addition(keys)?,
            block_out_channels,
            json: value.clone(),
        };
        config.check()
    }

    /// The `config.json` it was read from, with the class name of diffusers.
    pub fn to_json(&self) -> Value {
        let mut value = self.json.clone();
        if let Some(map) = value.as_object_mut() {
            map.entry("_class_name")
                .or_insert_with(|| json!("UNet2DConditionModel"));
        }
        value
    }

    /// Channels of the latents that go in.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// Channels of the prediction.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Channels of each level, from the finest on.
    pub fn block_out_channels(&self) -> &[usize] {
        &self.block_out_channels
    }

    /// Width of the text embeddings.
    pub fn cross_attention_dim(&self) -> usize {
        self.cross_attention_dim
    }

    /// SDXL's extra conditions.
    pub fn addition(&self) -> Option<TextTime> {
        self.addition
    }

    /// Height and width of the latents it was trained on, if the file says so.
    pub fn sample_size(&self) -> Option<usize> {
        self.json.get("sample_size").and_then(size)
    }

    fn check(self) -> Result<Self, ModelError> {
        self.check_channels()?;
        let wide = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("cross_attention_dim", self.cross_attention_dim),
            ("time_embedding_dim", self.time_embedding_dim),
        ];
        if let Some((key, value)) = wide.into_iter().find(|(_, value)| *value > MOST_CHANNELS) {
            return Err(ModelError::key(key, value, "at most 1048576"));
        }
        let layers = [
            ("layers_per_block", &self.layers_per_block),
            ("transformer_layers_per_block", &self.down_depth),
            ("reverse_transformer_layers_per_block", &self.up_depth),
        ];
        for (key, counts) in layers {
            if let Some(count) = counts.iter().find(|count| **count > MOST_BLOCKS) {
                return Err(ModelError::key(key, count, "at most 64"));
            }
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return Err(ModelError::key(
                "norm_eps",
                self.norm_eps,
                "a number above 0",
            ));
        }
        if !(0.0..=1.0).contains(&self.freq_shift) {
            return Err(ModelError::key(
                "freq_shift",
                self.freq_shift,
                "a number from 0 to 1",
            ));
        }
        Ok(self)
    }

    /// Groups, heads and sinusoids must divide the channels.
    fn check_channels(&self) -> Result<(), ModelError> {
        let first = self.block_out_channels[0];
        if first < 4 || !first.is_multiple_of(2) {
            let expected = "an even first entry of at least 4 (sines and cosines)";
            return Err(ModelError::key("block_out_channels", first, expected));
        }
        let groups = self.norm_num_groups;
        for (channels, heads) in self.block_out_channels.iter().zip(&self.heads) {
            if !channels.is_multiple_of(groups) {
                let found = format!("{groups} with {channels} channels");
                let expected = "a divisor of every entry of `block_out_channels`";
                return Err(ModelError::key("norm_num_groups", found, expected));
            }
            if !channels.is_multiple_of(*heads) {
                let found = format!("{heads} with {channels} channels");
                let expected = "a divisor of the block's channels (it is the number of heads)";
                return Err(ModelError::key("attention_head_dim", found, expected));
            }
        }
        Ok(())
    }
}

impl Keys<'_> {
    /// One value for all blocks, or a list with one for each.
    fn per_block<T: Clone>(
        self,
        key: &str,
        blocks: usize,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ModelError> {
        let wrong = || self.wrong(key, "one value, or a list with one value for each block");
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => {
                let values: Option<Vec<T>> = list.iter().map(read).collect();
                let values = values.filter(|values| values.len() == blocks);
                values.map(Some).ok_or_else(wrong)
            }
            Some(value) => {
                let value = read(value).ok_or_else(wrong)?;
                Ok(Some(vec![value; blocks]))
            }
        }
    }
}

fn channels(keys: Keys) -> Result<Vec<usize>, ModelError> {
    const KEY: &str = "block_out_channels";
    let wrong = || keys.wrong(KEY, "a list of 1 to 64 sizes of at most 1048576");
    let Some(value) = keys.get(KEY) else {
        return Ok(vec![320, 640, 1280, 1280]);
    };
    let list = value.as_array().ok_or_else(wrong)?;
    let sizes: Option<Vec<usize>> = list.iter().map(size).collect();
    sizes
        .filter(|sizes| (1..=MOST_BLOCKS).contains(&sizes.len()))
        .filter(|sizes| sizes.iter().all(|size| *size <= MOST_CHANNELS))
        .ok_or_else(wrong)
}

/// Like a size, but none is possible.
fn count(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .filter(|&count| count < 1 << 31)
        .map(|count| count as usize)
}

const DOWN: [&str; 2] = ["DownBlock2D", "CrossAttnDownBlock2D"];
const UP: [&str; 2] = ["UpBlock2D", "CrossAttnUpBlock2D"];

/// Which blocks have attention, from their class names.
fn kinds(
    keys: Keys,
    key: &'static str,
    [plain, crossed]: [&str; 2],
    blocks: usize,
) -> Result<Vec<bool>, ModelError> {
    let Some(value) = keys.get(key) else {
        // As in diffusers: every block but the deepest.
        let deepest = if plain == "DownBlock2D" { 3 } else { 0 };
        return match blocks {
            4 => Ok((0..4).map(|block| block != deepest).collect()),
            _ => Err(keys.wrong(key, "a list of block names")),
        };
    };
    let names: Option<Vec<&str>> = value
        .as_array()
        .and_then(|list| list.iter().map(Value::as_str).collect());
    let Some(names) = names.filter(|names| names.len() == blocks) else {
        return Err(keys.wrong(key, "a list with one name for each of `block_out_channels`"));
    };
    let kind = |name: &str| {
        if name == crossed {
            return Ok(true);
        }
        if name == plain {
            return Ok(false);
        }
        Err(ModelError::Unsupported {
            what: format!("the block `{name}` in `{key}`"),
            hint: "supported are DownBlock2D, CrossAttnDownBlock2D, UpBlock2D and CrossAttnUpBlock2D",
        })
    };
    names.into_iter().map(kind).collect()
}

fn mid_block(value: &Value) -> Result<MidBlock, ModelError> {
    match value.get("mid_block_type") {
        // Null means that there is none; an absent key means the usual one.
        Some(Value::Null) => Ok(MidBlock::None),
        None => Ok(MidBlock::CrossAttention),
        Some(Value::String(name)) if name == "UNetMidBlock2DCrossAttn" => {
            Ok(MidBlock::CrossAttention)
        }
        Some(Value::String(name)) if name == "UNetMidBlock2D" => Ok(MidBlock::Residual),
        Some(other) => Err(ModelError::Unsupported {
            what: format!("mid_block_type {other}"),
            hint: "supported are UNetMidBlock2DCrossAttn, UNetMidBlock2D and null",
        }),
    }
}

/// One width for all blocks: every block sees the same text embeddings.
fn cross_attention_dim(keys: Keys, blocks: usize) -> Result<usize, ModelError> {
    const KEY: &str = "cross_attention_dim";
    let Some(widths) = keys.per_block(KEY, blocks, size)? else {
        return Ok(1280);
    };
    let first = widths[0];
    if widths.iter().any(|width| *width != first) {
        return Err(keys.wrong(KEY, "the same width for every block"));
    }
    Ok(first)
}

fn addition(keys: Keys) -> Result<Option<TextTime>, ModelError> {
    if keys.get("addition_embed_type").is_none() {
        return Ok(None);
    }
    let time_embed_dim = keys.size("addition_time_embed_dim")?;
    let input_dim = keys.size("projection_class_embeddings_input_dim")?;
    if time_embed_dim < 4 || !time_embed_dim.is_multiple_of(2) || time_embed_dim > MOST_CHANNELS {
        return Err(keys.wrong("addition_time_embed_dim", "an even number of 4 to 1048576"));
    }
    if input_dim <= time_embed_dim || input_dim > MOST_CHANNELS {
        return Err(keys.wrong(
            "projection_class_embeddings_input_dim",
            "the width of pooled text and embedded time ids together, at most 1048576",
        ));
    }
    Ok(Some(TextTime {
        time_embed_dim,
        input_dim,
    }))
}
