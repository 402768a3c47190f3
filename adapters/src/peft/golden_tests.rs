//! Every adapter that the reference library wrote is understood and rewritten to the byte.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{AdapterConfig, AdapterFile, Module, ModuleKind, Slot, TargetRule, resolve};
use crate::weights::{Checkpoint, Dtype};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
/// Cases of kinds that are refused for now.
const REFUSED: [&str; 2] = ["boft_mlp_m1", "embedding"];

/// Adapter directories and the base weights they belong to.
fn cases() -> Vec<(PathBuf, PathBuf)> {
    let mut cases = Vec::new();
    for group in ["oft", "llama"] {
        for entry in std::fs::read_dir(Path::new(GOLDEN).join(group)).unwrap() {
            let case = entry.unwrap().path();
            let name = case.file_name().unwrap().to_str().unwrap().to_owned();
            if REFUSED.contains(&name.as_str()) {
                continue;
            }
            let base = if group == "oft" {
                "base.safetensors"
            } else {
                "model"
            };
            for adapter in [
                "adapter",
                "adapter_init",
                "adapter_final",
                "oft_adapter_final",
            ] {
                if case.join(adapter).is_dir() {
                    cases.push((case.join(adapter), case.join(base)));
                }
            }
        }
    }
    assert!(cases.len() > 30, "only {} cases", cases.len());
    cases
}

fn golden(case: &str) -> PathBuf {
    Path::new(GOLDEN).join("oft").join(case).join("adapter")
}

/// The modules of a base model, as its weights show them.
fn modules(base: &Path) -> Vec<Module> {
    let weights = Checkpoint::open(base).unwrap();
    let names = weights
        .names()
        .filter_map(|name| Some((name, name.strip_suffix(".weight")?)));
    names
        .map(|(full, name)| {
            let kind = if name.ends_with("embed_tokens") {
                ModuleKind::Embedding
            } else {
                ModuleKind::of_weight(&weights.info(full).unwrap().shape)
            };
            let bias = weights.info(&format!("{name}.bias")).is_some();
            Module {
                name: name.to_owned(),
                kind,
                bias,
                output_head: name == "lm_head",
            }
        })
        .collect()
}

#[test]
fn every_adapter_is_rewritten_byte_for_byte() {
    let copy = tempfile::tempdir().unwrap();
    for (adapter, _) in cases() {
        let (file, warnings) = AdapterFile::load(&adapter).unwrap();
        assert!(warnings.is_empty(), "{}: {warnings:?}", adapter.display());
        file.save(copy.path()).unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            let (written, original) = (copy.path().join(name), adapter.join(name));
            let (written, original) = (std::fs::read(written), std::fs::read(original));
            assert_eq!(
                written.unwrap(),
                original.unwrap(),
                "{} {name}",
                adapter.display()
            );
        }
    }
}

#[test]
fn every_adapter_fits_its_base_model_exactly() {
    for (adapter, base) in cases() {
        let (file, _) = AdapterFile::load(&adapter).unwrap();
        let modules = modules(&base);
        let resolution = resolve(file.config(), &modules)
            .unwrap()
            .require_all()
            .unwrap();
        let targets: BTreeSet<&str> = resolution
            .targets
            .iter()
            .map(|target| target.name.as_str())
            .collect();
        assert_eq!(targets, file.adapted_modules(), "{}", adapter.display());
        let report = file.check(&modules).unwrap();
        assert!(report.is_clean(), "{}: {report}", adapter.display());
        assert_eq!(report.matched.len(), file.tensors().len());
    }
}

#[test]
fn configurations_of_refused_kinds_say_what_they_are() {
    let message = AdapterFile::load(&golden("boft_mlp_m1"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`BOFT`, which is not supported yet"),
        "{message}"
    );
    let message = AdapterFile::load(&golden("embedding"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("adapter on an embedding, not supported yet"),
        "{message}"
    );
}

#[test]
fn effective_block_sizes_are_those_of_the_tensors() {
    for (case, sizes) in [
        ("mlp_adjusted_block", [4, 4]),
        ("mlp_r2_exact", [8, 16]),
        ("mlp_b16_exact_share", [16, 16]),
    ] {
        let (file, _) = AdapterFile::load(&golden(case)).unwrap();
        let base = golden(case).with_file_name("base.safetensors");
        let resolution = resolve(file.config(), &modules(&base)).unwrap();
        let found: Vec<usize> = resolution
            .targets
            .iter()
            .map(|target| match target.rule {
                TargetRule::Oft { block_size, .. } => block_size,
                TargetRule::Lora { .. } => 0,
            })
            .collect();
        assert_eq!(found, sizes, "{case}");
        assert_eq!(
            resolution.warnings.len(),
            usize::from(case == "mlp_adjusted_block")
        );
    }
}

#[test]
fn patterns_give_single_modules_their_rank_and_alpha() {
    let (file, _) = AdapterFile::load(&golden("lora_pattern")).unwrap();
    let AdapterConfig::Lora(lora) = file.config() else {
        panic!("not LoRA")
    };
    assert_eq!(
        (lora.rank("fc1").unwrap(), lora.scale("fc1").unwrap()),
        (4, 2.0)
    );
    assert_eq!(
        (lora.rank("fc2").unwrap(), lora.scale("fc2").unwrap()),
        (2, 3.0)
    );
}

#[test]
fn biases_and_saved_modules_have_their_own_slots() {
    let (file, _) = AdapterFile::load(&golden("mlp_bias_oft_only")).unwrap();
    assert_eq!(file.get("fc1", &Slot::Bias).unwrap().shape(), [32]);
    let (file, _) = AdapterFile::load(&golden("mlp_modules_to_save")).unwrap();
    assert_eq!(
        file.get("fc2", &Slot::Saved("weight".into()))
            .unwrap()
            .shape(),
        [8, 32]
    );
    assert!(file.get("fc2", &Slot::Bias).is_none());
}

#[test]
fn half_precision_adapters_are_read_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let (file, _) = AdapterFile::load(&golden("mlp_b8_exact")).unwrap();
    file.save_as(directory.path(), Dtype::BF16).unwrap();
    let (half, _) = AdapterFile::load(directory.path()).unwrap();
    let tensor = half.get("fc1", &Slot::OftR).unwrap();
    assert_eq!(tensor.dtype(), Dtype::BF16);
    half.save(directory.path()).unwrap();
    let (wide, _) = AdapterFile::load(directory.path()).unwrap();
    let wide = wide.get("fc1", &Slot::OftR).unwrap();
    assert_eq!(wide.dtype(), Dtype::F32);
    assert_eq!(wide.to_f32().unwrap(), tensor.to_f32().unwrap());
}

#[test]
fn untrained_adapter_is_seen_to_change_nothing() {
    let init = Path::new(GOLDEN).join("oft/train_lora/adapter_init");
    let last = Path::new(GOLDEN).join("oft/train_lora/adapter_final");
    assert!(!AdapterFile::load(&last).unwrap().0.changes_nothing());
    let (init, _) = AdapterFile::load(&init).unwrap();
    let zero = init
        .tensors()
        .iter()
        .filter(|tensor| tensor.slot == Slot::LoraB);
    assert_eq!(
        init.changes_nothing(),
        zero.clone().all(|tensor| tensor.tensor.is_zero())
    );
}

#[test]
fn report_names_what_is_missing_unexpected_and_misshapen() {
    let (file, _) = AdapterFile::load(&golden("mlp_b8_exact")).unwrap();
    let modules = [
        Module::linear("fc1", 32, 32),
        Module::linear("block.fc2", 32, 8),
    ];
    let report = file.check(&modules).unwrap();
    assert_eq!(report.missing, ["base_model.model.block.fc2.oft_R.weight"]);
    assert_eq!(report.unexpected, ["base_model.model.fc2.oft_R.weight"]);
    assert_eq!(
        report.wrong_shape,
        [(
            "base_model.model.fc1.oft_R.weight".to_owned(),
            vec![4, 28],
            vec![2, 28]
        )]
    );
    assert!(report.into_result().is_err());
}
