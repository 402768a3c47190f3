//! Numbers of a question, one hidden at a time.

use std::ops::Range;

use super::Source;
use crate::grade::digit;

/// Number words that are hidden in GSM8K, with their values. No others are, and only exactly these.
const WORDS: [(&str, &str); 15] = [
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
    ("eleven", "11"),
    ("twelve", "12"),
    ("fifth", "5"),
    ("sixteen", "16"),
    ("half", "50%"),
];

/// A number of a question, and what stands in its place when it is hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask<'a> {
    question: &'a str,
    token: Range<usize>,
    replacement: String,
}

impl<'a> Mask<'a> {
    /// The question with the number hidden.
    pub fn question(&self) -> String {
        let before = &self.question[..self.token.start];
        let after = &self.question[self.token.end..];
        [before, &self.replacement, after].concat()
    }

    /// What was hidden, with what is attached to it: `$5,` or `twelve`. [`super::AnswerFilter::truth`]
    /// makes a value of it.
    pub fn hidden(&self) -> &'a str {
        &self.question[self.token.clone()]
    }
}

/// The numbers of a question that can be hidden, in order.
///
/// A question is split at single spaces. A part is a number if it has a digit and none of: ASCII letters,
/// line ends, `: ( ) * " + – -`. In GSM8K so are fifteen number words without anything attached.
///
/// The number is replaced by the unknown. What follows the last digit stays if the part ends in one of
/// `, . ? ; ” ' ! " %`; else, in GSM8K, a leading `$` stays; else nothing does. So `$5` becomes `$x` and `$5.`
/// becomes `x.`, as in the authors' program. Where that fails, for want of an ASCII digit, digits of other
/// scripts count.
///
/// ```
/// use temper_datasets::rewrite::{Source, masks};
///
/// let found = masks(Source::Gsm8k, "Pay $5 for two.");
/// assert_eq!(found.len(), 1);
/// assert_eq!(found[0].question(), "Pay $x for two.");
/// assert_eq!(found[0].hidden(), "$5");
/// ```
pub fn masks(source: Source, question: &str) -> Vec<Mask<'_>> {
    let mut start = 0;
    let mut found = Vec::new();
    for token in question.split(' ') {
        let end = start + token.len();
        if let Some(replacement) = replacement(source, token) {
            found.push(Mask {
                question,
                token: start..end,
                replacement,
            });
        }
        start = end + 1;
    }
    found
}

/// The value of a number word, else the text itself.
pub(super) fn word_value(token: &str) -> &str {
    let word = WORDS.iter().find(|(word, _)| *word == token);
    word.map_or(token, |(_, value)| value)
}

fn replacement(source: Source, token: &str) -> Option<String> {
    let token = match source {
        Source::Gsm8k => word_value(token),
        Source::Math => token,
    };
    if !is_number(token) {
        return None;
    }
    let unknown = source.unknown();
    if token.ends_with([',', '.', '?', ';', '”', '\'', '!', '"', '%']) {
        return Some(format!("{unknown}{}", after_last_digit(token)));
    }
    if source == Source::Gsm8k && token.starts_with('$') {
        return Some(format!("${unknown}"));
    }
    Some(unknown.to_string())
}

fn is_number(token: &str) -> bool {
    const OTHER: [char; 9] = ['\n', ':', '(', ')', '*', '"', '+', '–', '-'];
    let mut has_digit = false;
    for character in token.chars() {
        if character.is_ascii_alphabetic() || OTHER.contains(&character) {
            return false;
        }
        has_digit |= digit(character).is_some();
    }
    has_digit
}

fn after_last_digit(token: &str) -> &str {
    if let Some(last) = token.rfind(|character: char| character.is_ascii_digit()) {
        return &token[last + 1..];
    }
    let last = token
        .char_indices()
        .rfind(|(_, character)| digit(*character).is_some());
    last.map_or("", |(index, character)| {
        &token[index + character.len_utf8()..]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_of_the_question_survive() {
        let found = masks(Source::Gsm8k, "  a  7  b ");
        assert_eq!(found[0].question(), "  a  x  b ");
    }

    #[test]
    fn digits_of_other_scripts_are_hidden_too() {
        let found = masks(Source::Math, "get ٣, or 4٣%");
        let questions: Vec<String> = found.iter().map(Mask::question).collect();
        assert_eq!(questions, ["get X, or 4٣%", "get ٣, or X٣%"]);
    }

    #[test]
    fn half_is_half_of_a_hundred_percent() {
        assert_eq!(masks(Source::Gsm8k, "half of it")[0].question(), "x% of it");
        assert!(masks(Source::Math, "half of it").is_empty());
    }
}
