//! `metrics.jsonl`: one JSON object per line, one line per step, only ever appended to.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::{RunError, write_atomic};

/// What a step reads, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Items {
    /// Of a language model.
    Tokens {
        /// Training tokens consumed since the beginning of the run.
        tokens: u64,
        /// Speed of the step.
        #[serde(deserialize_with = "null_is_nan")]
        tokens_per_second: f64,
    },
    /// Of an image model.
    Images {
        /// Training images consumed since the beginning of the run.
        images: u64,
        /// Speed of the step.
        #[serde(deserialize_with = "null_is_nan")]
        images_per_second: f64,
    },
}

impl Items {
    /// `count` items so far, at `speed` items a second.
    pub fn new(unit: Unit, count: u64, speed: f64) -> Self {
        match unit {
            Unit::Tokens => Self::Tokens {
                tokens: count,
                tokens_per_second: speed,
            },
            Unit::Images => Self::Images {
                images: count,
                images_per_second: speed,
            },
        }
    }

    /// Items since the beginning of the run.
    pub fn count(&self) -> u64 {
        match *self {
            Self::Tokens { tokens, .. } => tokens,
            Self::Images { images, .. } => images,
        }
    }

    /// Items a second, with the name of the key.
    pub fn speed(&self) -> (&'static str, f64) {
        match *self {
            Self::Tokens {
                tokens_per_second, ..
            } => ("tokens_per_second", tokens_per_second),
            Self::Images {
                images_per_second, ..
            } => ("images_per_second", images_per_second),
        }
    }
}

impl Default for Items {
    fn default() -> Self {
        Self::new(Unit::Tokens, 0, 0.0)
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unit {
    /// Tokens, padding included.
    #[default]
    Tokens,
    /// Images, those of the class included.
    Images,
}

impl Unit {
    /// A speed, such as `812 tokens/s`.
    pub fn speed(self, per_second: f64) -> String {
        match self {
            Self::Tokens => format!("{per_second:.0} tokens/s"),
            Self::Images => format!("{per_second:.2} images/s"),
        }
    }
}

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Optimizer steps done, from 1.
    pub step: u64,
    /// Mean loss of the step: per supervised token in nats, or per value of an image. JSON has no
    /// NaN: it is written as `null`.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// What was read: `tokens` and `tokens_per_second`, or `images` and `images_per_second`.
    #[serde(flatten)]
    pub items: Items,
    /// Memory in use after the step: of the device where it reports it, else of the process.
    pub memory_bytes: u64,
    /// Seconds since the beginning of the process.
    pub seconds: f64,
}

/// One evaluation on held-out data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalMetric {
    /// Optimizer steps done; 0 before the first.
    pub step: u64,
    /// Mean loss per supervised token, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub eval_loss: f64,
    /// Supervised tokens, or forward passes of single images, that it is the mean of.
    pub eval_tokens: u64,
    /// Seconds since the beginning of the process.
    pub seconds: f64,
    /// Other scores by name, such as `accuracy`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, f64>,
}

/// Problems with known answers, solved between two steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskMetric {
    /// Optimizer steps done; 0 before the first.
    pub step: u64,
    /// What was solved, such as `gsm8k`.
    pub task: String,
    /// Number of problems.
    pub problems: u64,
    /// Shares of the problems: solved, by convention, and `no_answer`, where none was found.
    pub scores: BTreeMap<String, f64>,
    /// Seconds of training since the beginning of the run.
    pub seconds: f64,
}

/// One line of the file; its `kind` is `train`, `eval` or `task`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Row {
    /// A training step.
    Train(Metric),
    /// An evaluation.
    Eval(EvalMetric),
    /// Problems solved.
    Task(TaskMetric),
}

impl Row {
    /// Optimizer steps done when the row was written.
    pub fn step(&self) -> u64 {
        match self {
            Self::Train(row) => row.step,
            Self::Eval(row) => row.step,
            Self::Task(row) => row.step,
        }
    }
}

fn null_is_nan<'de, D: Deserializer<'de>>(value: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or(f64::NAN))
}

/// Appends rows. Each row reaches the system in one write, so a reader sees whole lines while the
/// run lasts.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("metrics.jsonl");
/// use temper_engine::run::{EvalMetric, MetricsWriter, Row, read_metrics};
///
/// let mut metrics = MetricsWriter::create(&path)?;
/// let eval_loss = 0.5;
/// let row = EvalMetric { step: 3, eval_loss, eval_tokens: 9, seconds: 1.0, scores: [].into() };
/// metrics.write(&Row::Eval(row))?;
/// assert_eq!(read_metrics(&path)?[0].step(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    path: PathBuf,
}

impl MetricsWriter {
    /// Begins an empty file.
    ///
    /// # Errors
    /// [`RunError`] if it cannot be written.
    pub fn create(path: &Path) -> Result<Self, RunError> {
        write_atomic(path, b"")?;
        Self::append(path)
    }

    /// Goes on after `step`: later rows, which the interrupted run wrote after its last checkpoint,
    /// are dropped, so that every step appears once. A file that is not there is begun.
    ///
    /// # Errors
    /// [`RunError`] if the file cannot be read, holds something else, or cannot be written.
    pub fn resume(path: &Path, step: u64) -> Result<Self, RunError> {
        let text = read_text(path)?.unwrap_or_default();
        let mut kept = String::with_capacity(text.len());
        for (line, row) in parse(path, &text)? {
            if row.step() <= step {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        write_atomic(path, kept.as_bytes())?;
        Self::append(path)
    }

    fn append(path: &Path) -> Result<Self, RunError> {
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|source| RunError::io("open", path, source))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Appends one row.
    ///
    /// # Errors
    /// [`RunError`] if it cannot be written.
    pub fn write(&mut self, row: &Row) -> Result<(), RunError> {
        let mut line = serde_json::to_vec(row).map_err(|source| RunError::Encode {
            path: self.path.clone(),
            source,
        })?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| RunError::io("write", &self.path, source))
    }

    /// Waits until all rows are on disk. Called before a checkpoint is saved, so that a checkpoint
    /// never outlives the rows that led to it.
    ///
    /// # Errors
    /// [`RunError`] if the system reports a failed write.
    pub fn sync(&mut self) -> Result<(), RunError> {
        self.file
            .sync_data()
            .map_err(|source| RunError::io("sync", &self.path, source))
    }
}

/// Reads all rows. A last line that a crash cut short is left out.
///
/// # Errors
/// [`RunError::BadMetric`] naming any other line that is not a row, or [`RunError::Io`].
pub fn read_metrics(path: &Path) -> Result<Vec<Row>, RunError> {
    let missing = || RunError::io("read", path, ErrorKind::NotFound.into());
    let text = read_text(path)?.ok_or_else(missing)?;
    Ok(parse(path, &text)?
        .into_iter()
        .map(|(_, row)| row)
        .collect())
}

fn read_text(path: &Path) -> Result<Option<String>, RunError> {
    match std::fs::read(path) {
        // A torn last line may end inside a character.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RunError::io("read", path, source)),
    }
}

fn parse<'a>(path: &Path, text: &'a str) -> Result<Vec<(&'a str, Row)>, RunError> {
    let mut rows = Vec::new();
    for (index, piece) in text.split_inclusive('\n').enumerate() {
        let line = piece.trim();
        if line.is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(row) => rows.push((line, row)),
            Err(_) if !piece.ends_with('\n') => {}
            Err(source) => {
                return Err(RunError::BadMetric {
                    path: path.to_path_buf(),
                    line: index + 1,
                    source,
                });
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(step: u64) -> Row {
        Row::Train(Metric {
            step,
            loss: 1.0 / (step as f64 + 1.0),
            lr: 1e-4,
            grad_norm: 0.5,
            items: Items::new(Unit::Tokens, step * 100, 1000.0),
            memory_bytes: 1 << 30,
            seconds: step as f64,
        })
    }

    fn steps(path: &Path) -> Vec<u64> {
        read_metrics(path).unwrap().iter().map(Row::step).collect()
    }

    #[test]
    fn rows_come_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let eval = EvalMetric {
            step: 2,
            eval_loss: 0.25,
            eval_tokens: 7,
            seconds: 3.0,
            scores: [("accuracy".to_owned(), 0.5)].into(),
        };
        let task = TaskMetric {
            step: 2,
            task: "gsm8k".to_owned(),
            problems: 100,
            scores: [("metamath".to_owned(), 0.66)].into(),
            seconds: 3.0,
        };
        let rows = vec![train(1), train(2), Row::Eval(eval), Row::Task(task)];
        let mut writer = MetricsWriter::create(&path).unwrap();
        for row in &rows {
            writer.write(row).unwrap();
        }
        writer.sync().unwrap();
        assert_eq!(read_metrics(&path).unwrap(), rows);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(r#"{"kind":"train","step":1,"loss":0.5,"lr":0.0001,"#),
            "{text}"
        );
    }

    #[test]
    fn rows_count_images_under_their_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let Row::Train(mut metric) = train(1) else {
            unreachable!()
        };
        metric.items = Items::new(Unit::Images, 8, f64::NAN);
        let mut writer = MetricsWriter::create(&path).unwrap();
        writer.write(&Row::Train(metric)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(r#""images":8,"images_per_second":null"#),
            "{text}"
        );
        let Row::Train(read) = read_metrics(&path).unwrap().remove(0) else {
            panic!("not a step")
        };
        assert_eq!(
            (read.items.count(), read.items.speed().0),
            (8, "images_per_second")
        );
    }

    #[test]
    fn resume_drops_the_steps_that_will_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        for step in 1..=5 {
            writer.write(&train(step)).unwrap();
        }
        drop(writer);
        let mut writer = MetricsWriter::resume(&path, 3).unwrap();
        assert_eq!(steps(&path), [1, 2, 3]);
        for step in 4..=6 {
            writer.write(&train(step)).unwrap();
        }
        assert_eq!(steps(&path), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn torn_last_line_is_left_out_and_then_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let whole = serde_json::to_string(&train(1)).unwrap();
        std::fs::write(&path, format!("{whole}\n{}", &whole[..30])).unwrap();
        assert_eq!(steps(&path), [1]);
        let mut writer = MetricsWriter::resume(&path, 9).unwrap();
        writer.write(&train(2)).unwrap();
        assert_eq!(steps(&path), [1, 2]);
    }

    #[test]
    fn broken_line_in_the_middle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let whole = serde_json::to_string(&train(1)).unwrap();
        std::fs::write(&path, format!("{whole}\nnonsense\n{whole}\n")).unwrap();
        let error = read_metrics(&path).unwrap_err();
        assert!(
            matches!(error, RunError::BadMetric { line: 2, .. }),
            "{error}"
        );
        assert!(
            MetricsWriter::resume(&path, 1).is_err(),
            "nothing is thrown away silently"
        );
    }

    #[test]
    fn loss_that_is_not_a_number_survives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let Row::Train(mut metric) = train(1) else {
            unreachable!()
        };
        metric.loss = f64::NAN;
        MetricsWriter::create(&path)
            .unwrap()
            .write(&Row::Train(metric))
            .unwrap();
        let rows = read_metrics(&path).unwrap();
        assert!(matches!(&rows[0], Row::Train(metric) if metric.loss.is_nan()));
    }
}
