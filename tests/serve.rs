//! `temper serve` as clients meet it: the real binary on a port of the loopback interface.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[path = "serve/adapters.rs"]
mod adapters;
#[cfg(test)]
#[path = "serve/answers.rs"]
mod answers;
#[cfg(all(test, unix))]
#[path = "serve/endings.rs"]
mod endings;
#[cfg(test)]
#[path = "serve/limits.rs"]
mod limits;
#[cfg(test)]
#[path = "serve/refusals.rs"]
mod refusals;
#[cfg(test)]
#[path = "serve/streams.rs"]
mod streams;
#[cfg(test)]
#[path = "serve/support.rs"]
mod support;
