//! Which layers of a LLaMA can be adapted.

use temper_adapters::peft::{Module, ModuleKind};

use super::LlamaConfig;

impl LlamaConfig {
    /// Every module with parameters, known from the sizes alone.
    pub fn modules(&self) -> Vec<Module> {
        let module = |(name, shape): (String, Vec<usize>)| {
            let name = name.trim_end_matches(".weight");
            match *shape.as_slice() {
                _ if name == "model.embed_tokens" => Module::new(name, ModuleKind::Embedding),
                [outputs, inputs] if name == "lm_head" => {
                    Module::linear(name, inputs, outputs).as_output_head()
                }
                [outputs, inputs] => Module::linear(name, inputs, outputs),
                _ => Module::new(name, ModuleKind::Other),
            }
        };
        self.tensors().into_iter().map(module).collect()
    }
}
