//! `temper bootstrap`: the real binary against a small server that behaves or misbehaves on request.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "cli_bootstrap/budget.rs"]
mod budget;
#[path = "cli_bootstrap/faults.rs"]
mod faults;
#[path = "cli_bootstrap/interrupted.rs"]
mod interrupted;
#[path = "cli_bootstrap/own_engine.rs"]
mod own_engine;
#[path = "cli_bootstrap/questions.rs"]
mod questions;
#[path = "cli_bootstrap/results.rs"]
mod results;
#[path = "cli_bootstrap/server.rs"]
mod server;
#[path = "cli_bootstrap/serving.rs"]
mod serving;
#[path = "cli_bootstrap/support.rs"]
mod support;
