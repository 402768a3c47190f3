//! `temper inspect` of what belongs to diffusion.

use serde_json::Value;

use super::adapters::oft;
use super::pipelines::copy_of_pipeline;
use super::support::{path, text};

/// The report, and whether the thing is sound. `inspect` takes no `--device`.
fn inspect(args: &[&str]) -> (Value, bool) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_temper"))
        .arg("inspect")
        .args(args)
        .arg("--json")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let report = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{error}"));
    (report, output.status.success())
}

#[test]
fn pipelines_and_their_parts_are_told_apart() {
    let pipeline = path("tests/golden/diffusion/pipeline");
    let (report, sound) = inspect(&[text(&pipeline)]);
    assert!(sound, "{report:#}");
    assert_eq!(report["kind"], "pipeline");
    assert_eq!(report["parts"].as_array().unwrap().len(), 5);
    let parts = [
        ("unet", "architecture", "UNet2DConditionModel"),
        ("vae", "architecture", "AutoencoderKL"),
        ("text_encoder", "architecture", "CLIPTextModel"),
        ("scheduler", "class", "DDIMScheduler"),
        ("tokenizer", "kind", "tokenizer"),
    ];
    for (part, key, expected) in parts {
        let (report, sound) = inspect(&[text(&pipeline.join(part))]);
        assert!(sound && report[key] == expected, "{part}: {report:#}");
        if key == "architecture" {
            assert_eq!(report["weights"], "fit the architecture", "{part}");
        }
    }
    let unet = inspect(&[text(&pipeline.join("unet"))]).0;
    let targets = unet["adapter_targets"].as_array().unwrap();
    let count =
        |name: &str| targets.iter().find(|row| row["name"] == name).unwrap()["count"].clone();
    assert_eq!((count("to_q"), count("to_out.0")), (8.into(), 8.into()));
    let xl = inspect(&[text(&path("tests/golden/diffusion/pipeline_sdxl"))]).0;
    assert_eq!(xl["class"], "StableDiffusionXLPipeline");
    assert_eq!(xl["parts"].as_array().unwrap().len(), 7);
}

#[test]
fn a_pipeline_whose_parts_do_not_fit_is_unsound() {
    let (_folder, pipeline) = copy_of_pipeline();
    let config = pipeline.join("vae/config.json");
    let text_of = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text_of.replace("\"latent_channels\": 4", "\"latent_channels\": 16"),
    )
    .unwrap();
    std::fs::remove_dir_all(pipeline.join("scheduler")).unwrap();
    let (report, sound) = inspect(&[text(&pipeline)]);
    assert!(!sound && report["usable"] == false);
    let notes = report["notes"].to_string();
    assert!(
        notes.contains("16 latent channels") && notes.contains("scheduler"),
        "{notes}"
    );
}

#[test]
fn adapters_say_their_real_blocks_and_whether_they_fit_the_unet() {
    let folder = tempfile::tempdir().unwrap();
    let unet = path("tests/golden/diffusion/pipeline/unet");
    let adapter = oft(&unet, folder.path());
    let (report, fits) = inspect(&[text(&adapter), "--model", text(&unet)]);
    assert!(fits, "{report:#}");
    assert_eq!(
        report["effective_block_sizes"],
        serde_json::json!(["4 (32 layers)"])
    );
    assert_eq!(report["changes_nothing"], false);
    let coft = path("tests/golden/oft/unet_coft_attn_cn/adapter");
    let report = inspect(&[text(&coft)]).0;
    assert_eq!(report["method"], "coft");
    assert!(
        report["coft_tau"].as_array().unwrap().len() == 2,
        "{report:#}"
    );
    let (report, fits) = inspect(&[text(&coft), "--model", text(&unet)]);
    assert!(!fits, "{report:#}");
}

#[test]
fn adapters_of_other_tools_and_pictures_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = path("tests/golden/diffusion/pipeline");
    let lora = super::adapters::lora(&pipeline.join("unet"), folder.path());
    for (to, key) in [("diffusers", "unet."), ("kohya", "lora_unet_")] {
        let file = folder.path().join(format!("{to}.safetensors"));
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_temper"))
            .args([
                "convert",
                "--adapter",
                text(&lora),
                "--model",
                text(&pipeline),
            ])
            .args(["--to", to, "--output", text(&file)])
            .output()
            .unwrap();
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        let (report, fits) = inspect(&[text(&file), "--model", text(&pipeline)]);
        assert!(fits, "{key}: {report:#}");
        assert_eq!(
            (&report["layout"], &report["layers"]),
            (&to.into(), &32.into())
        );
    }
}

#[test]
fn folders_of_pictures_of_adapters_and_of_control_encoders_are_recognised() {
    let (photos, all_read) = inspect(&[text(&path("assets/dreambooth/dog6"))]);
    assert!(all_read, "{photos:#}");
    assert_eq!(
        (&photos["kind"], &photos["pictures"]),
        (&"pictures".into(), &5.into())
    );
    let folder = tempfile::tempdir().unwrap();
    let photo = path("assets/dreambooth/dog6/00.jpg");
    assert_eq!(inspect(&[text(&photo)]).0["kind"], "picture");
    let bytes = std::fs::read(&photo).unwrap();
    std::fs::write(folder.path().join("cut.jpg"), &bytes[..bytes.len() / 2]).unwrap();
    let (broken, all_read) = inspect(&[text(folder.path())]);
    assert!(!all_read && broken["unreadable"] == 1, "{broken:#}");

    let pipeline = path("tests/golden/diffusion/pipeline");
    let lora = super::adapters::lora(&pipeline.join("unet"), folder.path());
    let written = folder.path().join("for-diffusers");
    let (_, error, code) = super::adapters::convert(&lora, &pipeline, "diffusers", &written);
    assert_eq!(code, Some(0), "{error}");
    let (adapter, _) = inspect(&[text(&written)]);
    assert_eq!(adapter["layout"], "diffusers", "{adapter:#}");

    let (adapter, _) = super::control::control_run(folder.path(), &pipeline);
    let (control, fits) = inspect(&[text(&adapter.with_file_name("control"))]);
    assert!(fits, "{control:#}");
    assert_eq!(control["architecture"], "ControlNetConditioningEmbedding");
}

#[test]
fn adapters_and_runs_are_checked_against_pipelines() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = path("tests/golden/diffusion/pipeline");
    let run = folder.path().join("run");
    let adapter = oft(&pipeline.join("unet"), &run);
    std::fs::rename(adapter, run.join("adapter")).unwrap();
    std::fs::write(run.join("recipe.toml"), "").unwrap();
    for thing in [run.join("adapter"), run] {
        let (report, fits) = inspect(&[text(&thing), "--model", text(&pipeline)]);
        assert!(fits && report["fits"] == true, "{report:#}");
        assert_eq!(report["matched"], 32);
    }
}
