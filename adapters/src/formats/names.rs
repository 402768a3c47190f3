//! Names of modules in other tools' files.

use std::collections::BTreeMap;
use std::fmt;

use super::text_names::{self, TEXT_MODEL, with_text_model, without_text_model};
use crate::peft::{AdapterFile, Module};
use crate::weights::near::near;

/// The part of a pipeline that an adapter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The denoising network.
    Unet,
    /// The (first) text encoder.
    TextEncoder,
    /// SDXL's second text encoder.
    TextEncoder2,
}

impl Component {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unet, Self::TextEncoder, Self::TextEncoder2];

    /// Its folder in a pipeline directory, and its prefix in diffusers' files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The modules of a pipeline's models; empty for what the pipeline does not have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Modules<'a> {
    /// Of the UNet.
    pub unet: &'a [Module],
    /// Of the (first) text encoder.
    pub text_encoder: &'a [Module],
    /// Of the second text encoder.
    pub text_encoder_2: &'a [Module],
}

impl<'a> Modules<'a> {
    /// Those of one component.
    pub fn of(&self, component: Component) -> &'a [Module] {
        match component {
            Component::Unet => self.unet,
            Component::TextEncoder => self.text_encoder,
            Component::TextEncoder2 => self.text_encoder_2,
        }
    }

    /// Those of one component alone.
    #[must_use]
    pub fn only(&self, component: Component) -> Self {
        let of = |part| {
            if part == component {
                self.of(part)
            } else {
                &[]
            }
        };
        Self {
            unet: of(Component::Unet),
            text_encoder: of(Component::TextEncoder),
            text_encoder_2: of(Component::TextEncoder2),
        }
    }

    /// The component that the adapter in a PEFT directory is for, `file` with the names of its modules, and the components that it
    /// would fit as well. When it fits none, the one whose modules it names, else the first, whose check then says what is wrong.
    pub fn owner(&self, file: &AdapterFile) -> (Component, AdapterFile, Vec<Component>) {
        let there = |component: &Component| !self.of(*component).is_empty();
        let components = Component::ALL.into_iter().filter(there);
        let named = components.filter_map(|component| {
            let file = text_names::as_in(file, self.of(component)).ok()?;
            Some((component, file))
        });
        let mut named: Vec<_> = named.collect();
        let fits = |(component, file): &(Component, AdapterFile)| {
            let report = file.check(self.of(*component));
            report.is_ok_and(|report| report.is_clean())
        };
        let fitting: Vec<usize> = (0..named.len()).filter(|at| fits(&named[*at])).collect();
        let others = fitting.iter().skip(1).map(|at| named[*at].0).collect();
        let names = |(component, file): &(Component, AdapterFile)| {
            let known = self.of(*component);
            let has = |name: &&str| known.iter().any(|module| module.name == *name);
            file.adapted_modules().iter().all(has)
        };
        let chosen = fitting.first().copied();
        let chosen = chosen.or_else(|| named.iter().position(names)).unwrap_or(0);
        if named.is_empty() {
            return (Component::Unet, file.clone(), others);
        }
        let (component, file) = named.swap_remove(chosen);
        (component, file, others)
    }
}

/// What a component's modules are called elsewhere.
#[derive(Debug)]
pub(super) struct Names<'a> {
    component: Component,
    by_name: BTreeMap<&'a str, &'a Module>,
    /// Names with underscores; `None` where two modules share one.
    flat: BTreeMap<String, Option<&'a Module>>,
}

impl<'a> Names<'a> {
    pub(super) fn new(component: Component, modules: &'a [Module]) -> Self {
        let mut flat: BTreeMap<String, Option<&Module>> = BTreeMap::new();
        let mut add = |alias: String, module: &'a Module| {
            flat.entry(alias)
                .and_modify(|known| *known = known.filter(|known| known.name == module.name))
                .or_insert(Some(module));
        };
        for module in modules {
            add(flattened(&module.name), module);
            if component == Component::Unet {
                if let Some(original) = compvis_name(&module.name, modules) {
                    add(flattened(&original), module);
                }
            } else {
                add(flattened(&with_text_model(&module.name)), module);
                add(flattened(without_text_model(&module.name)), module);
            }
        }
        Self {
            component,
            by_name: modules
                .iter()
                .map(|module| (module.name.as_str(), module))
                .collect(),
            flat,
        }
    }

    /// The module with this dotted name.
    pub(super) fn dotted(&self, name: &str, hint: bool) -> Result<&'a Module, String> {
        let text = self.component != Component::Unet;
        let found = self.by_name.get(name).or_else(|| {
            let other = if name.starts_with(TEXT_MODEL) {
                without_text_model(name).to_owned()
            } else {
                with_text_model(name)
            };
            self.by_name.get(other.as_str()).filter(|_| text)
        });
        found.copied().ok_or_else(|| self.missing(name, hint))
    }

    /// The module with this name, its dots replaced by underscores.
    pub(super) fn flat(&self, name: &str, hint: bool) -> Result<&'a Module, String> {
        match self.flat.get(name) {
            Some(Some(module)) => Ok(module),
            Some(None) => Err(format!(
                "`{name}` stands for more than one module of the {}",
                self.component
            )),
            None => Err(self.missing(name, hint)),
        }
    }

    /// `hint`: look for names alike, which takes time.
    fn missing(&self, name: &str, hint: bool) -> String {
        if self.by_name.is_empty() {
            return format!(
                "`{name}` is of the {}, which this pipeline does not have",
                self.component
            );
        }
        let known = self.by_name.keys().copied().filter(|_| hint);
        let similar = match near(name, known).first() {
            Some(similar) => format!("; did you mean `{similar}`?"),
            None => String::new(),
        };
        format!("`{name}` is no module of the {}{similar}", self.component)
    }
}

pub(super) fn flattened(name: &str) -> String {
    name.replace('.', "_")
}

/// The name of a UNet's module in the original code (`input_blocks.4.1.…`), for modules whose place there is known.
pub(super) fn compvis_name(name: &str, modules: &[Module]) -> Option<String> {
    let whole = match name {
        "conv_in" => Some("input_blocks.0.0"),
        "conv_out" => Some("out.2"),
        "time_embedding.linear_1" => Some("time_embed.0"),
        "time_embedding.linear_2" => Some("time_embed.2"),
        "add_embedding.linear_1" => Some("label_emb.0.0"),
        "add_embedding.linear_2" => Some("label_emb.0.2"),
        _ => None,
    };
    if whole.is_some() {
        return whole.map(str::to_owned);
    }
    let parts: Vec<&str> = name.splitn(5, '.').collect();
    let has = |prefix: &str| modules.iter().any(|module| module.name.starts_with(prefix));
    // Resnets in a block on the way down, and the position that follows them for a downsampler.
    let layers = (0..modules.len())
        .take_while(|j| has(&format!("down_blocks.0.resnets.{j}.")))
        .count();
    let number = |text: &str| text.parse::<usize>().ok();
    match parts.as_slice() {
        ["down_blocks", i, "downsamplers", "0", "conv"] => Some(format!(
            "input_blocks.{}.0.op",
            (number(i)? + 1) * (layers + 1)
        )),
        ["down_blocks", i, kind, j, rest] => {
            let at = 1 + number(i)? * (layers + 1) + number(j)?;
            inner(&format!("input_blocks.{at}"), kind, rest)
        }
        ["mid_block", "attentions", "0", ..] => {
            let rest = name.strip_prefix("mid_block.attentions.0.")?;
            Some(format!("middle_block.1.{rest}"))
        }
        ["mid_block", "resnets", j, ..] => {
            let rest = name.strip_prefix(&format!("mid_block.resnets.{j}."))?;
            Some(format!(
                "middle_block.{}.{}",
                2 * number(j)?,
                resnet_part(rest)?
            ))
        }
        ["up_blocks", i, "upsamplers", "0", "conv"] => {
            let at = number(i)? * (layers + 1) + layers;
            let place = 1 + usize::from(has(&format!("up_blocks.{i}.attentions.")));
            Some(format!("output_blocks.{at}.{place}.conv"))
        }
        ["up_blocks", i, kind, j, rest] => {
            let at = number(i)? * (layers + 1) + number(j)?;
            inner(&format!("output_blocks.{at}"), kind, rest)
        }
        _ => None,
    }
}

fn inner(block: &str, kind: &str, rest: &str) -> Option<String> {
    match kind {
        "resnets" => Some(format!("{block}.0.{}", resnet_part(rest)?)),
        "attentions" => Some(format!("{block}.1.{rest}")),
        _ => None,
    }
}

fn resnet_part(name: &str) -> Option<&'static str> {
    Some(match name {
        "norm1" => "in_layers.0",
        "conv1" => "in_layers.2",
        "time_emb_proj" => "emb_layers.1",
        "norm2" => "out_layers.0",
        "conv2" => "out_layers.3",
        "conv_shortcut" => "skip_connection",
        _ => return None,
    })
}
