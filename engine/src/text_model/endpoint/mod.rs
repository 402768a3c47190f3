//! An OpenAI-compatible endpoint: `/chat/completions` or `/completions` over HTTP.

mod pace;
mod wire;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, redirect};

use super::{Gate, Manner, Reply, TextError, TextModel, TextRequest, Usage, estimated_tokens};
use crate::Failure;
use crate::hub::is_loopback;
use pace::Pace;

/// What an endpoint is and how patient its client is. Its `Debug` does not show the key.
#[derive(Clone)]
pub struct EndpointOptions {
    /// Address up to the version of the API.
    pub base_url: String,
    /// Name of the model there.
    pub model: String,
    /// Sent as a bearer token.
    pub key: Option<String>,
    /// Whether each request carries its seed.
    pub send_seed: bool,
    /// How the model is asked.
    pub manner: Manner,
    /// For a connection.
    pub connect_timeout: Duration,
    /// For a whole request.
    pub timeout: Duration,
    /// Longest reply in bytes.
    pub max_reply_bytes: u64,
    /// Most requests a minute.
    pub requests_per_minute: Option<u32>,
    /// Most tokens a minute.
    pub tokens_per_minute: Option<u32>,
}

impl std::fmt::Debug for EndpointOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointOptions")
            .field("base_url", &self.base_url)
            .field("model", &self.model)
            .field("has_key", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

/// A client of an endpoint.
#[derive(Debug)]
pub struct Endpoint {
    client: Client,
    url: String,
    options: EndpointOptions,
    pace: Mutex<Pace>,
}

impl Endpoint {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// A key that cannot be part of a request, or a system without root certificates where `https` needs them.
    pub fn new(options: EndpointOptions) -> Result<Self, Failure> {
        // Someone else may have chosen one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("temper/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers(options.key.as_deref())?)
            .redirect(redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout);
        if is_loopback(&options.base_url) {
            builder = builder.no_proxy();
        }
        if options.base_url.starts_with("http://") {
            // Without encryption there is nothing to certify, so a machine without certificates will do.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| {
            Failure::run(format!("cannot prepare requests: {}", chain(&error))).with_hint(
                "`https` needs the root certificates of the system: install `ca-certificates`",
            )
        })?;
        let operation = match options.manner.system {
            Some(_) => "chat/completions",
            None => "completions",
        };
        let pace = Pace::new(
            options.requests_per_minute,
            options.tokens_per_minute,
            Instant::now(),
        );
        Ok(Self {
            client,
            url: format!("{}/{operation}", options.base_url.trim_end_matches('/')),
            pace: Mutex::new(pace),
            options,
        })
    }

    async fn attempt(&self, request: &TextRequest, gate: &Gate) -> Result<Reply, TextError> {
        let expected = self.expected_tokens(request);
        self.wait_for_turn(expected, gate).await?;
        let reply = self.exchange(request).await;
        let spent = match &reply {
            Ok(reply) => reply.usage.total(),
            Err(_) => 0,
        };
        self.with_pace(|pace, _| pace.correct(expected, spent));
        if let Err(error) = &reply
            && let Some(pause) = error.retry_after()
        {
            self.with_pace(|pace, now| pace.hold(now + pause));
        }
        reply
    }

    /// What a request will probably take: its prompt, and a reply of usual length.
    fn expected_tokens(&self, request: &TextRequest) -> u64 {
        const USUAL: u64 = 256;
        let most = self.options.manner.max_new_tokens.map_or(USUAL, u64::from);
        estimated_tokens(&request.prompt) + USUAL.min(most)
    }

    async fn wait_for_turn(&self, tokens: u64, gate: &Gate) -> Result<(), TextError> {
        let mut wait = self.with_pace(|pace, now| pace.reserve(tokens, now));
        while !wait.is_zero() {
            gate.sleep(wait).await;
            if gate.closed().is_some() {
                return Err(TextError::Stopped);
            }
            // In the meantime the endpoint may have asked everybody to wait.
            wait = self.with_pace(|pace, now| pace.held(now));
        }
        Ok(())
    }

    async fn exchange(&self, request: &TextRequest) -> Result<Reply, TextError> {
        let seed = self.options.send_seed.then_some(request.seed);
        let body = wire::request(
            &self.options.model,
            &self.options.manner,
            &request.prompt,
            seed,
        );
        let sent = self.client.post(&self.url).body(body).send().await;
        let response = sent.map_err(|error| self.transport(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = self.body(response).await?;
        if !(200..300).contains(&status) {
            return Err(TextError::Status {
                endpoint: self.url.clone(),
                status,
                message: self.excerpt(&wire::complaint(&body)),
                retry_after: retry_after(&headers),
            });
        }
        let is_page = headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        if is_page || body.trim_ascii_start().starts_with(b"<") {
            return Err(TextError::Html {
                endpoint: self.url.clone(),
            });
        }
        self.read(&request.prompt, &body)
    }

    fn read(&self, prompt: &str, body: &[u8]) -> Result<Reply, TextError> {
        let endpoint = || self.url.clone();
        let reply: wire::Reply =
            serde_json::from_slice(body).map_err(|error| TextError::Malformed {
                endpoint: endpoint(),
                reason: error.to_string(),
            })?;
        let Some(choice) = reply.choices.into_iter().next() else {
            return Err(TextError::NoChoices {
                endpoint: endpoint(),
                message: self.excerpt(&wire::complaint(body)),
            });
        };
        let finish = choice.finish_reason.unwrap_or_else(|| "none".to_owned());
        let text = choice
            .text
            .or(choice.message.and_then(|message| message.content));
        let Some(text) = text else {
            return Err(TextError::NoText {
                endpoint: endpoint(),
                finish: self.excerpt(&finish),
            });
        };
        let usage = reply.usage.map_or_else(
            || Usage::estimate(prompt, &text),
            |usage| Usage {
                prompt_tokens: usage.prompt_tokens,
                reply_tokens: usage.completion_tokens,
                estimated: false,
            },
        );
        Ok(Reply {
            text,
            cut_off: finish == "length",
            usage,
        })
    }

    /// Reads a body, but no more of it than allowed.
    async fn body(&self, mut response: Response) -> Result<Vec<u8>, TextError> {
        let limit = self.options.max_reply_bytes;
        let mut body = Vec::new();
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| self.transport(&error))?
        {
            if (body.len() + piece.len()) as u64 > limit {
                return Err(TextError::TooLong {
                    endpoint: self.url.clone(),
                    limit,
                });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn transport(&self, error: &reqwest::Error) -> TextError {
        let endpoint = self.url.clone();
        let (what, limit) = if error.is_connect() {
            ("connection", self.options.connect_timeout)
        } else {
            ("whole reply", self.options.timeout)
        };
        let reason = self.excerpt(&chain(error));
        if error.is_timeout() {
            let seconds = limit.as_secs();
            TextError::Timeout {
                endpoint,
                what,
                seconds,
            }
        } else if error.is_connect() {
            TextError::Connect { endpoint, reason }
        } else {
            TextError::Interrupted { endpoint, reason }
        }
    }

    /// The beginning of something the endpoint said, on one line and without the key.
    fn excerpt(&self, text: &str) -> String {
        let hidden = match &self.options.key {
            Some(key) => text.replace(key.as_str(), "(the key)"),
            None => text.to_owned(),
        };
        let line: String = hidden
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(200)
            .collect();
        line.trim().to_owned()
    }

    fn with_pace<T>(&self, change: impl FnOnce(&mut Pace, Instant) -> T) -> T {
        // Counters cannot be left half changed, so a poisoned lock is as good as any.
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut pace, Instant::now())
    }
}

impl TextModel for Endpoint {
    fn name(&self) -> &str {
        &self.options.model
    }

    fn write<'a>(
        &'a self,
        request: &'a TextRequest,
        gate: &'a Gate,
    ) -> LocalBoxFuture<'a, Result<Reply, TextError>> {
        self.attempt(request, gate).boxed_local()
    }
}

fn headers(key: Option<&str>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = key {
        let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| {
            Failure::usage("the key holds characters that cannot be sent, such as a line end")
        })?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(text).ok()?;
    date.duration_since(SystemTime::now()).ok()
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
