//! What is written is what was read, byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Checkpoint, Dtype, HostTensor, SaveModel, TensorSpec, WeightsError};
use super::{save_model, save_safetensors};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");

fn golden_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            golden_files(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "safetensors") {
            found.push(path);
        }
    }
}

#[test]
fn every_golden_file_is_rewritten_byte_for_byte() {
    let mut files = Vec::new();
    golden_files(Path::new(GOLDEN), &mut files);
    assert!(files.len() > 50, "only {} golden files", files.len());
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy.safetensors");
    for file in files {
        let weights = Checkpoint::open(&file).unwrap();
        let tensors: Vec<(String, HostTensor)> = weights
            .names()
            .map(|name| (name.to_owned(), weights.read(name).unwrap()))
            .collect();
        save_safetensors(&copy, &tensors, &weights.metadata()).unwrap();
        assert_eq!(
            std::fs::read(&copy).unwrap(),
            std::fs::read(&file).unwrap(),
            "{}",
            file.display()
        );
    }
}

fn specs() -> Vec<TensorSpec> {
    [
        ("z", Dtype::F32, vec![3, 2]),
        ("a", Dtype::BF16, vec![5]),
        ("m", Dtype::I64, vec![]),
    ]
    .into_iter()
    .map(|(name, dtype, shape)| TensorSpec {
        name: name.to_owned(),
        dtype,
        shape,
    })
    .collect()
}

fn filled(spec: &TensorSpec) -> Result<HostTensor, WeightsError> {
    let byte = spec.name.as_bytes()[0];
    HostTensor::new(
        spec.dtype,
        spec.shape.clone(),
        vec![byte; spec.bytes().unwrap()],
    )
}

fn files_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn model_goes_out_in_shards_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let options = SaveModel {
        max_shard_bytes: 24,
        ..SaveModel::default()
    };
    save_model(directory.path(), &specs(), &options, filled).unwrap();
    assert_eq!(
        files_in(directory.path()),
        [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json"
        ]
    );
    let weights = Checkpoint::open(directory.path()).unwrap();
    assert_eq!(weights.total_bytes(), 24 + 10 + 8);
    for spec in specs() {
        assert_eq!(weights.read(&spec.name).unwrap(), filled(&spec).unwrap());
    }
    let index = std::fs::read_to_string(directory.path().join("model.safetensors.index.json"));
    let index: serde_json::Value = serde_json::from_str(&index.unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 42);
    assert_eq!(index["weight_map"]["z"], "model-00001-of-00002.safetensors");
}

#[test]
fn new_layout_replaces_the_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let small = SaveModel {
        max_shard_bytes: 24,
        ..SaveModel::default()
    };
    save_model(directory.path(), &specs(), &small, filled).unwrap();
    save_model(directory.path(), &specs(), &SaveModel::default(), filled).unwrap();
    assert!(
        !directory
            .path()
            .join("model.safetensors.index.json")
            .exists()
    );
    save_model(directory.path(), &specs(), &small, filled).unwrap();
    assert!(!directory.path().join("model.safetensors").exists());
}

#[test]
fn failed_save_keeps_the_old_file_and_leaves_no_temporary() {
    let directory = tempfile::tempdir().unwrap();
    let options = SaveModel::default();
    save_model(directory.path(), &specs(), &options, filled).unwrap();
    let before = std::fs::read(directory.path().join("model.safetensors")).unwrap();
    let failing = |spec: &TensorSpec| match spec.name.as_str() {
        "a" => Err(WeightsError::Producer {
            tensor: "a".to_owned(),
            source: "device lost".into(),
        }),
        _ => filled(spec),
    };
    let error = save_model(directory.path(), &specs(), &options, failing).unwrap_err();
    assert_eq!(error.to_string(), "cannot produce tensor `a`: device lost");
    assert_eq!(files_in(directory.path()), ["model.safetensors"]);
    assert_eq!(
        std::fs::read(directory.path().join("model.safetensors")).unwrap(),
        before
    );
}

#[test]
fn tensor_that_differs_from_its_announcement_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let result = save_model(directory.path(), &specs(), &SaveModel::default(), |_| {
        HostTensor::from_f32(Dtype::F32, vec![1], &[0.0])
    });
    assert!(matches!(result, Err(WeightsError::Announced { .. })));
}

#[test]
fn repeated_name_is_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let twice = [specs(), specs()].concat();
    let result = save_model(directory.path(), &twice, &SaveModel::default(), filled);
    assert!(matches!(result, Err(WeightsError::DuplicateTensor { .. })));
    assert!(files_in(directory.path()).is_empty());
}

#[test]
fn comparison_lists_missing_unexpected_and_misshapen_tensors() {
    let directory = tempfile::tempdir().unwrap();
    save_model(directory.path(), &specs(), &SaveModel::default(), filled).unwrap();
    let weights = Checkpoint::open(directory.path()).unwrap();
    let needed = BTreeMap::from([
        ("z".to_owned(), vec![3, 2]),
        ("a".to_owned(), vec![4]),
        ("b".to_owned(), vec![1]),
    ]);
    let report = weights.compare(&needed);
    assert_eq!(report.missing, ["b"]);
    assert_eq!(report.unexpected, ["m"]);
    assert_eq!(report.wrong_shape, [("a".to_owned(), vec![4], vec![5])]);
    assert!(!report.is_clean());
}
