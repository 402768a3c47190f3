//! How fast an endpoint may be asked: so many requests and tokens a minute, and not before it wants to be asked again.

use std::time::{Duration, Instant};

/// When the next request may be sent.
#[derive(Debug)]
pub(super) struct Pace {
    requests: Option<Lane>,
    tokens: Option<Lane>,
    held_until: Instant,
}

/// A thing of which there is so much a minute: each unit takes its time, one after another.
#[derive(Debug)]
struct Lane {
    per_unit: f64,
    /// Seconds after `begin` at which everything reserved so far has passed.
    free_at: f64,
    begin: Instant,
}

impl Pace {
    pub(super) fn new(requests: Option<u32>, tokens: Option<u32>, begin: Instant) -> Self {
        let lane = |per_minute: u32| Lane {
            per_unit: 60.0 / f64::from(per_minute),
            free_at: 0.0,
            begin,
        };
        Self {
            requests: requests.map(lane),
            tokens: tokens.map(lane),
            held_until: begin,
        }
    }

    /// Takes the next place for a request of about so many tokens; returns how far away it is.
    pub(super) fn reserve(&mut self, tokens: u64, now: Instant) -> Duration {
        let by_requests = self.requests.as_mut().map(|lane| lane.reserve(1, now));
        let by_tokens = self.tokens.as_mut().map(|lane| lane.reserve(tokens, now));
        let waits = [by_requests, by_tokens, Some(self.held(now))];
        waits.into_iter().flatten().max().unwrap_or_default()
    }

    /// Settles the difference to what a request really took.
    pub(super) fn correct(&mut self, expected: u64, spent: u64) {
        if let Some(lane) = &mut self.tokens {
            lane.free_at += (spent as f64 - expected as f64) * lane.per_unit;
        }
    }

    /// Nobody asks before `until`.
    pub(super) fn hold(&mut self, until: Instant) {
        self.held_until = self.held_until.max(until);
    }

    /// How long nobody asks.
    pub(super) fn held(&self, now: Instant) -> Duration {
        self.held_until.saturating_duration_since(now)
    }
}

impl Lane {
    fn reserve(&mut self, units: u64, now: Instant) -> Duration {
        let now = now.saturating_duration_since(self.begin).as_secs_f64();
        let start = self.free_at.max(now);
        self.free_at = start + units as f64 * self.per_unit;
        Duration::from_secs_f64(start - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spread_over_the_minute() {
        let begin = Instant::now();
        let mut pace = Pace::new(Some(60), None, begin);
        let waits: Vec<u64> = (0..4).map(|_| pace.reserve(999, begin).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 3]);
        let later = begin + Duration::from_secs(100);
        assert_eq!(
            pace.reserve(999, later),
            Duration::ZERO,
            "time unused is not saved up"
        );
        assert_eq!(pace.reserve(999, later), Duration::from_secs(1));
    }

    #[test]
    fn tokens_are_counted_as_they_turn_out() {
        let begin = Instant::now();
        let mut pace = Pace::new(None, Some(600), begin);
        assert_eq!(pace.reserve(100, begin), Duration::ZERO);
        assert_eq!(pace.reserve(100, begin), Duration::from_secs(10));
        pace.correct(100, 300);
        assert_eq!(pace.reserve(100, begin), Duration::from_secs(40));
        pace.correct(100, 0);
        assert_eq!(pace.reserve(100, begin), Duration::from_secs(40));
    }

    #[test]
    fn an_endpoint_that_wants_rest_gets_it_from_all() {
        let begin = Instant::now();
        let mut pace = Pace::new(None, None, begin);
        pace.hold(begin + Duration::from_secs(7));
        pace.hold(begin + Duration::from_secs(3));
        assert_eq!(pace.reserve(1, begin), Duration::from_secs(7));
        assert_eq!(pace.held(begin + Duration::from_secs(8)), Duration::ZERO);
    }
}
