//! Which layers of a UNet can be adapted.

use temper_adapters::peft::Module;
use temper_adapters::{Adaptable, AdaptedConv2d, AdaptedLinear};

use super::Unet;
use crate::layers;

impl Adaptable for Unet {
    fn modules(&self) -> Vec<Module> {
        self.config.modules()
    }

    fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut AdaptedLinear)) {
        layers::visit_linears_mut(self, visit);
    }

    fn visit_convs_mut(&mut self, visit: &mut dyn FnMut(&mut AdaptedConv2d)) {
        layers::visit_convs_mut(self, visit);
    }
}
