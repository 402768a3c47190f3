//! The networks of a run as one thing with parameters.
//!
//! Each network keeps the names of its own checkpoint; here they stand behind the name of the network, as in `unet.conv_in.weight`,
//! because the two text encoders of SDXL have the same names.

use temper_adapters::peft::Module;
use temper_adapters::{Adaptable, AdaptedConv2d, AdaptedLinear, Param, Parameters};
use temper_models::{ClipText, ControlEncoder, Gradients, Unet, Vae};

use crate::diffusion::Pipeline;

/// Names of the networks in parameter names, checkpoints and result directories.
pub(super) const UNET: &str = "unet";
pub(super) const VAE: &str = "vae";
pub(super) const CONTROL: &str = "control";
pub(super) const TEXT: [&str; 2] = ["text_encoder", "text_encoder_2"];

/// What a recipe's model consists of.
#[derive(Debug)]
pub(super) enum Stage {
    /// Everything that is needed to make pictures.
    Pipeline(Box<Pipeline>),
    /// A U-Net alone: latents and texts come from a file.
    Unet(Box<Unet>),
    /// An autoencoder alone.
    Vae(Box<Vae>),
}

/// The networks of a run.
#[derive(Debug)]
pub(super) struct Networks {
    /// The model.
    pub(super) stage: Stage,
    /// Reads the image that is followed.
    pub(super) control: Option<ControlEncoder>,
}

impl Networks {
    /// The network that removes noise, if there is one.
    pub(super) fn unet(&self) -> Option<&Unet> {
        match &self.stage {
            Stage::Pipeline(pipeline) => Some(&pipeline.unet),
            Stage::Unet(unet) => Some(unet),
            Stage::Vae(_) => None,
        }
    }

    /// The same, to train it.
    pub(super) fn unet_mut(&mut self) -> Option<&mut Unet> {
        match &mut self.stage {
            Stage::Pipeline(pipeline) => Some(&mut pipeline.unet),
            Stage::Unet(unet) => Some(unet),
            Stage::Vae(_) => None,
        }
    }

    /// The autoencoder, if there is one.
    pub(super) fn vae(&self) -> Option<&Vae> {
        match &self.stage {
            Stage::Pipeline(pipeline) => Some(&pipeline.vae),
            Stage::Vae(vae) => Some(vae),
            Stage::Unet(_) => None,
        }
    }

    /// The whole model, if it is one.
    pub(super) fn pipeline(&self) -> Option<&Pipeline> {
        match &self.stage {
            Stage::Pipeline(pipeline) => Some(pipeline),
            Stage::Unet(_) | Stage::Vae(_) => None,
        }
    }

    /// The text encoders with their names.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&'static str, &ClipText)> {
        let encoders = self.pipeline().map(|pipeline| &pipeline.text_encoders[..]);
        TEXT.into_iter().zip(encoders.unwrap_or_default())
    }

    /// The same, to train them.
    pub(super) fn texts_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut ClipText)> {
        let encoders = match &mut self.stage {
            Stage::Pipeline(pipeline) => &mut pipeline.text_encoders[..],
            Stage::Unet(_) | Stage::Vae(_) => &mut [],
        };
        TEXT.into_iter().zip(encoders)
    }

    fn parts(&self) -> Vec<(&'static str, &dyn Adaptable)> {
        let mut parts: Vec<(&'static str, &dyn Adaptable)> = Vec::new();
        if let Some(unet) = self.unet() {
            parts.push((UNET, unet));
        }
        for (name, encoder) in self.texts() {
            parts.push((name, encoder));
        }
        if let Some(control) = &self.control {
            parts.push((CONTROL, control));
        }
        if let Some(vae) = self.vae() {
            parts.push((VAE, vae));
        }
        parts
    }

    fn parts_mut(&mut self) -> Vec<(&'static str, &mut dyn Adaptable)> {
        let mut parts: Vec<(&'static str, &mut dyn Adaptable)> = Vec::new();
        match &mut self.stage {
            Stage::Pipeline(pipeline) => {
                let pipeline = &mut **pipeline;
                parts.push((UNET, &mut pipeline.unet));
                for (name, encoder) in TEXT.into_iter().zip(&mut pipeline.text_encoders) {
                    parts.push((name, encoder));
                }
                parts.push((VAE, &mut pipeline.vae));
            }
            Stage::Unet(unet) => parts.push((UNET, &mut **unet)),
            Stage::Vae(vae) => parts.push((VAE, &mut **vae)),
        }
        if let Some(control) = &mut self.control {
            // Before the autoencoder, as in `parts`.
            let at = parts.len() - usize::from(parts.last().is_some_and(|(name, _)| *name == VAE));
            parts.insert(at, (CONTROL, control));
        }
        parts
    }

    /// The networks without a graph, values shared.
    pub(super) fn frozen_pipeline(&self) -> Option<Pipeline> {
        let mut pipeline = self.pipeline()?.clone();
        pipeline.unet = pipeline.unet.frozen();
        pipeline.vae = pipeline.vae.frozen();
        for encoder in &mut pipeline.text_encoders {
            *encoder = encoder.frozen();
        }
        Some(pipeline)
    }
}

impl Parameters for Networks {
    fn visit(&self, visit: &mut dyn FnMut(&Param)) {
        for (network, part) in self.parts() {
            part.visit(&mut |param| {
                let mut named = param.clone();
                named.rename(join(network, param.name()));
                visit(&named);
            });
        }
    }

    fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut Param)) {
        for (network, part) in self.parts_mut() {
            part.visit_mut(&mut |param| {
                let name = param.name().to_owned();
                param.rename(join(network, &name));
                visit(param);
                param.rename(name);
            });
        }
    }
}

impl Adaptable for Networks {
    fn modules(&self) -> Vec<Module> {
        let mut modules = Vec::new();
        for (network, part) in self.parts() {
            modules.extend(part.modules().into_iter().map(|mut module| {
                module.name = join(network, &module.name);
                module
            }));
        }
        modules
    }

    fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut AdaptedLinear)) {
        for (_, part) in self.parts_mut() {
            part.visit_linears_mut(visit);
        }
    }

    fn visit_convs_mut(&mut self, visit: &mut dyn FnMut(&mut AdaptedConv2d)) {
        for (_, part) in self.parts_mut() {
            part.visit_convs_mut(visit);
        }
    }
}

/// Moves gradients of one network to those of all.
pub(super) fn gather(network: &str, gradients: Gradients, sums: &mut Gradients) {
    for (name, gradient) in gradients {
        sums.insert(join(network, &name), gradient);
    }
}

fn join(network: &str, name: &str) -> String {
    format!("{network}.{name}")
}
