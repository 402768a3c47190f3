//! What a run left, where a model or an adapter is asked for.

use std::path::{Path, PathBuf};

/// Directories of the adapters of a run: of its model or U-Net, and of text encoders.
pub(crate) const ADAPTERS: [&str; 3] =
    ["adapter", "adapter_text_encoder", "adapter_text_encoder_2"];

/// The adapters that `path` stands for: itself, or all that a run left if it is a run directory.
pub(crate) fn adapters_at(path: &Path) -> Vec<PathBuf> {
    let has = |folder: &Path| folder.join("adapter_config.json").is_file();
    let folders = ADAPTERS.into_iter().map(|name| path.join(name));
    let is_run = is_run(path) && !has(path);
    let found: Vec<PathBuf> = folders.filter(|folder| is_run && has(folder)).collect();
    if found.is_empty() {
        return vec![path.to_owned()];
    }
    found
}

/// The model that `path` stands for: itself, or the one that a run left which trained all weights.
///
/// # Errors
/// [`NotThat`] for a run that left none.
pub(crate) fn model_at(path: PathBuf) -> Result<PathBuf, NotThat> {
    if !is_run(&path) || path.join("config.json").is_file() {
        return Ok(path);
    }
    let model = path.join("model");
    if model.is_dir() {
        return Ok(model);
    }
    let trained_adapter = adapters_at(&path) != [path.clone()];
    let (found, instead) = if trained_adapter {
        (
            "a run that trained an adapter, and no model",
            "give the model that its recipe names, and the run as adapter",
        )
    } else {
        (
            "a run without a result",
            "`temper train RECIPE --resume` brings it to its end",
        )
    };
    Err(NotThat {
        path,
        found,
        instead,
    })
}

/// Refuses what is known to be something else than an adapter. What is not known is left to its reader.
///
/// # Errors
/// [`NotThat`].
pub(crate) fn check_is_adapter(path: &Path) -> Result<(), NotThat> {
    let has = |name: &str| path.join(name).is_file();
    let (found, instead) = if has("adapter_config.json") || adapters_at(path) != [path] {
        return Ok(());
    } else if is_run(path) && path.join("model").is_dir() {
        (
            "a run that trained all weights, and no adapter",
            "give it as --model",
        )
    } else if is_run(path) {
        (
            "a run without a result",
            "`temper train RECIPE --resume` brings it to its end",
        )
    } else if has("manifest.json") {
        (
            "a checkpoint of a run, not an adapter",
            "`temper train RECIPE --resume` goes on from it; the run directory has the adapter at its end",
        )
    } else if has("config.json") || has("model_index.json") {
        ("a model, not an adapter", "give it as --model")
    } else {
        return Ok(());
    };
    Err(NotThat {
        path: path.to_owned(),
        found,
        instead,
    })
}

/// A path that holds something else than what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("`{}` is {found}; {instead}", path.display())]
pub struct NotThat {
    path: PathBuf,
    found: &'static str,
    instead: &'static str,
}

fn is_run(path: &Path) -> bool {
    path.join("recipe.toml").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with empty files.
    fn directory(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let file = directory.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        directory
    }

    #[test]
    fn a_run_of_an_adapter_stands_for_its_adapters_and_for_no_model() {
        let run = directory(&[
            "recipe.toml",
            "adapter/adapter_config.json",
            "adapter_text_encoder/adapter_config.json",
        ]);
        let path = run.path();
        let both = [path.join("adapter"), path.join("adapter_text_encoder")];
        assert_eq!(adapters_at(path), both);
        assert!(check_is_adapter(path).is_ok());
        assert!(check_is_adapter(&both[0]).is_ok());
        let said = model_at(path.to_owned()).unwrap_err().to_string();
        assert!(said.contains("the run as adapter"), "{said}");
    }

    #[test]
    fn a_run_of_all_weights_stands_for_its_model_and_for_no_adapter() {
        let run = directory(&["recipe.toml", "model/config.json"]);
        let path = run.path();
        assert_eq!(model_at(path.to_owned()).unwrap(), path.join("model"));
        let said = check_is_adapter(path).unwrap_err().to_string();
        assert!(said.contains("give it as --model"), "{said}");
    }

    #[test]
    fn models_checkpoints_and_runs_without_a_result_are_no_adapters() {
        for (files, expected) in [
            (&["config.json"][..], "is a model"),
            (&["model_index.json"], "is a model"),
            (&["manifest.json", "trained.safetensors"], "is a checkpoint"),
            (&["recipe.toml"], "is a run without a result"),
        ] {
            let place = directory(files);
            let said = check_is_adapter(place.path()).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
        let run = directory(&["recipe.toml"]);
        let said = model_at(run.path().to_owned()).unwrap_err().to_string();
        assert!(said.contains("--resume"), "{said}");
        let other = directory(&["pytorch_lora_weights.safetensors"]);
        assert!(check_is_adapter(other.path()).is_ok());
        assert_eq!(model_at(other.path().to_owned()).unwrap(), other.path());
    }
}
