//! Conventions of `EleutherAI`'s lm-evaluation-harness (0.4.13, task `gsm8k` version 3, and `minerva_math`).
//!
//! GSM8K is as there, down to the regular expressions. For MATH the harness has no strict and flexible
//! pair and decides by symbolic algebra (`SymPy`); here both columns are a reconstruction: the strict one
//! takes the text where the harness takes it, the flexible one wherever an answer is usually put, and
//! both compare as [`is_equiv`] does after taking off dollar signs around the whole answer. Answers that
//! are equal only by algebra (`x+1` and `1+x`, `\frac{2}{4}` and `\frac{1}{2}`) are wrong here and
//! right there.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::math::{boxed_answer, is_equiv};
use super::{Grade, python};

type Pattern = LazyLock<Option<Regex>>;

static STRICT: Pattern = LazyLock::new(|| Regex::new(r"#### (\-?[0-9\.\,]+)").ok());
static FLEXIBLE: Pattern = LazyLock::new(|| Regex::new(r"(-?[$0-9.,]{2,})|(-?[0-9]+)").ok());
static FINAL_ANSWER: Pattern = LazyLock::new(|| {
    Regex::new(r"Final Answer: The final answer is(.*?). I hope it is correct.").ok()
});

/// `strict-match`: the first number after `#### `.
pub(crate) fn gsm8k_strict(completion: &str, gold: &str) -> Grade {
    let captures = STRICT
        .as_ref()
        .and_then(|pattern| pattern.captures(completion));
    let found = captures.and_then(|captures| captures.get(1));
    gsm8k_grade(found.map(|found| found.as_str()), gold)
}

/// `flexible-extract`: the last thing that looks like a number, dollar signs, points and commas included.
pub(crate) fn gsm8k_flexible(completion: &str, gold: &str) -> Grade {
    let found = FLEXIBLE
        .as_ref()
        .and_then(|pattern| pattern.find_iter(completion).last());
    gsm8k_grade(found.map(|found| found.as_str()), gold)
}

fn gsm8k_grade(found: Option<&str>, gold: &str) -> Grade {
    Grade {
        extracted: found.map(Value::from),
        correct: found.is_some_and(|text| without_ignored(text) == without_ignored(gold)),
    }
}

/// What `exact_match` compares: no commas, no dollar signs, only what follows the last `#### `, no last
/// full stop, lower case.
fn without_ignored(text: &str) -> String {
    let text = text.replace([',', '$'], "");
    let text = text
        .rsplit_once("#### ")
        .map_or(text.as_str(), |(_, rest)| rest);
    text.strip_suffix('.').unwrap_or(text).to_lowercase()
}

/// What stands between Minerva's two phrases.
pub(crate) fn math_strict(completion: &str, gold: &str) -> Grade {
    // The harness adds the last words, which stop strings may have cut off.
    let completed = format!("{completion}I hope it is correct.");
    let found = FINAL_ANSWER
        .as_ref()
        .and_then(|pattern| pattern.captures(&completed))
        .and_then(|captures| captures.get(1));
    math_grade(found.map(|found| found.as_str()), gold)
}

/// The last `\boxed{…}`, else what follows the last `The answer is`, else the strict answer.
pub(crate) fn math_flexible(completion: &str, gold: &str) -> Grade {
    match boxed_answer(completion).or_else(|| after_answer_is(completion)) {
        Some(found) => math_grade(Some(found), gold),
        None => math_strict(completion, gold),
    }
}

/// The rest of the line after the last `The answer is`, without a colon and one last full stop.
fn after_answer_is(completion: &str) -> Option<&str> {
    let (_, after) = completion.rsplit_once("The answer is")?;
    let after = python::strip(after.strip_prefix(':').unwrap_or(after));
    let line = after
        .split_once('\n')
        .map_or(after, |(line, _)| python::strip(line));
    Some(line.strip_suffix('.').unwrap_or(line))
}

fn math_grade(found: Option<&str>, gold: &str) -> Grade {
    let found = found.map(python::strip);
    Grade {
        extracted: found.map(Value::from),
        correct: found
            .is_some_and(|text| is_equiv(Some(without_dollars(text)), Some(without_dollars(gold)))),
    }
}

/// `$x$` and `$$x$$` to `x`.
fn without_dollars(text: &str) -> &str {
    let inner = text
        .strip_prefix('$')
        .and_then(|text| text.strip_suffix('$'));
    inner.map_or(text, |inner| {
        inner
            .strip_prefix('$')
            .and_then(|text| text.strip_suffix('$'))
            .unwrap_or(inner)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(grade: Grade) -> (Option<Value>, bool) {
        (grade.extracted, grade.correct)
    }

    #[test]
    fn strict_takes_the_first_number_after_the_hashes() {
        let cases = [
            ("#### 1,200.\n#### 7", "1200", Some("1,200."), true),
            ("#### $5", "5", None, false),
            ("####5", "5", None, false),
            ("#### -3 and more", "-3", Some("-3"), true),
            ("#### 5.0", "5", Some("5.0"), false),
        ];
        for (completion, gold, extracted, correct) in cases {
            let expected = (extracted.map(Value::from), correct);
            assert_eq!(
                verdict(gsm8k_strict(completion, gold)),
                expected,
                "{completion}"
            );
        }
    }

    #[test]
    fn flexible_takes_the_last_number_with_its_punctuation() {
        let cases = [
            ("first 4, then $1,200.", "1200", Some("$1,200."), true),
            ("so 7", "7", Some("7"), true),
            ("so -7", "-7", Some("-7"), true),
            ("it is 5...", "5", Some("5..."), false),
            ("it is 5 ...", "5", Some("..."), false),
            ("none", "5", None, false),
        ];
        for (completion, gold, extracted, correct) in cases {
            let expected = (extracted.map(Value::from), correct);
            assert_eq!(
                verdict(gsm8k_flexible(completion, gold)),
                expected,
                "{completion}"
            );
        }
    }

    #[test]
    fn the_strict_answer_to_math_stands_between_the_phrases_of_minerva() {
        let text = r"Final Answer: The final answer is $\dfrac12$. I hope it is correct.";
        let expected = (Some(Value::from(r"$\dfrac12$")), true);
        assert_eq!(verdict(math_strict(text, "0.5")), expected);
        let cut = "Final Answer: The final answer is 7. ";
        assert_eq!(verdict(math_strict(cut, "7")), (Some("7".into()), true));
        assert_eq!(verdict(math_strict("The answer is: 7", "7")), (None, false));
    }

    #[test]
    fn the_flexible_answer_to_math_is_the_box_then_the_sentence() {
        let cases = [
            (r"\boxed{7} The answer is: 8", "7", Some("7"), true),
            ("The answer is $x+1$.\nDone", "x+1", Some("$x+1$"), true),
            ("The answer is: 7", "7", Some("7"), true),
            (
                "Final Answer: The final answer is 7. I hope it is correct.",
                "7",
                Some("7"),
                true,
            ),
            ("7", "7", None, false),
        ];
        for (completion, gold, extracted, correct) in cases {
            let expected = (extracted.map(Value::from), correct);
            assert_eq!(
                verdict(math_flexible(completion, gold)),
                expected,
                "{completion}"
            );
        }
    }
}
