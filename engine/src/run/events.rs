//! Scalars for `TensorBoard`.
//!
//! An event file is a sequence of records: length (8 bytes, little-endian), masked CRC-32C of those
//! eight bytes, payload, masked CRC-32C of the payload. The payload is a protocol buffer `Event`;
//! only the fields used here are declared. The mask rotates the checksum right by 15 bits and adds
//! a constant, so that a checksum stored inside checked data does not confuse anybody.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use super::RunError;
use super::clock::unix_seconds;
use super::host::host_name;

const VERSION: &str = "brain.Event:2";
const MASK: u32 = 0xa282_ead8;
/// `SessionLog.SessionStatus.START`.
const START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Scalars>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalars {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Writes one event file.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use temper_engine::run::EventWriter;
///
/// let mut events = EventWriter::create(dir.path(), None)?;
/// events.scalars(1, &[("train/loss", 2.5), ("train/lr", 1e-4)])?;
/// assert!(events.path().is_file());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EventWriter {
    file: File,
    path: PathBuf,
}

impl EventWriter {
    /// Begins a new file in `dir`, which must exist. A run that goes on after `resumed_from` steps
    /// says so in the file, and `TensorBoard` then hides later points of the interrupted run.
    ///
    /// # Errors
    /// [`RunError`] if the file cannot be written.
    pub fn create(dir: &Path, resumed_from: Option<u64>) -> Result<Self, RunError> {
        let (file, path) = new_file(dir)?;
        let mut writer = Self { file, path };
        let first = Event {
            file_version: Some(VERSION.to_owned()),
            ..stamped(0)
        };
        let mut records = record(&first);
        if let Some(step) = resumed_from {
            let session_log = Some(SessionLog { status: START });
            records.extend(record(&Event {
                session_log,
                ..stamped(step + 1)
            }));
        }
        writer.append(&records)?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes named values of one step and hands them to the system at once.
    ///
    /// # Errors
    /// [`RunError`] if they cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), RunError> {
        let scalar = |&(tag, value): &(&str, f64)| Scalar {
            tag: tag.to_owned(),
            simple_value: Some(value as f32),
        };
        let value = values.iter().map(scalar).collect();
        self.append(&record(&Event {
            summary: Some(Scalars { value }),
            ..stamped(step)
        }))
    }

    fn append(&mut self, records: &[u8]) -> Result<(), RunError> {
        self.file
            .write_all(records)
            .map_err(|source| RunError::io("write", &self.path, source))
    }
}

fn stamped(step: u64) -> Event {
    Event {
        wall_time: unix_seconds(),
        step: step as i64,
        ..Event::default()
    }
}

/// `events.out.tfevents.<time>.<host>.<pid>`, with a number behind it if that one exists.
fn new_file(dir: &Path) -> Result<(File, PathBuf), RunError> {
    let time = unix_seconds() as u64;
    let base = format!(
        "events.out.tfevents.{time:010}.{}.{}",
        host_name(),
        std::process::id()
    );
    let mut number = 0;
    loop {
        let name = if number == 0 {
            base.clone()
        } else {
            format!("{base}.{number}")
        };
        let path = dir.join(name);
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(source) => return Err(RunError::io("create", &path, source)),
        }
    }
}

fn record(event: &Event) -> Vec<u8> {
    let payload = event.encode_to_vec();
    let length = (payload.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(payload.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(&payload);
    record.extend(masked_crc(&payload).to_le_bytes());
    record
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Vec<Event> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked_crc(&rest[..8]));
            let payload = &rest[12..12 + length];
            assert_eq!(crc(12 + length), masked_crc(payload));
            events.push(Event::decode(payload).unwrap());
            rest = &rest[16 + length..];
        }
        events
    }

    #[test]
    fn checksum_of_a_known_record_length() {
        // The first twelve bytes of an event file whose first record is 24 bytes long, as
        // TensorBoard 2.21.0 writes them.
        let length = 24_u64.to_le_bytes();
        assert_eq!(masked_crc(&length).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn scalars_come_back_with_valid_checksums() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), None).unwrap();
        writer
            .scalars(1, &[("train/loss", 2.5), ("train/zero", 0.0)])
            .unwrap();
        writer.scalars(2, &[("train/loss", 1.25)]).unwrap();
        let events = read(writer.path());
        assert_eq!(events[0].file_version.as_deref(), Some(VERSION));
        assert!(events[0].wall_time > 1.7e9);
        let first = events[1].summary.as_ref().unwrap();
        assert_eq!(first.value[0].tag, "train/loss");
        assert_eq!(
            first.value[1].simple_value,
            Some(0.0),
            "zero is written, not left out"
        );
        assert_eq!(events[2].step, 2);
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn resumed_run_gets_its_own_file_and_says_where_it_starts() {
        let dir = tempfile::tempdir().unwrap();
        let first = EventWriter::create(dir.path(), None).unwrap();
        let second = EventWriter::create(dir.path(), Some(7)).unwrap();
        assert_ne!(first.path(), second.path());
        let events = read(second.path());
        assert_eq!(
            (
                events[1].step,
                events[1].session_log.clone().unwrap().status
            ),
            (8, START)
        );
    }
}
