//! From a recipe to a source of text, and how it is treated.

use std::time::Duration;

use temper_datasets::Tokenizer;
use temper_datasets::rewrite::SYSTEM_MESSAGE;

use crate::Failure;
use crate::generate::{self, Order};
use crate::loading::{LoadOptions, dtype_of};
use crate::recipe::{BootstrapRecipe, Mode, TextModel as Description, TextModelKind};
use crate::text_model::{
    Endpoint, EndpointOptions, Limits, Manner, OwnEngine, OwnEngineOptions, Patience, TextModel,
};

/// Opens the source that a recipe describes; `None` if it wants no text.
pub(super) fn open(recipe: &BootstrapRecipe) -> Result<Option<Box<dyn TextModel>>, Failure> {
    let description = &recipe.text_model;
    Ok(match description.kind {
        TextModelKind::None => None,
        TextModelKind::Endpoint => Some(Box::new(endpoint(description)?)),
        TextModelKind::Engine => Some(Box::new(engine(description)?)),
    })
}

fn manner(description: &Description) -> Manner {
    let system = match description.mode() {
        Mode::Chat => Some(SYSTEM_MESSAGE.to_owned()),
        Mode::Completion => None,
    };
    Manner {
        system,
        temperature: description.temperature,
        top_p: description.top_p,
        max_new_tokens: description.max_new_tokens,
        stop: description.stop(),
    }
}

fn endpoint(description: &Description) -> Result<Endpoint, Failure> {
    let key = description
        .api_key_env
        .as_deref()
        .map(key_from)
        .transpose()?;
    let seconds = |seconds: Option<u64>| Duration::from_secs(seconds.unwrap_or(60));
    Endpoint::new(EndpointOptions {
        base_url: description.base_url.clone().unwrap_or_default(),
        model: description.name().to_owned(),
        key,
        send_seed: description.send_seed.unwrap_or(true),
        manner: manner(description),
        connect_timeout: seconds(description.connect_timeout),
        timeout: seconds(description.timeout),
        max_reply_bytes: description.max_reply_bytes.unwrap_or(1 << 20),
        requests_per_minute: description.requests_per_minute,
        tokens_per_minute: description.tokens_per_minute,
    })
}

/// The key in an environment variable. Its value appears in no message.
fn key_from(variable: &str) -> Result<String, Failure> {
    let value = std::env::var(variable).unwrap_or_default();
    match value.trim() {
        "" => Err(
            Failure::usage(format!("the environment variable `{variable}` holds no key")).with_hint(
                format!("`export {variable}=...`, or `--set 'text_model.api_key_env=\"\"'` if the endpoint needs none"),
            ),
        ),
        key => Ok(key.to_owned()),
    }
}

fn engine(description: &Description) -> Result<OwnEngine, Failure> {
    let options = LoadOptions {
        model: description.name().to_owned(),
        adapter: description.adapter.clone(),
        device: description
            .device
            .clone()
            .unwrap_or_else(|| "auto".to_owned()),
        dtype: description.compute.and_then(dtype_of),
    };
    let loaded = options.load()?;
    let tokenizer = Tokenizer::load(&loaded.directory)?;
    let adapter = description.adapter.as_ref();
    let name = match adapter {
        Some(adapter) => format!("{} + {}", description.name(), adapter.display()),
        None => description.name().to_owned(),
    };
    OwnEngine::new(
        &loaded.model,
        tokenizer,
        OwnEngineOptions {
            name,
            manner: manner(description),
            limits: generate::Limits {
                max_sequences: description.concurrency,
                cache_bytes: None,
                max_length: description.max_length,
                order: Order::Arrival,
            },
        },
    )
}

/// What a run may spend.
pub(super) fn limits(recipe: &BootstrapRecipe) -> Limits {
    let budget = &recipe.budget;
    Limits {
        requests: budget.max_requests,
        tokens: budget.max_tokens,
        price: budget.max_price,
        prompt_price: budget.prompt_price.unwrap_or(0.0),
        reply_price: budget.reply_price.unwrap_or(0.0),
        failures_in_a_row: Some(recipe.text_model.max_consecutive_failures),
    }
}

/// How patiently a source is asked.
pub(super) fn patience(recipe: &BootstrapRecipe) -> Patience {
    let description = &recipe.text_model;
    Patience {
        attempts: description.attempts.unwrap_or(1),
        first_pause: Duration::from_secs_f64(description.first_pause.unwrap_or(1.0)),
    }
}
