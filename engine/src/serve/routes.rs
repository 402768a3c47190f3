//! What each address answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::App;
use super::api::{Answer, ApiError, Asked, Delivery, Endpoint, json_response};
use super::catalog::Served;
use super::generation::Generation;
use super::metrics;
use super::stream::stream;
use crate::generate::Request as Sequence;

/// For a client to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// For a client to notice that its body is too large.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

type Answered = Result<Response<Body>, ApiError>;

/// Attached to a response for the metrics: the model that answered.
#[derive(Clone, Debug)]
struct ModelNumber(usize);

pub(super) fn router(app: &Arc<App>) -> Router {
    let chat = |state, request| generate(state, Endpoint::Chat, request);
    let completions = |state, request| generate(state, Endpoint::Completions, request);
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/health", get(health))
        .route("/metrics", get(show_metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(app), guard))
        .with_state(Arc::clone(app))
}

/// Lets in who may come in, and counts.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    let route = route(request.uri().path());
    let response = match admit(&app, route, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let model = response.extensions().get::<ModelNumber>();
    let model = model.map_or("", |&ModelNumber(number)| &app.catalog.models[number].name);
    app.metrics
        .answered(route, response.status().as_u16(), model);
    response
}

/// The path, as far as it is one of ours: clients must not be able to invent labels.
fn route(path: &str) -> &'static str {
    const KNOWN: [&str; 5] = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/health",
        "/metrics",
    ];
    let known = KNOWN.into_iter().find(|known| *known == path);
    known.unwrap_or(if path.starts_with("/v1/models/") {
        "/v1/models"
    } else {
        "other"
    })
}

fn admit(app: &App, route: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    if app.local_only && !text(header::HOST).is_some_and(is_local) {
        // A web page whose name was made to point here must not use the server of its reader.
        let message = "without a key this server answers only to `localhost`; set --api-key-env or --api-key-file";
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "foreign_host",
            message,
        ));
    }
    if route != "/health" && !app.keys.accept(text(header::AUTHORIZATION)) {
        let message = "the API key is missing or wrong; send `Authorization: Bearer KEY`";
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            message,
        ));
    }
    Ok(())
}

/// Whether a `Host` header names this machine by a name that no other machine can have.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

async fn generate(State(app): State<Arc<App>>, endpoint: Endpoint, request: Request) -> Answered {
    let since = Instant::now();
    if app.is_ending() {
        return Err(ApiError::ending());
    }
    require_json(request.headers())?;
    let body = read(request, app.limits.max_body).await?;
    let prepared = {
        let app = Arc::clone(&app);
        tokio::task::spawn_blocking(move || Prepared::new(&app, endpoint, &body)).await
    };
    // The reader can only have panicked, and said so in the log.
    let prepared = prepared.map_err(|_| ApiError::internal("the request could not be read"))??;
    let Prepared {
        model,
        delivery,
        sequences,
        prompt_tokens,
    } = prepared;
    let mut generation = Generation::start(&app, model, sequences, prompt_tokens, since)?;
    let name = &app.catalog.models[model].name;
    let fingerprint = &app.catalog.fingerprint;
    let mut response = match delivery {
        Delivery::Whole => {
            let completions = generation.all().await?;
            let answer = Answer::new(endpoint, name, fingerprint, false);
            json_response(
                StatusCode::OK,
                &answer.whole(&completions, generation.usage()),
            )
        }
        Delivery::Stream { usage } => {
            let answer = Answer::new(endpoint, name, fingerprint, usage);
            stream(generation, answer).into_response()
        }
    };
    response.extensions_mut().insert(ModelNumber(model));
    Ok(response)
}

/// A request that is ready for the engine.
#[derive(Debug)]
struct Prepared {
    model: usize,
    delivery: Delivery,
    sequences: Vec<Sequence>,
    prompt_tokens: usize,
}

impl Prepared {
    fn new(app: &App, endpoint: Endpoint, body: &[u8]) -> Result<Self, ApiError> {
        let asked = Asked::parse(endpoint, body)?;
        let model = app.catalog.find(&asked.model)?;
        let (count, most) = (asked.sequences(), app.catalog.places);
        if count > most {
            let message =
                format!("the request asks for {count} answers; at most {most} fit into the queue");
            return Err(ApiError::invalid("n", "invalid_value", message));
        }
        let sequences = app.catalog.requests(endpoint, &asked)?;
        let prompts = sequences.iter().step_by(asked.n);
        Ok(Self {
            model,
            delivery: asked.delivery,
            prompt_tokens: prompts.map(|sequence| sequence.prompt.ids.len()).sum(),
            sequences,
        })
    }
}

/// Only JSON: a web page may send other types to any server without asking it first.
fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(header::CONTENT_TYPE);
    let kind = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = "the `Content-Type` of the request is not `application/json`";
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        message,
    ))
}

/// The body, if it is not too large and does not take too long.
async fn read(request: Request, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut chunks = request.into_body().into_data_stream();
    let body = timeout(BODY_TIMEOUT, collect(&mut chunks, limit)).await;
    if let Some(body) = body.map_err(|_| ApiError::late_body(BODY_TIMEOUT))?? {
        return Ok(body);
    }
    // To close on a client that is still sending would destroy the answer on its way.
    let rest = async { while let Some(Ok(_)) = chunks.next().await {} };
    let _ = timeout(DISCARD_TIMEOUT, rest).await;
    Err(ApiError::too_large(limit))
}

/// All chunks in one, or `None` as soon as they are more than `limit` bytes.
async fn collect(chunks: &mut BodyDataStream, limit: usize) -> Result<Option<Vec<u8>>, ApiError> {
    let mut body = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let broken = |error| ApiError::malformed(format!("the body broke off: {error}"));
        let chunk = chunk.map_err(broken)?;
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

async fn models(State(app): State<Arc<App>>) -> Response<Body> {
    let data: Vec<Value> = app
        .catalog
        .models
        .iter()
        .map(|model| describe(&app, model))
        .collect();
    json_response(StatusCode::OK, &json!({"object": "list", "data": data}))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answered {
    let number = app.catalog.find(&name)?;
    Ok(json_response(
        StatusCode::OK,
        &describe(&app, &app.catalog.models[number]),
    ))
}

fn describe(app: &App, model: &Served) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": app.catalog.created,
        "owned_by": "temper",
        "parent": model.parent,
        "max_model_len": app.catalog.context,
    })
}

async fn health(State(app): State<Arc<App>>) -> Answered {
    if app.is_ending() {
        return Err(ApiError::ending());
    }
    Ok(json_response(StatusCode::OK, &json!({"status": "ok"})))
}

async fn show_metrics(State(app): State<Arc<App>>) -> Answered {
    let text = app.metrics.text();
    let text = text.map_err(|error| ApiError::internal(error.to_string()))?;
    let kind = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    Ok((kind, text).into_response())
}

async fn unknown(request: Request) -> ApiError {
    let message = format!("there is nothing at `{}`", route(request.uri().path()));
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn wrong_method(method: Method) -> ApiError {
    let message = format!("this address does not answer to {method}");
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        message,
    )
}
