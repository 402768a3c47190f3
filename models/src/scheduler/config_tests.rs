use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};

use super::*;
use crate::ModelError;

/// What stands in the published directories of Stable Diffusion 1.5.
fn published() -> Value {
    json!({
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true,
        "steps_offset": 1, "trained_betas": null, "clip_sample": false,
    })
}

fn refusal(change: &[(&str, Value)], steps: usize) -> String {
    let mut value = published();
    for (key, new) in change {
        value[key] = new.clone();
    }
    match SchedulerConfig::from_json(&value) {
        Err(error) => error.to_string(),
        Ok(config) => Scheduler::new(&config, steps).unwrap_err().to_string(),
    }
}

#[test]
fn reading_and_writing_keeps_every_key() {
    let mut value = published();
    value["a_key_of_tomorrow"] = json!({"deep": [1, 2]});
    let config = SchedulerConfig::from_json(&value).unwrap();
    assert_eq!(config.to_json(), value);
    assert_eq!(
        SchedulerConfig::from_json(&config.to_json()).unwrap(),
        config
    );
}

#[test]
fn a_changed_field_is_written() {
    let mut config = SchedulerConfig::from_json(&published()).unwrap();
    config.prediction_type = Prediction::VPrediction;
    assert_eq!(config.to_json()["prediction_type"], "v_prediction");
    assert_eq!(config.to_json().get("timestep_spacing"), None);
}

#[test]
fn the_infinity_of_python_survives_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("scheduler_config.json");
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "note": "-Infinity \" -Infinity"}"#;
    std::fs::write(&file, text).unwrap();
    let config = SchedulerConfig::load(directory.path()).unwrap();
    config.save(directory.path()).unwrap();
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(
        written.contains(r#""lambda_min_clipped": -Infinity"#),
        "{written}"
    );
    assert!(
        written.contains(r#""note": "-Infinity \" -Infinity""#),
        "{written}"
    );
    assert_eq!(SchedulerConfig::load(directory.path()).unwrap(), config);
}

#[test]
fn a_wrong_key_is_named_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("scheduler_config.json");
    std::fs::write(
        &file,
        r#"{"_class_name": "DDIMScheduler", "steps_offset": 1000}"#,
    )
    .unwrap();
    let error = SchedulerConfig::load(directory.path()).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("`steps_offset`"), "{said}");
    assert!(said.contains(&*file.to_string_lossy()), "{said}");
}

#[test]
fn another_sampler_keeps_the_noise_process_and_takes_its_own_defaults() {
    let base = SchedulerConfig::from_json(&published()).unwrap();
    assert_eq!(base.timestep_spacing, Spacing::Leading);
    for name in SchedulerKind::names() {
        let config = base.with_kind(name).unwrap();
        assert_eq!(
            (config.beta_start, config.beta_end),
            (0.00085, 0.012),
            "{name}"
        );
        assert_eq!(config.beta_schedule, BetaSchedule::ScaledLinear, "{name}");
        let again = config.with_kind(config.kind.class_name()).unwrap();
        assert_eq!(again, config, "{name}");
        assert!(Scheduler::new(&config, 20).is_ok(), "{name}");
    }
    // The file does not name a spacing, so each class has its own.
    assert_eq!(
        base.with_kind("dpmpp_2m").unwrap().timestep_spacing,
        Spacing::Linspace
    );
    assert_eq!(
        base.with_kind("ddim").unwrap().timestep_spacing,
        Spacing::Leading
    );
    assert!(base.with_kind("dpmpp_2m_karras").unwrap().use_karras_sigmas);
    let back = base
        .with_kind("dpmpp_2m_karras")
        .unwrap()
        .with_kind("dpmpp_2m");
    assert!(!back.unwrap().use_karras_sigmas);
    assert!(matches!(
        base.with_kind("lms"),
        Err(ModelError::Preset { .. })
    ));
}

#[test]
fn converting_never_turns_clipping_on() {
    let value = json!({"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"});
    let euler = SchedulerConfig::from_json(&value).unwrap();
    let ddim = euler.with_kind("ddim").unwrap();
    assert!(!ddim.clip_sample);
    assert_eq!(ddim.prediction_type, Prediction::VPrediction);
    let written = SchedulerConfig::from_json(&json!({"_class_name": "DDIMScheduler"})).unwrap();
    assert!(written.clip_sample, "the default of the class");
}

#[test]
fn what_has_no_result_is_refused_and_says_why() {
    let euler = ("_class_name", json!("EulerDiscreteScheduler"));
    assert!(refusal(&[], 0).contains("1 to 1000"));
    assert!(refusal(&[], 1001).contains("1 to 1000"));
    assert!(refusal(&[], 1000).contains("steps_offset"));
    let zero = [
        ("_class_name", json!("DDIMScheduler")),
        ("rescale_betas_zero_snr", json!(true)),
        ("timestep_spacing", json!("trailing")),
    ];
    assert!(refusal(&zero, 20).contains("noise alone"));
    let zero = [zero[1].clone(), zero[2].clone(), euler.clone()];
    assert!(refusal(&zero, 20).contains("noise alone"));
    assert!(refusal(&[("rescale_betas_zero_snr", json!(true))], 20).contains("PNDMScheduler"));
    assert!(refusal(&[("skip_prk_steps", json!(false))], 20).contains("Runge-Kutta"));
    assert!(refusal(&[("beta_end", json!(-1))], 20).contains("beta_end"));
    assert!(refusal(&[("trained_betas", json!([0.1]))], 20).contains("trained_betas"));
    assert!(refusal(std::slice::from_ref(&euler), 1).contains("trailing"));
    let unipc = [
        ("_class_name", json!("UniPCMultistepScheduler")),
        ("lower_order_final", json!(false)),
    ];
    assert!(refusal(&unipc, 20).contains("lower_order_final"));
    let dpm = ("_class_name", json!("DPMSolverMultistepScheduler"));
    let crowded = [dpm.clone(), ("timestep_spacing", json!("leading"))];
    assert!(refusal(&crowded, 1000).contains("twice"));
    assert!(refusal(&[dpm, ("solver_order", json!(3))], 20).contains("solver_order"));
}

#[test]
fn options_that_are_not_built_are_named() {
    let cases = [
        ("thresholding", json!(true)),
        ("use_beta_sigmas", json!(true)),
        ("use_exponential_sigmas", json!(true)),
        ("use_flow_sigmas", json!(true)),
        ("prediction_type", json!("flow_prediction")),
        ("beta_schedule", json!("sigmoid")),
        ("timestep_spacing", json!("random")),
        ("timestep_type", json!("continuous")),
        ("num_train_timesteps", json!("many")),
        ("steps_offset", json!(-1)),
        ("_class_name", json!("LMSDiscreteScheduler")),
    ];
    for (key, value) in cases {
        assert!(refusal(&[(key, value)], 20).contains(key), "{key}");
    }
    let list = SchedulerConfig::from_json(&json!([]))
        .unwrap_err()
        .to_string();
    assert!(list.contains("scheduler_config.json"));
}

#[test]
fn calls_out_of_order_and_missing_noise_are_errors() {
    let config = SchedulerConfig::from_json(&published()).unwrap();
    let mut scheduler = Scheduler::new(&config.with_kind("euler_a").unwrap(), 4).unwrap();
    let x = Tensor::<4>::ones([1, 1, 2, 2], &Device::flex());
    let mut step = |call, noise| scheduler.step(call, x.clone(), x.clone(), noise);
    assert!(matches!(
        step(1, None),
        Err(ModelError::Call { expected: 0, .. })
    ));
    assert!(matches!(step(0, None), Err(ModelError::Noise { call: 0 })));
    assert!(step(0, Some(x.clone())).is_ok());
    assert!(matches!(
        step(0, Some(x.clone())),
        Err(ModelError::Call { .. })
    ));
}

#[test]
fn a_model_that_predicts_the_truth_is_brought_back_to_the_image() {
    let base = SchedulerConfig::stable_diffusion("ddim").unwrap();
    let image = Tensor::<4>::from_data([[[[0.5, -1.0], [0.25, 2.0]]]], &Device::flex());
    for name in SchedulerKind::names().filter(|name| *name != "ddim" && *name != "pndm") {
        let mut config = base.with_kind(name).unwrap();
        config.prediction_type = Prediction::Sample;
        let mut scheduler = Scheduler::new(&config, 12).unwrap();
        let noise = image.ones_like();
        let mut x = noise.clone().mul_scalar(scheduler.init_noise_sigma());
        for call in 0..scheduler.calls() {
            x = scheduler
                .step(call, image.clone(), x, Some(noise.clone()))
                .unwrap();
        }
        let error: f32 = (x - image.clone()).abs().max().into_scalar();
        assert!(error < 1e-5, "{name}: {error}");
    }
}

#[test]
fn rescaled_guidance_has_the_spread_of_the_condition() {
    let device = Device::flex();
    let cond = Tensor::<4>::from_data([[[[1.0, 2.0], [3.0, 4.0]]]], &device);
    let guided = cond.clone().mul_scalar(5.0);
    let whole = rescale_guidance(guided.clone(), cond.clone(), 1.0);
    let error: f32 = (whole - cond.clone()).abs().max().into_scalar();
    assert!(error < 1e-5);
    let none = rescale_guidance(guided.clone(), cond, 0.0);
    assert_eq!(none.into_data(), guided.into_data());
}
