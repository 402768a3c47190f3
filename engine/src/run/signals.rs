//! Interruption with grace: the first signal asks, the second one insists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

use super::RunError;

/// The signals a run listens to while this value lives.
///
/// | signal | effect |
/// |---|---|
/// | first `SIGINT`, `SIGTERM` or, on Linux, `SIGHUP` that is not ignored as under `nohup` | [`Self::stop_requested`] answers: finish the step, save, leave |
/// | another one a second later or more | the process ends at once with 128 and its number |
/// | `SIGUSR1` (not on Windows) | [`Self::take_save_request`] answers once: save and go on |
///
/// ```
/// use temper_engine::run::Signals;
///
/// let signals = Signals::install()?;
/// for step in 0..3 {
///     // ... train ...
///     if signals.take_save_request() { /* save and go on */ }
///     if let Some(signal) = signals.stop_requested() {
///         // save, then leave with `Signals::exit_code(signal)`
///         break;
///     }
/// }
/// # Ok::<(), temper_engine::run::RunError>(())
/// ```
#[derive(Debug)]
pub struct Signals {
    stop: Arc<AtomicUsize>,
    save: Arc<AtomicBool>,
    registered: Vec<SigId>,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// [`RunError::Signal`] if the system refuses a handler.
    pub fn install() -> Result<Self, RunError> {
        let mut signals = Self {
            stop: Arc::default(),
            save: Arc::default(),
            registered: Vec::new(),
        };
        let armed = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM].into_iter().chain(hang_up()) {
            let fail = |source| RunError::Signal { signal, source };
            let exit = flag::register_conditional_shutdown(
                signal,
                Self::exit_code(signal),
                Arc::clone(&armed),
            );
            signals.registered.push(exit.map_err(fail)?);
            let stop = Arc::clone(&signals.stop);
            let stop = flag::register_usize(signal, stop, signal.unsigned_abs() as usize);
            signals.registered.push(stop.map_err(fail)?);
        }
        signals.listen_for_save()?;
        arm(&signals.stop, armed);
        Ok(signals)
    }

    #[cfg(unix)]
    fn listen_for_save(&mut self) -> Result<(), RunError> {
        let signal = signal_hook::consts::SIGUSR1;
        let registered = flag::register(signal, Arc::clone(&self.save));
        self.registered
            .push(registered.map_err(|source| RunError::Signal { signal, source })?);
        Ok(())
    }

    #[cfg(not(unix))]
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "same shape as on Unix"
    )]
    fn listen_for_save(&mut self) -> Result<(), RunError> {
        Ok(())
    }

    /// The number of the signal that asked to stop, if one did.
    pub fn stop_requested(&self) -> Option<i32> {
        match self.stop.load(Ordering::SeqCst) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }

    /// Whether saving was asked for since the last call.
    pub fn take_save_request(&self) -> bool {
        self.save.swap(false, Ordering::SeqCst)
    }

    /// The exit code shells give to a process ended by `signal`: 130 for `SIGINT`, 143 for `SIGTERM`, 129 for `SIGHUP`.
    pub fn exit_code(signal: i32) -> i32 {
        128 + signal
    }
}

/// Lets a second signal insist, a second after the first: `timeout` and batch systems send the same one to a process and to its group
/// at once, and that must not cost what is about to be saved. Ends with the [`Signals`] that hold `stop`.
fn arm(stop: &Arc<AtomicUsize>, armed: Arc<AtomicBool>) {
    const LOOK: Duration = Duration::from_millis(100);
    const APART: Duration = Duration::from_secs(1);
    let stop = Arc::downgrade(stop);
    std::thread::spawn(move || {
        while let Some(stop) = stop.upgrade() {
            if stop.load(Ordering::SeqCst) != 0 {
                std::thread::sleep(APART);
                armed.store(true, Ordering::SeqCst);
                return;
            }
            drop(stop);
            std::thread::sleep(LOOK);
        }
    });
}

/// `SIGHUP`, which a closed terminal sends, unless whoever started the process had it ignored.
#[cfg(target_os = "linux")]
fn hang_up() -> Option<i32> {
    use signal_hook::consts::SIGHUP;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    let ignored = u64::from_str_radix(ignored.trim(), 16).ok()?;
    (ignored & (1 << (SIGHUP - 1)) == 0).then_some(SIGHUP)
}

/// Elsewhere nothing says whether it is ignored.
#[cfg(not(target_os = "linux"))]
fn hang_up() -> Option<i32> {
    None
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            low_level::unregister(id);
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn save_request_is_taken_once() {
        let signals = Signals::install().unwrap();
        assert!(!signals.take_save_request());
        low_level::raise(signal_hook::consts::SIGUSR1).unwrap();
        assert!(signals.take_save_request());
        assert!(!signals.take_save_request());
        assert_eq!(signals.stop_requested(), None);
    }

    /// Not a test: the process that receives the signals.
    #[test]
    #[ignore = "helper process of `first_signal_asks_and_second_one_ends_the_process`"]
    fn child_receives_signals() {
        if std::env::var_os("TEMPER_TEST_SIGNALS").is_none() {
            return;
        }
        let signals = Signals::install().unwrap();
        low_level::raise(SIGINT).unwrap();
        println!("asked {:?}", signals.stop_requested());
        low_level::raise(SIGINT).unwrap();
        println!("sent twice at once");
        std::thread::sleep(Duration::from_millis(1500));
        low_level::raise(SIGTERM).unwrap();
        println!("still here");
    }

    #[test]
    fn first_signal_asks_and_second_one_ends_the_process() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "child_receives_signals"])
            .env("TEMPER_TEST_SIGNALS", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Vec<String> = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .collect();
        assert_eq!(child.wait().unwrap().code(), Some(143));
        assert!(
            lines.iter().any(|line| line.ends_with("asked Some(2)")),
            "{lines:?}"
        );
        assert!(
            lines
                .iter()
                .any(|line| line.ends_with("sent twice at once")),
            "{lines:?}"
        );
        assert!(
            !lines.iter().any(|line| line.contains("still here")),
            "{lines:?}"
        );
    }
}
