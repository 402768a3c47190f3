//! Our own engine as a source of text: one worker that serves all that ask at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use temper_datasets::{ChatTemplate, Message, Tokenizer};
use temper_models::Llama;
use tokio::sync::oneshot;

use super::{Gate, Manner, Reply, TextError, TextModel, TextRequest, Usage};
use crate::Failure;
use crate::generate::{
    Completion, Engine, Event, Finish, GenerateError, Limits, Prompt, Request, RequestId, Sampling,
};

/// How our engine is run.
#[derive(Clone, Debug)]
pub struct OwnEngineOptions {
    /// Its name, for the record.
    pub name: String,
    /// How the model is asked.
    pub manner: Manner,
    /// Sequences in a batch, and their longest length.
    pub limits: Limits,
}

/// A model in this process. What a reply says depends on its prompt and seed, not on what else is asked at the time.
#[derive(Debug)]
pub struct OwnEngine {
    options: OwnEngineOptions,
    tokenizer: Arc<Tokenizer>,
    chat: Option<ChatTemplate>,
    jobs: Option<mpsc::Sender<Job>>,
    worker: Option<JoinHandle<()>>,
}

/// A request, and where its reply is awaited.
#[derive(Debug)]
struct Job {
    request: Request,
    reply: Answer,
}

type Answer = oneshot::Sender<Result<Completion, TextError>>;

impl OwnEngine {
    /// Starts the worker.
    ///
    /// # Errors
    /// A conversation with a model that has no chat template; a cache that does not fit.
    pub fn new(
        model: &Llama,
        tokenizer: Tokenizer,
        options: OwnEngineOptions,
    ) -> Result<Self, Failure> {
        let chat = match (&options.manner.system, tokenizer.chat_template()) {
            (None, _) => None,
            (Some(_), Some(jinja)) => Some(ChatTemplate::new(jinja, &tokenizer)?),
            (Some(_), None) => {
                return Err(Failure::usage("the model has no chat template")
                    .with_hint("write `mode = \"completion\"` in `[text_model]`"));
            }
        };
        let tokenizer = Arc::new(tokenizer);
        let engine = Engine::new(model, Some(Arc::clone(&tokenizer)), options.limits)?;
        let (jobs, inbox) = mpsc::channel();
        let worker = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                Worker {
                    engine,
                    awaited: BTreeMap::new(),
                }
                .run(&inbox);
            })?;
        Ok(Self {
            options,
            tokenizer,
            chat,
            jobs: Some(jobs),
            worker: Some(worker),
        })
    }

    async fn complete(&self, request: &TextRequest) -> Result<Reply, TextError> {
        let ids = self.ids(&request.prompt)?;
        let prompt_tokens = ids.len() as u64;
        let manner = &self.options.manner;
        let sampling = Sampling {
            temperature: manner.temperature,
            top_k: None,
            top_p: manner.top_p,
            seed: request.seed,
            max_new_tokens: manner.max_new_tokens.unwrap_or(u32::MAX) as usize,
            stop: manner.stop.clone(),
        };
        let (reply, answer) = oneshot::channel();
        let request = Request {
            prompt: Prompt { row: 0, ids },
            sampling,
        };
        let stopped = || TextError::EngineStopped {
            reason: "its worker has ended".to_owned(),
        };
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Job { request, reply }).map_err(|_| stopped())?;
        let completion = answer.await.map_err(|_| stopped())??;
        Ok(Reply {
            cut_off: completion.finish == Finish::Length,
            usage: Usage {
                prompt_tokens,
                reply_tokens: completion.ids.len() as u64,
                estimated: false,
            },
            text: completion.text,
        })
    }

    fn ids(&self, prompt: &str) -> Result<Vec<u32>, TextError> {
        let (Some(template), Some(system)) = (&self.chat, &self.options.manner.system) else {
            return Ok(self
                .tokenizer
                .encode(prompt, true)
                .map_err(GenerateError::from)?);
        };
        if let Some(token) = self.tokenizer.special_in(prompt) {
            return Err(TextError::SpecialToken {
                token: token.to_owned(),
            });
        }
        let messages = [Message::new("system", system), Message::new("user", prompt)];
        let text = template.render(&messages, true).or_else(|_| {
            // Some templates know no system message.
            let both = format!("{system}\n\n{prompt}");
            template.render(&[Message::new("user", &both)], true)
        });
        let ids = text.and_then(|text| self.tokenizer.encode_with_specials(&text));
        Ok(ids.map_err(GenerateError::from)?)
    }
}

impl TextModel for OwnEngine {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn write<'a>(
        &'a self,
        request: &'a TextRequest,
        _: &'a Gate,
    ) -> LocalBoxFuture<'a, Result<Reply, TextError>> {
        self.complete(request).boxed_local()
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        // Without senders the worker ends, once nobody awaits a reply any more.
        self.jobs = None;
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has said so.
            let _ = worker.join();
        }
    }
}

struct Worker {
    engine: Engine,
    awaited: BTreeMap<RequestId, Answer>,
}

impl Worker {
    /// Serves until nobody can ask any more, or the engine fails.
    fn run(mut self, inbox: &mpsc::Receiver<Job>) {
        loop {
            if self.engine.is_idle() {
                match inbox.recv() {
                    Ok(job) => self.submit(job),
                    Err(mpsc::RecvError) => return,
                }
            }
            while let Ok(job) = inbox.try_recv() {
                self.submit(job);
            }
            self.forget_the_unawaited();
            match self.engine.step() {
                Ok(events) => events.into_iter().for_each(|event| self.deliver(event)),
                Err(error) => return self.fail(&error),
            }
        }
    }

    fn submit(&mut self, job: Job) {
        match self.engine.submit(job.request) {
            Ok(id) => {
                self.awaited.insert(id, job.reply);
            }
            Err(error) => {
                // Whoever no longer waits need not know.
                let _ = job.reply.send(Err(error.into()));
            }
        }
    }

    fn forget_the_unawaited(&mut self) {
        let engine = &mut self.engine;
        self.awaited.retain(|&id, reply| {
            if reply.is_closed() {
                engine.cancel(id);
            }
            !reply.is_closed()
        });
    }

    fn deliver(&mut self, event: Event) {
        let (id, result) = match event {
            Event::Token { .. } => return,
            Event::Done { id, completion } => (id, Ok(completion)),
            Event::Failed { id, error } => (id, Err(error.into())),
        };
        if let Some(reply) = self.awaited.remove(&id) {
            let _ = reply.send(result);
        }
    }

    /// The same step would fail again: everybody hears why, and the worker ends.
    fn fail(self, error: &GenerateError) {
        for reply in self.awaited.into_values() {
            let reason = error.to_string();
            let _ = reply.send(Err(TextError::EngineStopped { reason }));
        }
    }
}
