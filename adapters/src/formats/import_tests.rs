use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::fixtures::{conv, linears, lora, oft, text_encoder, unet};
use super::*;
use crate::peft::{AdapterConfig, AdapterFile, Module, Slot};
use crate::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/diffusion/formats")
        .join(name)
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

#[test]
fn targets_are_endings_only_where_they_select_the_same_modules() {
    let all = linears(unet());
    let ends = |end: &str| {
        let modules = all.iter().filter(|module| module.name.ends_with(end));
        modules.cloned().collect::<Vec<Module>>()
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("subject.safetensors");
    let targets = |modules: &[Module]| {
        let known = Modules {
            unet: &all,
            ..Modules::default()
        };
        let lora = lora(modules, false, false);
        write_kohya(&file, &[(Component::Unet, &lora)], KohyaModel::Sd1, &known).unwrap();
        let read = read(&file, &known).unwrap();
        let config = read.adapters[0].1.config().clone();
        let resolved = crate::peft::resolve(&config, &all).unwrap().targets;
        assert_eq!(resolved.len(), modules.len());
        config.common().target_modules.clone()
    };
    let names = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned());
        Some(crate::peft::ModulePattern::Names(names.collect()))
    };
    let both = [ends(".to_q"), ends(".to_out.0")].concat();
    assert_eq!(targets(&both), names(&["to_out.0", "to_q"]));
    // Of three layers the first two share an ending that the third does not have; the outer two share none of their own.
    let [down, mid, up] = ends(".to_q").try_into().unwrap();
    let shared = "attentions.0.transformer_blocks.0.attn1.to_q";
    assert_eq!(targets(&[down.clone(), mid]), names(&[shared]));
    let outer = names(&[&down.name, &up.name]);
    assert_eq!(targets(&[down, up]), outer);
}

#[test]
fn peft_directories_of_text_encoders_fit_models_under_both_names() {
    let (published, newer) = (text_encoder("text_model."), text_encoder(""));
    for (file, model) in [(&newer, &published), (&published, &newer)] {
        let directory = tempfile::tempdir().unwrap();
        lora(file, false, false).save(directory.path()).unwrap();
        let modules = Modules {
            unet: &unet(),
            text_encoder: model,
            ..Modules::default()
        };
        let found = read(directory.path(), &modules).unwrap();
        assert_eq!(found.adapters.len(), 1);
        assert_eq!(found.adapters[0].0, Component::TextEncoder);
        let names: Vec<_> = model.iter().map(|module| module.name.as_str()).collect();
        let adapted = found.adapters[0].1.adapted_modules();
        assert_eq!(adapted, names.into_iter().collect());
        // By their order, which both namings share.
        for (own, read) in lora(file, false, false)
            .tensors()
            .iter()
            .zip(found.adapters[0].1.tensors())
        {
            assert_eq!(own.tensor, read.tensor);
        }
    }
}

#[test]
fn adapters_of_text_encoders_are_stored_as_transformers_names_their_modules() {
    let mut modules = text_encoder("text_model.");
    let file = oft(&modules, |_| {});
    let first = |file: &AdapterFile| file.tensors()[0].module.clone();
    let stored = as_in_transformers(&file, &modules).unwrap();
    assert_eq!(first(&stored), "encoder.layers.0.mlp.fc1");
    modules.push(Module::linear("text_projection", 8, 8));
    let stored = as_in_transformers(&stored, &modules).unwrap();
    assert_eq!(first(&stored), "text_model.encoder.layers.0.mlp.fc1");
    assert_eq!(stored.tensors(), file.tensors());
}

#[test]
fn an_adapter_that_fits_two_text_encoders_alike_is_remarked_on() {
    let text = text_encoder("text_model.");
    let directory = tempfile::tempdir().unwrap();
    lora(&text, false, false).save(directory.path()).unwrap();
    let modules = Modules {
        unet: &unet(),
        text_encoder: &text,
        text_encoder_2: &text,
    };
    let found = read(directory.path(), &modules).unwrap();
    assert_eq!(found.adapters[0].0, Component::TextEncoder);
    assert!(
        found.remarks[0].contains("text_encoder_2"),
        "{:?}",
        found.remarks
    );
    let found = read(directory.path(), &modules.only(Component::TextEncoder2)).unwrap();
    assert_eq!(found.adapters[0].0, Component::TextEncoder2);
    assert!(found.remarks.is_empty(), "{:?}", found.remarks);
    // Wider layers are another encoder's.
    let wide: Vec<Module> = text
        .iter()
        .map(|module| Module::linear(module.name.as_str(), 16, 16))
        .collect();
    let modules = Modules {
        text_encoder: &wide,
        ..modules
    };
    let found = read(directory.path(), &modules).unwrap();
    assert_eq!(found.adapters[0].0, Component::TextEncoder2);
}
