//! `--set key=value`: edits of the recipe before it is checked.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Report;
use super::tree::{Entry, Node, Origin, Value, from_document};

/// Keys of which a recipe gives one. An override of one removes the other that the file gave.
const ALTERNATIVES: &[(&str, &str)] = &[
    ("train.epochs", "train.steps"),
    ("train.warmup_ratio", "train.warmup_steps"),
    ("adapter.r", "adapter.oft_block_size"),
    ("data.eval.path", "data.eval.fraction"),
];

/// Applies all overrides in order; later ones win.
pub(super) fn apply(root: &mut Node, overrides: &[String], report: &mut Report) {
    for (index, text) in overrides.iter().enumerate() {
        let source = index + 1;
        match read(source, text) {
            Ok(edit) => {
                drop_alternatives(root, &edit);
                merge(root, edit, "", report);
            }
            Err((message, hint)) => {
                let origin = Origin::new(source, 0..text.len());
                report.add(Some(origin), text, message, Some(hint));
            }
        }
    }
}

type Refusal = (String, String);

/// Reads one override as a document with a single value.
fn read(source: usize, text: &str) -> Result<Node, Refusal> {
    let Some((key, value)) = text.split_once('=') else {
        return Err((
            format!("`--set {text}` has no value"),
            "write `--set section.key=value`".into(),
        ));
    };
    if value.trim().is_empty() {
        return Err((
            format!("`--set {text}` has an empty value"),
            format!("for an empty string write `--set '{key}=\"\"'`"),
        ));
    }
    if let Ok(document) = DeTable::parse(text) {
        return single(source, text, &document);
    }
    let first = value.trim_start().chars().next().unwrap_or(' ');
    if matches!(first, '[' | '{' | '"' | '\'') || value.contains('\n') {
        return Err((
            format!("`--set {text}` is not valid TOML"),
            "put the whole of it in single quotes, or the shell takes the inner quotes away".into(),
        ));
    }
    bare_word(source, text, key, value.trim())
}

/// Accepts a document that sets exactly one value.
fn single(source: usize, text: &str, document: &Spanned<DeTable<'_>>) -> Result<Node, Refusal> {
    let table = document.get_ref();
    if table.len() == 1 && !text.trim_start().starts_with('[') && !text.contains('\n') {
        return Ok(from_document(source, document));
    }
    Err((
        format!("`--set {text}` does not set one key"),
        "repeat `--set` for each key".into(),
    ))
}

/// Reads the value as a string without quotes.
fn bare_word(source: usize, text: &str, key: &str, value: &str) -> Result<Node, Refusal> {
    let quoted = format!("{key}={}", toml::Value::String(value.to_owned()));
    let Ok(document) = DeTable::parse(&quoted) else {
        return Err((
            format!("`{key}` is not a key"),
            "write `--set section.key=value`, with dots between the names".into(),
        ));
    };
    let mut node = single(source, &quoted, &document)?;
    clip(&mut node, text.len());
    Ok(node)
}

/// Keeps places inside the text as the user wrote it.
fn clip(node: &mut Node, length: usize) {
    node.origin.start = node.origin.start.min(length);
    node.origin.end = node.origin.end.min(length);
    if let Value::Table(entries) = &mut node.value {
        for entry in entries {
            clip(&mut entry.node, length);
        }
    }
}

fn drop_alternatives(root: &mut Node, edit: &Node) {
    for (one, other) in ALTERNATIVES {
        for (set, dropped) in [(one, other), (other, one)] {
            let from_file = root
                .find(dropped)
                .is_some_and(|node| node.origin.source == 0);
            if from_file && edit.find(set).is_some() && edit.find(dropped).is_none() {
                root.remove(dropped);
            }
        }
    }
}

/// Puts `edit` into `root`: dotted keys descend, and the value at their end replaces what was
/// there.
fn merge(root: &mut Node, edit: Node, path: &str, report: &mut Report) {
    let (Value::Table(target), Value::Table(edits)) = (&mut root.value, edit.value) else {
        return;
    };
    for new in edits {
        let here = join(path, &new.key);
        let Some(old) = target.iter_mut().find(|entry| entry.key == new.key) else {
            target.push(new);
            continue;
        };
        if !is_dotted(&new) {
            *old = new;
        } else if old.node.entries().is_some() {
            merge(&mut old.node, new.node, &here, report);
        } else {
            let message = format!(
                "`--set` cannot reach into `{here}`: it is {}, not a table",
                old.node.describe()
            );
            let hint = format!("replace all of it: `--set '{here}=...'`");
            report.add(Some(new.key_origin), &here, message, Some(hint));
        }
    }
}

/// Whether the entry is a table made by a dot in the key, rather than a value in braces.
fn is_dotted(entry: &Entry) -> bool {
    // A table made by a dot has the place of its key; one in braces starts behind the `=`.
    entry.node.entries().is_some() && entry.node.origin.start <= entry.key_origin.start
}

/// `path.key`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The value of a document that consists of `value = ...`, to guess what a quoted text was meant to
/// be.
pub(super) fn unquoted(text: &str) -> Option<Node> {
    let wrapped = format!("value={text}");
    let document = DeTable::parse(&wrapped).ok()?;
    let is_string = matches!(
        document.get_ref().get("value")?.get_ref(),
        DeValue::String(_)
    );
    let node = from_document(0, &document);
    if is_string {
        None
    } else {
        node.find("value").cloned()
    }
}
