//! JSON text as Python's `json.dumps(value, indent=2, sort_keys=True)` writes it.
//!
//! Differences from other writers that show in files: keys sorted at every level, everything
//! outside ASCII escaped, floats in Python's shortest form (`6e-05`, `0.0`).

use std::fmt::Write;

use serde_json::{Number, Value};

/// The text of `value`, without a final newline.
pub(crate) fn to_text(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, 0);
    out
}

fn write_value(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number_text(number)),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => write_items(out, ('[', ']'), items, depth, |out, item| {
            write_value(out, item, depth + 1);
        }),
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            write_items(out, ('{', '}'), &entries, depth, |out, (key, value)| {
                write_string(out, key);
                out.push_str(": ");
                write_value(out, value, depth + 1);
            });
        }
    }
}

fn write_items<T>(
    out: &mut String,
    (open, close): (char, char),
    items: &[T],
    depth: usize,
    write: impl Fn(&mut String, &T),
) {
    out.push(open);
    for (number, item) in items.iter().enumerate() {
        out.push_str(if number == 0 { "\n" } else { ",\n" });
        out.push_str(&"  ".repeat(depth + 1));
        write(out, item);
    }
    if !items.is_empty() {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    }
    out.push(close);
}

fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => float_text(value),
        _ => number.to_string(),
    }
}

/// Python's `repr(float)`: shortest digits; exponent form below 1e-4 and from 1e16.
fn float_text(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') {
        plain
    } else {
        format!("{plain}.0")
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            _ => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}"); // writing to a String cannot fail
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_read_as_python_writes_them() {
        for (value, text) in [
            (6e-5, "6e-05"),
            (0.0, "0.0"),
            (1e-4, "0.0001"),
            (2.2, "2.2"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (-1.5e-10, "-1.5e-10"),
            (3e-310, "3e-310"),
        ] {
            assert_eq!(float_text(value), text);
        }
    }

    #[test]
    fn containers_are_indented_sorted_and_escaped() {
        let value = json!({"b": [1, null], "a": {}, "é": "\u{1f600}\u{7f}", "c": []});
        let expected = "{\n  \"a\": {},\n  \"b\": [\n    1,\n    null\n  ],\n  \"c\": [],\n  \"\\u00e9\": \"\\ud83d\\ude00\\u007f\"\n}";
        assert_eq!(to_text(&value), expected);
    }
}
