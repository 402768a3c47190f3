//! `temper energy`: hyperspherical energy of layers before and after adapters (arXiv 2306.07280, section 3).
//!
//! The energy of a layer is the mean over all pairs of its neurons and their negatives of `1 / ‖ŵ_i − ŵ_j‖`, as the authors' own code
//! measures it. A rotation of the input keeps every angle between neurons, and so the energy; low-rank and full training do not.

mod chart;
mod layers;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::output::print;
use super::report::Report;
use crate::Failure;
use crate::diffusion::AdapterChoice;
use crate::run::{note, write_atomic};
use chart::{Chart, Series};
use layers::Base;

/// Arguments of `temper energy`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Base model: a UNet or language model directory, or a pipeline (also in one file), of which the UNet is measured
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Adapter or run, `:0.8` behind it is its strength; or a model trained in full from the base. May be repeated
    #[arg(long, value_name = "DIR[:STRENGTH]", required_unless_present = "run")]
    adapter: Vec<AdapterChoice>,
    /// Run directory: the energy at each of its checkpoints; may be repeated
    #[arg(long, value_name = "DIR", conflicts_with = "adapter")]
    run: Vec<PathBuf>,
    /// Measure every layer, not only those that change
    #[arg(long)]
    all: bool,
    /// SVG file to draw: energy over steps for runs, its change over layers for adapters
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Device: auto, cpu, cuda[:N], metal, vulkan, wgpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let is_svg = |file: &&PathBuf| file.extension().is_some_and(|ending| ending == "svg");
    if let Some(file) = args.output.as_ref().filter(|file| !is_svg(file)) {
        let message = format!(
            "--output is `{}`, and the plot is an SVG file",
            file.display()
        );
        return Err(Failure::usage(message).with_hint("end its name in `.svg`"));
    }
    let base = Base::load(&args.model, &args.device)?;
    let (report, chart) = if args.run.is_empty() {
        of_adapters(args, &base)?
    } else {
        of_runs(args, &base)?
    };
    if args.json {
        print(format!("{:#}", report.to_json()))?;
    } else {
        print(report.to_text())?;
    }
    let Some(file) = &args.output else {
        return Ok(());
    };
    write_atomic(file, chart.render()?.as_bytes())?;
    note(&format!("wrote `{}`", file.display()));
    Ok(())
}

/// Seven digits are more than f32 weights give.
fn rounded(value: f64) -> Value {
    let text = format!("{value:.7e}");
    text.parse::<f64>()
        .map_or(Value::Null, |value| json!(value))
}

/// Energy of each layer, before and with each adapter.
fn of_adapters(args: &Args, base: &Base) -> Result<(Report, Chart), Failure> {
    let mut report = Report::new("energy", &base.directory);
    let mut after = Vec::new();
    for choice in &args.adapter {
        let mut name = label(&choice.path);
        if choice.strength != 1.0 {
            name = format!("{name}:{}", choice.strength);
        }
        after.push((name, base.with_adapter(choice)?));
    }
    let changed = |module: &str| {
        after
            .iter()
            .any(|(_, energies)| energies.get(module).is_some())
    };
    let before = base.energies(|module| args.all || changed(module));
    let mut rows = Vec::new();
    for (module, energy) in &before.0 {
        for (name, energies) in &after {
            let now = energies.get(module).unwrap_or(*energy);
            let change = (now - energy) / energy;
            rows.push(vec![
                json!(module),
                json!(name),
                rounded(*energy),
                rounded(now),
                rounded(change),
            ]);
        }
    }
    let columns = ["layer", "adapter", "before", "after", "relative_change"];
    report.fact("layers", before.0.len());
    report.fact("energy_before", rounded(before.total()));
    report.table("energies", &columns, rows);
    let totals = after.iter().map(|(name, energies)| {
        let total = energies.total_over(&before);
        let change = (total - before.total()) / before.total();
        let most = before.largest_change(energies);
        vec![json!(name), rounded(total), rounded(change), rounded(most)]
    });
    let columns = [
        "adapter",
        "energy_after",
        "relative_change",
        "largest_of_a_layer",
    ];
    report.table("totals", &columns, totals.collect());
    let series = after.iter().map(|(name, energies)| Series {
        name: name.clone(),
        points: before.changes(energies),
    });
    let chart = Chart {
        title: "Hyperspherical energy: change of each layer".to_owned(),
        x: "layer",
        y: "relative change",
        series: series.collect(),
    };
    Ok((report, chart))
}

/// Energy of all changed layers together, at each checkpoint of each run.
fn of_runs(args: &Args, base: &Base) -> Result<(Report, Chart), Failure> {
    let mut report = Report::new("energy", &base.directory);
    let mut runs = Vec::new();
    for path in &args.run {
        runs.push((label(path), base.with_run(path)?));
    }
    // The same layers for every run: their lines begin at one point.
    let changed = |module: &str| {
        let mut steps = runs.iter().flat_map(|(_, steps)| steps);
        steps.any(|(_, now)| now.get(module).is_some())
    };
    let before = base.energies(|module| args.all || changed(module));
    let first = before.total();
    report.fact("layers", before.0.len());
    let mut rows = Vec::new();
    let mut series = Vec::new();
    for (name, steps) in &runs {
        let mut points = vec![(0.0, first)];
        for (step, energies) in steps {
            points.push((*step as f64, energies.total_over(&before)));
        }
        for (step, total) in &points {
            rows.push(vec![
                json!(name),
                json!(*step as u64),
                rounded(*total),
                rounded((total - first) / first),
            ]);
        }
        series.push(Series {
            name: name.clone(),
            points,
        });
    }
    report.table("steps", &["run", "step", "energy", "relative_change"], rows);
    let chart = Chart {
        title: "Hyperspherical energy while training".to_owned(),
        x: "step",
        y: "energy",
        series,
    };
    Ok((report, chart))
}

/// The last parts of a path, without the names that all runs share.
fn label(path: &Path) -> String {
    let shared = ["adapter", "model", "unet", "checkpoints"];
    let parts = path.components().rev();
    let mut parts = parts.filter_map(|part| part.as_os_str().to_str());
    let own = parts.find(|part| !shared.contains(part));
    own.map_or_else(|| path.display().to_string(), str::to_owned)
}
