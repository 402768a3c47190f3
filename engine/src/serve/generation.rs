//! One request while it is being answered.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout_at;

use super::App;
use super::api::{ApiError, Usage};
use super::worker::{Command, News, Report, Start, Ticket};
use crate::generate::{Completion, Request};

/// The sequences of one request. When it is dropped, because the answer is complete, the client has gone or time is up,
/// those that still run are cancelled.
#[derive(Debug)]
pub(crate) struct Generation {
    app: Arc<App>,
    model: usize,
    news: UnboundedReceiver<(usize, News)>,
    tickets: Vec<Ticket>,
    /// Sequences that have not ended.
    left: usize,
    usage: Usage,
    since: Instant,
}

/// What happens next.
#[derive(Debug)]
pub(crate) enum Next {
    /// More text of an answer.
    Text(usize, String),
    /// The end of an answer.
    Done(usize, Completion),
    /// The end of all.
    Finished,
}

impl Generation {
    /// Hands the sequences to the engine.
    ///
    /// # Errors
    /// 429 when there is no place for all of them, 503 when the engine is gone.
    pub(crate) fn start(
        app: &Arc<App>,
        model: usize,
        requests: Vec<Request>,
        prompt_tokens: usize,
        since: Instant,
    ) -> Result<Self, ApiError> {
        let places = app.places(model, requests.len())?;
        let (sender, news) = unbounded_channel();
        let mut generation = Self {
            app: Arc::clone(app),
            model,
            news,
            tickets: Vec::with_capacity(requests.len()),
            left: requests.len(),
            usage: Usage {
                prompt: prompt_tokens,
                completion: 0,
            },
            since,
        };
        for (index, (request, place)) in requests.into_iter().zip(places).enumerate() {
            let ticket = app.next_ticket();
            let report = Report {
                index,
                sender: sender.clone(),
                since,
                _place: place,
            };
            let start = Start {
                ticket,
                model,
                request,
                report,
            };
            generation.tickets.push(ticket);
            let sent = app.commands.send(Command::Start(Box::new(start)));
            sent.map_err(|_| ApiError::internal("the engine has ended"))?;
        }
        Ok(generation)
    }

    /// Waits for what happens next.
    ///
    /// # Errors
    /// The engine failed, or the time of the request is up.
    pub(crate) async fn next(&mut self) -> Result<Next, ApiError> {
        if self.left == 0 {
            return Ok(Next::Finished);
        }
        let deadline = self.since + self.app.limits.request_timeout;
        match timeout_at(deadline.into(), self.news.recv()).await {
            Ok(Some((index, News::Text(text)))) => Ok(Next::Text(index, text)),
            Ok(Some((index, News::Done(completion)))) => {
                self.left -= 1;
                self.usage.completion += completion.ids.len();
                Ok(Next::Done(index, completion))
            }
            Ok(Some((_, News::Failed(reason)))) => Err(ApiError::internal(reason)),
            Ok(None) => Err(ApiError::internal("the engine has ended")),
            Err(_) => Err(ApiError::late(self.app.limits.request_timeout)),
        }
    }

    /// Waits for all answers.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(crate) async fn all(&mut self) -> Result<Vec<Completion>, ApiError> {
        let mut completions: Vec<Option<Completion>> = vec![None; self.left];
        loop {
            match self.next().await? {
                Next::Text(..) => {}
                Next::Done(index, completion) => completions[index] = Some(completion),
                Next::Finished => return Ok(completions.into_iter().flatten().collect()),
            }
        }
    }

    /// How many answers there will be.
    pub(crate) fn answers(&self) -> usize {
        self.tickets.len()
    }

    /// Counts the tokens of prompts and of the answers that have ended.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.left > 0 {
            for &ticket in &self.tickets {
                // Without an engine there is nothing to cancel.
                let _ = self.app.commands.send(Command::Cancel(ticket));
            }
        }
        let metrics = self.app.metrics.model(self.model);
        metrics.ended(self.since.elapsed());
    }
}
