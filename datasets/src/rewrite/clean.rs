//! Replies to answers that can be compared (the authors' generation program).

use std::sync::LazyLock;

use regex::Regex;

use super::Source;
use crate::grade::{Program, normalise_as, python};

static GSM8K: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"-?\d+/?\.?\d*").ok());
static MATH: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"-?\d*\.?\d+").ok());

/// The answer in `reply` after the last `marker`, in the form in which the authors' program compares it.
/// `None` where that program fails, such as on a `\sqrt` at the very end.
///
/// With the rule of GSM8K it is the last number, commas removed and printed without needless zeros, or a
/// fraction as written; with that of MATH it is the text after the marker, else after `the answer is `, else
/// in the last box, else the last number, normalised. Without any it is empty.
///
/// ```
/// use temper_datasets::rewrite::{Source, clean_answer};
///
/// let clean = |source, reply| clean_answer(source, reply, "The answer is");
/// assert_eq!(clean(Source::Gsm8k, "The answer is $1,200.50.").as_deref(), Some("1200.5"));
/// assert_eq!(clean(Source::Math, r"The answer is \dfrac12.").as_deref(), Some(r"\frac{1}{2}"));
/// ```
pub fn clean_answer(rule: Source, reply: &str, marker: &str) -> Option<String> {
    match rule {
        Source::Gsm8k => Some(clean_gsm8k(after_last(reply, marker).unwrap_or(reply))),
        Source::Math => clean_math(reply, marker),
    }
}

fn after_last<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    text.rsplit_once(marker).map(|(_, after)| after)
}

fn clean_gsm8k(text: &str) -> String {
    let text = text.replace(',', "");
    let matched = GSM8K
        .as_ref()
        .and_then(|pattern| pattern.find_iter(&text).last());
    let Some(matched) = matched else {
        return String::new();
    };
    match python::float(matched.as_str()) {
        Some(value) => without_zeros(value),
        None => without_ending(matched.as_str()).to_owned(),
    }
}

/// The authors trim zeros off Python's text of a float, from an exponent too: 1e20 becomes `100.0`.
fn without_zeros(value: f64) -> String {
    let printed = python::repr(value);
    let trimmed = printed.trim_end_matches('0');
    if let Some(integer) = trimmed.strip_suffix('.') {
        return if integer == "-0" { "0" } else { integer }.to_owned();
    }
    trimmed
        .parse()
        .map_or_else(|_| trimmed.to_owned(), python::repr)
}

/// Without one last full stop, then without one last slash.
fn without_ending(text: &str) -> &str {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.strip_suffix('/').unwrap_or(text)
}

fn clean_math(reply: &str, marker: &str) -> Option<String> {
    let after = after_last(reply, marker).or_else(|| after_last(reply, "the answer is "));
    let found = if let Some(after) = after {
        python::strip(after).to_owned()
    } else if let Some(after) = after_last(reply, "boxed") {
        boxed(after)?
    } else {
        last_number(reply).to_owned()
    };
    let cleaned = normalise_as(without_ending(&found), Program::Cleaner)?;
    match after_last(&cleaned, "boxed") {
        Some(after) => boxed(after),
        None => Some(cleaned),
    }
}

fn last_number(text: &str) -> &str {
    let matched = MATH
        .as_ref()
        .and_then(|pattern| pattern.find_iter(text).last());
    matched.map_or("", |matched| matched.as_str())
}

/// The normalised content of a box, given what follows the word: within braces, which need not close, or up
/// to a dollar sign. Nothing following is a failure.
fn boxed(after: &str) -> Option<String> {
    let content = match after.strip_prefix('{') {
        Some(inner) => within_braces(inner),
        None if after.is_empty() => return None,
        None => python::strip(after.split('$').next().unwrap_or(after)),
    };
    normalise_as(content, Program::Cleaner)
}

fn within_braces(text: &str) -> &str {
    let mut open = 1_usize;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => continue,
        }
        if open == 0 {
            return &text[..index];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lose_zeros_as_python_prints_them() {
        let cases = [
            ("007", "7"),
            ("-0.0", "0"),
            ("10", "10"),
            ("1e3 is 100000000000000000000", "100.0"),
            ("10000000000000000", "1e+16"),
            ("0.00001", "1e-05"),
            ("0.0000000001", "0.1"),
            ("٣.٥٠", "3.5"),
            ("1/2.", "1/2"),
            ("7/.", "7"),
            ("", ""),
        ];
        for (reply, cleaned) in cases {
            let found = clean_answer(Source::Gsm8k, reply, "The answer is");
            assert_eq!(found.as_deref(), Some(cleaned), "{reply}");
        }
        let long = "9".repeat(400);
        assert_eq!(
            clean_answer(Source::Gsm8k, &long, "?").as_deref(),
            Some("inf")
        );
    }

    #[test]
    fn what_the_program_fails_on_has_no_cleaned_answer() {
        for reply in [
            "boxed",
            r"The answer is \sqrt",
            r"the answer is \frac",
            r"The answer is \boxed",
        ] {
            assert_eq!(
                clean_answer(Source::Math, reply, "The answer is"),
                None,
                "{reply}"
            );
        }
    }

    #[test]
    fn boxes_may_stay_open_or_have_no_braces() {
        for (reply, cleaned) in [
            (r"\boxed{\frac12", r"\frac{1}{2}"),
            (r"\boxed 8$ ok", "8"),
            (r"\boxed{1} \boxed{{2}}", "{2}"),
            (r"The answer is $\boxed{7}$.", "7"),
        ] {
            let found = clean_answer(Source::Math, reply, "The answer is");
            assert_eq!(found.as_deref(), Some(cleaned), "{reply}");
        }
    }
}
