//! From loose tensors to an adapter with its configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::FormatError;
use super::keys::Part;
use crate::peft::{
    AdapterConfig, AdapterFile, AdapterTensor, Common, LoraConfig, Module, ModuleKind,
    ModulePattern, OftConfig, Slot, block_size_from_cols, ends_with,
};
use crate::weights::{Dtype, HostTensor, WeightsError};

/// The tensors of one module.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    module: &'a Module,
    down: Option<HostTensor>,
    up: Option<HostTensor>,
    alpha: Option<HostTensor>,
    magnitude: Option<HostTensor>,
    rotation: Option<HostTensor>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(module: &'a Module) -> Self {
        Self {
            module,
            down: None,
            up: None,
            alpha: None,
            magnitude: None,
            rotation: None,
        }
    }

    /// Takes a tensor in; returns the one that was there.
    pub(super) fn put(&mut self, part: Part, tensor: HostTensor) -> Option<HostTensor> {
        let place = match part {
            Part::Down => &mut self.down,
            Part::Up => &mut self.up,
            Part::Alpha => &mut self.alpha,
            Part::Magnitude => &mut self.magnitude,
            Part::Rotation => &mut self.rotation,
        };
        place.replace(tensor)
    }

    pub(super) fn is_convolution(&self) -> bool {
        matches!(self.module.kind, ModuleKind::Conv2d { .. })
    }

    pub(super) fn has_rotation(&self) -> bool {
        self.rotation.is_some()
    }

    fn rank(&self) -> usize {
        self.down
            .as_ref()
            .and_then(|down| down.shape().first().copied())
            .unwrap_or(0)
    }

    /// Alpha, which is the rank when nothing is stored.
    fn alpha(&self) -> Result<f64, String> {
        let Some(alpha) = &self.alpha else {
            return Ok(self.rank() as f64);
        };
        let name = &self.module.name;
        let values = numbers(alpha).map_err(|error| error.to_string())?;
        match values.as_slice() {
            [0.0] if self.rotation.is_none() => Err(format!(
                "alpha of `{name}` is 0, with which a LoRA does nothing"
            )),
            [value] if value.is_finite() => Ok(*value),
            [value] => Err(format!("alpha of `{name}` is {value}")),
            _ => Err(format!(
                "alpha of `{name}` has {} values, expected one",
                values.len()
            )),
        }
    }
}

/// The values of a tensor that tools write in whatever type their number had.
fn numbers(tensor: &HostTensor) -> Result<Vec<f64>, WeightsError> {
    let wide = |value: fn([u8; 8]) -> f64| {
        let (chunks, _) = tensor.data().as_chunks::<8>();
        chunks.iter().map(|bytes| value(*bytes)).collect()
    };
    match tensor.dtype() {
        Dtype::F64 => Ok(wide(f64::from_le_bytes)),
        Dtype::I64 => Ok(wide(|bytes| i64::from_le_bytes(bytes) as f64)),
        _ => Ok(tensor.to_f32()?.into_iter().map(f64::from).collect()),
    }
}

/// The adapter that `parts` make, under `config` if the file has one. `series`: how rotations are meant, if the file says so.
pub(super) fn adapter(
    file: &Path,
    parts: BTreeMap<String, Parts<'_>>,
    config: Option<AdapterConfig>,
    series: Option<(bool, usize)>,
    modules: &[Module],
) -> Result<AdapterFile, FormatError> {
    let mut problems = incomplete(&parts);
    let mut alphas = BTreeMap::new();
    for (name, part) in &parts {
        match part.alpha() {
            Ok(alpha) => drop(alphas.insert(name.clone(), (part.rank(), alpha))),
            Err(problem) => problems.push(problem),
        }
    }
    let config = match config {
        Some(config) => {
            problems.extend(contradictions(&config, &parts));
            config
        }
        None if parts.values().any(Parts::has_rotation) => rotation_config(&parts, series, modules),
        None => low_rank_config(&parts, &alphas, modules),
    };
    if !problems.is_empty() {
        let file = file.to_owned();
        return Err(FormatError::Keys { file, problems });
    }
    let mut tensors = Vec::new();
    for (module, part) in parts {
        let kind = part.module.kind;
        let slots = [
            (Slot::LoraA, part.down),
            (Slot::LoraB, part.up),
            (Slot::LoraMagnitude, part.magnitude),
            (Slot::OftR, part.rotation),
        ];
        for (slot, tensor) in slots {
            let Some(tensor) = tensor else { continue };
            let tensor = fitted(&slot, kind, tensor)?;
            tensors.push(AdapterTensor {
                module: module.clone(),
                slot,
                tensor,
            });
        }
    }
    Ok(AdapterFile::new(config, tensors)?)
}

/// Modules without all their tensors, and files that mix methods.
fn incomplete(parts: &BTreeMap<String, Parts<'_>>) -> Vec<String> {
    let mut problems = Vec::new();
    let mixed = parts.values().any(Parts::has_rotation) && !parts.values().all(Parts::has_rotation);
    for (name, part) in parts {
        let what = match (&part.down, &part.up, &part.rotation) {
            (Some(_), Some(_), None) | (None, None, Some(_)) => continue,
            (None, None, None) => "has an alpha but no weights",
            (_, _, Some(_)) => "has parameters of both LoRA and OFT",
            (None, Some(_), None) => "lacks its down (A) matrix",
            (Some(_), None, None) => "lacks its up (B) matrix",
        };
        problems.push(format!("`{name}` {what}"));
    }
    if mixed {
        problems.push("some modules have OFT, others LoRA".to_owned());
    }
    problems
}

/// Alphas in the file beside a configuration that says otherwise.
fn contradictions(config: &AdapterConfig, parts: &BTreeMap<String, Parts<'_>>) -> Vec<String> {
    let with_alpha = parts.iter().filter(|(_, part)| part.alpha.is_some());
    let AdapterConfig::Lora(lora) = config else {
        return vec!["`lora_adapter_metadata` describes another method than LoRA".to_owned()];
    };
    let differs = |(name, part): &(&String, &Parts<'_>)| {
        let scale = part.alpha().map(|alpha| alpha / part.rank() as f64);
        !matches!((scale, lora.scale(name)), (Ok(a), Ok(b)) if (a - b).abs() <= 1e-6 * b.abs())
    };
    with_alpha
        .filter(differs)
        .map(|(name, _)| format!("alpha of `{name}` is not that of `lora_adapter_metadata`"))
        .collect()
}

/// `tensor` with the axes of a kernel that the module has and the file leaves out, or the other way round: 1×1 convolutions and
/// linear layers are the same thing.
fn fitted(slot: &Slot, kind: ModuleKind, tensor: HostTensor) -> Result<HostTensor, WeightsError> {
    let shape = match (slot, kind, tensor.shape()) {
        (Slot::LoraA | Slot::LoraB, ModuleKind::Linear { .. }, [a, b, 1, 1]) => vec![*a, *b],
        (Slot::LoraA, ModuleKind::Conv2d { kernel: [1, 1], .. }, [a, b])
        | (Slot::LoraB, ModuleKind::Conv2d { .. }, [a, b]) => vec![*a, *b, 1, 1],
        (Slot::LoraMagnitude, ModuleKind::Linear { .. }, [n, 1]) => vec![*n],
        _ => return Ok(tensor),
    };
    let dtype = tensor.dtype();
    HostTensor::new(dtype, shape, tensor.into_data())
}

fn common(parts: &BTreeMap<String, Parts<'_>>, modules: &[Module]) -> Common {
    Common {
        target_modules: Some(targets(parts.keys().cloned().collect(), modules)),
        ..Common::default()
    }
}

/// Endings of names if fewer of them select the same modules, else full names; as an expression when one of them would, by PEFT's
/// rule for endings, also select another module.
fn targets(names: Vec<String>, modules: &[Module]) -> ModulePattern {
    let short: BTreeSet<&str> = names
        .iter()
        .map(|name| ending(name, &names, modules))
        .collect();
    if short.len() < names.len() {
        return ModulePattern::Names(short.into_iter().map(str::to_owned).collect());
    }
    let ends = |module: &&Module| {
        let ending = |name: &String| module.name.ends_with(&format!(".{name}"));
        names.iter().any(ending) && !names.contains(&module.name)
    };
    if modules.iter().any(|module| ends(&module)) {
        let escaped: Vec<String> = names.iter().map(|name| regex::escape(name)).collect();
        return ModulePattern::Regex(escaped.join("|"));
    }
    ModulePattern::Names(names)
}

/// The shortest ending of `name` that no module outside `names` has. A bare number says nothing to a reader, and begins none.
fn ending<'a>(name: &'a str, names: &[String], modules: &[Module]) -> &'a str {
    let starts = name.match_indices('.').map(|(at, _)| at + 1).rev();
    let endings = starts.map(|start| &name[start..]);
    let own = |end: &&str| {
        let mut alike = modules.iter().filter(|module| ends_with(&module.name, end));
        !end.starts_with(|first: char| first.is_ascii_digit())
            && alike.all(|module| names.contains(&module.name))
    };
    endings.into_iter().find(own).unwrap_or(name)
}

fn low_rank_config(
    parts: &BTreeMap<String, Parts<'_>>,
    alphas: &BTreeMap<String, (usize, f64)>,
    modules: &[Module],
) -> AdapterConfig {
    let r = most_common(alphas.values().map(|(rank, _)| *rank as f64));
    let lora_alpha = most_common(alphas.values().map(|(_, alpha)| *alpha));
    // Anchored, so that a name is no pattern for the ending of another.
    let anchored = |name: &String| format!("^{}", regex::escape(name));
    let ranks = alphas.iter().filter(|(_, (rank, _))| *rank as f64 != r);
    let others = alphas.iter().filter(|(_, (_, alpha))| *alpha != lora_alpha);
    AdapterConfig::Lora(LoraConfig {
        common: common(parts, modules),
        r: r as usize,
        lora_alpha,
        use_dora: parts.values().any(|part| part.magnitude.is_some()),
        rank_pattern: ranks
            .map(|(name, (rank, _))| (anchored(name), *rank))
            .collect(),
        alpha_pattern: others
            .map(|(name, (_, alpha))| (anchored(name), *alpha))
            .collect(),
        ..LoraConfig::default()
    })
}

/// OFT, by default with the series of five terms, which is what the tools that write these keys compute.
fn rotation_config(
    parts: &BTreeMap<String, Parts<'_>>,
    series: Option<(bool, usize)>,
    modules: &[Module],
) -> AdapterConfig {
    // Inputs, stored rows and block size of each module.
    let sizes = parts.values().filter_map(|part| {
        let inputs = part.module.kind.rotated_inputs()?;
        let shape = part.rotation.as_ref()?.shape();
        let size = block_size_from_cols(*shape.get(1)?)?;
        Some((inputs, shape[0], size))
    });
    let sizes: Vec<(usize, usize, usize)> = sizes.collect();
    let default = OftConfig::default();
    let (use_cayley_neumann, num_cayley_neumann_terms) =
        series.unwrap_or((true, default.num_cayley_neumann_terms));
    let config = |oft_block_size, r| OftConfig {
        use_cayley_neumann,
        num_cayley_neumann_terms,
        common: common(parts, modules),
        oft_block_size,
        r,
        block_share: sizes
            .iter()
            .any(|(inputs, rows, size)| *rows == 1 && inputs != size),
        ..OftConfig::default()
    };
    // Either all blocks have the size asked for, or all layers the number of blocks asked for, each as near as its inputs allow.
    let counts: Vec<usize> = sizes
        .iter()
        .map(|(inputs, _, size)| inputs / size)
        .collect();
    let by_size = most_common(sizes.iter().map(|(.., size)| *size as f64)) as usize;
    let by_count = most_common(counts.iter().map(|count| *count as f64)) as usize;
    let largest_size = sizes.iter().map(|(.., size)| *size).max().unwrap_or(0);
    let largest_count = counts.into_iter().max().unwrap_or(0);
    let asked_sizes = std::iter::once(by_size).chain(1..=2 * largest_size);
    let asked_counts = std::iter::once(by_count).chain(1..=2 * largest_count);
    let mut asked = asked_sizes
        .map(|size| (size, 0))
        .chain(asked_counts.map(|count| (0, count)));
    let fits = |config: &OftConfig| {
        let same = |(inputs, _, size): &(usize, usize, usize)| {
            config.block_size(*inputs).is_ok_and(|given| given == *size)
        };
        sizes.iter().all(same)
    };
    let found = asked.find_map(|(size, r)| Some(config(size, r)).filter(fits));
    AdapterConfig::Oft(found.unwrap_or_else(|| config(by_size, 0)))
}

/// The value that occurs most often, the smallest of those; 0 of none.
fn most_common(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let groups = sorted.chunk_by(|a, b| a == b);
    let longest = groups.rev().max_by_key(|group| group.len());
    longest.map_or(0.0, |group| group[0])
}
