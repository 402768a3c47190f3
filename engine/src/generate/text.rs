//! The text of one completion while it grows.

use std::sync::Arc;

use temper_datasets::{DataError, DecodeStream, Tokenizer};

/// Turns ids into text and ends before a stop string.
///
/// Text that may be the beginning of a stop string is held back until it is one or cannot become one.
#[derive(Debug)]
pub(super) struct CompletionText {
    stream: DecodeStream<Arc<Tokenizer>>,
    tokenizer: Arc<Tokenizer>,
    stop: Vec<String>,
    /// Not shown yet.
    held: String,
    shown: String,
}

/// What a token added.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    /// Text to show.
    pub(super) text: String,
    /// Whether a stop string ended the completion.
    pub(super) stopped: bool,
}

impl CompletionText {
    pub(super) fn new(tokenizer: Arc<Tokenizer>, prompt: &[u32], stop: Vec<String>) -> Self {
        // Ids that only the embedding has are no text.
        let known: Vec<u32> = prompt
            .iter()
            .copied()
            .filter(|&id| (id as usize) < tokenizer.vocab_size())
            .collect();
        let stream = DecodeStream::after(Arc::clone(&tokenizer), &known, true);
        Self {
            tokenizer,
            stream,
            stop,
            held: String::new(),
            shown: String::new(),
        }
    }

    /// Takes the next id.
    pub(super) fn push(&mut self, id: u32) -> Result<Piece, DataError> {
        if id as usize >= self.tokenizer.vocab_size() {
            return Ok(Piece::default());
        }
        let new = self.stream.push(id)?.unwrap_or_default();
        Ok(self.take(&new, false))
    }

    /// Shows what was held back; nothing follows.
    pub(super) fn end(&mut self) -> Result<Piece, DataError> {
        let ended = DecodeStream::new(Arc::clone(&self.tokenizer), true);
        let rest = std::mem::replace(&mut self.stream, ended).finish()?;
        Ok(self.take(&rest, true))
    }

    /// All of it.
    pub(super) fn into_text(self) -> String {
        self.shown
    }

    fn take(&mut self, new: &str, last: bool) -> Piece {
        self.held.push_str(new);
        let (length, stopped) = match first_match(&self.held, &self.stop) {
            Some(at) => (at, true),
            None if last => (self.held.len(), false),
            None => (
                self.held.len() - possible_start(&self.held, &self.stop),
                false,
            ),
        };
        let text: String = self.held.drain(..length).collect();
        if stopped {
            self.held.clear();
        }
        self.shown.push_str(&text);
        Piece { text, stopped }
    }
}

/// Where the earliest stop string begins.
fn first_match(text: &str, stop: &[String]) -> Option<usize> {
    stop.iter().filter_map(|stop| text.find(stop)).min()
}

/// Bytes at the end of `text` that may be the beginning of a stop string.
fn possible_start(text: &str, stop: &[String]) -> usize {
    let begins = |tail: &str| stop.iter().any(|stop| stop.starts_with(tail));
    text.char_indices()
        .find(|&(at, _)| begins(&text[at..]))
        .map_or(0, |(at, _)| text.len() - at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&str], stop: &[&str]) -> (Vec<String>, bool) {
        let tokenizer = Tokenizer::load(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../assets/stories260k"
        ))
        .unwrap();
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        let mut text = CompletionText::new(Arc::new(tokenizer), &[1], stop);
        let mut out = Vec::new();
        for piece in pieces {
            let piece = text.take(piece, false);
            out.push(piece.text);
            if piece.stopped {
                return (out, true);
            }
        }
        out.push(text.take("", true).text);
        (out, false)
    }

    #[test]
    fn a_stop_string_over_several_pieces_is_never_shown() {
        let (out, stopped) = shown(&["one #", "#", "# two"], &["###"]);
        assert_eq!((out.concat().as_str(), stopped), ("one ", true));
        assert_eq!(
            out[0], "one ",
            "text before a possible beginning is shown at once"
        );
    }

    #[test]
    fn what_was_no_stop_string_is_shown_after_all() {
        let (out, stopped) = shown(&["a\n", "b\n\n", "c\n"], &["\n\n\n", "é"]);
        assert_eq!((out.concat().as_str(), stopped), ("a\nb\n\nc\n", false));
        assert_eq!(out, ["a", "\nb", "\n\nc", "\n"]);
    }

    #[test]
    fn the_earliest_of_several_stop_strings_wins() {
        let (out, _) = shown(&["x END y STOP"], &["STOP", "END"]);
        assert_eq!(out, ["x "]);
    }
}
