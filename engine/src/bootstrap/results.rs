//! What a run leaves: the data set, the provenance in order, and the numbers.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use serde::Serialize;
use sha2::{Digest, Sha256};
use temper_datasets::rewrite::{MetaMathRow, Rewriting, type_name};

use super::BootstrapError;
use super::journal::Journal;
use super::plan::{Rules, Seed, Unit};
use super::record::{Outcome, Record};
use crate::recipe::{Duplicates, Output, OutputFormat};
use crate::run::{RunDir, RunError, write_atomic_with};

/// How often each thing happened, by name.
pub type Counts = BTreeMap<String, u64>;

/// What came of one kind of rewriting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KindResults {
    /// As `MetaMathQA` names it, such as `GSM_AnsAug`.
    #[serde(rename = "type")]
    pub name: String,
    /// Rows that were to be attempted.
    pub planned: u64,
    /// Rows whose answer is the known one.
    pub accepted: u64,
    /// Accepted rows that repeat another of the same type, query and response.
    pub duplicates: u64,
    /// Rows of the data set.
    pub written: u64,
    /// Rows with a reply that could not be used, by reason.
    pub rejected: Counts,
    /// Rows without a reply, by reason.
    pub failed: Counts,
    /// Rows that were not come to.
    pub left: u64,
}

/// What came of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Results {
    /// In the order of the paper's table 1.
    pub kinds: Vec<KindResults>,
    /// Rows of the data set.
    pub rows: u64,
    /// Attempts that failed, by what went wrong; those that were made good included.
    pub failed_attempts: Counts,
    /// Generations whose tokens their source did not count.
    pub estimated: u64,
}

/// Collects the results while records pass in order.
struct Collector<'a> {
    rules: Rules,
    duplicates: Duplicates,
    seeds: BTreeMap<u64, &'a Seed>,
    kinds: BTreeMap<Rewriting, KindResults>,
    /// Hashes of type, query and response.
    seen: HashSet<[u8; 32]>,
    results: Results,
}

/// Writes the data set of what is accepted so far, and counts.
pub(super) fn write(
    journal: &mut Journal,
    seeds: &[Seed],
    units: &[Unit],
    rules: Rules,
    output: Output,
    directory: &RunDir,
) -> Result<Results, BootstrapError> {
    let mut collector = Collector {
        rules,
        duplicates: output.duplicates,
        seeds: seeds.iter().map(|seed| (seed.row, seed)).collect(),
        kinds: BTreeMap::new(),
        seen: HashSet::new(),
        results: Results {
            failed_attempts: journal.failures().clone(),
            estimated: journal.estimated(),
            ..Results::default()
        },
    };
    for unit in units {
        collector.kind(unit.kind).planned += 1;
    }
    let (name, is_array) = match output.format {
        OutputFormat::Json => ("data.json", true),
        OutputFormat::Jsonl => ("data.jsonl", false),
    };
    let path = directory.path().join(name);
    let mut failure = None;
    write_atomic_with(&path, |file| {
        let mut rows = Rows {
            file,
            is_array,
            count: 0,
        };
        let visited = journal.visit(|record| match collector.take(&record) {
            Some(row) => Ok(rows
                .write(&row)
                .map_err(|source| RunError::io("write", &path, source))?),
            None => Ok(()),
        });
        match visited {
            Ok(()) => rows.finish(),
            Err(error) => {
                failure = Some(error);
                Err(std::io::Error::other("interrupted"))
            }
        }
    })
    .map_err(|error| failure.take().unwrap_or(error.into()))?;
    Ok(collector.finish())
}

impl Collector<'_> {
    fn kind(&mut self, kind: Rewriting) -> &mut KindResults {
        self.kinds.entry(kind).or_default()
    }

    /// Counts a record; returns its row, if it is one of the data set.
    fn take(&mut self, record: &Record) -> Option<MetaMathRow> {
        let reason = || record.reason.clone().unwrap_or_default();
        match record.outcome {
            Outcome::Rewritten => None,
            Outcome::Rejected => {
                *self
                    .kind(record.key.kind)
                    .rejected
                    .entry(reason())
                    .or_default() += 1;
                None
            }
            Outcome::Failed => {
                *self
                    .kind(record.key.kind)
                    .failed
                    .entry(reason())
                    .or_default() += 1;
                None
            }
            Outcome::Accepted => self.accept(record),
        }
    }

    fn accept(&mut self, record: &Record) -> Option<MetaMathRow> {
        let seed = self.seeds.get(&record.key.row)?;
        let (query, reply) = (record.query.as_deref()?, record.reply.as_deref()?);
        let truth = record.truth.as_deref()?;
        let row = MetaMathRow::new(
            self.rules.source,
            record.key.kind,
            query,
            &seed.question,
            (reply, truth),
        );
        let is_new = self.seen.insert(hash(&row));
        let is_written = is_new || self.duplicates == Duplicates::Keep;
        let kind = self.kind(record.key.kind);
        kind.accepted += 1;
        kind.duplicates += u64::from(!is_new);
        kind.written += u64::from(is_written);
        is_written.then_some(row)
    }

    fn finish(self) -> Results {
        let mut results = self.results;
        for (kind, mut counts) in self.kinds {
            let ended = counts.accepted + sum(&counts.rejected) + sum(&counts.failed);
            counts.left = counts.planned.saturating_sub(ended);
            results.rows += counts.written;
            counts.name = type_name(self.rules.source, kind);
            results.kinds.push(counts);
        }
        results
    }
}

/// All of them together.
pub(super) fn sum(counts: &Counts) -> u64 {
    counts.values().sum()
}

fn hash(row: &MetaMathRow) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for text in [&row.kind, &row.query, &row.response] {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    hasher.finalize().into()
}

/// A JSON array or JSON lines, written row by row.
struct Rows<'a> {
    file: &'a mut dyn Write,
    is_array: bool,
    count: u64,
}

impl Rows<'_> {
    fn write(&mut self, row: &MetaMathRow) -> std::io::Result<()> {
        if self.is_array {
            let before: &[u8] = if self.count == 0 { b"[\n" } else { b",\n" };
            self.file.write_all(before)?;
        }
        self.count += 1;
        serde_json::to_writer(&mut self.file, row)?;
        if !self.is_array {
            self.file.write_all(b"\n")?;
        }
        Ok(())
    }

    fn finish(self) -> std::io::Result<()> {
        match (self.is_array, self.count) {
            (false, _) => Ok(()),
            (true, 0) => self.file.write_all(b"[]\n"),
            (true, _) => self.file.write_all(b"\n]\n"),
        }
    }
}
