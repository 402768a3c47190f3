//! What commands print.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};

use crate::Failure;

/// Prints a text and a line end on stdout. A reader that has seen enough, as `head` has, is no failure.
pub(crate) fn print(text: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether stdout shows colours: it is a terminal, and `NO_COLOR` does not object.
pub(crate) fn has_colour() -> bool {
    let objects = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !objects
}
