//! Keys of other tools' files, taken apart.

use super::names::Component;

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A of `LoRA`, `[rank, in]`.
    Down,
    /// B of `LoRA`, `[out, rank]`.
    Up,
    /// Alpha of `LoRA`, one number.
    Alpha,
    /// `DoRA`'s magnitude.
    Magnitude,
    /// OFT's packed rotation.
    Rotation,
}

/// A key of a known layout.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key<'a> {
    pub(super) component: Component,
    /// Name of the module, with dots or (kohya) underscores.
    pub(super) module: std::borrow::Cow<'a, str>,
    pub(super) flat: bool,
    pub(super) part: Part,
}

/// Kohya's prefixes; the first text encoder has two.
const KOHYA: [(&str, Component); 4] = [
    ("lora_unet_", Component::Unet),
    ("lora_te1_", Component::TextEncoder),
    ("lora_te2_", Component::TextEncoder2),
    ("lora_te_", Component::TextEncoder),
];

/// Whether a key has one of kohya's prefixes.
pub(super) fn is_kohya(key: &str) -> bool {
    KOHYA.iter().any(|(prefix, _)| key.starts_with(prefix))
}

/// Whether a key has one of diffusers' prefixes.
pub(super) fn is_diffusers(key: &str) -> bool {
    component(key).is_some()
}

/// The component that `prefix.rest` names.
fn component(key: &str) -> Option<(Component, &str)> {
    let (first, rest) = key.split_once('.')?;
    let found = Component::ALL
        .into_iter()
        .find(|component| component.name() == first);
    found.map(|component| (component, rest))
}

/// Takes a key apart, or says what is wrong with it.
pub(super) fn parse(key: &str) -> Result<Key<'_>, String> {
    if let Some((prefix, component)) = KOHYA
        .into_iter()
        .find(|(prefix, _)| key.starts_with(prefix))
    {
        let (module, tail) = key[prefix.len()..].split_once('.').unwrap_or((key, ""));
        let part = kohya_part(tail).map_err(|what| format!("`{key}` {what}"))?;
        return Ok(Key {
            component,
            module: module.into(),
            flat: true,
            part,
        });
    }
    let Some((component, path)) = component(key) else {
        return Err(format!(
            "`{key}` belongs to no part of a Stable Diffusion pipeline"
        ));
    };
    let dotted = |module: std::borrow::Cow<'static, str>, part| Key {
        component,
        module,
        flat: false,
        part,
    };
    for (tail, part) in DOTTED {
        if let Some(module) = path.strip_suffix(tail) {
            return Ok(Key {
                component,
                module: module.into(),
                flat: false,
                part,
            });
        }
    }
    processor(component, path)
        .map(|(module, part)| dotted(module.into(), part))
        .ok_or_else(|| format!("`{key}` {}", unknown(path)))
}

const DOTTED: [(&str, Part); 10] = [
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
    (".alpha", Part::Alpha),
    (".oft_R.weight", Part::Rotation),
];

/// Keys from when `LoRA` was an attention processor: `attn1.processor.to_q_lora.down.weight`, in text encoders
/// `self_attn.to_q_lora.down.weight`.
fn processor(component: Component, path: &str) -> Option<(String, Part)> {
    let (module, part) = [
        ("_lora.down.weight", Part::Down),
        ("_lora.up.weight", Part::Up),
    ]
    .into_iter()
    .find_map(|(tail, part)| Some((path.strip_suffix(tail)?, part)))?;
    let (attention, projection) = module.rsplit_once('.')?;
    let attention = attention.strip_suffix(".processor").unwrap_or(attention);
    let own = match (component, projection) {
        (Component::Unet, "to_out") => "to_out.0",
        (Component::Unet, "to_q" | "to_k" | "to_v") => projection,
        (_, "to_q") => "q_proj",
        (_, "to_k") => "k_proj",
        (_, "to_v") => "v_proj",
        (_, "to_out") => "out_proj",
        _ => return None,
    };
    Some((format!("{attention}.{own}"), part))
}

fn kohya_part(tail: &str) -> Result<Part, &'static str> {
    Ok(match tail {
        "lora_down.weight" | "lora_A.weight" => Part::Down,
        "lora_up.weight" | "lora_B.weight" => Part::Up,
        "alpha" => Part::Alpha,
        "oft_R.weight" => Part::Rotation,
        _ => return Err(unknown(tail)),
    })
}

/// Why a parameter of this name cannot be read.
fn unknown(tail: &str) -> &'static str {
    let kinds = [
        (
            "lora_mid",
            "is part of a Tucker-decomposed convolution, which is not supported",
        ),
        (
            "dora_scale",
            "is a DoRA scale in kohya's layout, which is not supported; export the adapter in PEFT's",
        ),
        ("hada_", "is a LoHa parameter, which is not supported"),
        ("lokr_", "is a LoKr parameter, which is not supported"),
        (
            "oft_blocks",
            "is of kohya's first OFT, which rotates outputs: another function; train the adapter again",
        ),
        (
            "oft_diag",
            "is of LyCORIS' OFT, which rotates outputs: another function; train the adapter again",
        ),
        ("boft_", "is a BOFT parameter, which is not supported yet"),
        (
            "oft_r",
            "is from PEFT before 0.16, whose OFT parameters are not compatible; train the adapter again",
        ),
        (
            "oft_s",
            "is from PEFT before 0.16, whose OFT parameters are not compatible; train the adapter again",
        ),
        (
            "scaled_oft",
            "asks for rotations scaled by the block's size, which is not supported",
        ),
        (
            "diff",
            "is a difference of weights, not an adapter; merge it into the model first",
        ),
        ("w_norm", "changes a norm, which is not supported"),
        ("bias", "is a bias, which is not supported in this layout"),
    ];
    let named = |kind: &&(&str, &str)| tail.split('.').any(|part| part.starts_with(kind.0));
    kinds
        .iter()
        .find(named)
        .map_or("is no known parameter of an adapter", |(_, what)| what)
}
