//! What commands print.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;

use crate::Failure;

/// Prints a text and a line end on stdout. A reader that has seen enough, as `head` has, is no failure.
pub(crate) fn print(text: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Refuses to write over a file that the command reads, or over one in a directory that it reads.
pub(crate) fn refuse_input<'a>(
    output: &Path,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), Failure> {
    let real = |path: &Path| path.canonicalize().ok();
    // What is not there cannot be lost.
    let Some(found) = real(output) else {
        return Ok(());
    };
    for input in inputs {
        if real(input).is_some_and(|input| found.starts_with(input)) {
            let message = format!(
                "--output is `{}`, which belongs to the input `{}` and would be lost",
                output.display(),
                input.display()
            );
            return Err(Failure::usage(message).with_hint("give --output another name"));
        }
    }
    Ok(())
}

/// Whether stdout shows colours: it is a terminal, and `NO_COLOR` does not object.
pub(crate) fn has_colour() -> bool {
    let objects = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_over_an_input_or_within_an_input_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("model")).unwrap();
        for name in ["model/weights", "input", "other"] {
            std::fs::write(at(name), "x").unwrap();
        }
        let (model, input) = (at("model"), at("input"));
        let check = |name: &str| refuse_input(&at(name), [model.as_path(), &input]);
        for lost in ["model/weights", "input", "model/../input"] {
            let said = check(lost).unwrap_err().to_string();
            assert!(said.contains("would be lost"), "{lost}: {said}");
        }
        for kept in ["other", "model/new", "nowhere/new"] {
            assert!(check(kept).is_ok(), "{kept}");
        }
    }
}
