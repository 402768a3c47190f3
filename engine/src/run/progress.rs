//! How far a long thing is, on stderr.
//!
//! On a terminal a bar; elsewhere plain lines, few enough for a log file; in silent mode nothing.
//! No colours, so there is nothing for `NO_COLOR` to switch off.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Whether progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verbosity {
    /// As the module says.
    #[default]
    Normal,
    /// Not at all.
    Silent,
}

/// Progress of one thing.
///
/// ```
/// use temper_engine::run::{Progress, Verbosity};
///
/// let mut progress = Progress::new("train", 100, Verbosity::Silent).starting_at(40);
/// progress.step(41, 1.25, "5000 tokens/s");
/// progress.update(42, "loss 1.2");
/// progress.finish();
/// ```
#[derive(Debug)]
pub struct Progress {
    label: String,
    total: u64,
    start: u64,
    begin: Instant,
    unit: Unit,
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Steps,
    Bytes,
}

#[derive(Debug)]
enum Output {
    Silent,
    Bar(ProgressBar),
    Plain(Pace),
}

impl Progress {
    /// Counts from 0 to `total` things.
    pub fn new(label: &str, total: u64, verbosity: Verbosity) -> Self {
        Self::with_unit(label, total, verbosity, Unit::Steps)
    }

    /// Counts bytes; `total` is 0 if unknown.
    pub fn bytes(label: &str, total: u64, verbosity: Verbosity) -> Self {
        Self::with_unit(label, total, verbosity, Unit::Bytes)
    }

    fn with_unit(label: &str, total: u64, verbosity: Verbosity, unit: Unit) -> Self {
        let output = match verbosity {
            Verbosity::Silent => Output::Silent,
            Verbosity::Normal if std::io::stderr().is_terminal() => {
                Output::Bar(bar(label, total, unit))
            }
            Verbosity::Normal => Output::Plain(Pace::default()),
        };
        Self {
            label: label.to_owned(),
            total,
            start: 0,
            begin: Instant::now(),
            unit,
            output,
        }
    }

    /// Begins in the middle, so that the remaining time counts only what this process did.
    #[must_use]
    pub fn starting_at(mut self, position: u64) -> Self {
        self.start = position;
        if let Output::Bar(bar) = &self.output {
            bar.set_position(position);
            bar.reset_eta();
        }
        self
    }

    /// Reports a training step.
    pub fn step(&mut self, step: u64, loss: f64, speed: &str) {
        if self.is_shown() {
            self.update(step, &format!("loss {loss:.4}, {speed}"));
        }
    }

    /// Reports any position, with a few words.
    pub fn update(&mut self, position: u64, message: &str) {
        let elapsed = self.begin.elapsed();
        match &mut self.output {
            Output::Silent => {}
            Output::Bar(bar) => {
                bar.set_position(position);
                if !message.is_empty() {
                    bar.set_message(format!(", {message}"));
                }
            }
            Output::Plain(pace) => {
                if pace.is_due(fraction(position, self.total), elapsed) {
                    note(&self.line(position, message, elapsed));
                }
            }
        }
    }

    /// Prints a line without disturbing the bar. Silent mode hides it.
    pub fn note(&self, text: &str) {
        match &self.output {
            Output::Silent => {}
            Output::Bar(bar) => bar.suspend(|| note(text)),
            Output::Plain(_) => note(text),
        }
    }

    /// Leaves the last state on the screen.
    pub fn finish(&mut self) {
        if let Output::Bar(bar) = &self.output {
            bar.abandon();
        }
    }

    fn is_shown(&self) -> bool {
        !matches!(self.output, Output::Silent)
    }

    fn line(&self, position: u64, message: &str, elapsed: Duration) -> String {
        use std::fmt::Write as _;
        let mut line = match (self.unit, self.total) {
            (Unit::Steps, 0) => format!("{}: {position}", self.label),
            (Unit::Steps, total) => format!("{}: {position}/{total}", self.label),
            (Unit::Bytes, 0) => format!("{}: {}", self.label, megabytes(position)),
            (Unit::Bytes, total) => {
                format!(
                    "{}: {} of {}",
                    self.label,
                    megabytes(position),
                    megabytes(total)
                )
            }
        };
        if let Some(fraction) = fraction(position, self.total) {
            let _ = write!(line, " ({:.0} %)", fraction * 100.0);
        }
        if !message.is_empty() {
            let _ = write!(line, ", {message}");
        }
        let done = position.saturating_sub(self.start);
        let left = self.total.saturating_sub(position);
        // The first thing warms caches up and tells little of the others.
        if done > 1 && left > 0 {
            let seconds = elapsed.as_secs_f64() / done as f64 * left as f64;
            let _ = write!(line, ", {} left", duration(seconds));
        }
        line
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Prints one line on stderr. A closed stderr is no reason to end a run.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// The text with control characters written out, so that a file's name cannot command the terminal. Line ends and tabs stay.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if commands(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn bar(label: &str, total: u64, unit: Unit) -> ProgressBar {
    let template = match unit {
        Unit::Steps => "{prefix} [{bar:30}] {pos}/{len}{msg}, {eta} left",
        Unit::Bytes => "{prefix} [{bar:30}] {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
    };
    let style = ProgressStyle::with_template(template).map_or_else(
        |_| ProgressStyle::default_bar(),
        |style| style.progress_chars("=> "),
    );
    ProgressBar::new(total)
        .with_style(style)
        .with_prefix(label.to_owned())
}

/// When the next plain line is due: at the first report, at the end, after each tenth but not in a
/// hurry, and at least twice a minute.
#[derive(Debug, Default)]
struct Pace {
    last: Option<(f64, Duration)>,
}

impl Pace {
    fn is_due(&mut self, fraction: Option<f64>, elapsed: Duration) -> bool {
        let fraction = fraction.unwrap_or(0.0);
        let due = self.last.is_none_or(|(last_fraction, last_time)| {
            let pause = elapsed.saturating_sub(last_time);
            (fraction >= 1.0 && last_fraction < 1.0)
                || (fraction - last_fraction >= 0.1 - 1e-9 && pause >= Duration::from_secs(2))
                || pause >= Duration::from_secs(30)
        });
        if due {
            self.last = Some((fraction, elapsed));
        }
        due
    }
}

fn fraction(position: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| position.min(total) as f64 / total as f64)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(total: u64, unit: Unit) -> Progress {
        let output = Output::Plain(Pace::default());
        Progress {
            label: "train".to_owned(),
            total,
            start: 0,
            begin: Instant::now(),
            unit,
            output,
        }
    }

    #[test]
    fn plain_line_tells_position_loss_and_remaining_time() {
        let progress = plain(400, Unit::Steps).starting_at(20);
        let line = progress.line(40, "loss 1.25", Duration::from_secs(20));
        assert_eq!(line, "train: 40/400 (10 %), loss 1.25, 6 min 00 s left");
        let line = progress.line(21, "loss 1.25", Duration::from_secs(20));
        assert_eq!(line, "train: 21/400 (5 %), loss 1.25");
        let line = progress.line(400, "", Duration::from_secs(400));
        assert_eq!(line, "train: 400/400 (100 %)");
        let line = plain(0, Unit::Bytes).line(2_500_000, "", Duration::ZERO);
        assert_eq!(line, "train: 2.5 MB");
    }

    #[test]
    fn plain_lines_are_few() {
        let mut pace = Pace::default();
        let mut due = |percent: u32, seconds| {
            pace.is_due(
                Some(f64::from(percent) / 100.0),
                Duration::from_secs(seconds),
            )
        };
        assert!(due(1, 0), "the first report");
        assert!(!due(5, 10));
        assert!(due(11, 12), "a tenth later");
        assert!(!due(50, 13), "not in a hurry");
        assert!(due(12, 43), "half a minute later");
        assert!(due(100, 43), "the end");
        assert!(!due(100, 44), "the end once");
    }

    #[test]
    fn names_of_files_cannot_command_the_terminal() {
        let name = "`dog\u{1b}[2J\r.png`\n\tü";
        assert_eq!(printable(name), "`dog\\u{1b}[2J\\r.png`\n\tü");
        assert!(matches!(printable("plain\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(7.4), "7 s");
        assert_eq!(duration(3661.0), "1 h 01 min");
    }
}
