//! What a run ran on.

use serde::{Deserialize, Serialize};

use super::clock;

/// The content of `environment.json`: enough to say where numbers came from, and nothing private.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of the tool.
    pub tool_version: String,
    /// Revision the binary was built from, if the build knew it (`TEMPER_GIT_REVISION`).
    pub git_revision: Option<String>,
    /// Compiler, if the build knew it (`TEMPER_RUSTC_VERSION`).
    pub rustc: Option<String>,
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub arch: String,
    /// Processors this process may use.
    pub cpus: usize,
    /// The device the run computes on, as the caller names it.
    pub device: String,
    /// Start of the run, UTC, RFC 3339.
    pub started: String,
}

impl Environment {
    /// Describes this process.
    pub fn capture(device: &str) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self {
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            git_revision: owned(option_env!("TEMPER_GIT_REVISION")),
            rustc: owned(option_env!("TEMPER_RUSTC_VERSION")),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            device: device.to_owned(),
            started: clock::rfc3339(clock::unix_seconds() as u64),
        }
    }
}
