//! An answer as server-sent events: chunk by chunk, then `[DONE]`.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde_json::Value;

use super::api::Answer;
use super::generation::{Generation, Next};

/// Sends the answer as it grows. A client that goes away drops the stream, and with it the generation.
pub(super) fn stream(
    generation: Generation,
    answer: Answer,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let opening = (0..generation.answers()).filter_map(|index| answer.opening(index));
    let chunks = Chunks {
        ready: opening.map(|chunk| chunk.to_string()).collect(),
        source: Some(generation),
        answer,
    };
    let events = unfold(chunks, |mut chunks| async {
        let chunk = chunks.next().await?;
        Some((Ok(Event::default().data(chunk)), chunks))
    });
    // Comments while nothing happens, so that nobody in between takes the connection for dead.
    Sse::new(events).keep_alive(KeepAlive::default())
}

struct Chunks {
    ready: VecDeque<String>,
    /// `None` after the end.
    source: Option<Generation>,
    answer: Answer,
}

impl Chunks {
    async fn next(&mut self) -> Option<String> {
        while self.ready.is_empty() {
            let chunk = match self.source.as_mut()?.next().await {
                Ok(Next::Text(index, text)) => self.answer.piece(index, &text),
                Ok(Next::Done(index, completion)) => self.answer.closing(index, completion.finish),
                Ok(Next::Finished) => {
                    self.finish();
                    continue;
                }
                // Too late for a status: clients look for `error`, and for the missing `[DONE]`.
                Err(error) => {
                    self.source = None;
                    error.to_json()
                }
            };
            self.ready.push_back(chunk.to_string());
        }
        self.ready.pop_front()
    }

    fn finish(&mut self) {
        let usage = self.source.take().map(|generation| generation.usage());
        let counting = usage.and_then(|usage| self.answer.counting(usage));
        self.ready.extend(counting.as_ref().map(Value::to_string));
        self.ready.push_back("[DONE]".to_owned());
    }
}
