//! `temper devices`: what can compute here.

use std::io::Write;

use crate::device::{self, Backend, dtype_name};
use crate::{Failure, run};

/// Arguments of `temper devices`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<10} {:<34} {:>12}  dtypes",
        "device", "state", "memory"
    )?;
    for report in device::list_all() {
        for device in &report.devices {
            let memory = match report.backend {
                Backend::Cpu => run::available_bytes().map_or_else(|| "?".to_owned(), gib),
                _ => "see driver".to_owned(),
            };
            let dtypes: Vec<_> = device
                .precisions()
                .into_iter()
                .map(|dtype| dtype_name(dtype.into()))
                .collect();
            writeln!(
                out,
                "{:<10} {:<34} {memory:>12}  {}",
                device.name,
                "present",
                dtypes.join(" ")
            )?;
        }
        if report.devices.is_empty() {
            let state = report
                .problem
                .unwrap_or_else(|| "compiled in, none present".to_owned());
            writeln!(out, "{:<10} {state}", report.backend.name())?;
        }
    }
    Ok(())
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
