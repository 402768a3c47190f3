//! `temper verify`: the checks that no log would show.

use std::io::Write;

use crate::verify::{Check, GROUPS, verify};
use crate::{Failure, device};

/// Arguments of `temper verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Device to check: cpu, cuda:0, vulkan, wgpu, metal
    #[arg(long, default_value = "auto")]
    device: String,
    /// Run only these groups of checks
    #[arg(long, value_delimiter = ',', value_parser = GROUPS)]
    only: Vec<String>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let device = device::open(&args.device)?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        writeln!(
            out,
            "checking {}\n{:<58} {:>10} {:>10}",
            device.name, "check", "error", "tolerance"
        )?;
    }
    let mut checks: Vec<Check> = Vec::new();
    verify(&device, &args.only, &mut |check| {
        if !args.json {
            let verdict = if check.passed() { "ok" } else { "FAILED" };
            // A closed pipe ends the table, not the checks.
            let _ = writeln!(
                out,
                "{:<58} {:>10.2e} {:>10.1e}  {verdict}",
                check.name, check.error, check.tolerance
            );
        }
        checks.push(check);
    })?;
    let failed = checks.iter().filter(|check| !check.passed()).count();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&checks)?)?;
    } else {
        writeln!(out, "{} checks, {failed} failed", checks.len())?;
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure::reported())
    }
}
