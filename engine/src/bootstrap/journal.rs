//! `provenance.jsonl`: every generation, appended as it ends, put into order when the run does.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::BootstrapError;
use super::record::{Key, Outcome, Record};
use super::results::Counts;
use crate::run::{RunError, write_atomic_with};
use crate::text_model::{Spent, Usage};

/// How much a power failure may cost; a killed process loses nothing.
const SYNC_EVERY: Duration = Duration::from_secs(2);

/// The file, and where in it what is.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    reader: File,
    length: u64,
    places: Vec<Place>,
    /// The last place of each generation.
    latest: BTreeMap<Key, usize>,
    spent: Spent,
    failures: Counts,
    estimated: u64,
    synced: Instant,
    /// Bytes of a last line that an earlier process did not finish.
    pub(super) torn: u64,
}

/// A line.
#[derive(Clone, Copy, Debug)]
struct Place {
    key: Key,
    at: u64,
    length: usize,
    outcome: Outcome,
}

impl Journal {
    /// Opens the file; a last line without its end is removed.
    ///
    /// # Errors
    /// If it cannot be read or written, or another line is no record.
    pub(super) fn open(path: &Path) -> Result<Self, BootstrapError> {
        let mut journal = Self {
            path: path.to_path_buf(),
            file: open(path)?,
            reader: open_to_read(path)?,
            length: 0,
            places: Vec::new(),
            latest: BTreeMap::new(),
            spent: Spent::default(),
            failures: Counts::new(),
            estimated: 0,
            synced: Instant::now(),
            torn: 0,
        };
        journal.read()?;
        if journal.torn > 0 {
            let cut = journal.file.set_len(journal.length);
            cut.map_err(|source| RunError::io("truncate", path, source))?;
        }
        Ok(journal)
    }

    fn read(&mut self) -> Result<(), BootstrapError> {
        let path = self.path.clone();
        let mut reader = BufReader::new(open_to_read(&path)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let count = reader.read_until(b'\n', &mut line);
            let count = count.map_err(|source| RunError::io("read", &path, source))?;
            if line.last() != Some(&b'\n') {
                self.torn = count as u64;
                break;
            }
            let record: Record =
                serde_json::from_slice(&line).map_err(|source| BootstrapError::Journal {
                    path: path.clone(),
                    line: number,
                    source,
                })?;
            self.index(&record, count);
        }
        Ok(())
    }

    /// Adds a record. It reaches the system in one write, so that a killed process leaves whole lines, but for one.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), BootstrapError> {
        let fail = |source| RunError::io("write", &self.path, source);
        let mut line = serde_json::to_vec(record).map_err(|error| fail(error.into()))?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // Half a line would make the next one unreadable.
            let _ = self.file.set_len(self.length);
            return Err(fail(error).into());
        }
        self.index(record, line.len());
        if self.synced.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Waits until everything is on disk.
    pub(super) fn sync(&mut self) -> Result<(), BootstrapError> {
        let synced = self.file.sync_data();
        synced.map_err(|source| RunError::io("sync", &self.path, source))?;
        self.synced = Instant::now();
        Ok(())
    }

    fn index(&mut self, record: &Record, length: usize) {
        self.latest.insert(record.key, self.places.len());
        self.places.push(Place {
            key: record.key,
            at: self.length,
            length,
            outcome: record.outcome,
        });
        self.length += length as u64;
        for name in &record.failures {
            *self.failures.entry(name.clone()).or_default() += 1;
        }
        self.estimated += u64::from(record.tokens_estimated);
        self.spent.requests += u64::from(record.attempts);
        self.spent.add(Usage {
            prompt_tokens: record.prompt_tokens,
            reply_tokens: record.reply_tokens,
            estimated: false,
        });
    }

    /// What all generations took together.
    pub(super) fn spent(&self) -> Spent {
        self.spent
    }

    /// Failed attempts of all generations, by what went wrong.
    pub(super) fn failures(&self) -> &Counts {
        &self.failures
    }

    /// Generations whose tokens are a guess.
    pub(super) fn estimated(&self) -> u64 {
        self.estimated
    }

    /// What became of a generation; `None` while there is no reply to it.
    pub(super) fn outcome(&self, key: &Key) -> Option<Outcome> {
        let place = self.places[*self.latest.get(key)?];
        (place.outcome != Outcome::Failed).then_some(place.outcome)
    }

    /// The record of a generation with a reply.
    pub(super) fn find(&mut self, key: &Key) -> Result<Option<Record>, BootstrapError> {
        match self.outcome(key) {
            Some(_) => self.record(self.places[self.latest[key]]).map(Some),
            None => Ok(None),
        }
    }

    /// Puts the lines into the order of their keys, later attempts at the same generation behind earlier ones.
    pub(super) fn sort(&mut self) -> Result<(), BootstrapError> {
        self.sync()?;
        let mut sorted = self.places.clone();
        sorted.sort_by_key(|place| (place.key, place.at));
        let reader = &mut self.reader;
        write_atomic_with(&self.path, |target| {
            for place in &sorted {
                target.write_all(&bytes(reader, *place)?)?;
            }
            Ok(())
        })?;
        self.places = sorted;
        let (mut at, latest) = (0, &mut self.latest);
        for (index, place) in self.places.iter_mut().enumerate() {
            place.at = at;
            at += place.length as u64;
            latest.insert(place.key, index);
        }
        self.file = open(&self.path)?;
        self.reader = open_to_read(&self.path)?;
        Ok(())
    }

    /// Calls `visit` with the last record of every generation, in order.
    pub(super) fn visit(
        &mut self,
        mut visit: impl FnMut(Record) -> Result<(), BootstrapError>,
    ) -> Result<(), BootstrapError> {
        let latest: Vec<usize> = self.latest.values().copied().collect();
        for index in latest {
            visit(self.record(self.places[index])?)?;
        }
        Ok(())
    }

    fn record(&mut self, place: Place) -> Result<Record, BootstrapError> {
        let fail = |source| RunError::io("read", &self.path, source);
        let line = bytes(&mut self.reader, place).map_err(fail)?;
        Ok(serde_json::from_slice(&line).map_err(|error| fail(error.into()))?)
    }
}

fn open_to_read(path: &Path) -> Result<File, RunError> {
    File::open(path).map_err(|source| RunError::io("open", path, source))
}

fn open(path: &Path) -> Result<File, RunError> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).open(path);
    file.map_err(|source| RunError::io("open", path, source))
}

fn bytes(source: &mut File, place: Place) -> std::io::Result<Vec<u8>> {
    let mut line = vec![0; place.length];
    source.seek(SeekFrom::Start(place.at))?;
    match source.read_exact(&mut line) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(std::io::Error::other("the file has become shorter"))
        }
        read => read.map(|()| line),
    }
}

#[cfg(test)]
mod tests {
    use temper_datasets::rewrite::Rewriting;

    use super::super::record::Stage;
    use super::*;

    fn key(row: u64, sample: u32) -> Key {
        Key {
            row,
            kind: Rewriting::AnsAug,
            number: None,
            sample,
            stage: Stage::Solve,
        }
    }

    fn record(key: Key, outcome: Outcome) -> Record {
        Record {
            key,
            seed: 1,
            model: "m".to_owned(),
            prompt_sha256: "0".to_owned(),
            query: None,
            reply: Some("two\nlines".to_owned()),
            answer: None,
            truth: None,
            outcome,
            reason: None,
            attempts: 2,
            failures: Vec::new(),
            prompt_tokens: 10,
            reply_tokens: 5,
            tokens_estimated: false,
        }
    }

    fn keys(journal: &mut Journal) -> Vec<Key> {
        let mut keys = Vec::new();
        let visited = journal.visit(|record| {
            keys.push(record.key);
            Ok(())
        });
        visited.unwrap();
        keys
    }

    #[test]
    fn records_come_back_in_order_and_the_last_attempt_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("provenance.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        for (key, outcome) in [
            (key(2, 0), Outcome::Accepted),
            (key(0, 1), Outcome::Failed),
            (key(0, 0), Outcome::Rejected),
            (key(0, 1), Outcome::Accepted),
        ] {
            journal.append(&record(key, outcome)).unwrap();
        }
        journal.sort().unwrap();
        journal.append(&record(key(1, 0), Outcome::Failed)).unwrap();
        let again = Journal::open(&path).unwrap();
        for mut journal in [journal, again] {
            assert_eq!(
                keys(&mut journal),
                [key(0, 0), key(0, 1), key(1, 0), key(2, 0)]
            );
            assert_eq!(journal.places.len(), 5);
            assert_eq!(journal.outcome(&key(0, 1)), Some(Outcome::Accepted));
            assert_eq!(journal.outcome(&key(1, 0)), None, "failed is not done");
            assert_eq!(journal.find(&key(2, 0)).unwrap().unwrap().key, key(2, 0));
            let spent = journal.spent();
            assert_eq!((spent.requests, spent.tokens()), (10, 75));
        }
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_a_broken_one_before_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("provenance.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        journal
            .append(&record(key(0, 0), Outcome::Accepted))
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in [1, whole.len() / 2, whole.len() - 1] {
            let torn = [&whole[..], &whole[..cut]].concat();
            std::fs::write(&path, torn).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            assert_eq!((journal.places.len(), journal.torn), (1, cut as u64));
            journal
                .append(&record(key(1, 0), Outcome::Accepted))
                .unwrap();
            assert_eq!(Journal::open(&path).unwrap().places.len(), 2);
        }
        std::fs::write(&path, [&whole[..], b"nonsense\n", &whole[..]].concat()).unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
