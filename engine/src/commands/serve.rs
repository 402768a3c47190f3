//! `temper serve`: models behind the OpenAI API.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use crate::Failure;
use crate::loading::{LoadOptions, Precision};
use crate::serve::{Frame, KeySource, NamedAdapter, Options, ServeLimits, serve};

/// Arguments of `temper serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model directory, or `org/name[@revision]` on the hub
    #[arg(long, value_name = "DIR")]
    model: String,
    /// What clients call the model; by default the name of its directory
    #[arg(long)]
    name: Option<String>,
    /// Adapter directory (PEFT layout) and what clients call it; may be repeated
    #[arg(long, value_name = "NAME=DIR")]
    adapter: Vec<NamedAdapter>,
    /// Device: auto, cpu, cuda[:N], metal, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Precision of weights and products; by default what suits the device
    #[arg(long, value_enum)]
    dtype: Option<Precision>,
    /// Put conversations into this template; by default the model's own
    #[arg(long, value_enum)]
    template: Option<Frame>,
    /// Put conversations into the Jinja template in this file
    #[arg(long, value_name = "FILE", conflicts_with = "template")]
    chat_template: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one and prints it
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Environment variable with the key that clients must send
    #[arg(long, value_name = "VAR", conflicts_with = "api_key_file")]
    api_key_env: Option<String>,
    /// File with keys that clients may send, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Debug, clap::Args)]
struct Limits {
    /// Sequences of a model that are generated at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    max_sequences: u32,
    /// Longest sequence, prompt and answer together, in tokens; by default the model's context
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    max_length: Option<u32>,
    /// Memory for keys and values of all models, like `8GiB`; fewer sequences run at once when it is short
    #[arg(long, value_name = "SIZE")]
    cache_memory: Option<ByteSize>,
    /// Sequences of a model that may wait; further requests get status 429
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_queue: u32,
    /// Largest request body
    #[arg(long, value_name = "SIZE", default_value = "2MiB")]
    max_body: ByteSize,
    /// Longest answer a client may ask for, in tokens; by default what the model's context holds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Seconds for a client to send its headers, and for an open connection to wait for the next request
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    header_timeout: u32,
    /// Seconds from the arrival of a request to the end of its answer
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    request_timeout: u32,
    /// Seconds that running requests may go on after SIGTERM or SIGINT
    #[arg(long, value_name = "S", default_value_t = 30)]
    shutdown_timeout: u32,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let keys = match (&args.api_key_env, &args.api_key_file) {
        (Some(name), _) => KeySource::Environment(name.clone()),
        (None, Some(file)) => KeySource::File(file.clone()),
        (None, None) => KeySource::Nowhere,
    };
    serve(&Options {
        load: LoadOptions {
            model: args.model.clone(),
            adapter: None,
            device: args.device.clone(),
            dtype: args.dtype.map(Into::into),
        },
        name: args.name.clone(),
        adapters: args.adapter.clone(),
        frame: args.template,
        chat_template: args.chat_template.clone(),
        host: args.host,
        port: args.port,
        keys,
        limits: args.limits.to_limits(),
    })
}

impl Limits {
    fn to_limits(&self) -> ServeLimits {
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        ServeLimits {
            max_sequences: self.max_sequences as usize,
            max_queue: self.max_queue as usize,
            cache_memory: self.cache_memory.map(|size| size.as_u64()),
            max_length: self.max_length.map(|tokens| tokens as usize),
            max_body: usize::try_from(self.max_body.as_u64()).unwrap_or(usize::MAX),
            max_tokens: self.max_tokens.map(|tokens| tokens as usize),
            header_timeout: seconds(self.header_timeout),
            request_timeout: seconds(self.request_timeout),
            shutdown_timeout: seconds(self.shutdown_timeout),
        }
    }
}
