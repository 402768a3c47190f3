//! Backward questions: a hidden number, and the answer given.

use super::Source;

/// FOBAR: the masked question, and on the next line the answer as a condition. `answer` is the original
/// answer as [`super::AnswerFilter::truth`] gives it.
///
/// ```
/// use temper_datasets::rewrite::{Source, fobar_question};
///
/// assert_eq!(
///     fobar_question(Source::Gsm8k, "Add x to 3. How much?", "8"),
///     "Add x to 3. How much?\nIf we know the answer to the above question is 8, what is the value of \
///      unknown variable x?"
/// );
/// ```
pub fn fobar_question(source: Source, masked: &str, answer: &str) -> String {
    let heading = match source {
        Source::Gsm8k => "",
        Source::Math => "### ",
    };
    let variable = source.variable();
    format!(
        "{masked}\n{heading}If we know the answer to the above question is {answer}, what is the value of \
         unknown variable {variable}?"
    )
}

/// A masked question in two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split<'a> {
    /// What is told.
    pub base: &'a str,
    /// What is asked. Empty where nothing follows the last full stop or comma, or there is none.
    pub clause: &'a str,
}

/// Cuts a masked question after its last full stop or comma, be it a decimal point.
///
/// ```
/// use temper_datasets::rewrite::split_question;
///
/// let parts = split_question("Ann has x pens. If 2 break, how many are left?");
/// assert_eq!((parts.base, parts.clause), ("Ann has x pens. If 2 break,", "how many are left?"));
/// ```
pub fn split_question(masked: &str) -> Split<'_> {
    let cut = masked
        .rfind(['.', ','])
        .map_or(masked.len(), |last| last + 1);
    let (base, clause) = masked.split_at(cut);
    Split {
        base: crate::grade::python::strip(base),
        clause: crate::grade::python::strip(clause),
    }
}

/// Self-verification: what is told, what was asked as a `statement`, and the question for the unknown.
pub fn sv_question(source: Source, base: &str, statement: &str) -> String {
    let variable = source.variable();
    format!("{base} {statement} What is the value of unknown variable {variable}?")
}
