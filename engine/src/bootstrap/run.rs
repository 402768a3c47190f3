//! All units of a run, some at a time, until they are done or the gate closes.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::time::MissedTickBehavior;

use super::BootstrapError;
use super::plan::Unit;
use super::unit::Workshop;
use crate::run::{Progress, Signals, Verbosity};
use crate::text_model::Closed;
use crate::train::grouped;

/// How often signals are looked for.
const TICK: Duration = Duration::from_millis(50);
/// How long requests under way may take to end after a signal.
const GRACE: Duration = Duration::from_secs(10);

/// Makes all units. What was not made is missing from the journal and nowhere else.
pub(super) fn make_all(
    workshop: &Workshop<'_>,
    units: &[Unit],
    concurrency: usize,
    verbosity: Verbosity,
) -> Result<(), BootstrapError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| BootstrapError::Runtime { source })?;
    let signals = Signals::install()?;
    let progress = Progress::new("bootstrap", units.len() as u64, verbosity);
    let mut watch = Watch {
        workshop,
        signals,
        progress,
        done: 0,
        deadline: None,
    };
    runtime.block_on(watch.make_all(units, concurrency))
}

struct Watch<'a> {
    workshop: &'a Workshop<'a>,
    signals: Signals,
    progress: Progress,
    done: u64,
    /// When requests under way are no longer waited for.
    deadline: Option<Instant>,
}

impl Watch<'_> {
    async fn make_all(&mut self, units: &[Unit], concurrency: usize) -> Result<(), BootstrapError> {
        let workshop = self.workshop;
        let open = units
            .iter()
            .take_while(|_| workshop.gate.closed().is_none());
        let mut running = stream::iter(open)
            .map(|unit| workshop.make(*unit))
            .buffer_unordered(concurrency);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                made = running.next() => match made {
                    Some(made) => {
                        made?;
                        self.count();
                    }
                    None => return Ok(()),
                },
                _ = tick.tick() => self.look_for_signals(),
            }
            if self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Ok(());
            }
        }
    }

    fn count(&mut self) {
        if self.workshop.gate.closed().is_some() {
            return;
        }
        self.done += 1;
        let spent = self.workshop.gate.spent();
        let (requests, tokens) = (grouped(spent.requests), grouped(spent.tokens()));
        self.progress
            .update(self.done, &format!("{requests} requests, {tokens} tokens"));
    }

    fn look_for_signals(&mut self) {
        if let (Some(signal), None) = (self.signals.stop_requested(), self.deadline) {
            self.workshop.gate.close(Closed::Signal(signal));
            self.deadline = Some(Instant::now() + GRACE);
            self.progress.note(
                "stopping: waiting up to 10 s for the requests under way; signal again to leave at once",
            );
        }
    }
}
