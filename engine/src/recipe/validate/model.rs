//! `[model]`: weights, architecture and tokenizer must be found somewhere.

use super::Checker;
use crate::recipe::{DataKind, Init, Model, Recipe};

impl Checker<'_> {
    pub(super) fn model(&mut self, recipe: &Recipe) {
        let model = &recipe.model;
        match model.init {
            Init::Pretrained => self.pretrained(model),
            Init::Random => self.random(model, recipe.data.kind),
        }
        if let Some(tokenizer) = &model.tokenizer {
            self.local_or_hub("model.tokenizer", tokenizer, false);
        }
    }

    fn pretrained(&mut self, model: &Model) {
        if model.config.is_some() {
            self.problem(
                &["model.config", "model.init"],
                "`model.config` describes a network with random weights, but the weights are \
                pretrained",
                "take `config` out (the one beside the weights is used), or write `init = \
                \"random\"`",
            );
        }
        let Some(path) = &model.path else {
            self.problem(
                &["model.path", "model.init"],
                "`model.path` is missing",
                "give a directory or a hub name `org/name`, or write `init = \"random\"` and a \
                `preset`",
            );
            return;
        };
        self.local_or_hub("model.path", path, false);
        self.model_directory(path);
    }

    /// Looks into a local model directory for what every model has.
    fn model_directory(&mut self, path: &str) {
        let directory = self.path(path);
        if !directory.exists() || directory.join("config.json").is_file() {
            return;
        }
        let (message, hint) = if directory.is_file() {
            (
                format!("`model.path`: `{path}` is a file"),
                "give the directory that holds it",
            )
        } else if directory.join("adapter_config.json").is_file() {
            (
                format!("`model.path`: `{path}` is an adapter, not a model"),
                "give the model it was trained on, and the adapter as `adapter.init_from`",
            )
        } else {
            (
                format!("`model.path`: there is no `config.json` in `{path}`"),
                "a model directory has `config.json`, a tokenizer and safetensors files",
            )
        };
        self.problem(&["model.path"], message, hint);
    }

    fn random(&mut self, model: &Model, kind: DataKind) {
        match (&model.preset, &model.config) {
            (None, None) => self.no_architecture(model),
            (Some(_), Some(_)) => self.problem(
                &["model.config", "model.preset"],
                "`model.preset` and `model.config` both give the architecture",
                "keep one of them",
            ),
            (None, Some(config)) => self.local_file("model.config", config),
            (Some(_), None) => {}
        }
        if let Some(path) = &model.path {
            self.local_or_hub("model.path", path, false);
        }
        if model.tokenizer_source().is_none() && kind != DataKind::Tokens {
            self.problem(
                &["model.tokenizer", "data.kind"],
                "there is no tokenizer: neither `model.tokenizer` nor `model.path` is given",
                "add `tokenizer = ...`, a directory or a hub name `org/name`",
            );
        }
    }

    fn no_architecture(&mut self, model: &Model) {
        let hint = match &model.path {
            Some(path) if self.path(path).join("config.json").is_file() => {
                format!("for the architecture of `{path}` write `config = \"{path}/config.json\"`")
            }
            _ => "add `preset = ...` or `config = \"config.json\"`".to_owned(),
        };
        self.problem(
            &["model.init", "model.preset", "model.config"],
            "`init = \"random\"` needs an architecture",
            hint,
        );
    }
}
