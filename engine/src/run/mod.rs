//! Everything one run leaves on disk and says while it lasts.
//!
//! A run directory holds the resolved recipe, the environment, `metrics.jsonl`, `TensorBoard`
//! events, the loss curve, checkpoints, the result and a summary ([`RunDir`] names each path).
//! Three rules hold throughout:
//!
//! - a finished file is a whole file: written beside, synced, renamed ([`write_atomic`]);
//! - a checkpoint is trusted only through its manifest ([`CheckpointStore`]);
//! - one process owns a run directory at a time ([`RunLock`]).
//!
//! Nothing here knows tensors or recipes.

pub(crate) mod chart;
mod clock;
mod curve;
mod dir;
mod environment;
mod error;
mod events;
mod host;
mod lock;
mod memory;
mod metrics;
mod progress;
mod results;
mod signals;
mod store;
mod summary;

pub use curve::{render_curve, write_curve};
pub use dir::{RunDir, RunMode};
pub use environment::Environment;
pub use error::RunError;
pub use events::EventWriter;
pub use lock::RunLock;
pub use memory::{available_bytes, peak_resident_bytes, resident_bytes};
pub use metrics::{EvalMetric, Items, Metric, MetricsWriter, Row, TaskMetric, Unit, read_metrics};
pub use progress::{Progress, Verbosity, note};
pub use results::NotThat;
pub use signals::Signals;
pub use store::{
    Checkpoint, CheckpointStore, CheckpointWriter, Found, Manifest, ManifestFile, Skipped, verify,
    write_atomic,
};
pub use summary::Summary;

pub(crate) use lock::LOCK;
pub(crate) use progress::printable;
pub(crate) use results::{ADAPTERS, adapters_at, check_is_adapter, model_at};
pub(crate) use store::{hash_file, hex, is_safe_relative, write_atomic_with};
