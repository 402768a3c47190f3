//! `temper train` as a user runs it: the real binary on small models, compared with PyTorch and PEFT, killed, broken and
//! resumed.

#[cfg(test)]
#[path = "train_runs/ablations.rs"]
mod ablations;
#[cfg(test)]
#[path = "train_runs/batches.rs"]
mod batches;
#[cfg(test)]
#[path = "train_runs/curves.rs"]
mod curves;
#[cfg(test)]
#[path = "train_runs/endings.rs"]
mod endings;
#[cfg(test)]
#[path = "train_runs/faults.rs"]
mod faults;
#[cfg(test)]
#[cfg(unix)]
#[path = "train_runs/interrupted.rs"]
mod interrupted;
#[cfg(test)]
#[path = "train_runs/methods.rs"]
mod methods;
#[cfg(test)]
#[path = "train_runs/outputs.rs"]
mod outputs;
#[cfg(test)]
#[path = "train_runs/support.rs"]
mod support;
