//! Attempts at one reply, with growing pauses between them.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use super::{Gate, Reply, TextError, TextModel, TextRequest};

/// Longest pause that is chosen here.
const LONGEST: Duration = Duration::from_mins(1);
/// Longest pause that a source may ask for; a source that wants more is asked again too early, and may fail.
const LONGEST_ASKED: Duration = Duration::from_mins(10);

/// How often and how patiently a reply is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Attempts at a reply, the first one included; at least 1.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles with each further one, up to a minute, and a random part of up to as much
    /// is added.
    pub first_pause: Duration,
}

/// What came of asking.
#[derive(Debug)]
pub struct Asked {
    /// The reply, or why the last attempt failed.
    pub result: Result<Reply, TextError>,
    /// Attempts that were made.
    pub attempts: u32,
    /// Names of the failures of all attempts, in order.
    pub failures: Vec<String>,
}

/// Asks until there is a reply, patience ends, an attempt fails for good, or the gate closes. What it takes is counted at the
/// gate.
pub async fn ask(
    model: &dyn TextModel,
    request: &TextRequest,
    patience: Patience,
    gate: &Gate,
) -> Asked {
    let mut pauses = ExponentialBuilder::new()
        .with_min_delay(patience.first_pause)
        .with_max_delay(LONGEST)
        .with_max_times(patience.attempts.saturating_sub(1) as usize)
        .with_jitter()
        .build();
    let (mut attempts, mut failures) = (0, Vec::new());
    let result = loop {
        if let Err(stopped) = gate.admit() {
            break Err(stopped);
        }
        attempts += 1;
        let error = match model.write(request, gate).await {
            Ok(reply) => {
                gate.succeeded(reply.usage);
                break Ok(reply);
            }
            Err(TextError::Stopped) => {
                // It was still waiting for its turn: nothing was sent.
                attempts -= 1;
                break Err(TextError::Stopped);
            }
            Err(error) => error,
        };
        failures.push(error.name());
        let Some(pause) = pauses.next().filter(|_| error.is_transient()) else {
            gate.gave_up(&error);
            break Err(error);
        };
        gate.sleep(longer_if_asked(pause, &error)).await;
    };
    Asked {
        result,
        attempts,
        failures,
    }
}

/// The planned pause, or the longer one that the source asks for.
fn longer_if_asked(planned: Duration, error: &TextError) -> Duration {
    let asked = error.retry_after().unwrap_or_default();
    planned.max(asked.min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt;
    use futures_util::future::LocalBoxFuture;

    use super::super::{Closed, Limits, Spent, Usage};
    use super::*;

    /// Fails in the given ways, then replies.
    #[derive(Debug)]
    struct Moody(RefCell<Vec<TextError>>);

    impl TextModel for Moody {
        fn name(&self) -> &'static str {
            "moody"
        }

        fn write<'a>(
            &'a self,
            request: &'a TextRequest,
            _: &'a Gate,
        ) -> LocalBoxFuture<'a, Result<Reply, TextError>> {
            let mood = self.0.borrow_mut().pop();
            let text = request.prompt.clone();
            async move {
                match mood {
                    Some(error) => Err(error),
                    None => Ok(Reply {
                        usage: Usage::estimate(&text, &text),
                        text,
                        cut_off: false,
                    }),
                }
            }
            .boxed_local()
        }
    }

    fn status(status: u16, retry_after: Option<Duration>) -> TextError {
        TextError::Status {
            endpoint: "there".to_owned(),
            status,
            message: String::new(),
            retry_after,
        }
    }

    fn asked(moods: Vec<TextError>, attempts: u32, gate: &Gate) -> (Asked, Duration) {
        let patience = Patience {
            attempts,
            first_pause: Duration::from_millis(1),
        };
        let request = TextRequest {
            prompt: "hello".to_owned(),
            seed: 0,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let start = std::time::Instant::now();
        let model = Moody(RefCell::new(moods));
        let asked = runtime.block_on(ask(&model, &request, patience, gate));
        (asked, start.elapsed())
    }

    fn open() -> Gate {
        Gate::new(Limits::default(), Spent::default())
    }

    #[test]
    fn passing_failures_are_named_and_overcome() {
        let gate = open();
        let timeout = TextError::Timeout {
            endpoint: "there".to_owned(),
            what: "whole reply",
            seconds: 1,
        };
        let (asked, _) = asked(vec![timeout, status(500, None)], 3, &gate);
        assert_eq!(asked.result.unwrap().text, "hello");
        assert_eq!((asked.attempts, gate.spent().requests), (3, 3));
        assert_eq!(asked.failures, ["status 500", "timeout"]);
    }

    #[test]
    fn patience_ends_and_lasting_failures_are_not_repeated() {
        let gate = open();
        let errors = || (0..9).map(|_| status(503, None)).collect();
        let (given_up, _) = asked(errors(), 3, &gate);
        assert_eq!(given_up.result.unwrap_err().name(), "status 503");
        assert_eq!(given_up.attempts, 3);
        let (refused, _) = asked(vec![status(400, None)], 3, &gate);
        assert_eq!((refused.attempts, refused.failures.len()), (1, 1));
        assert_eq!(gate.closed(), None);
        let (denied, _) = asked(vec![status(401, None)], 3, &gate);
        assert_eq!(denied.attempts, 1);
        assert!(matches!(gate.closed(), Some(Closed::Hopeless { .. })));
    }

    #[test]
    fn a_pause_that_is_asked_for_is_kept() {
        let wanted = Duration::from_millis(60);
        let (asked, took) = asked(vec![status(429, Some(wanted))], 2, &open());
        assert!(asked.result.is_ok());
        assert!(took >= wanted, "{took:?}");
    }

    #[test]
    fn a_closed_gate_lets_nothing_through() {
        let limits = Limits {
            requests: Some(1),
            ..Limits::default()
        };
        let gate = Gate::new(limits, Spent::default());
        let (asked, _) = asked(vec![status(500, None)], 5, &gate);
        assert!(matches!(asked.result, Err(TextError::Stopped)));
        assert_eq!((asked.attempts, asked.failures.len()), (1, 1));
    }
}
