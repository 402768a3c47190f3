//! Parts of a prepared data set.

use sha2::{Digest, Sha256};

use crate::bytes::{hash_part, hex};
use crate::dataset::Dataset;
use crate::error::{DataError, Result};
use crate::random::permutation;
use crate::report::DataReport;

/// The epoch whose order decides which rows are held out; no run gets that far.
const SPLIT: u64 = u64::MAX;

impl Dataset {
    /// Holds out a share of the rows: returns the rows to train on, then the held-out ones, both in reading
    /// order. Which rows are held out depends on `seed` and the number of rows alone; at least one row goes
    /// to each side.
    ///
    /// Rows that were cut or left out stay in the report of the training rows. Both sides get a fingerprint
    /// of their own.
    ///
    /// # Errors
    /// If `fraction` is not above 0 and below 1, or there are fewer than two rows.
    ///
    /// ```no_run
    /// # use temper_datasets::{DataConfig, Dataset, Tokenizer};
    /// # fn main() -> temper_datasets::Result<()> {
    /// # let tokenizer = Tokenizer::load("assets/stories260k")?;
    /// let all = Dataset::prepare(&DataConfig::default(), &tokenizer, &|_, _| ())?;
    /// let rows = all.len();
    /// let (train, held_out) = all.split(0.1, 42)?;
    /// assert_eq!(train.len() + held_out.len(), rows);
    /// # Ok(())
    /// # }
    /// ```
    pub fn split(self, fraction: f64, seed: u64) -> Result<(Self, Self)> {
        let bad = |reason: &str| {
            Err(DataError::BadSetting {
                field: "fraction",
                reason: reason.into(),
            })
        };
        if !(fraction > 0.0 && fraction < 1.0) {
            return bad("must be above 0 and below 1");
        }
        let rows = self.len();
        if rows < 2 {
            return bad("needs two rows, one to train on and one to hold out");
        }
        let count = ((rows as f64 * fraction).round() as usize).clamp(1, rows - 1);
        let mut is_held_out = vec![false; rows];
        for row in permutation(seed, SPLIT, rows).into_iter().take(count) {
            is_held_out[row] = true;
        }
        let held_out = self.select(|row| is_held_out[row], &format!("held out {count} {seed}"));
        let mut train = self.select(|row| !is_held_out[row], &format!("train {count} {seed}"));
        let whole = self.report;
        train.report = DataReport {
            rows: whole.rows - count,
            dropped_over_length: whole.dropped_over_length,
            truncated: whole.truncated,
            without_target: whole.without_target,
            longest_before: whole.longest_before,
            affected: whole.affected,
            ..train.report
        };
        Ok((train, held_out))
    }

    /// The first `rows` rows; all of them if there are not so many.
    #[must_use]
    pub fn keep_first(self, rows: usize) -> Self {
        if rows >= self.len() {
            return self;
        }
        self.select(|row| row < rows, &format!("first {rows}"))
    }

    /// The rows that `is_wanted`; `what` goes into the fingerprint.
    fn select(&self, is_wanted: impl Fn(usize) -> bool, what: &str) -> Self {
        let mut part = Self {
            input_ids: Vec::new(),
            labels: Vec::new(),
            offsets: vec![0],
            report: DataReport {
                max_length: self.report.max_length,
                cache: self.report.cache.clone(),
                fingerprint: derived(&self.report.fingerprint, what),
                ..DataReport::default()
            },
        };
        for row in (0..self.len()).filter(|row| is_wanted(*row)) {
            let example = self.example(row);
            part.input_ids.extend_from_slice(example.input_ids);
            part.labels.extend_from_slice(example.labels);
            part.offsets.push(part.input_ids.len() as u64);
            let report = &mut part.report;
            report.rows += 1;
            report.kept += 1;
            report.tokens += example.len() as u64;
            report.supervised_tokens += example.targets() as u64;
            report.longest = report.longest.max(example.len());
            report.longest_before = report.longest;
        }
        part
    }
}

fn derived(fingerprint: &str, what: &str) -> String {
    let mut hasher = Sha256::new();
    hash_part(&mut hasher, fingerprint.as_bytes());
    hash_part(&mut hasher, what.as_bytes());
    hex(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::Tokenizer;
    use crate::dataset::DataConfig;
    use crate::reader::DataKind;

    /// Rows of ids `[row, 1, …]`, row `row` being `2 + row % 3` long; one more is too long and dropped.
    fn numbered(rows: u32) -> Dataset {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows.jsonl");
        let mut text = format!("{{\"input_ids\": {:?}}}\n", [1; 9]);
        for row in 0..rows {
            let mut ids = vec![row];
            ids.extend(vec![1; 1 + row as usize % 3]);
            writeln!(text, "{{\"input_ids\": {ids:?}}}").unwrap();
        }
        std::fs::write(&file, text).unwrap();
        let config = DataConfig {
            paths: vec![file],
            kind: DataKind::Tokens,
            max_length: 8,
            cache: false,
            ..DataConfig::default()
        };
        Dataset::prepare(&config, &Tokenizer::of_ids(1000), &|_, _| ()).unwrap()
    }

    fn names(dataset: &Dataset) -> Vec<u32> {
        (0..dataset.len())
            .map(|row| dataset.example(row).input_ids[0])
            .collect()
    }

    #[test]
    fn every_row_is_on_exactly_one_side() {
        let (train, held_out) = numbered(50).split(0.1, 7).unwrap();
        assert_eq!((train.len(), held_out.len()), (45, 5));
        assert!(names(&train).is_sorted() && names(&held_out).is_sorted());
        let mut all = [names(&train), names(&held_out)].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..50));
    }

    #[test]
    fn the_seed_alone_decides_which_rows_are_held_out() {
        let held_out = |seed| names(&numbered(50).split(0.2, seed).unwrap().1);
        assert_eq!(held_out(1), held_out(1));
        assert_ne!(held_out(1), held_out(2));
    }

    #[test]
    fn reports_of_both_sides_add_up_to_the_whole() {
        let whole = numbered(20);
        let before = whole.report().clone();
        let (train, held_out) = whole.split(0.25, 3).unwrap();
        let sum = |count: fn(&DataReport) -> u64| count(train.report()) + count(held_out.report());
        assert_eq!(sum(|report| report.rows as u64), before.rows as u64);
        assert_eq!(sum(|report| report.tokens), before.tokens);
        assert_eq!(
            sum(|report| report.supervised_tokens),
            before.supervised_tokens
        );
        assert_eq!(train.report().dropped_over_length, 1);
        assert_eq!(train.report().affected, before.affected);
        let prints = [
            train.fingerprint(),
            held_out.fingerprint(),
            &before.fingerprint,
        ];
        assert!(prints[0] != prints[1] && prints[1] != prints[2] && prints[0] != prints[2]);
    }

    #[test]
    fn neither_side_is_ever_empty() {
        let (train, held_out) = numbered(2).split(0.001, 1).unwrap();
        assert_eq!((train.len(), held_out.len()), (1, 1));
        let (train, held_out) = numbered(2).split(0.999, 1).unwrap();
        assert_eq!((train.len(), held_out.len()), (1, 1));
        assert!(numbered(1).split(0.5, 1).is_err());
        for fraction in [0.0, 1.0, -0.1, f64::NAN] {
            assert!(numbered(5).split(fraction, 1).is_err(), "{fraction}");
        }
    }

    #[test]
    fn the_first_rows_are_kept_and_counted() {
        let first = numbered(10).keep_first(4);
        assert_eq!(names(&first), [0, 1, 2, 3]);
        assert_eq!(first.report().kept, 4);
        assert_eq!(first.report().tokens, 2 + 3 + 4 + 2);
        let all = numbered(10);
        let fingerprint = all.fingerprint().to_owned();
        assert_eq!(all.keep_first(10).fingerprint(), fingerprint);
    }
}
