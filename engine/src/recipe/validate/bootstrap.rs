//! Bootstrapping: the text model must be described in full, and by keys of its own kind.

use super::Checker;
use crate::recipe::{BootstrapRecipe, Budget, OneOrMany, Samples, TextModel, TextModelKind};

/// Keys that only one kind of text model reads.
const ENDPOINT: [&str; 11] = [
    "base_url",
    "model",
    "api_key_env",
    "send_seed",
    "connect_timeout",
    "timeout",
    "attempts",
    "first_pause",
    "requests_per_minute",
    "tokens_per_minute",
    "max_reply_bytes",
];
const ENGINE: [&str; 5] = ["path", "adapter", "device", "compute", "max_length"];

impl Checker<'_> {
    /// Checks a recipe for bootstrapping.
    pub(in crate::recipe) fn bootstrap(&mut self, recipe: &BootstrapRecipe) {
        self.question_files(&recipe.questions.path);
        self.text_model(&recipe.text_model);
        if recipe.text_model.kind != TextModelKind::None && recipe.samples == Samples::default() {
            self.problem(
                &["samples"],
                "`[samples]` asks for nothing",
                "add for example `answer_augmentation = 10`, `rephrasing = 10`, \
                 `self_verification = 2` or `fobar = 2`",
            );
        }
        self.budget(&recipe.budget);
    }

    fn question_files(&mut self, paths: &OneOrMany) {
        for (index, path) in paths.as_slice().iter().enumerate() {
            let key = match paths {
                OneOrMany::One(_) => "questions.path".to_owned(),
                OneOrMany::Many(_) => format!("questions.path[{index}]"),
            };
            self.local_file(&key, path.as_ref());
        }
    }

    fn text_model(&mut self, model: &TextModel) {
        self.only_for("endpoint", model, &ENDPOINT);
        self.only_for("engine", model, &ENGINE);
        match model.kind {
            TextModelKind::Endpoint => self.endpoint(model),
            TextModelKind::Engine => self.engine(model),
            TextModelKind::None => {}
        }
    }

    fn only_for(&mut self, kind: &str, model: &TextModel, keys: &[&str]) {
        // Without text nothing is asked of either, and a recipe with all its keys is welcome.
        if matches!(model.kind, TextModelKind::None) || model.kind.as_str() == kind {
            return;
        }
        for key in keys {
            let key = format!("text_model.{key}");
            if self.written(&key) {
                let found = model.kind.as_str();
                self.problem(
                    &[&key, "text_model.kind"],
                    format!("`{key}` is not used by `kind = \"{found}\"`"),
                    format!("take it out, or write `kind = \"{kind}\"`"),
                );
            }
        }
    }

    fn endpoint(&mut self, model: &TextModel) {
        match model.base_url.as_deref() {
            None => self.needed(
                "text_model.base_url",
                "`base_url = \"http://127.0.0.1:8000/v1\"`",
            ),
            Some(url) => self.base_url(url),
        }
        if model
            .model
            .as_deref()
            .is_none_or(|name| name.trim().is_empty())
        {
            self.needed(
                "text_model.model",
                "`model = ...`, its name at the endpoint",
            );
        }
        if let Some(name) = model.api_key_env.as_ref().filter(|name| !name.is_empty()) {
            self.key_variable(name);
        }
    }

    fn engine(&mut self, model: &TextModel) {
        match &model.path {
            None => self.needed("text_model.path", "`path = \"models/my-model\"`"),
            Some(path) => self.local_or_hub("text_model.path", path, false),
        }
        if let Some(adapter) = &model.adapter
            && !self.path(adapter.join("adapter_config.json")).is_file()
        {
            let adapter = adapter.display();
            self.problem(
                &["text_model.adapter"],
                format!("`text_model.adapter`: no `adapter_config.json` in `{adapter}`"),
                super::RELATIVE,
            );
        }
        if let Some(device) = &model.device {
            self.device("text_model.device", device);
        }
    }

    fn needed(&mut self, key: &str, example: &str) {
        let message = format!("missing key `{key}`");
        self.problem(&[key], message, format!("add {example}"));
    }

    fn base_url(&mut self, url: &str) {
        let rest = url
            .strip_prefix("http://")
            .or_else(|| url.strip_prefix("https://"));
        let key = "text_model.base_url";
        let example = "for example `https://api.openai.com/v1` or `http://127.0.0.1:8000/v1`";
        let host = rest.and_then(|rest| rest.split('/').next());
        if host.is_none_or(str::is_empty) || url.contains(['?', '#', ' ']) {
            self.problem(&[key], format!("`{url}` is no address of an API"), example);
        } else if host.is_some_and(|host| host.contains('@')) {
            self.problem(
                &[key],
                format!("`{key}` holds a user name or password"),
                "recipes are copied into run directories; put the key into an environment \
                 variable and its name into `api_key_env`",
            );
        } else if url.ends_with("/completions") {
            self.problem(
                &[key],
                format!("`{url}` names an operation"),
                "give the address up to the version, without `/chat/completions`; `mode` chooses \
                 the operation",
            );
        }
    }

    fn key_variable(&mut self, name: &str) {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            self.problem(
                &["text_model.api_key_env"],
                "`text_model.api_key_env` is no name of an environment variable",
                "recipes are copied into run directories: write the name of a variable, such as \
                 `OPENAI_API_KEY`, never the key itself",
            );
        }
    }

    fn budget(&mut self, budget: &Budget) {
        if budget.max_price.is_some() {
            for (key, price) in [
                ("budget.prompt_price", budget.prompt_price),
                ("budget.reply_price", budget.reply_price),
            ] {
                if price.is_none() {
                    self.needed(
                        key,
                        "the price of a million tokens, or take `max_price` out",
                    );
                }
            }
        }
    }
}
