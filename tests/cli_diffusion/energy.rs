//! `temper energy`.

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
