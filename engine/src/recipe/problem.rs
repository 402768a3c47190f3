//! Problems of a recipe, collected and printed together.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use super::tree::Origin;

/// One problem of a recipe.
///
/// ```
/// use temper_engine::recipe::Recipe;
///
/// let errors = Recipe::parse("seed = 'x'", "my.toml", &[]).unwrap_err();
/// assert_eq!(errors.problems[0].key, "seed");
/// assert_eq!((errors.problems[0].line, errors.problems[0].column), (Some(1), Some(8)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The recipe file, or `--set` for an override.
    pub file: String,
    /// Line, counted from 1. `None` when nothing was written that could be pointed at.
    pub line: Option<usize>,
    /// Column in characters, counted from 1.
    pub column: Option<usize>,
    /// Width in characters of what is pointed at, at least 1.
    pub width: usize,
    /// Dotted key, such as `train.lr`; empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line as written, unless it is very long.
    pub source_line: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        let place = match (self.line, self.column) {
            (Some(line), Some(column)) if self.file != OVERRIDE => {
                format!("{}:{line}:{column}", self.file)
            }
            _ => self.file.clone(),
        };
        let gutter = if self.file == OVERRIDE {
            String::new()
        } else {
            line_text(self.line)
        };
        let pad = " ".repeat(gutter.len());
        writeln!(f, "{pad}--> {place}")?;
        if let Some(source) = &self.source_line {
            let before = " ".repeat(self.column.unwrap_or(1) - 1);
            writeln!(f, "{pad} |")?;
            writeln!(f, "{gutter} | {source}")?;
            writeln!(f, "{pad} | {before}{}", "^".repeat(self.width))?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "{pad} = hint: {hint}")?;
        }
        Ok(())
    }
}

/// What stands for the file name when a problem comes from the command line.
const OVERRIDE: &str = "--set";

fn line_text(line: Option<usize>) -> String {
    line.map(|line| line.to_string()).unwrap_or_default()
}

/// All problems of a recipe: first those of the file by line, then those of the overrides.
///
/// `Display` is the complete report, ready for standard error.
///
/// ```
/// use temper_engine::recipe::Recipe;
///
/// let errors = Recipe::parse("[train]\nlearning_rate = 1e-4\n", "my.toml", &[]).unwrap_err();
/// let text = errors.to_string();
/// assert!(text.contains("my.toml:2:1"));
/// assert!(text.contains("did you mean `lr`?"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", render(file, problems))]
#[non_exhaustive]
pub struct RecipeErrors {
    /// Name of the recipe file.
    pub file: String,
    /// The problems, never empty.
    pub problems: Vec<Problem>,
}

fn render(file: &str, problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{problem}");
    }
    let plural = if problems.len() == 1 { "" } else { "s" };
    let _ = write!(text, "{} problem{plural} in {file}", problems.len());
    text
}

impl RecipeErrors {
    /// A single problem of the file as a whole.
    pub(super) fn whole_file(file: &str, message: String, hint: Option<String>) -> Self {
        let mut report = Report::default();
        report.add(None, "", message, hint);
        report.finish(file, &[])
    }
}

/// Collects problems while a recipe is checked.
#[derive(Debug, Default)]
pub(super) struct Report {
    found: Vec<Found>,
    bad: BTreeSet<String>,
}

#[derive(Debug)]
struct Found {
    origin: Option<Origin>,
    key: String,
    message: String,
    hint: Option<String>,
}

impl Report {
    /// Records a problem and marks its key as one that nothing else should be said about.
    pub(super) fn add(
        &mut self,
        origin: Option<Origin>,
        key: &str,
        message: String,
        hint: Option<String>,
    ) {
        self.bad.insert(key.to_owned());
        self.found.push(Found {
            origin,
            key: key.to_owned(),
            message,
            hint,
        });
    }

    /// Marks a key as one that nothing else should be said about.
    pub(super) fn mark(&mut self, key: &str) {
        self.bad.insert(key.to_owned());
    }

    /// Whether a problem of this key, or of a table or array that holds it, is already known.
    pub(super) fn is_bad(&self, key: &str) -> bool {
        let ends = key.match_indices(['.', '[']).map(|(at, _)| at);
        ends.chain([key.len()])
            .any(|end| self.bad.contains(&key[..end]))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Sorts the problems by place and quotes the lines of `sources`.
    pub(super) fn finish(mut self, file: &str, sources: &[&str]) -> RecipeErrors {
        self.found.sort_by_key(|found| match &found.origin {
            Some(origin) if origin.source == 0 => (0, 0, origin.start),
            None => (1, 0, 0),
            Some(origin) => (2, origin.source, origin.start),
        });
        let problems = self
            .found
            .into_iter()
            .map(|found| found.locate(file, sources))
            .collect();
        RecipeErrors {
            file: file.to_owned(),
            problems,
        }
    }
}

impl Found {
    fn locate(self, file: &str, sources: &[&str]) -> Problem {
        let mut problem = Problem {
            file: file.to_owned(),
            line: None,
            column: None,
            width: 1,
            key: self.key,
            message: self.message,
            hint: self.hint,
            source_line: None,
        };
        let Some(origin) = self.origin else {
            return problem;
        };
        if origin.source > 0 {
            OVERRIDE.clone_into(&mut problem.file);
        }
        let Some(text) = sources.get(origin.source) else {
            return problem;
        };
        let start = floor(text, origin.start);
        let end = floor(text, origin.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let pointed = text[start..end].lines().next().unwrap_or_default();
        problem.line = Some(text[..start].matches('\n').count() + 1);
        problem.column = Some(text[line_start..start].chars().count() + 1);
        problem.width = pointed.chars().count().max(1);
        problem.source_line = (line.len() <= LONGEST_QUOTE).then(|| printable(line));
        problem
    }
}

/// Longer lines are not quoted; their line and column remain.
const LONGEST_QUOTE: usize = 400;

/// The nearest character boundary at or before a byte.
fn floor(text: &str, byte: usize) -> usize {
    let byte = byte.min(text.len());
    (0..=byte)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

/// The line with one visible character for each of its characters.
fn printable(line: &str) -> String {
    line.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}
