//! Names and shapes of a model's tensors, from which modules and counts follow.

use temper_adapters::peft::{Module, ModuleKind};

use crate::weights::Tensors;

/// Collects names and shapes of a model's tensors, in model order.
#[derive(Debug, Default)]
pub(crate) struct Names(Tensors);

impl Names {
    /// One tensor.
    pub(crate) fn tensor(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push((name.into(), shape.to_vec()));
    }

    /// A module with a weight of this shape, its outputs first, and a bias.
    pub(crate) fn affine(&mut self, module: &str, weight: &[usize]) {
        self.tensor(format!("{module}.weight"), weight);
        self.tensor(format!("{module}.bias"), &weight[..1]);
    }

    /// A linear layer with a bias.
    pub(crate) fn linear(&mut self, module: &str, [outputs, inputs]: [usize; 2]) {
        self.affine(module, &[outputs, inputs]);
    }

    /// A convolution of a square kernel with a bias.
    pub(crate) fn conv(&mut self, module: &str, [outputs, inputs]: [usize; 2], kernel: usize) {
        self.affine(module, &[outputs, inputs, kernel, kernel]);
    }

    /// A norm with scale and shift.
    pub(crate) fn norm(&mut self, module: &str, width: usize) {
        self.affine(module, &[width]);
    }

    /// What was collected.
    pub(crate) fn into_tensors(self) -> Tensors {
        self.0
    }
}

/// Number of values of `tensors` together.
pub(crate) fn count(tensors: &[(String, Vec<usize>)]) -> usize {
    tensors
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum()
}

/// The modules that own `tensors`: matrices are linear layers unless `is_embedding`, kernels convolutions.
pub(crate) fn modules(
    tensors: &[(String, Vec<usize>)],
    is_embedding: impl Fn(&str) -> bool,
) -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    for (tensor, shape) in tensors {
        let (name, part) = match tensor.rsplit_once('.') {
            Some((name, part @ ("weight" | "bias"))) => (name, part),
            _ => (tensor.as_str(), "weight"),
        };
        if part == "bias"
            && let Some(module) = modules.last_mut().filter(|module| module.name == name)
        {
            module.bias = true;
            continue;
        }
        let kind = if is_embedding(name) {
            ModuleKind::Embedding
        } else {
            ModuleKind::of_weight(shape)
        };
        modules.push(Module::new(name, kind));
    }
    modules
}
