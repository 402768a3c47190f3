//! The JSON Schema of recipes: what editors complete from, and what recipes are checked against.

use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::reading::Kind;
use super::{BootstrapRecipe, DiffusionRecipe, Recipe};

/// JSON Schema (draft 2020-12) of a recipe, with a description, a default and a range for each key.
///
/// ```
/// let schema = temper_engine::recipe::schema();
/// assert_eq!(schema["properties"]["train"]["properties"]["keep_last"]["default"], 2);
/// ```
pub fn schema() -> Value {
    schema_of::<Recipe>()
}

/// The same of a recipe for `temper bootstrap`.
///
/// ```
/// let schema = temper_engine::recipe::bootstrap_schema();
/// assert_eq!(schema["properties"]["text_model"]["properties"]["temperature"]["default"], 0.7);
/// ```
pub fn bootstrap_schema() -> Value {
    schema_of::<BootstrapRecipe>()
}

/// The same of a recipe for training on images.
///
/// ```
/// let schema = temper_engine::recipe::diffusion_schema();
/// assert_eq!(schema["properties"]["train"]["properties"]["batch_size"]["default"], 1);
/// ```
pub fn diffusion_schema() -> Value {
    schema_of::<DiffusionRecipe>()
}

/// The schema of any kind of recipe.
pub(super) fn schema_of<K: Kind>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<K>()
        .to_value();
    clean(&mut schema);
    K::refine(&mut schema);
    schema
}

/// The documentation of one key, such as `train.lr`, or of a section; `None` if there is no such
/// key. Where recipes for language models, for images and for `temper bootstrap` mean different
/// things by it, each meaning is said.
///
/// ```
/// let text = temper_engine::recipe::explain("train.schedule").unwrap();
/// assert!(text.contains("default: `cosine`"));
/// ```
pub fn explain(key: &str) -> Option<String> {
    let kinds = [
        ("language models", schema()),
        ("images", diffusion_schema()),
        ("`temper bootstrap`", bootstrap_schema()),
    ];
    let mut told: Vec<(&str, String)> = Vec::new();
    for (kind, root) in &kinds {
        let Some(text) = explain_in(root, key) else {
            continue;
        };
        if told.iter().all(|(_, other)| *other != text) {
            told.push((kind, text));
        }
    }
    if let [(_, only)] = told.as_slice() {
        return Some(only.clone());
    }
    let headed = told
        .iter()
        .map(|(kind, text)| format!("In recipes for {kind}:\n\n{text}"));
    (!told.is_empty()).then(|| headed.collect::<Vec<_>>().join("\n"))
}

fn explain_in(root: &Value, key: &str) -> Option<String> {
    let here = lookup(root, key)?;
    let mut text = format!("{key}: {}\n\n{}\n", describe(here), documentation(here));
    for (value, meaning) in variants(here) {
        let _ = writeln!(text, "  `{value}`  {meaning}");
    }
    let required = is_required(root, key);
    if let Some(default) = here.get("default") {
        let _ = writeln!(text, "default: `{}`", plain(default));
    } else if required {
        text.push_str("required\n");
    }
    if let Some(range) = range(here) {
        let _ = writeln!(text, "range: {range}");
    }
    for (name, inner) in properties(here) {
        let _ = writeln!(text, "  {name}: {}", documentation(inner));
    }
    Some(text)
}

fn is_required(root: &Value, key: &str) -> bool {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let parent = if table.is_empty() {
        Some(root)
    } else {
        lookup(root, table)
    };
    parent.is_some_and(|parent| required(parent).any(|required| required == name))
}

/// The schema of a dotted key.
pub(super) fn lookup<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.')
        .try_fold(schema, |schema, name| schema.get("properties")?.get(name))
}

/// Keys of a table and their schemas.
pub(super) fn properties(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let object = schema.get("properties").and_then(Value::as_object);
    object
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.as_str(), schema))
}

/// Keys that a table must have.
pub(super) fn required(schema: &Value) -> impl Iterator<Item = &str> {
    let list = schema.get("required").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// Values of an enumeration and what they mean.
pub(super) fn variants(schema: &Value) -> Vec<(&str, &str)> {
    let plain = schema
        .get("enum")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let documented = schema
        .get("oneOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    plain
        .filter_map(|value| Some((value.as_str()?, "")))
        .chain(documented.filter_map(|one| Some((one.get("const")?.as_str()?, documentation(one)))))
        .collect()
}

fn documentation(schema: &Value) -> &str {
    schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// What a value must be, in words: `a number`, `one of ...`.
pub(super) fn describe(schema: &Value) -> String {
    let allowed = variants(schema);
    if !allowed.is_empty() {
        let names: Vec<String> = allowed
            .iter()
            .map(|(value, _)| format!("`{value}`"))
            .collect();
        return if names.len() == 1 {
            names.concat()
        } else {
            format!("one of {}", names.join(", "))
        };
    }
    if let Some(branches) = schema.get("anyOf").and_then(Value::as_array) {
        return branches
            .iter()
            .map(describe)
            .collect::<Vec<_>>()
            .join(" or ");
    }
    match kind(schema) {
        "array" => match schema.get("items").map(kind) {
            Some("string") => "an array of strings".into(),
            Some("integer") => "an array of integers".into(),
            _ => "an array".into(),
        },
        "string" => "a string".into(),
        "integer" => "an integer".into(),
        "number" => "a number".into(),
        "boolean" => "`true` or `false`".into(),
        _ => "a table".into(),
    }
}

/// The `type` of a schema.
pub(super) fn kind(schema: &Value) -> &str {
    schema
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("object")
}

/// The range of a number in words.
pub(super) fn range(schema: &Value) -> Option<String> {
    let bound = |name: &str, words: &str| schema.get(name).map(|b| format!("{words} {}", plain(b)));
    let parts: Vec<String> = [
        bound("minimum", "at least"),
        bound("exclusiveMinimum", "above"),
        bound("maximum", "at most"),
        bound("exclusiveMaximum", "below"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        None
    } else {
        Some(parts.join(" and "))
    }
}

/// A number or text without JSON's decoration.
fn plain(value: &Value) -> String {
    match (value.as_str(), value.as_f64()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(number)) => number.to_string(),
        _ => value.to_string(),
    }
}

/// Removes what TOML does not have (null) and what only repeats (Rust formats, defaults of tables).
fn clean(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    object.remove("format");
    drop_null(object);
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let required: Vec<String> = required_names(object);
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties.iter_mut() {
            clean(property);
            drop_default(property, required.contains(name));
        }
    }
    for list in ["anyOf", "oneOf"] {
        for branch in object
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            clean(branch);
        }
    }
    for inner in ["items", "additionalProperties"] {
        object.get_mut(inner).into_iter().for_each(clean);
    }
}

fn required_names(object: &Map<String, Value>) -> Vec<String> {
    let list = object.get("required").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

fn drop_default(property: &mut Value, required: bool) {
    let Some(object) = property.as_object_mut() else {
        return;
    };
    let empty = json!("");
    if object
        .get("default")
        .is_some_and(|d| required || d.is_null() || d.is_object() || *d == empty)
    {
        object.remove("default");
    }
}

/// Takes null out of types, enumerations and alternatives; an alternative left alone is merged.
fn drop_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let Some(Value::Array(branches)) = object.get_mut("anyOf") else {
        return;
    };
    branches.retain(|branch| branch.get("type") != Some(&json!("null")));
    if let [Value::Object(only)] = branches.as_slice() {
        let only = only.clone();
        object.remove("anyOf");
        for (name, value) in only {
            object.entry(name).or_insert(value);
        }
    }
}
