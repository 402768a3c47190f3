//! The thread that owns the engines: one for each model, which take turns, a step each.
//!
//! Nothing that goes wrong in here ends the server. An engine that fails, or panics, is replaced by a fresh one over the
//! same weights, and the sequences it held end with an error.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use bytesize::ByteSize;
use temper_datasets::Tokenizer;
use temper_models::Llama;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use super::metrics::{Metrics, ModelMetrics};
use crate::generate::{
    Completion, Engine, Event, GenerateError, Limits, Request, RequestId, Statistics,
};
use crate::run;

/// The name of a sequence between the server and this thread.
pub(crate) type Ticket = u64;

/// What the thread is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Start(Box<Start>),
    /// Nobody waits for this sequence any more.
    Cancel(Ticket),
    /// Leave.
    Stop,
}

/// A sequence to generate.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) ticket: Ticket,
    /// Number of the model.
    pub(crate) model: usize,
    pub(crate) request: Request,
    pub(crate) report: Report,
}

/// Who hears of a sequence.
#[derive(Debug)]
pub(crate) struct Report {
    /// Number of the answer in its request.
    pub(crate) index: usize,
    pub(crate) sender: UnboundedSender<(usize, News)>,
    /// When the request came.
    pub(crate) since: Instant,
    /// Its place in the queue, given back when this is dropped because the sequence has ended.
    pub(crate) _place: OwnedSemaphorePermit,
}

/// What is heard of a sequence.
#[derive(Debug)]
pub(crate) enum News {
    Text(String),
    Done(Completion),
    Failed(String),
}

/// A model and how it is served.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) model: Llama,
    pub(crate) limits: Limits,
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) commands: Sender<Command>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts it.
    ///
    /// # Errors
    /// Limits that an engine refuses, or a system without threads.
    pub(crate) fn start(
        models: Vec<Loaded>,
        tokenizer: &Arc<Tokenizer>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, crate::Failure> {
        let mut seats = Vec::with_capacity(models.len());
        let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
        for (number, loaded) in models.into_iter().enumerate() {
            let metrics = metrics.model(number).clone();
            let mut seat = Seat::new(loaded, Arc::clone(tokenizer), metrics);
            *sizes.entry(seat.size()?).or_default() += 1;
            seats.push(seat);
        }
        for (size, models) in sizes {
            let each = if models > 1 {
                format!(" for each of {models} models")
            } else {
                String::new()
            };
            run::note(&format!("{size}{each}"));
        }
        let (commands, inbox) = channel();
        let work = move || {
            Work {
                seats,
                tickets: HashMap::new(),
            }
            .run(&inbox);
        };
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(work)?;
        Ok(Self { commands, thread })
    }

    /// Ends the thread after the step it is in.
    pub(crate) fn stop(self) {
        let _ = self.commands.send(Command::Stop);
        // It can only have panicked, and has said so.
        let _ = self.thread.join();
    }

    /// Whether the thread still runs; it ends only when it is told to.
    pub(crate) fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// One model's engine and the sequences in it.
struct Seat {
    loaded: Loaded,
    tokenizer: Arc<Tokenizer>,
    /// `None` after it failed, until the next sequence comes.
    engine: Option<Engine>,
    sequences: HashMap<RequestId, Sequence>,
    metrics: ModelMetrics,
    /// What was counted of this engine.
    counted: Statistics,
}

struct Sequence {
    ticket: Ticket,
    report: Report,
    has_text: bool,
}

struct Work {
    seats: Vec<Seat>,
    /// Where each sequence sits.
    tickets: HashMap<Ticket, (usize, RequestId)>,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Command>) {
        while self.listen(inbox) {
            for seat in &mut self.seats {
                for ticket in seat.step() {
                    self.tickets.remove(&ticket);
                }
            }
        }
    }

    /// Takes the commands that wait, or the next one if there is nothing else to do. False to leave.
    fn listen(&mut self, inbox: &Receiver<Command>) -> bool {
        if self.seats.iter().all(|seat| seat.sequences.is_empty()) {
            match inbox.recv() {
                Ok(Command::Stop) | Err(RecvError) => return false,
                Ok(command) => self.obey(command),
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Start(start) => {
                let Start {
                    ticket,
                    model,
                    request,
                    report,
                } = *start;
                if let Some(id) = self.seats[model].start(ticket, request, report) {
                    self.tickets.insert(ticket, (model, id));
                }
            }
            Command::Cancel(ticket) => {
                if let Some((model, id)) = self.tickets.remove(&ticket) {
                    self.seats[model].cancel(id);
                }
            }
            Command::Stop => {}
        }
    }
}

impl Seat {
    fn new(loaded: Loaded, tokenizer: Arc<Tokenizer>, metrics: ModelMetrics) -> Self {
        Self {
            loaded,
            tokenizer,
            engine: None,
            sequences: HashMap::new(),
            metrics,
            counted: Statistics::default(),
        }
    }

    /// How much it generates at once, for the log.
    fn size(&mut self) -> Result<String, GenerateError> {
        let engine = self.engine()?;
        Ok(format!(
            "up to {} sequences of {} tokens at a time, {} for their keys and values",
            engine.slots(),
            engine.max_length(),
            ByteSize(engine.cache_bytes()),
        ))
    }

    fn engine(&mut self) -> Result<&mut Engine, GenerateError> {
        let engine = match self.engine.take() {
            Some(engine) => engine,
            None => self.make_engine()?,
        };
        Ok(self.engine.insert(engine))
    }

    fn make_engine(&mut self) -> Result<Engine, GenerateError> {
        let tokenizer = Some(Arc::clone(&self.tokenizer));
        let engine = Engine::new(&self.loaded.model, tokenizer, self.loaded.limits)?;
        self.counted = engine.statistics();
        self.metrics.made(&engine);
        Ok(engine)
    }

    fn start(&mut self, ticket: Ticket, request: Request, report: Report) -> Option<RequestId> {
        let submitted = self.engine().and_then(|engine| engine.submit(request));
        match submitted {
            Ok(id) => {
                let sequence = Sequence {
                    ticket,
                    report,
                    has_text: false,
                };
                self.sequences.insert(id, sequence);
                self.measure();
                Some(id)
            }
            Err(error) => {
                self.metrics.failures.inc();
                report.tell(News::Failed(error.to_string()));
                None
            }
        }
    }

    fn cancel(&mut self, id: RequestId) {
        if let Some(engine) = &mut self.engine {
            engine.cancel(id);
        }
        if self.sequences.remove(&id).is_some() {
            self.metrics.cancelled.inc();
        }
        self.measure();
    }

    /// One step; returns the tickets of the sequences that ended.
    fn step(&mut self) -> Vec<Ticket> {
        let Some(engine) = self.engine.as_mut().filter(|engine| !engine.is_idle()) else {
            return Vec::new();
        };
        let ended = match catch_unwind(AssertUnwindSafe(|| engine.step())) {
            Ok(Ok(events)) => events
                .into_iter()
                .filter_map(|event| self.pass_on(event))
                .collect(),
            Ok(Err(error)) => self.give_up(&error.to_string()),
            Err(_) => self.give_up("the engine panicked; its words are in the server's log"),
        };
        self.measure();
        ended
    }

    /// Tells whom it concerns; returns the ticket of a sequence that ended.
    fn pass_on(&mut self, event: Event) -> Option<Ticket> {
        let (id, news) = match event {
            Event::Token { id, text } => {
                let sequence = self.sequences.get_mut(&id)?;
                sequence.has_begun(&self.metrics);
                sequence.report.tell(News::Text(text));
                return None;
            }
            Event::Done { id, completion } => (id, News::Done(completion)),
            Event::Failed { id, error } => (id, News::Failed(error.to_string())),
        };
        let mut sequence = self.sequences.remove(&id)?;
        if matches!(news, News::Done(_)) {
            sequence.has_begun(&self.metrics);
        } else {
            self.metrics.failures.inc();
        }
        sequence.report.tell(news);
        Some(sequence.ticket)
    }

    /// Drops an engine that failed; its sequences end here.
    fn give_up(&mut self, reason: &str) -> Vec<Ticket> {
        run::note(&format!("error: {reason}"));
        self.engine = None;
        let sequences = std::mem::take(&mut self.sequences);
        self.metrics.failures.inc_by(sequences.len() as u64);
        sequences
            .into_values()
            .map(|sequence| {
                sequence.report.tell(News::Failed(reason.to_owned()));
                sequence.ticket
            })
            .collect()
    }

    fn measure(&mut self) {
        match &self.engine {
            Some(engine) => {
                self.metrics.measure(engine, self.counted);
                self.counted = engine.statistics();
            }
            None => self.metrics.rest(),
        }
    }
}

impl Sequence {
    fn has_begun(&mut self, metrics: &ModelMetrics) {
        if !std::mem::replace(&mut self.has_text, true) {
            metrics.saw_first_token(self.report.since);
        }
    }
}

impl Report {
    /// One who has gone away hears nothing; a command to cancel is on its way.
    fn tell(&self, news: News) {
        let _ = self.sender.send((self.index, news));
    }
}
