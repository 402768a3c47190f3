//! Which files of a repository are wanted.

use std::collections::{BTreeMap, BTreeSet};

use super::HubError;
use super::spec::RepoSpec;

/// Files beside the weights that say how to use them.
const COMPANIONS: [&str; 6] = [
    ".json",
    ".model",
    ".jinja",
    "vocab.txt",
    "merges.txt",
    ".tiktoken",
];

/// Folders of a pipeline whose weights would be a gigabyte for nothing.
const UNUSED: [&str; 2] = ["safety_checker", "image_encoder"];

/// The files of a model: configuration, tokenizer, weights in safetensors and their index. A
/// diffusion pipeline (`model_index.json`) keeps them one folder down. Copies of the same weights
/// in other formats or precisions are left where they are, and so are parts that are never run
/// here ([`UNUSED`]).
pub(super) fn model_files(repo: &RepoSpec, names: &[String]) -> Result<Vec<String>, HubError> {
    let is_pipeline = names.iter().any(|name| name == "model_index.json");
    let all: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let wanted = |name: &&str| {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let place = if is_pipeline {
            !folder.contains('/')
        } else {
            folder.is_empty()
        };
        let hidden = file.starts_with('.') || file.starts_with("consolidated");
        let weights = file.ends_with(".safetensors") && !(is_pipeline && folder.is_empty());
        let companion = COMPANIONS.iter().any(|end| file.ends_with(end));
        let foreign = file.ends_with(".bin.index.json") || file.ends_with(".msgpack.index.json");
        let weights = weights && !(is_pipeline && UNUSED.contains(&folder));
        place && !hidden && (weights || companion) && !foreign && !is_variant(name, &all)
    };
    let chosen: Vec<String> = all
        .iter()
        .copied()
        .filter(wanted)
        .map(str::to_owned)
        .collect();
    if !chosen.iter().any(|name| name.ends_with(".safetensors")) {
        return Err(HubError::NoWeights {
            repo: repo.id.clone(),
            revision: repo.revision.clone(),
        });
    }
    Ok(chosen)
}

/// The files of a tokenizer, wherever weights may lie beside them.
pub(super) fn tokenizer_files(repo: &RepoSpec, names: &[String]) -> Result<Vec<String>, HubError> {
    let wanted = [
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ];
    let chosen: Vec<String> = wanted
        .into_iter()
        .map(str::to_owned)
        .filter(|name| names.contains(name))
        .collect();
    if chosen.iter().any(|name| name == "vocab.json") {
        return Ok(chosen);
    }
    Err(HubError::NoTokenizer {
        repo: repo.id.clone(),
        revision: repo.revision.clone(),
    })
}

/// Whether `model.fp16.safetensors` stands beside `model.safetensors` (or shards of it).
fn is_variant(name: &str, all: &BTreeSet<&str>) -> bool {
    ["fp16", "bf16", "non_ema", "fp32"].iter().any(|variant| {
        let marked = format!(".{variant}");
        name.contains(&format!("{marked}.")) && all.contains(name.replace(&marked, "").as_str())
            || name.contains(&format!("{marked}-"))
                && all.iter().any(|other| {
                    !other.contains(&marked) && group(other) == group(&name.replace(&marked, ""))
                })
    })
}

/// The data files that `pattern` names, or the only sensible choice without one; sorted.
pub(super) fn data_files(
    spec: &str,
    pattern: Option<&str>,
    names: &[String],
) -> Result<Vec<String>, HubError> {
    let data: BTreeSet<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| is_data(name))
        .collect();
    let owned = |names: &BTreeSet<&str>| names.iter().map(|&name| name.to_owned()).collect();
    let Some(pattern) = pattern else {
        return only_set(spec, &data);
    };
    let pattern = pattern.trim_end_matches('/');
    let named: BTreeSet<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| matches(pattern, name))
        .collect();
    if !named.is_empty() {
        return Ok(owned(&named));
    }
    let folder = format!("{pattern}/");
    let inside: BTreeSet<&str> = data
        .iter()
        .copied()
        .filter(|name| name.starts_with(&folder))
        .collect();
    if inside.is_empty() {
        return Err(HubError::NoData {
            spec: spec.to_owned(),
            listing: listing(&data),
        });
    }
    only_set(spec, &inside)
}

/// One file or one set of shards; of several sets the one called `train`.
fn only_set(spec: &str, data: &BTreeSet<&str>) -> Result<Vec<String>, HubError> {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in data {
        sets.entry(group(name))
            .or_default()
            .push((*name).to_owned());
    }
    if sets.is_empty() {
        return Err(HubError::NoData {
            spec: spec.to_owned(),
            listing: listing(data),
        });
    }
    if sets.len() > 1 {
        sets.retain(|name, _| is_train(name));
    }
    match (sets.len(), sets.into_values().next()) {
        (1, Some(files)) => Ok(files),
        _ => Err(HubError::AmbiguousData {
            spec: spec.to_owned(),
            listing: listing(data),
        }),
    }
}

fn is_data(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let about = [
        "dataset_info.json",
        "dataset_infos.json",
        "dataset_dict.json",
        "state.json",
    ];
    let ending = file
        .rsplit_once('.')
        .map(|(_, ending)| ending.to_ascii_lowercase());
    !file.starts_with('.')
        && !about.contains(&file)
        && ending.is_some_and(|ending| {
            matches!(ending.as_str(), "json" | "jsonl" | "ndjson" | "parquet")
        })
}

/// The name without its shard number and ending: the same for all shards of a set.
fn group(name: &str) -> String {
    match shard(name) {
        Some((base, _, _)) => base.to_owned(),
        None => name
            .rsplit_once('.')
            .map_or(name, |(base, _)| base)
            .to_owned(),
    }
}

/// Splits `base-00001-of-00004…` into base, number and count.
fn shard(name: &str) -> Option<(&str, usize, usize)> {
    let at = name.rfind("-of-")?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let (base, number) = name.get(..at)?.rsplit_once('-')?;
    let count = name.get(at + 4..at + 9)?;
    let valid = digits(number) && digits(count);
    valid.then_some((base, number.parse().ok()?, count.parse().ok()?))
}

/// A shard that the others of its set promise and that is not among `names`.
pub(super) fn missing_shard(names: &[String]) -> Option<String> {
    let mut sets: BTreeMap<(&str, usize), BTreeSet<usize>> = BTreeMap::new();
    for (base, number, count) in names.iter().filter_map(|name| shard(name)) {
        sets.entry((base, count)).or_default().insert(number);
    }
    let short = sets
        .into_iter()
        .find(|((_, count), numbers)| numbers.len() < *count)?;
    let ((base, count), numbers) = short;
    Some(format!(
        "{base}: {} of {count} shards",
        count - numbers.len()
    ))
}

/// Whether a set is the training split: `train`, `train-…`, `folder/train.…`, `train/…`.
fn is_train(base: &str) -> bool {
    base.split('/').any(|part| {
        let rest = part.strip_prefix("train");
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    })
}

/// Whether `name` fits `pattern`, where `*` stands for anything but `/`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            let end = rest.find('/').unwrap_or(rest.len());
            (0..=end)
                .filter(|&at| rest.is_char_boundary(at))
                .any(|at| matches(after, &rest[at..]))
        }),
    }
}

fn listing(names: &BTreeSet<&str>) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len() {
        0 => "none".to_owned(),
        count if count > SHOWN => format!("{}, and {} more", shown.join(", "), count - SHOWN),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hf_hub::RepoType;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn model(names: &[&str]) -> Result<Vec<String>, HubError> {
        let revision = "main".to_owned();
        let repo = RepoSpec {
            kind: RepoType::Model,
            id: "a/b".to_owned(),
            revision,
            files: None,
        };
        model_files(&repo, &owned(names))
    }

    fn data(pattern: Option<&str>, names: &[&str]) -> Result<Vec<String>, HubError> {
        data_files("a/b", pattern, &owned(names))
    }

    #[test]
    fn language_model_takes_safetensors_and_what_goes_with_them() {
        let wanted = [
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.model",
        ];
        let mut names = wanted.to_vec();
        names.extend([
            ".gitattributes",
            "README.md",
            "consolidated.safetensors",
            "onnx/config.json",
            "original/params.json",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model.bin.index.json",
        ]);
        assert_eq!(model(&names).unwrap(), wanted);
    }

    #[test]
    fn diffusion_pipeline_takes_one_copy_of_each_part() {
        let names = [
            "model_index.json",
            "sd_xl_base_1.0.safetensors",
            "tokenizer/merges.txt",
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "vae_decoder/model.onnx",
        ];
        let wanted = [names[0], names[2], names[3], names[5]];
        assert_eq!(model(&names).unwrap(), wanted);
        let checker = [
            "safety_checker/config.json",
            "safety_checker/model.safetensors",
        ];
        let with_checker = model(&[&names[..], &checker[..]].concat()).unwrap();
        assert!(
            !with_checker.contains(&checker[1].to_owned()),
            "what is never run is not fetched"
        );
        let only_half = model(&["model_index.json", "unet/model.fp16.safetensors"]).unwrap();
        assert_eq!(
            only_half.len(),
            2,
            "the only copy is taken whatever its precision"
        );
    }

    #[test]
    fn model_without_safetensors_is_refused() {
        let error = model(&["config.json", "pytorch_model.bin"]).unwrap_err();
        assert!(matches!(error, HubError::NoWeights { .. }));
    }

    #[test]
    fn tokenizer_is_taken_without_the_weights_beside_it() {
        let repo = |names: &[&str]| {
            let repo = RepoSpec {
                kind: RepoType::Model,
                id: "a/b".to_owned(),
                revision: "main".to_owned(),
                files: None,
            };
            tokenizer_files(&repo, &owned(names))
        };
        let found = repo(&["merges.txt", "model.safetensors", "vocab.json"]).unwrap();
        assert_eq!(found, ["vocab.json", "merges.txt"]);
        let error = repo(&["model.safetensors"]).unwrap_err();
        assert!(matches!(error, HubError::NoTokenizer { .. }));
    }

    #[test]
    fn only_data_file_or_train_split_is_taken() {
        assert_eq!(
            data(None, &["README.md", "a.json", "dataset_infos.json"]).unwrap(),
            ["a.json"]
        );
        let shards = [
            "d/train-00000-of-00002.parquet",
            "d/train-00001-of-00002.parquet",
        ];
        let mut names = shards.to_vec();
        names.push("d/test-00000-of-00001.parquet");
        assert_eq!(data(None, &names).unwrap(), shards);
        assert_eq!(
            data(None, &["training.json", "train.json"]).unwrap(),
            ["train.json"]
        );
    }

    #[test]
    fn splits_are_never_mixed_by_accident() {
        let names = [
            "main/train.parquet",
            "main/test.parquet",
            "socratic/train.parquet",
        ];
        let message = data(None, &names).unwrap_err().to_string();
        assert!(message.contains("`socratic/train.parquet`"), "{message}");
        assert_eq!(data(Some("main"), &names).unwrap(), ["main/train.parquet"]);
        assert_eq!(
            data(Some("main/test*"), &names).unwrap(),
            ["main/test.parquet"]
        );
        assert_eq!(data(Some("*/train.parquet"), &names).unwrap().len(), 2);
        assert!(matches!(
            data(Some("main/val*"), &names),
            Err(HubError::NoData { .. })
        ));
    }

    #[test]
    fn incomplete_set_of_shards_is_noticed() {
        let names = owned(&[
            "train-00000-of-00003.parquet",
            "train-00002-of-00003.parquet",
        ]);
        assert_eq!(missing_shard(&names).unwrap(), "train: 1 of 3 shards");
        assert_eq!(missing_shard(&owned(&["a.json", "b-of-c.json"])), None);
    }

    #[test]
    fn star_stays_within_a_folder() {
        assert!(matches("a/*.json", "a/b.json"));
        assert!(!matches("*.json", "a/b.json"));
        assert!(matches("*é*", "aéb"));
    }
}
