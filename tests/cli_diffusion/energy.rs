//! `temper energy`.

use std::path::{Path, PathBuf};

use super::adapters::{lora, oft};
use super::support::{fail, path, succeed, text};

#[test]
fn rotations_keep_the_energy_of_every_layer_and_low_rank_terms_move_it() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = path("tests/golden/diffusion/pipeline");
    let unet = pipeline.join("unet");
    let (oft, lora) = (oft(&unet, folder.path()), lora(&unet, folder.path()));
    let plot = folder.path().join("energy.svg");
    let said = succeed(&[
        "energy",
        "--model",
        text(&pipeline),
        "--adapter",
        text(&oft),
        "--adapter",
        text(&lora),
        "--output",
        text(&plot),
        "--json",
    ]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let change = |adapter: &str| {
        let totals = report["totals"].as_array().unwrap();
        let row = totals.iter().find(|row| row["adapter"] == adapter).unwrap();
        row["largest_of_a_layer"].as_f64().unwrap().abs()
    };
    assert!(change("oft") < 1e-4, "{said}");
    assert!(change("lora") > 1e-3, "{said}");
    let rows = report["energies"].as_array().unwrap();
    // Two adapters; four projections in each of two attentions of four transformer blocks.
    assert_eq!(rows.len(), 2 * 4 * 2 * 4, "a row a layer and adapter");
    assert!(rows.iter().all(|row| row["before"].as_f64().unwrap() > 0.0));
    let svg = std::fs::read_to_string(&plot).unwrap();
    for word in ["oft", "lora", "relative change", "layer"] {
        assert!(svg.contains(word), "{word}");
    }
}

/// A few steps on the shipped photographs, every second one kept.
fn train(folder: &Path, name: &str, adapter: &str) -> PathBuf {
    let run = folder.join(name);
    let settings = [
        "train.steps=4".to_owned(),
        "train.batch_size=1".to_owned(),
        "train.save_every=2".to_owned(),
        "train.keep_last=9".to_owned(),
        "train.eval_every=0".to_owned(),
        "train.lr=0.02".to_owned(),
        "sample.count=0".to_owned(),
        "device=cpu".to_owned(),
        format!("run.dir={}", run.display()),
        format!("adapter={adapter}"),
    ];
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_temper"));
    command
        .current_dir(path(""))
        .args(["train", "recipes/tiny-dreambooth-oft.toml"]);
    let trained = command
        .args(settings.iter().flat_map(|s| ["--set", s]))
        .output()
        .unwrap();
    assert!(
        trained.status.success(),
        "{}",
        String::from_utf8_lossy(&trained.stderr)
    );
    run
}

#[test]
fn along_a_run_the_energy_stays_for_oft_and_drifts_for_lora() {
    let folder = tempfile::tempdir().unwrap();
    let oft = train(
        folder.path(),
        "oft",
        r#"{kind="oft",r=4,use_cayley_neumann=false,target_modules=["to_q","conv1"]}"#,
    );
    let lora = train(
        folder.path(),
        "lora",
        r#"{kind="lora",r=4,target_modules=["to_q"]}"#,
    );
    let model = path("assets/tiny-diffusion");
    let plot = folder.path().join("energy.svg");
    let runs = [
        "--run",
        text(&oft),
        "--run",
        text(&lora),
        "--output",
        text(&plot),
        "--json",
    ];
    let said = succeed(&[&["energy", "--model", text(&model)], &runs[..]].concat());
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let rows = report["steps"].as_array().unwrap();
    let of = |run: &str, key: &str| -> Vec<f64> {
        let own = rows.iter().filter(|row| row["run"] == run);
        own.map(|row| row[key].as_f64().unwrap()).collect()
    };
    for run in ["oft", "lora"] {
        assert_eq!(of(run, "step"), [0.0, 2.0, 4.0], "{said}");
    }
    assert_eq!(
        of("oft", "energy")[0],
        of("lora", "energy")[0],
        "one beginning"
    );
    let drift = |run: &str| of(run, "relative_change")[2].abs();
    assert!(
        drift("oft") < 1e-7 && drift("lora") > 100.0 * drift("oft"),
        "{said}"
    );
    assert!(drift("lora") > 1e-6, "{said}");
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("step") && svg.contains("lora"));
}

#[test]
fn runs_without_checkpoints_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let unet = path("tests/golden/diffusion/pipeline/unet");
    let run = [
        "energy",
        "--model",
        text(&unet),
        "--run",
        text(folder.path()),
    ];
    assert!(fail(1, &run).contains("neither `adapter` nor `model`"));
    assert!(fail(2, &["energy", "--model", text(&unet)]).contains("--adapter"));
}

#[test]
fn a_strength_and_a_run_directory_are_understood_as_by_sample() {
    let (folder, pipeline) = super::pipelines::copy_of_pipeline();
    let run = folder.path().join("run");
    let lora = super::adapters::lora_of(&pipeline.join("unet"), &run, "adapter", 0.5);
    std::fs::write(run.join("recipe.toml"), "").unwrap();
    let change = |adapter: &str| {
        let places = ["--model", text(&pipeline), "--adapter", adapter, "--json"];
        let said = succeed(&[&["energy"], &places[..]].concat());
        let report: serde_json::Value = serde_json::from_str(&said).unwrap();
        let change = &report["totals"][0]["relative_change"];
        change.as_f64().unwrap()
    };
    let full = change(text(&lora));
    assert_eq!(change(text(&run)), full);
    assert_eq!(change(&format!("{}:0", run.display())), 0.0);
    let half = change(&format!("{}:0.5", run.display()));
    assert!(half != 0.0 && half.abs() < full.abs(), "{half} {full}");
    let whole = format!("{}:0.5", pipeline.display());
    let model = ["energy", "--model", text(&pipeline), "--adapter", &whole];
    assert!(fail(2, &model).contains("no strength"));
}
