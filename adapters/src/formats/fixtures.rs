//! Modules and adapters for the tests of formats.

use crate::peft::{
    AdapterConfig, AdapterFile, AdapterTensor, Common, LoraConfig, Module, ModuleKind,
    ModulePattern, OftConfig, Slot,
};
use crate::weights::{Dtype, HostTensor};

pub(super) fn conv(name: &str, inputs: usize, outputs: usize, kernel: usize) -> Module {
    let kind = ModuleKind::Conv2d {
        inputs,
        outputs,
        kernel: [kernel, kernel],
    };
    Module::new(name, kind)
}

/// Places of an SDXL-like UNet with two resnets in a block.
pub(super) fn unet() -> Vec<Module> {
    let mut modules = vec![conv("conv_in", 4, 8, 3), conv("conv_out", 8, 4, 3)];
    for name in [
        "down_blocks.0.resnets.0",
        "down_blocks.0.resnets.1",
        "down_blocks.1.resnets.0",
        "down_blocks.1.resnets.1",
        "mid_block.resnets.0",
        "mid_block.resnets.1",
        "up_blocks.0.resnets.0",
        "up_blocks.1.resnets.2",
    ] {
        modules.push(conv(&format!("{name}.conv1"), 8, 8, 3));
        modules.push(conv(&format!("{name}.conv_shortcut"), 8, 8, 1));
        modules.push(Module::linear(format!("{name}.time_emb_proj"), 16, 8));
    }
    for name in [
        "down_blocks.1.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.1",
    ] {
        modules.push(conv(&format!("{name}.proj_in"), 8, 8, 1));
        let block = format!("{name}.transformer_blocks.0");
        for layer in ["attn1.to_q", "attn2.to_out.0", "ff.net.0.proj"] {
            modules.push(Module::linear(format!("{block}.{layer}"), 8, 12));
        }
    }
    modules.push(conv("down_blocks.0.downsamplers.0.conv", 8, 8, 3));
    modules.push(conv("up_blocks.0.upsamplers.0.conv", 8, 8, 3));
    modules.push(conv("up_blocks.1.upsamplers.0.conv", 8, 8, 3));
    modules
}

pub(super) fn text_encoder(prefix: &str) -> Vec<Module> {
    let layer = |name: &str| Module::linear(format!("{prefix}encoder.layers.0.{name}"), 8, 8);
    vec![
        layer("self_attn.q_proj"),
        layer("self_attn.out_proj"),
        layer("mlp.fc1"),
    ]
}

fn tensor(module: &str, slot: Slot, shape: Vec<usize>) -> AdapterTensor {
    let n: usize = shape.iter().product();
    let seed = module.len() as f32 + slot.name().len() as f32 / 16.0;
    let values: Vec<f32> = (0..n)
        .map(|i| (i as f32 * 0.37 + seed).sin() * 0.1)
        .collect();
    let tensor = HostTensor::from_f32(Dtype::F32, shape, &values).unwrap();
    AdapterTensor {
        module: module.to_owned(),
        slot,
        tensor,
    }
}

fn names(modules: &[Module]) -> ModulePattern {
    let names = modules.iter().map(|module| module.name.clone()).collect();
    ModulePattern::Names(names)
}

/// `LoRA` on every module, with scales of all kinds.
pub(super) fn lora(modules: &[Module], use_rslora: bool, use_dora: bool) -> AdapterFile {
    let config = LoraConfig {
        common: Common {
            target_modules: Some(names(modules)),
            ..Common::default()
        },
        r: 4,
        lora_alpha: 6.0,
        use_rslora,
        use_dora,
        rank_pattern: vec![("to_q".into(), 2), ("q_proj".into(), 3)],
        alpha_pattern: vec![("proj_in".into(), 5.0), ("fc1".into(), 0.1)],
        ..LoraConfig::default()
    };
    let mut tensors = Vec::new();
    for module in modules {
        let rank = config.rank(&module.name).unwrap();
        let (a, b) = match module.kind {
            ModuleKind::Conv2d {
                inputs,
                outputs,
                kernel: [h, w],
            } => (vec![rank, inputs, h, w], vec![outputs, rank, 1, 1]),
            kind => (
                vec![rank, kind.rotated_inputs().unwrap()],
                vec![kind.outputs().unwrap(), rank],
            ),
        };
        if use_dora {
            let outputs = b[0];
            let shape = if a.len() == 4 {
                vec![1, outputs, 1, 1]
            } else {
                vec![outputs]
            };
            tensors.push(tensor(&module.name, Slot::LoraMagnitude, shape));
        }
        tensors.push(tensor(&module.name, Slot::LoraA, a));
        tensors.push(tensor(&module.name, Slot::LoraB, b));
    }
    AdapterFile::new(AdapterConfig::Lora(config), tensors).unwrap()
}

pub(super) fn oft(modules: &[Module], change: impl FnOnce(&mut OftConfig)) -> AdapterFile {
    let mut config = OftConfig {
        common: Common {
            target_modules: Some(names(modules)),
            ..Common::default()
        },
        oft_block_size: 4,
        ..OftConfig::default()
    };
    change(&mut config);
    let of = |module: &Module| {
        let shape = config
            .packed_shape(module.kind.rotated_inputs().unwrap())
            .unwrap();
        tensor(&module.name, Slot::OftR, shape.to_vec())
    };
    let tensors = modules.iter().map(of).collect();
    AdapterFile::new(AdapterConfig::Oft(config), tensors).unwrap()
}

pub(super) fn linears(modules: Vec<Module>) -> Vec<Module> {
    let linear = |module: &Module| matches!(module.kind, ModuleKind::Linear { .. });
    modules.into_iter().filter(linear).collect()
}
