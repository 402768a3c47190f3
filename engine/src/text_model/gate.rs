//! Whether more may be asked: what was spent, what may be, and what ended it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{TextError, Usage};

/// What may be spent, and how many failures in a row are too many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Most requests.
    pub requests: Option<u64>,
    /// Most tokens, prompts and replies together.
    pub tokens: Option<u64>,
    /// Most money.
    pub price: Option<f64>,
    /// Price of a million prompt tokens.
    pub prompt_price: f64,
    /// Price of a million reply tokens.
    pub reply_price: f64,
    /// Replies given up in a row that end the run.
    pub failures_in_a_row: Option<u32>,
}

/// What was spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Attempts, failed ones included.
    pub requests: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of replies.
    pub reply_tokens: u64,
}

impl Spent {
    /// Adds what one reply took.
    pub fn add(&mut self, usage: Usage) {
        self.prompt_tokens += usage.prompt_tokens;
        self.reply_tokens += usage.reply_tokens;
    }

    /// Prompts and replies together.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.reply_tokens)
    }
}

impl Limits {
    /// What `spent` costs.
    pub fn price_of(&self, spent: Spent) -> f64 {
        (spent.prompt_tokens as f64 * self.prompt_price
            + spent.reply_tokens as f64 * self.reply_price)
            / 1e6
    }

    /// The limit that is reached, in words.
    fn reached(&self, spent: Spent) -> Option<Closed> {
        let price = self.price_of(spent);
        if self.requests.is_some_and(|most| spent.requests >= most) {
            Some(Closed::Budget("max_requests"))
        } else if self.tokens.is_some_and(|most| spent.tokens() >= most) {
            Some(Closed::Budget("max_tokens"))
        } else if self.price.is_some_and(|most| price >= most) {
            Some(Closed::Budget("max_price"))
        } else {
            None
        }
    }
}

/// What closed a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// A limit of the budget was reached: the key that sets it.
    Budget(&'static str),
    /// Too many replies in a row were given up; the last one's reason.
    Failures {
        /// How many.
        count: u32,
        /// Why the last one was.
        last: String,
    },
    /// An answer that leaves no hope for any other request.
    Hopeless {
        /// The answer.
        error: String,
        /// What to do.
        hint: &'static str,
    },
    /// A signal.
    Signal(i32),
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Budget(key) => write!(f, "budget.{key}"),
            Self::Failures { count, last } => write!(f, "{count} failures in a row: {last}"),
            Self::Hopeless { error, .. } => f.write_str(error),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Counts what is spent and closes when it is enough. Once closed it stays closed, for its first reason.
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    state: Mutex<State>,
    closing: Notify,
}

#[derive(Debug)]
struct State {
    spent: Spent,
    failures: u32,
    closed: Option<Closed>,
}

impl Gate {
    /// A gate that has let `spent` through in earlier processes.
    pub fn new(limits: Limits, spent: Spent) -> Self {
        let closed = limits.reached(spent);
        Self {
            limits,
            state: Mutex::new(State {
                spent,
                failures: 0,
                closed,
            }),
            closing: Notify::new(),
        }
    }

    /// Counts one more request.
    ///
    /// # Errors
    /// [`TextError::Stopped`] if the gate is closed, or closes because no request is left.
    pub fn admit(&self) -> Result<(), TextError> {
        let mut state = self.state();
        if state.closed.is_none() {
            match self.limits.reached(state.spent) {
                None => {
                    state.spent.requests += 1;
                    return Ok(());
                }
                reached => self.shut(&mut state, reached),
            }
        }
        Err(TextError::Stopped)
    }

    /// Counts a reply.
    pub fn succeeded(&self, usage: Usage) {
        let mut state = self.state();
        state.failures = 0;
        state.spent.add(usage);
        let reached = self.limits.reached(state.spent);
        self.shut(&mut state, reached);
    }

    /// Counts a reply that was given up.
    pub fn gave_up(&self, error: &TextError) {
        let mut state = self.state();
        state.failures += 1;
        let count = state.failures;
        let too_many = self
            .limits
            .failures_in_a_row
            .is_some_and(|most| count >= most);
        let reason = match error.hopeless() {
            Some(hint) => Some(Closed::Hopeless {
                error: error.to_string(),
                hint,
            }),
            None => too_many.then(|| Closed::Failures {
                count,
                last: error.to_string(),
            }),
        };
        self.shut(&mut state, reason);
    }

    /// Closes.
    pub fn close(&self, reason: Closed) {
        let mut state = self.state();
        self.shut(&mut state, Some(reason));
    }

    /// Why it is closed; `None` while it is open.
    pub fn closed(&self) -> Option<Closed> {
        self.state().closed.clone()
    }

    /// What was spent so far, earlier processes included.
    pub fn spent(&self) -> Spent {
        self.state().spent
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits; less long if the gate closes.
    pub async fn sleep(&self, duration: Duration) {
        let closing = self.closing.notified();
        if duration.is_zero() || self.closed().is_some() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = closing => {}
        }
    }

    fn shut(&self, state: &mut State, reason: Option<Closed>) {
        if state.closed.is_none() && reason.is_some() {
            state.closed = reason;
            self.closing.notify_waiters();
        }
    }

    /// Counters cannot be left half changed, so a poisoned lock is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: u64, reply_tokens: u64) -> Usage {
        Usage {
            prompt_tokens,
            reply_tokens,
            estimated: false,
        }
    }

    #[test]
    fn requests_are_never_more_than_allowed() {
        let limits = Limits {
            requests: Some(3),
            ..Limits::default()
        };
        let gate = Gate::new(limits.clone(), Spent::default());
        let admitted = (0..9).filter(|_| gate.admit().is_ok()).count();
        assert_eq!((admitted, gate.spent().requests), (3, 3));
        assert_eq!(gate.closed(), Some(Closed::Budget("max_requests")));
        let later = Gate::new(limits, gate.spent());
        assert!(
            later.admit().is_err(),
            "what earlier processes spent counts"
        );
    }

    #[test]
    fn tokens_and_money_close_the_gate_when_they_are_used_up() {
        let tokens = Limits {
            tokens: Some(100),
            ..Limits::default()
        };
        let gate = Gate::new(tokens, Spent::default());
        gate.succeeded(usage(60, 39));
        assert!(gate.admit().is_ok());
        gate.succeeded(usage(1, 0));
        assert_eq!(gate.closed(), Some(Closed::Budget("max_tokens")));
        let money = Limits {
            price: Some(2.0),
            prompt_price: 1.0,
            reply_price: 10.0,
            ..Limits::default()
        };
        let gate = Gate::new(money, Spent::default());
        gate.succeeded(usage(1_000_000, 99_999));
        assert_eq!(gate.closed(), None);
        gate.succeeded(usage(0, 1));
        assert_eq!(gate.closed(), Some(Closed::Budget("max_price")));
    }

    #[test]
    fn failures_in_a_row_close_the_gate_and_a_success_forgets_them() {
        let limits = Limits {
            failures_in_a_row: Some(2),
            ..Limits::default()
        };
        let gate = Gate::new(limits, Spent::default());
        let failure = TextError::TooLong {
            endpoint: "x".to_owned(),
            limit: 1,
        };
        gate.gave_up(&failure);
        gate.succeeded(usage(1, 1));
        gate.gave_up(&failure);
        assert_eq!(gate.closed(), None);
        gate.gave_up(&failure);
        assert!(matches!(
            gate.closed(),
            Some(Closed::Failures { count: 2, .. })
        ));
        gate.close(Closed::Signal(2));
        assert!(
            matches!(gate.closed(), Some(Closed::Failures { .. })),
            "the first reason stays"
        );
    }

    #[test]
    fn sleepers_wake_when_the_gate_closes() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let gate = Gate::new(Limits::default(), Spent::default());
        let start = std::time::Instant::now();
        runtime.block_on(async {
            let close = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                gate.close(Closed::Signal(15));
            };
            tokio::join!(gate.sleep(Duration::from_mins(5)), close);
            gate.sleep(Duration::from_mins(5)).await;
        });
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
