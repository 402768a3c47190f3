//! One file a command: its arguments and what it does.

pub(crate) mod ablate;
pub(crate) mod bootstrap;
pub(crate) mod convert;
pub(crate) mod data;
pub(crate) mod devices;
pub(crate) mod energy;
pub(crate) mod eval;
pub(crate) mod forward;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod merge;
pub(crate) mod output;
pub(crate) mod recipe;
mod report;
pub(crate) mod sample;
pub(crate) mod serve;
pub(crate) mod tokenize;
pub(crate) mod train;
pub(crate) mod verify;
