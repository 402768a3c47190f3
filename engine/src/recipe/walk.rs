//! Compares what was written with the schema: unknown keys, wrong types, values outside a list or
//! range.
//!
//! A wrong value is reported and taken out, so that the rest can still be checked.

use serde_json::Value as Schema;

use super::hints;
use super::overrides::{join, unquoted};
use super::problem::Report;
use super::schema::{describe, kind, lookup, range, required, variants};
use super::tree::{Entry, Node, Value};

/// Checks a whole recipe against its schema and removes what does not fit.
pub(super) fn check(root: &mut Node, schema: &Schema, report: &mut Report) {
    Walk { schema, report }.table(root, schema, "");
}

struct Walk<'a> {
    /// Schema of the whole recipe, for hints across sections.
    schema: &'a Schema,
    report: &'a mut Report,
}

impl Walk<'_> {
    fn table(&mut self, node: &mut Node, schema: &Schema, path: &str) {
        let Value::Table(entries) = &mut node.value else {
            return;
        };
        let written: Vec<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        entries.retain_mut(|entry| self.entry(entry, schema, path));
        for name in required(schema).filter(|name| !written.iter().any(|key| key == name)) {
            self.missing(node, &join(path, name));
        }
    }

    /// Checks one key; false if it must not reach the typed recipe.
    fn entry(&mut self, entry: &mut Entry, schema: &Schema, path: &str) -> bool {
        let key = join(path, &entry.key);
        if let Some(known) = schema.get("properties").and_then(|all| all.get(&entry.key)) {
            return self.value(&mut entry.node, known, &key);
        }
        if let Some(any) = schema
            .get("additionalProperties")
            .filter(|any| any.is_object())
        {
            return self.value(&mut entry.node, any, &key);
        }
        let hint = hints::unknown_key(self.schema, path, &entry.key);
        let place = if path.is_empty() {
            "at the top of the recipe".to_owned()
        } else {
            format!("in `[{path}]`")
        };
        let message = format!("unknown key `{}` {place}", entry.key);
        self.report
            .add(Some(entry.key_origin.clone()), &key, message, Some(hint));
        false
    }

    fn missing(&mut self, table: &Node, key: &str) {
        let here = lookup(self.schema, key);
        let is_table =
            here.is_some_and(|schema| kind(schema) == "object" && variants(schema).is_empty());
        let (message, hint) = if is_table {
            let inner: Vec<&str> = here.into_iter().flat_map(required).collect();
            let list = if inner.is_empty() {
                String::new()
            } else {
                format!(" with at least `{}`", inner.join("`, `"))
            };
            (
                format!("missing section `[{key}]`"),
                format!("add `[{key}]`{list}"),
            )
        } else {
            let what = here.map(describe).unwrap_or_default();
            let name = key.rsplit('.').next().unwrap_or(key);
            (
                format!("missing key `{key}`"),
                format!("add `{name} = ...`, {what}"),
            )
        };
        // The top of the recipe has no line of its own to point at.
        let origin = key.contains('.').then(|| table.origin.clone());
        self.report.add(origin, key, message, Some(hint));
    }

    fn value(&mut self, node: &mut Node, schema: &Schema, key: &str) -> bool {
        let Some(branch) = matching(node, schema) else {
            return self.wrong_type(node, schema, key);
        };
        match &mut node.value {
            Value::Table(_) => {
                self.table(node, branch, key);
                true
            }
            Value::Array(_) => self.array(node, branch, key),
            Value::String(text) => {
                let text = text.clone();
                self.choice(node, branch, key, &text)
            }
            Value::Integer(number) => {
                let number = *number as f64;
                self.number(node, branch, key, number)
            }
            Value::Float(number) => {
                let number = *number;
                self.number(node, branch, key, number)
            }
            Value::Bool(_) | Value::Datetime(_) | Value::HugeInteger(_) => true,
        }
    }

    fn array(&mut self, node: &mut Node, schema: &Schema, key: &str) -> bool {
        let Value::Array(items) = &mut node.value else {
            return true;
        };
        let least = schema.get("minItems").and_then(Schema::as_u64).unwrap_or(0);
        if (items.len() as u64) < least {
            let message = format!("`{key}` must not be empty");
            let hint = "leave the key out to get its default".to_owned();
            self.report
                .add(Some(node.origin.clone()), key, message, Some(hint));
            return false;
        }
        let Some(item_schema) = schema.get("items") else {
            return true;
        };
        let mut fits = true;
        for (index, item) in items.iter_mut().enumerate() {
            fits &= self.value(item, item_schema, &format!("{key}[{index}]"));
        }
        if !fits {
            self.report.mark(key);
        }
        fits
    }

    fn choice(&mut self, node: &Node, schema: &Schema, key: &str, text: &str) -> bool {
        let allowed: Vec<&str> = variants(schema)
            .into_iter()
            .map(|(value, _)| value)
            .collect();
        if allowed.is_empty() || allowed.contains(&text) {
            return true;
        }
        let message = format!(
            "`{key}` must be {}, found {}",
            describe(schema),
            node.describe()
        );
        let hint = hints::value(key, text, &allowed);
        self.report
            .add(Some(node.origin.clone()), key, message, hint);
        false
    }

    fn number(&mut self, node: &Node, schema: &Schema, key: &str, number: f64) -> bool {
        let bound = |name: &str| schema.get(name).and_then(Schema::as_f64);
        let fits = number.is_finite()
            && bound("minimum").is_none_or(|least| number >= least)
            && bound("exclusiveMinimum").is_none_or(|below| number > below)
            && bound("maximum").is_none_or(|most| number <= most)
            && bound("exclusiveMaximum").is_none_or(|above| number < above);
        if !fits {
            let words = range(schema).unwrap_or_else(|| "finite".into());
            let message = format!("`{key}` must be {words}, found {}", node.describe());
            self.report
                .add(Some(node.origin.clone()), key, message, hints::range(key));
        }
        fits
    }

    fn wrong_type(&mut self, node: &Node, schema: &Schema, key: &str) -> bool {
        let message = format!(
            "`{key}` must be {}, found {}",
            describe(schema),
            node.describe()
        );
        let hint = self.type_hint(node, schema, key);
        self.report
            .add(Some(node.origin.clone()), key, message, hint);
        false
    }

    fn type_hint(&self, node: &Node, schema: &Schema, key: &str) -> Option<String> {
        match &node.value {
            Value::HugeInteger(_) => Some("integers have 64 bits".into()),
            Value::String(text)
                if matches!(
                    text.as_str(),
                    "yes" | "on" | "True" | "no" | "off" | "False"
                ) =>
            {
                Some("write `true` or `false`, without quotes".into())
            }
            Value::String(text)
                if unquoted(text).is_some_and(|node| matching(&node, schema).is_some()) =>
            {
                Some(format!("take the quotes away: `{text}`"))
            }
            Value::Float(number) if kind(schema) == "integer" && number.fract() == 0.0 => {
                Some(format!("write `{number}`"))
            }
            _ if node.entries().is_none()
                && kind(schema) == "object"
                && lookup(self.schema, key).is_some() =>
            {
                Some(format!("write a section `[{key}]` with keys of its own"))
            }
            Value::Integer(_) | Value::Float(_) | Value::Bool(_) | Value::Datetime(_)
                if describe(schema).contains("string") || !variants(schema).is_empty() =>
            {
                Some(
                    "put quotes around it; after `--set`, single quotes around the whole as well"
                        .into(),
                )
            }
            Value::String(text) if kind(schema) == "array" => Some(format!("write `[\"{text}\"]`")),
            _ => None,
        }
    }
}

/// The schema, or the branch of it, whose type the value has.
fn matching<'a>(node: &Node, schema: &'a Schema) -> Option<&'a Schema> {
    if let Some(branches) = schema.get("anyOf").and_then(Schema::as_array) {
        return branches.iter().find(|branch| has_type(node, branch));
    }
    has_type(node, schema).then_some(schema)
}

fn has_type(node: &Node, schema: &Schema) -> bool {
    let expected = if variants(schema).is_empty() {
        kind(schema)
    } else {
        "string"
    };
    match &node.value {
        Value::Bool(_) => expected == "boolean",
        Value::Integer(_) => matches!(expected, "integer" | "number"),
        Value::Float(_) => expected == "number",
        Value::String(_) => expected == "string",
        Value::Array(_) => expected == "array",
        Value::Table(_) => expected == "object",
        Value::Datetime(_) | Value::HugeInteger(_) => false,
    }
}
