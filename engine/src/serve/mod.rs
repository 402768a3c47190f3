//! `temper serve`: the OpenAI API over the batched engine.
//!
//! ```text
//! connection (http) → routes → api::Asked → catalog: prompts, limits → generation ─┐
//!                                                                                   │ commands, news
//!                                       worker thread: one engine a model, in turns ┘
//! ```
//!
//! One thread does all the talking, one all the computing, up to four read bodies and tokenise. What a client may use up is bounded:
//! connections, time to send a request, size of its body, sequences that run or wait, tokens, time to answer, time a connection lives.
//! Nothing is fetched, and no file is opened, because of a request.

mod api;
mod catalog;
mod framing;
mod generation;
mod http;
mod keys;
mod metrics;
mod routes;
mod stream;
mod worker;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use temper_datasets::Tokenizer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Failure;
use crate::generate::Limits;
use crate::loading::{LoadOptions, LoadedModel, attach_to, read_adapter};
use crate::run::{self, Signals};
use api::ApiError;
pub(crate) use catalog::NamedAdapter;
use catalog::{Catalog, Served};
pub(crate) use framing::Frame;
use framing::Framing;
pub(crate) use keys::KeySource;
use keys::Keys;
use metrics::Metrics;
use worker::{Command, Loaded, Ticket, Worker};

/// Threads that read bodies and tokenise.
const READERS: usize = 4;

/// What to serve, and how.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) load: LoadOptions,
    /// The name of the base model; by default that of its directory.
    pub(crate) name: Option<String>,
    pub(crate) adapters: Vec<NamedAdapter>,
    pub(crate) frame: Option<Frame>,
    pub(crate) chat_template: Option<PathBuf>,
    pub(crate) host: IpAddr,
    /// 0 for any free one.
    pub(crate) port: u16,
    pub(crate) keys: KeySource,
    pub(crate) limits: ServeLimits,
}

/// How much clients may use up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServeLimits {
    /// Sequences of a model that run at a time.
    pub(crate) max_sequences: usize,
    /// Sequences of a model that wait.
    pub(crate) max_queue: usize,
    /// Keys and values of all models, in bytes.
    pub(crate) cache_memory: Option<u64>,
    /// Bytes of a body.
    pub(crate) max_body: usize,
    /// Tokens of prompt and answer together; by default the model's context.
    pub(crate) max_length: Option<usize>,
    /// Tokens of an answer; by default what the context holds.
    pub(crate) max_tokens: Option<usize>,
    /// For all headers of a request, and for the next request on an open connection.
    pub(crate) header_timeout: Duration,
    /// From the arrival of a request to the end of its answer.
    pub(crate) request_timeout: Duration,
    /// How long running requests may go on after a signal to stop.
    pub(crate) shutdown_timeout: Duration,
}

/// What every request needs.
#[derive(Debug)]
struct App {
    catalog: Catalog,
    commands: Sender<Command>,
    metrics: Arc<Metrics>,
    keys: Keys,
    limits: ServeLimits,
    /// Bound to the loopback interface without keys: only names of this machine are accepted as `Host`.
    local_only: bool,
    ending: AtomicBool,
    tickets: AtomicU64,
}

impl App {
    fn next_ticket(&self) -> Ticket {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Places for so many sequences of a model.
    fn places(&self, model: usize, count: usize) -> Result<Vec<OwnedSemaphorePermit>, ApiError> {
        let most = self.catalog.places;
        let places = Arc::clone(&self.catalog.models[model].places);
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        let mut all = places
            .try_acquire_many_owned(wanted)
            .map_err(|_| ApiError::full(most))?;
        let mut each = Vec::with_capacity(count);
        while let Some(place) = all.split(1) {
            each.push(place);
        }
        Ok(each)
    }
}

/// Serves until a signal says to stop.
///
/// # Errors
/// Keys, model, adapters, template or address that cannot be used.
pub(crate) fn serve(options: &Options) -> Result<(), Failure> {
    let keys = Keys::read(&options.keys)?;
    let address = SocketAddr::new(options.host, options.port);
    // Before the weights are read, so that an address in use is noticed at once.
    let listener = std::net::TcpListener::bind(address)
        .map_err(|error| Failure::run(format!("cannot listen on {address}: {error}")))?;
    listener.set_nonblocking(true)?;
    let signals = Signals::install()?;
    let (app, worker) = load(options, keys)?;
    let address = listener.local_addr()?;
    if !options.host.is_loopback() && !app.keys.are_required() {
        run::note(&format!(
            "warning: anybody who reaches {address} may use this server; set --api-key-env or --api-key-file"
        ));
    }
    let mut out = std::io::stdout();
    writeln!(out, "listening on http://{address}")?;
    out.flush()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(READERS)
        .build()?;
    let served = runtime.block_on(http::run(Arc::clone(&app), listener, &signals, &worker));
    // A reader may be in the middle of a long text.
    runtime.shutdown_background();
    worker.stop();
    served
}

fn load(options: &Options, keys: Keys) -> Result<(Arc<App>, Worker), Failure> {
    let directory = options.load.resolve()?;
    let tokenizer = Arc::new(Tokenizer::load(&directory)?);
    let framing = Framing::new(options.frame, options.chat_template.as_deref(), &tokenizer)?;
    let name = options.name.clone();
    let name = name.unwrap_or_else(|| base_name(&options.load.model, &directory));
    let names = names(&name, &options.adapters)?;
    let adapters = options
        .adapters
        .iter()
        .map(|adapter| read_adapter(&adapter.directory))
        .collect::<Result<Vec<_>, _>>()?;
    let base = options.load.load_from(directory)?;
    let catalog = catalog(options, &base, names, Arc::clone(&tokenizer), framing);
    let mut models = vec![base.model];
    for (file, adapter) in adapters.iter().zip(&options.adapters) {
        // Tensors are shared: an adapter costs its own parameters alone.
        let mut model = models[0].clone();
        attach_to(&mut model, file, &adapter.directory)?;
        models.push(model);
    }
    let names = catalog.models.iter().map(|model| model.name.as_str());
    let metrics = Arc::new(Metrics::new(names));
    let limits = engine_limits(&options.limits, models.len());
    let loaded = |model| Loaded { model, limits };
    let models = models.into_iter().map(loaded).collect();
    let worker = Worker::start(models, &tokenizer, &metrics)?;
    let app = App {
        catalog,
        commands: worker.commands.clone(),
        metrics,
        local_only: options.host.is_loopback() && !keys.are_required(),
        keys,
        limits: options.limits,
        ending: AtomicBool::new(false),
        tickets: AtomicU64::new(0),
    };
    Ok((Arc::new(app), worker))
}

/// The memory for keys and values is divided among the models.
fn engine_limits(limits: &ServeLimits, models: usize) -> Limits {
    Limits {
        max_sequences: limits.max_sequences,
        cache_bytes: limits.cache_memory.map(|bytes| bytes / models as u64),
        max_length: limits.max_length,
        ..Limits::default()
    }
}

fn catalog(
    options: &Options,
    base: &LoadedModel,
    names: Vec<String>,
    tokenizer: Arc<Tokenizer>,
    framing: Framing,
) -> Catalog {
    let config = base.model.config();
    let window = config.sliding_window.unwrap_or(usize::MAX);
    let limits = &options.limits;
    let context = config.max_position_embeddings.min(window);
    let context = context.min(limits.max_length.unwrap_or(usize::MAX));
    let places = limits.max_sequences.saturating_add(limits.max_queue);
    let places = places.min(Semaphore::MAX_PERMITS);
    let parent = names.first().cloned();
    let served = |(number, name): (usize, String)| Served {
        name,
        parent: parent.clone().filter(|_| number > 0),
        places: Arc::new(Semaphore::new(places)),
    };
    Catalog {
        models: names.into_iter().enumerate().map(served).collect(),
        tokenizer,
        framing,
        context,
        vocabulary: config.vocab_size,
        max_tokens: limits.max_tokens.unwrap_or(usize::MAX),
        places,
        fingerprint: format!(
            "temper-{}-{}-{:?}",
            env!("CARGO_PKG_VERSION"),
            base.device.name,
            base.dtype
        )
        .to_lowercase(),
        created: api::seconds_since_1970(),
    }
}

/// The base model and the adapters, in the order of the worker's models.
fn names(base: &str, adapters: &[NamedAdapter]) -> Result<Vec<String>, Failure> {
    let mut names = vec![base.to_owned()];
    for NamedAdapter { name, .. } in adapters {
        if names.contains(name) {
            return Err(Failure::usage(format!(
                "--adapter: the name `{name}` is taken"
            )));
        }
        names.push(name.clone());
    }
    Ok(names)
}

/// `org/name` for a model of the hub, the last part of the path for a directory.
fn base_name(model: &str, directory: &Path) -> String {
    if !Path::new(model).exists() {
        return model.to_owned();
    }
    let full = directory.canonicalize().unwrap_or(directory.to_owned());
    let name = full.file_name().unwrap_or(full.as_os_str());
    name.to_string_lossy().into_owned()
}
