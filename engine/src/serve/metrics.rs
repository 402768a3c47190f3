//! What the server counts, as Prometheus reads it.

use std::fmt;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::generate::{Engine, Statistics};

/// The content type of [`Metrics::text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds, from the first token of a small model to a long answer of a large one.
const SECONDS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    code: u16,
    model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

type PerModel<M> = Family<ModelLabels, M>;
type Histograms = Family<ModelLabels, Histogram, fn() -> Histogram>;

/// All counters of one server; clones count together.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    models: Vec<ModelMetrics>,
}

/// Those of one model.
#[derive(Clone, Debug)]
pub(crate) struct ModelMetrics {
    waiting: Gauge,
    running: Gauge,
    cache_tokens: Gauge,
    cache_capacity: Gauge,
    cache_bytes: Gauge,
    prompt_tokens: Counter,
    shared_tokens: Counter,
    generated_tokens: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) failures: Counter,
    first_token: Histogram,
    duration: Histogram,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("models", &self.models.len())
            .finish_non_exhaustive()
    }
}

impl Metrics {
    pub(crate) fn new<'a>(models: impl Iterator<Item = &'a str>) -> Self {
        let mut registry = Registry::with_prefix("temper");
        let requests = Family::default();
        registry.register("requests", "Answered requests", requests.clone());
        let families = Families::register(&mut registry);
        Self {
            registry,
            requests,
            models: models.map(|model| families.model(model)).collect(),
        }
    }

    /// Those of the model with this number.
    pub(crate) fn model(&self, model: usize) -> &ModelMetrics {
        &self.models[model]
    }

    /// Counts an answered request; `model` is empty when none was found.
    pub(crate) fn answered(&self, route: &'static str, code: u16, model: &str) {
        let labels = RequestLabels {
            route,
            code,
            model: model.to_owned(),
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// All of it, in the text format of OpenMetrics.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl ModelMetrics {
    /// An engine was made.
    pub(crate) fn made(&self, engine: &Engine) {
        let capacity = engine.slots() * engine.max_length();
        self.cache_capacity.set(gauge(capacity));
        self.cache_bytes
            .set(i64::try_from(engine.cache_bytes()).unwrap_or(i64::MAX));
    }

    /// An engine did something since `before`.
    pub(crate) fn measure(&self, engine: &Engine, before: Statistics) {
        let now = engine.statistics();
        self.running.set(gauge(engine.running()));
        self.waiting.set(gauge(engine.waiting()));
        self.cache_tokens.set(gauge(engine.cached_tokens()));
        let shared = now.shared_tokens - before.shared_tokens;
        self.shared_tokens.inc_by(shared);
        self.prompt_tokens
            .inc_by(now.prompt_tokens - before.prompt_tokens + shared);
        self.generated_tokens
            .inc_by(now.generated_tokens - before.generated_tokens);
    }

    /// There is no engine.
    pub(crate) fn rest(&self) {
        for gauge in [&self.running, &self.waiting, &self.cache_tokens] {
            gauge.set(0);
        }
    }

    pub(crate) fn saw_first_token(&self, since: Instant) {
        self.first_token.observe(since.elapsed().as_secs_f64());
    }

    pub(crate) fn ended(&self, duration: Duration) {
        self.duration.observe(duration.as_secs_f64());
    }
}

/// One entry a name, each with a line a model.
struct Families {
    waiting: PerModel<Gauge>,
    running: PerModel<Gauge>,
    cache_tokens: PerModel<Gauge>,
    cache_capacity: PerModel<Gauge>,
    cache_bytes: PerModel<Gauge>,
    prompt_tokens: PerModel<Counter>,
    shared_tokens: PerModel<Counter>,
    generated_tokens: PerModel<Counter>,
    cancelled: PerModel<Counter>,
    failures: PerModel<Counter>,
    first_token: Histograms,
    duration: Histograms,
}

impl Families {
    fn register(registry: &mut Registry) -> Self {
        let seconds = || Histograms::new_with_constructor(|| Histogram::new(SECONDS));
        let of = registry;
        Self {
            waiting: counted(of, "waiting_sequences", "Sequences in the queue"),
            running: counted(of, "running_sequences", "Sequences that get a token a step"),
            cache_tokens: counted(
                of,
                "cache_tokens",
                "Tokens of running sequences in the cache",
            ),
            cache_capacity: counted(of, "cache_capacity_tokens", "Tokens the cache has room for"),
            cache_bytes: counted(of, "cache_bytes", "Memory of the cache"),
            prompt_tokens: counted(of, "prompt_tokens", "Tokens of prompts"),
            shared_tokens: counted(
                of,
                "shared_prompt_tokens",
                "Tokens of prompts taken over from another sequence",
            ),
            generated_tokens: counted(of, "generated_tokens", "Tokens written"),
            cancelled: counted(of, "cancelled_sequences", "Sequences nobody waited for"),
            failures: counted(of, "failed_sequences", "Sequences the engine failed at"),
            first_token: registered(
                of,
                "time_to_first_token_seconds",
                "From the arrival of a request to the first token of an answer",
                seconds(),
            ),
            duration: registered(
                of,
                "request_duration_seconds",
                "From the arrival of a request to the end of its last answer",
                seconds(),
            ),
        }
    }

    /// Creates the lines of a model, so that they are there, at zero, before its first request.
    fn model(&self, model: &str) -> ModelMetrics {
        let labels = ModelLabels {
            model: model.to_owned(),
        };
        ModelMetrics {
            waiting: self.waiting.get_or_create_owned(&labels),
            running: self.running.get_or_create_owned(&labels),
            cache_tokens: self.cache_tokens.get_or_create_owned(&labels),
            cache_capacity: self.cache_capacity.get_or_create_owned(&labels),
            cache_bytes: self.cache_bytes.get_or_create_owned(&labels),
            prompt_tokens: self.prompt_tokens.get_or_create_owned(&labels),
            shared_tokens: self.shared_tokens.get_or_create_owned(&labels),
            generated_tokens: self.generated_tokens.get_or_create_owned(&labels),
            cancelled: self.cancelled.get_or_create_owned(&labels),
            failures: self.failures.get_or_create_owned(&labels),
            first_token: self.first_token.get_or_create_owned(&labels),
            duration: self.duration.get_or_create_owned(&labels),
        }
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn counted<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> PerModel<M>
where
    PerModel<M>: Metric,
{
    registered(registry, name, help, Family::default())
}

fn registered<F: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, family: F) -> F {
    registry.register(name, help, family.clone());
    family
}
