//! `[data]`: the parts of a data set must fit each other, and its files must exist.

use super::Checker;
use crate::recipe::{Data, DataKind, Eval, LossOn, OneOrMany, Template};

impl Checker<'_> {
    pub(super) fn data(&mut self, data: &Data) {
        self.source(data);
        self.template(data);
        if data.loss_on == Some(LossOn::Response)
            && matches!(data.kind, DataKind::Text | DataKind::Tokens)
        {
            self.problem(
                &["data.loss_on", "data.kind"],
                format!("rows of kind `{}` have no response", data.kind.as_str()),
                "write `loss_on = \"all\"`, or take it out",
            );
        }
        if let Some(eval) = &data.eval {
            self.eval(eval);
        }
    }

    /// Rows are read from `path`, or made by `[data.arithmetic]`.
    fn source(&mut self, data: &Data) {
        let made = data.kind == DataKind::Arithmetic;
        match (made, self.written("data.path")) {
            (true, true) => self.problem(
                &["data.path", "data.kind"],
                "`data.path` is not used by `kind = \"arithmetic\"`",
                "its rows are made by `[data.arithmetic]`; to read a file, write `kind = \"gsm8k\"`",
            ),
            (false, false) => self.problem(
                &["data.path"],
                "missing key `data.path`",
                "add `path = ...`, a string or an array of strings",
            ),
            (true, false) => {}
            (false, true) => self.data_paths("data.path", &data.path),
        }
        if data.arithmetic.is_some() && !made {
            self.problem(
                &["data.arithmetic", "data.kind"],
                "`[data.arithmetic]` is used only by `kind = \"arithmetic\"`",
                "take it out, or change `kind`",
            );
        }
    }

    fn data_paths(&mut self, key: &str, paths: &OneOrMany) {
        match paths {
            OneOrMany::One(path) => self.local_or_hub(key, path, true),
            OneOrMany::Many(list) => {
                for (index, path) in list.iter().enumerate() {
                    self.local_or_hub(&format!("{key}[{index}]"), path, true);
                }
            }
        }
    }

    fn template(&mut self, data: &Data) {
        let kind = data.kind.as_str();
        let template = data.template.or(data.kind.default_template());
        let fits = match data.kind {
            DataKind::MetaMathQa | DataKind::Gsm8k | DataKind::Arithmetic => {
                template != Some(Template::Chat)
            }
            DataKind::Text => template == Some(Template::Raw),
            DataKind::Chat => template == Some(Template::Chat),
            DataKind::Tokens => template.is_none(),
        };
        if !fits {
            let hint = match data.kind.default_template() {
                None => "token ids are used as they are; take `template` out",
                Some(Template::Raw) => "text is used as it is; take `template` out",
                Some(Template::Chat) => "conversations need `template = \"chat\"`; take it out",
                _ => {
                    "use `metamath`, `alpaca` or `raw`, or rewrite the records as `kind = \"chat\"`"
                }
            };
            self.problem(
                &["data.template", "data.kind"],
                format!("this `data.template` does not go with `kind = \"{kind}\"`"),
                hint,
            );
        }
        if data.single_field && template != Some(Template::Metamath) {
            self.problem(
                &["data.single_field", "data.template", "data.kind"],
                "`data.single_field` is used only with `template = \"metamath\"`",
                "take it out",
            );
        }
        if let Some(file) = &data.chat_template {
            self.local_file("data.chat_template", file);
            if data.kind != DataKind::Chat {
                self.problem(
                    &["data.chat_template", "data.kind"],
                    format!("`data.chat_template` is not used by `kind = \"{kind}\"`"),
                    "it renders conversations, `kind = \"chat\"`",
                );
            }
        }
    }

    fn eval(&mut self, eval: &Eval) {
        match (&eval.path, eval.fraction) {
            (Some(_), Some(_)) => self.problem(
                &["data.eval.path", "data.eval.fraction"],
                "`data.eval.path` and `data.eval.fraction` exclude each other",
                "keep one: a file of held-out rows, or a share of the training rows",
            ),
            (None, None) => self.problem(
                &["data.eval", "data.eval.path", "data.eval.fraction"],
                "`[data.eval]` does not say which rows are held out",
                "add `path = ...`, or `fraction = 0.02` to hold out a share of the training rows",
            ),
            (Some(paths), None) => self.data_paths("data.eval.path", paths),
            (None, Some(_)) => {}
        }
    }
}
