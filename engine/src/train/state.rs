//! What a checkpoint holds: trained parameters, moments, and where the run stands.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use temper_adapters::ops::HostView;
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, WeightsError, save_safetensors};
use temper_adapters::{Adaptable, Param, Parameters};
use temper_models::host_tensor;

use super::average::Averages;
use super::optimizer::{Moments, OptimizerState};
use crate::Failure;
use crate::run::CheckpointWriter;

const TRAINED: &str = "trained.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const AVERAGES: &str = "averages.safetensors";
const STATE: &str = "state.json";

/// Where a run stands. Randomness and data order are functions of the step, so nothing of them is here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Optimizer steps done.
    pub step: u64,
    /// Items read so far: tokens or images.
    #[serde(rename = "tokens")]
    pub items: u64,
    /// Loss of the first step.
    pub first_loss: Option<f64>,
    /// Loss of the last step.
    pub last_loss: f64,
    /// Held-out loss before the first step.
    pub eval_before: Option<f64>,
    /// The lowest held-out loss and its step.
    pub best: Option<(f64, u64)>,
    /// The most problems of the recipe's `[eval]` solved, as a share, and the first step that did.
    #[serde(default)]
    pub best_exam: Option<(f64, u64)>,
    /// Evaluations since the best one.
    pub stale_evals: usize,
    /// The run ended early: the held-out loss stopped improving.
    #[serde(default)]
    pub stopped_early: bool,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Fingerprint of the data the run reads.
    pub data: String,
    /// Fingerprint of the frozen values it trains on; empty in checkpoints of older versions.
    #[serde(default)]
    pub base: String,
}

/// Writes a checkpoint's files.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn save(
    writer: &CheckpointWriter,
    model: &dyn Adaptable,
    optimizer: &OptimizerState,
    position: &Position,
) -> Result<(), Failure> {
    let mut trained = Vec::new();
    let mut failure = None;
    model.visit(&mut |param| {
        if param.is_trainable() {
            match host_tensor(param, Dtype::F32) {
                Ok(tensor) => trained.push((param.name().to_owned(), tensor)),
                Err(error) => failure = Some(error),
            }
        }
    });
    if let Some(error) = failure {
        return Err(error.into());
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    save_safetensors(&writer.dir().join(TRAINED), &trained, &metadata)?;
    drop(trained);
    let mut moments = Vec::new();
    for (name, state) in &optimizer.moments {
        let (m, v) = match state {
            Moments::Host { m, v } => (vector(m)?, vector(v)?),
            Moments::Device { m, v } => (vector(&values(m))?, vector(&values(v))?),
        };
        moments.push((format!("{name}.exp_avg"), m));
        moments.push((format!("{name}.exp_avg_sq"), v));
    }
    save_safetensors(&writer.dir().join(OPTIMIZER), &moments, &metadata)?;
    if let Some(averages) = &optimizer.averages {
        let mut means = Vec::new();
        for (name, mean) in averages.values() {
            means.push((name.clone(), vector(&values(mean))?));
        }
        save_safetensors(&writer.dir().join(AVERAGES), &means, &metadata)?;
    }
    let state = State {
        position: position.clone(),
        updates: optimizer.updates,
    };
    writer.write(STATE, serde_json::to_string_pretty(&state)?.as_bytes())?;
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct State {
    position: Position,
    updates: u64,
}

/// Reads a verified checkpoint back into `model` and returns optimizer and position.
///
/// # Errors
/// When its tensors are not exactly the trained ones of `model`.
pub(crate) fn load(
    directory: &Path,
    model: &mut dyn Adaptable,
) -> Result<(OptimizerState, Position), Failure> {
    let text = std::fs::read(directory.join(STATE))?;
    let state: State = serde_json::from_slice(&text)?;
    let trained = Checkpoint::open(directory.join(TRAINED))?;
    let moments = Checkpoint::open(directory.join(OPTIMIZER))?;
    let path = directory.join(AVERAGES);
    let means = path.is_file().then(|| Checkpoint::open(path)).transpose()?;
    let mut averages = BTreeMap::new();
    let mut optimizer = OptimizerState {
        updates: state.updates,
        ..OptimizerState::default()
    };
    let mut outcome: Result<usize, WeightsError> = Ok(0);
    model.visit_mut(&mut |param| {
        if let (Ok(count), true) = (&outcome, param.is_trainable()) {
            let count = count + 1;
            outcome = restore(param, &trained).and_then(|()| {
                // Before the first update there are no moments.
                if state.updates > 0 {
                    let entry = restore_moments(param, &moments)?;
                    optimizer.moments.insert(param.name().to_owned(), entry);
                }
                if let Some(means) = &means {
                    let mean = on_device_of(param, means.read_f32(param.name())?);
                    averages.insert(param.name().to_owned(), mean);
                }
                Ok(count)
            });
        }
    });
    let count = outcome?;
    if count != trained.len() {
        let message = format!(
            "the checkpoint has {} trained tensors, the recipe trains {count}",
            trained.len()
        );
        return Err(
            Failure::run(message).with_hint("resume with the recipe the run was started with")
        );
    }
    optimizer.averages = means.map(|_| Averages::restored(averages));
    Ok((optimizer, state.position))
}

/// A flat tensor where the parameter is.
fn on_device_of(param: &Param, values: Vec<f32>) -> Tensor<1> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), &param.plain().device())
}

/// Reads one parameter.
fn restore(param: &mut Param, trained: &Checkpoint) -> Result<(), WeightsError> {
    trained.expect(param.name(), param.shape())?;
    let values = trained.read_f32(param.name())?;
    param.set(on_device_of(param, values));
    Ok(())
}

/// Reads the moments of one parameter, to where the parameter is.
fn restore_moments(param: &Param, moments: &Checkpoint) -> Result<Moments, WeightsError> {
    let [m, v] =
        ["exp_avg", "exp_avg_sq"].map(|slot| moments.read_f32(&format!("{}.{slot}", param.name())));
    let (m, v) = (m?, v?);
    let value = param.plain();
    if HostView::view(&value).is_some() {
        return Ok(Moments::Host { m, v });
    }
    Ok(Moments::Device {
        m: on_device_of(param, m),
        v: on_device_of(param, v),
    })
}

/// Bytes a checkpoint will take, for the check of free space.
pub(super) fn expected_bytes(model: &dyn Parameters, averages: bool) -> u64 {
    (model.count(true) as u64) * if averages { 16 } else { 12 } + (1 << 16)
}

fn values(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.clone().into_data().iter::<f32>().collect()
}

fn vector(values: &[f32]) -> Result<HostTensor, WeightsError> {
    HostTensor::from_f32(Dtype::F32, vec![values.len()], values)
}
