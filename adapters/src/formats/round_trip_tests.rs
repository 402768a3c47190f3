use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::peft::{
    AdapterConfig, AdapterFile, AdapterTensor, Common, LoraConfig, Module, ModuleKind,
    ModulePattern, OftConfig, Slot,
};
use crate::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/diffusion/formats")
        .join(name)
}

fn conv(name: &str, inputs: usize, outputs: usize, kernel: usize) -> Module {
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

fn names(modules: &[Module]) -> Option<ModulePattern> {
    let names = modules.iter().map(|module| module.name.clone()).collect();
    Some(ModulePattern::Names(names))
}

/// `LoRA` on every module, with scales of all kinds.
pub(super) fn lora(modules: &[Module], use_rslora: bool, use_dora: bool) -> AdapterFile {
    let config = LoraConfig {
        common: Common {
            target_modules: names(modules),
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
            target_modules: names(modules),
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

/// The same tensors, and the same scale of each module.
fn assert_same(ours: &AdapterFile, theirs: &AdapterFile) {
    assert_eq!(ours.tensors(), theirs.tensors());
    let (AdapterConfig::Lora(ours), AdapterConfig::Lora(theirs_config)) =
        (ours.config(), theirs.config())
    else {
        return;
    };
    for module in theirs.adapted_modules() {
        let (a, b) = (
            ours.scale(module).unwrap(),
            theirs_config.scale(module).unwrap(),
        );
        assert!((a - b).abs() <= f64::EPSILON * b.abs(), "{module}: {a} {b}");
    }
}

#[test]
fn diffusers_files_come_back_as_they_were() {
    let (unet, text) = (unet(), text_encoder(""));
    let modules = Modules {
        unet: &unet,
        text_encoder: &text,
        ..Modules::default()
    };
    for (use_rslora, use_dora) in [(false, false), (true, false), (true, true)] {
        let (of_unet, of_text) = (lora(&unet, use_rslora, use_dora), lora(&text, false, false));
        let directory = tempfile::tempdir().unwrap();
        let both = [
            (Component::Unet, &of_unet),
            (Component::TextEncoder, &of_text),
        ];
        write_diffusers_lora(directory.path(), &both).unwrap();
        let read = read(directory.path(), &modules).unwrap();
        assert!(read.remarks.is_empty(), "{:?}", read.remarks);
        let found: Vec<Component> = read
            .adapters
            .iter()
            .map(|(component, _)| *component)
            .collect();
        assert_eq!(found, [Component::Unet, Component::TextEncoder]);
        assert_same(&read.adapters[0].1, &of_unet);
        assert_same(&read.adapters[1].1, &of_text);
        let file = directory.path().join("again.safetensors");
        let again: Vec<_> = read
            .adapters
            .iter()
            .map(|(component, adapter)| (*component, adapter))
            .collect();
        write_diffusers_lora(&file, &again).unwrap();
        let first =
            std::fs::read(directory.path().join("pytorch_lora_weights.safetensors")).unwrap();
        assert_eq!(std::fs::read(file).unwrap(), first, "byte for byte");
    }
}

#[test]
fn kohya_files_come_back_with_the_same_scales() {
    let (unet, text, text_2) = (unet(), text_encoder(""), text_encoder("text_model."));
    let modules = Modules {
        unet: &unet,
        text_encoder: &text,
        text_encoder_2: &text_2,
    };
    for (use_rslora, model) in [(false, KohyaModel::Sd1), (true, KohyaModel::Sdxl)] {
        let adapters = [
            (Component::Unet, lora(&unet, use_rslora, false)),
            (Component::TextEncoder, lora(&text, use_rslora, false)),
            (Component::TextEncoder2, lora(&text_2, false, false)),
        ];
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("subject.safetensors");
        let borrowed: Vec<_> = adapters
            .iter()
            .map(|(component, adapter)| (*component, adapter))
            .collect();
        assert!(
            write_kohya(&file, &borrowed, model, &modules)
                .unwrap()
                .is_empty()
        );
        assert_eq!(detect(&file).unwrap(), Format::Kohya(file.clone()));
        let read = read(&file, &modules).unwrap();
        for ((component, ours), (wanted, theirs)) in read.adapters.iter().zip(&adapters) {
            assert_eq!(component, wanted);
            assert_same(ours, theirs);
        }
        assert_eq!(read.adapters.len(), 3);
    }
}

#[test]
fn kohya_names_are_those_that_other_tools_use() {
    let (unet, text) = (unet(), text_encoder(""));
    let modules = Modules {
        unet: &unet,
        text_encoder: &text,
        ..Modules::default()
    };
    let keys = |model| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("subject.safetensors");
        let (of_unet, of_text) = (lora(&unet, false, false), lora(&text, false, false));
        let both = [
            (Component::Unet, &of_unet),
            (Component::TextEncoder, &of_text),
        ];
        write_kohya(&file, &both, model, &modules).unwrap();
        let file = Checkpoint::open(file).unwrap();
        (
            file.names().map(str::to_owned).collect::<Vec<_>>(),
            file.metadata(),
        )
    };
    let (sd1, header) = keys(KohyaModel::Sd1);
    for key in [
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_down.weight",
        "lora_unet_mid_block_resnets_1_conv1.alpha",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight",
    ] {
        assert!(sd1.iter().any(|known| known == key), "{key}");
    }
    assert_eq!(header["ss_base_model_version"], "sd_v1");
    assert_eq!(
        (&*header["ss_network_dim"], &*header["ss_network_alpha"]),
        ("4", "6")
    );
    assert_eq!(header["ss_network_module"], "networks.lora");
    let (sdxl, header) = keys(KohyaModel::Sdxl);
    for key in [
        "lora_unet_input_blocks_0_0.alpha",
        "lora_unet_input_blocks_1_0_in_layers_2.alpha",
        "lora_unet_input_blocks_3_0_op.alpha",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.alpha",
        "lora_unet_input_blocks_5_0_skip_connection.alpha",
        "lora_unet_middle_block_1_proj_in.alpha",
        "lora_unet_middle_block_2_emb_layers_1.alpha",
        "lora_unet_output_blocks_1_1_transformer_blocks_0_ff_net_0_proj.alpha",
        "lora_unet_output_blocks_2_2_conv.alpha",
        "lora_unet_output_blocks_5_1_conv.alpha",
        "lora_unet_out_2.alpha",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha",
    ] {
        assert!(sdxl.iter().any(|known| known == key), "{key}");
    }
    assert_eq!(header["ss_base_model_version"], "sdxl_base_v1-0");
}

#[test]
fn rotations_come_back_with_their_blocks() {
    let unet = linears(unet());
    let modules = Modules {
        unet: &unet,
        ..Modules::default()
    };
    let changes: [fn(&mut OftConfig); 3] = [
        |_| {},
        |config| config.block_share = true,
        |config| (config.oft_block_size, config.r) = (0, 2),
    ];
    for change in changes {
        let adapter = oft(&unet, change);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("oft.safetensors");
        let remarks = write_kohya(
            &file,
            &[(Component::Unet, &adapter)],
            KohyaModel::Sd1,
            &modules,
        )
        .unwrap();
        assert!(remarks.is_empty());
        let read = read(&file, &modules).unwrap();
        assert!(read.remarks.is_empty(), "the file says how they are meant");
        assert_eq!(read.adapters[0].1.tensors(), adapter.tensors());
        let (AdapterConfig::Oft(ours), AdapterConfig::Oft(theirs)) =
            (read.adapters[0].1.config(), adapter.config())
        else {
            panic!("OFT stays OFT");
        };
        assert_eq!(ours.block_share, theirs.block_share);
        assert!(ours.use_cayley_neumann);
    }
}

#[test]
fn exact_rotations_are_negated_for_readers_of_the_series() {
    let unet = linears(unet());
    let modules = Modules {
        unet: &unet,
        ..Modules::default()
    };
    let exact = oft(&unet, |config| config.use_cayley_neumann = false);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("oft.safetensors");
    let remarks = write_kohya(
        &file,
        &[(Component::Unet, &exact)],
        KohyaModel::Sd1,
        &modules,
    )
    .unwrap();
    assert!(remarks[0].contains("negated"), "{remarks:?}");
    let read = read(&file, &modules).unwrap();
    for (ours, theirs) in read.adapters[0].1.tensors().iter().zip(exact.tensors()) {
        let negated: Vec<f32> = theirs
            .tensor
            .to_f32()
            .unwrap()
            .iter()
            .map(|value| -value)
            .collect();
        assert_eq!(ours.tensor.to_f32().unwrap(), negated);
    }
}

#[test]
fn the_file_that_diffusers_writes_is_read_with_its_metadata() {
    let path = golden("pytorch_lora_weights.safetensors");
    let file = Checkpoint::open(&path).unwrap();
    let shape = |name: &str| file.info(name).unwrap().shape.clone();
    let (mut unet, mut text) = (Vec::new(), Vec::new());
    for name in file
        .names()
        .filter_map(|name| name.strip_suffix(".lora_A.weight"))
    {
        let (a, b) = (
            shape(&format!("{name}.lora_A.weight")),
            shape(&format!("{name}.lora_B.weight")),
        );
        let module = |name: &str| {
            if a.len() == 4 {
                conv(name, a[1], b[0], a[2])
            } else {
                Module::linear(name, a[1], b[0])
            }
        };
        match name.split_once('.').unwrap() {
            ("unet", name) => unet.push(module(name)),
            // As a model in the published layout names them.
            (_, name) => text.push(module(&format!("text_model.{name}"))),
        }
    }
    let modules = Modules {
        unet: &unet,
        text_encoder: &text,
        ..Modules::default()
    };
    let read = read(&path, &modules).unwrap();
    let adapter = &read.adapters[0].1;
    let merged = Checkpoint::open(golden("merged.safetensors")).unwrap();
    let AdapterConfig::Lora(config) = adapter.config() else {
        panic!("LoRA")
    };
    for (name, rank, alpha) in [
        (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
            3,
            6.0,
        ),
        ("down_blocks.0.attentions.0.proj_in", 2, 5.0),
    ] {
        let scale = config.scale(name).unwrap();
        assert!((scale - alpha / f64::sqrt(rank as f64)).abs() < 1e-12);
        let [a, b] = [Slot::LoraA, Slot::LoraB]
            .map(|slot| adapter.get(name, &slot).unwrap().to_f32().unwrap());
        let [before, after] =
            ["before", "after"].map(|when| merged.read_f32(&format!("{when}.{name}")).unwrap());
        let (rows, width) = (b.len() / rank, a.len() / rank);
        for (i, value) in after.iter().enumerate() {
            let (row, column) = (i / width, i % width);
            let product: f32 = (0..rank)
                .map(|k| b[row * rank + k] * a[k * width + column])
                .sum();
            let ours = before[i] + scale as f32 * product;
            assert!((ours - value).abs() < 1e-5, "{name} {rows}: {ours} {value}");
        }
    }
    assert_eq!(read.adapters[1].0, Component::TextEncoder);
}

#[test]
fn keys_of_earlier_times_are_read() {
    let unet = vec![
        Module::linear("mid.attn1.to_q", 4, 3),
        Module::linear("mid.attn1.to_out.0", 4, 3),
    ];
    let text = text_encoder("text_model.");
    let modules = Modules {
        unet: &unet,
        text_encoder: &text,
        ..Modules::default()
    };
    let value = |shape: [usize; 2]| {
        HostTensor::from_f32(Dtype::F16, shape.to_vec(), &vec![0.5; shape[0] * shape[1]]).unwrap()
    };
    let pairs = [
        ("unet.mid.attn1.processor.to_q_lora", 4, 3),
        ("unet.mid.attn1.to_out.0.lora", 4, 3),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora",
            8,
            8,
        ),
        (
            "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer",
            8,
            8,
        ),
    ];
    let tensors: Vec<(String, HostTensor)> = pairs
        .iter()
        .flat_map(|(name, inputs, outputs)| {
            [
                (format!("{name}.down.weight"), value([2, *inputs])),
                (format!("{name}.up.weight"), value([*outputs, 2])),
            ]
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("old.safetensors");
    save_safetensors(&file, &tensors, &BTreeMap::new()).unwrap();
    let read = read(&file, &modules).unwrap();
    let adapted: Vec<Vec<&str>> = read
        .adapters
        .iter()
        .map(|(_, adapter)| adapter.adapted_modules().into_iter().collect())
        .collect();
    assert_eq!(adapted[0], ["mid.attn1.to_out.0", "mid.attn1.to_q"]);
    assert_eq!(
        adapted[1],
        [
            "text_model.encoder.layers.0.mlp.fc1",
            "text_model.encoder.layers.0.self_attn.out_proj"
        ]
    );
    // Without metadata and alpha, alpha is the rank.
    let AdapterConfig::Lora(config) = read.adapters[0].1.config() else {
        panic!("LoRA")
    };
    assert_eq!(config.scale("mid.attn1.to_q").unwrap(), 1.0);
}

#[test]
fn peft_directories_are_read_for_the_component_they_name() {
    let (unet, text) = (unet(), text_encoder(""));
    let modules = Modules {
        unet: &unet,
        text_encoder: &text,
        ..Modules::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let of_text = lora(&text, false, false);
    of_text.save(directory.path()).unwrap();
    let one = read(directory.path(), &modules).unwrap();
    assert_eq!(one.adapters[0].0, Component::TextEncoder);
    let several = tempfile::tempdir().unwrap();
    of_text.save(&several.path().join("text_encoder")).unwrap();
    oft(&linears(unet.clone()), |_| {})
        .save(&several.path().join("unet"))
        .unwrap();
    let both = read(several.path(), &modules).unwrap();
    let found: Vec<Component> = both
        .adapters
        .iter()
        .map(|(component, _)| *component)
        .collect();
    assert_eq!(found, [Component::Unet, Component::TextEncoder]);
}

#[test]
fn a_linear_layer_takes_the_matrices_of_a_kernel_of_one_and_the_other_way_round() {
    let unet = vec![
        Module::linear("a.proj_in", 4, 3),
        conv("b.proj_in", 4, 3, 1),
    ];
    let modules = Modules {
        unet: &unet,
        ..Modules::default()
    };
    let value = |shape: &[usize]| {
        HostTensor::from_f32(
            Dtype::F32,
            shape.to_vec(),
            &vec![0.5; shape.iter().product()],
        )
        .unwrap()
    };
    let tensors = vec![
        (
            "lora_unet_a_proj_in.lora_down.weight".to_owned(),
            value(&[2, 4, 1, 1]),
        ),
        (
            "lora_unet_a_proj_in.lora_up.weight".to_owned(),
            value(&[3, 2, 1, 1]),
        ),
        (
            "lora_unet_b_proj_in.lora_down.weight".to_owned(),
            value(&[2, 4]),
        ),
        (
            "lora_unet_b_proj_in.lora_up.weight".to_owned(),
            value(&[3, 2]),
        ),
        // A whole number, as some scripts save it.
        (
            "lora_unet_b_proj_in.alpha".to_owned(),
            HostTensor::new(Dtype::I64, vec![], 1_i64.to_le_bytes().to_vec()).unwrap(),
        ),
    ];
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("subject.safetensors");
    save_safetensors(&file, &tensors, &BTreeMap::new()).unwrap();
    let read = read(&file, &modules).unwrap();
    let AdapterConfig::Lora(config) = read.adapters[0].1.config() else {
        panic!("LoRA")
    };
    assert_eq!(config.scale("a.proj_in").unwrap(), 1.0);
    assert_eq!(config.scale("b.proj_in").unwrap(), 0.5);
}

#[test]
fn metadata_with_the_old_prefix_fits_a_model_without_it() {
    let (old, new) = (text_encoder("text_model."), text_encoder(""));
    let directory = tempfile::tempdir().unwrap();
    let adapter = lora(&old, false, false);
    write_diffusers_lora(directory.path(), &[(Component::TextEncoder, &adapter)]).unwrap();
    for text in [&old, &new] {
        let modules = Modules {
            text_encoder: text,
            ..Modules::default()
        };
        let read = read(directory.path(), &modules).unwrap();
        assert_eq!(read.adapters[0].1.adapted_modules().len(), 3);
    }
}
