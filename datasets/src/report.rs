//! What became of the rows of a data set.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::example::Outcome;
use crate::reader::RowLocation;

/// How many affected rows a report names.
const NAMED: usize = 10;

/// Counts of a prepared data set. Nothing is cut or left out without being counted here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DataReport {
    /// Rows in the files, up to the limit.
    pub rows: usize,
    /// Rows that are trained.
    pub kept: usize,
    /// Rows left out because they are longer than `max_length`.
    pub dropped_over_length: usize,
    /// Rows whose end was cut off; those of them with a target left are also in `kept`.
    pub truncated: usize,
    /// Rows left out because nothing in them would be trained.
    pub without_target: usize,
    /// Tokens of the kept rows, special tokens included.
    pub tokens: u64,
    /// Tokens of the kept rows that are trained.
    pub supervised_tokens: u64,
    /// Length of the longest kept row.
    pub longest: usize,
    /// Length of the longest row in the files, before anything was cut or left out.
    pub longest_before: usize,
    /// The limit.
    pub max_length: usize,
    /// The first rows that were cut or left out.
    pub affected: Vec<AffectedRow>,
    /// Sha256 of files, tokenizer and settings, as hexadecimal.
    pub fingerprint: String,
    /// Where the ids came from.
    #[serde(skip)]
    pub cache: CacheStatus,
}

/// A row that was cut or left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffectedRow {
    /// Number of the row in reading order, from 0.
    pub row: usize,
    /// File and line.
    pub location: String,
    /// Its length before anything was cut.
    pub tokens: usize,
    /// What happened to it.
    pub fate: Fate,
}

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Left out, being too long.
    DroppedOverLength,
    /// Its end was cut off.
    Truncated,
    /// Left out, as nothing in it would be trained.
    WithoutTarget,
}

/// Where the ids of a data set came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CacheStatus {
    /// Tokenised; no cache was asked for.
    #[default]
    Disabled,
    /// Read from the cache.
    Hit,
    /// Tokenised and written to the cache.
    Written,
    /// The cache was damaged; tokenised again and written.
    Rebuilt {
        /// What was wrong.
        reason: String,
    },
    /// Tokenised; the cache could not be written.
    Unwritable {
        /// Why.
        reason: String,
    },
}

impl DataReport {
    /// Adds one row.
    pub(crate) fn count(&mut self, outcome: &Outcome, location: &RowLocation) {
        let row = self.rows;
        self.rows += 1;
        let (tokens, fate) = match outcome {
            Outcome::Kept { example, cut_from } => {
                self.kept += 1;
                self.tokens += example.input_ids.len() as u64;
                self.supervised_tokens += example.as_ref().targets() as u64;
                self.longest = self.longest.max(example.input_ids.len());
                self.truncated += usize::from(cut_from.is_some());
                (
                    cut_from.unwrap_or(example.input_ids.len()),
                    cut_from.map(|_| Fate::Truncated),
                )
            }
            Outcome::TooLong { tokens } => {
                self.dropped_over_length += 1;
                (*tokens, Some(Fate::DroppedOverLength))
            }
            Outcome::NoTarget { tokens, cut_from } => {
                self.without_target += 1;
                self.truncated += usize::from(cut_from.is_some());
                (*tokens, Some(Fate::WithoutTarget))
            }
        };
        self.longest_before = self.longest_before.max(tokens);
        if let Some(fate) = fate.filter(|_| self.affected.len() < NAMED) {
            let location = location.to_string();
            self.affected.push(AffectedRow {
                row,
                location,
                tokens,
                fate,
            });
        }
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * self.supervised_tokens as f64 / (self.tokens.max(1)) as f64;
        writeln!(formatter, "rows {}, kept {}", self.rows, self.kept)?;
        writeln!(
            formatter,
            "tokens {}, trained {} ({share:.1} %), longest row {} (limit {})",
            self.tokens, self.supervised_tokens, self.longest, self.max_length
        )?;
        write!(
            formatter,
            "dropped as too long {}, truncated {}, dropped without target {}",
            self.dropped_over_length, self.truncated, self.without_target
        )?;
        for row in &self.affected {
            write!(formatter, "\n  {row}")?;
        }
        let affected = self.rows - self.kept + self.truncated;
        if self.affected.len() == NAMED && affected > NAMED {
            write!(formatter, "\n  …")?;
        }
        if self.rows == 0 {
            write!(formatter, "\nthe files hold no rows")?;
        } else if self.kept == 0 {
            write!(
                formatter,
                "\nthe longest row has {} tokens",
                self.longest_before
            )?;
        }
        write!(formatter, "\n{}", self.cache)
    }
}

impl fmt::Display for AffectedRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fate = match self.fate {
            Fate::DroppedOverLength => "dropped as too long",
            Fate::Truncated => "truncated, end token lost",
            Fate::WithoutTarget => "dropped, nothing to train",
        };
        write!(
            formatter,
            "{} ({} tokens): {fate}",
            self.location, self.tokens
        )
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => write!(formatter, "token cache: off"),
            Self::Hit => write!(formatter, "token cache: used"),
            Self::Written => write!(formatter, "token cache: written"),
            Self::Rebuilt { reason } => write!(formatter, "token cache: rebuilt, {reason}"),
            Self::Unwritable { reason } => write!(formatter, "token cache: not written, {reason}"),
        }
    }
}
