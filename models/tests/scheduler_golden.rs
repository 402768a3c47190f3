//! Samplers and the noise process against diffusers. Tolerances are those of `tests/golden/diffusion/schedulers/README.md`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use temper_adapters::weights::{Checkpoint, Dtype};
use temper_models::{NoiseSchedule, Prediction, Scheduler, SchedulerConfig};

fn folder() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/diffusion/schedulers"
    ))
}

/// Row `row` of the tensor, or all of it, `[B, C, H, W]`.
fn images(file: &Checkpoint, name: &str, row: Option<usize>) -> Tensor<4> {
    let (shape, mut values) = (&file.info(name).unwrap().shape, numbers(file, name));
    let mut dims = [0; 4];
    dims.copy_from_slice(&shape[shape.len() - 4..]);
    if let Some(row) = row {
        let size: usize = dims.iter().product();
        values = values[row * size..(row + 1) * size].to_vec();
    }
    Tensor::from_data(TensorData::new(values, dims), &Device::flex())
}

fn numbers(file: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = file.read(name).unwrap().cast(Dtype::F32).unwrap();
    tensor.to_f32().unwrap()
}

fn values(tensor: &Tensor<4>) -> Vec<f32> {
    tensor.clone().into_data().try_to_vec().unwrap()
}

/// The worst |a − b| in units of the tolerance.
fn worst(ours: &[f32], theirs: &[f32], rtol: f32, atol: f32) -> f32 {
    assert_eq!(ours.len(), theirs.len(), "number of values");
    let excess = |(a, b): (&f32, &f32)| (a - b).abs() / (atol + rtol * b.abs());
    // A maximum would pass over NaN.
    assert!(ours.iter().all(|value| value.is_finite()));
    ours.iter().zip(theirs).map(excess).fold(0.0, f32::max)
}

fn model(x: &Tensor<4>, t: f32) -> Tensor<4> {
    let angle = x.clone().mul_scalar(1.3).add_scalar(0.002 * f64::from(t));
    angle.sin().mul_scalar(0.5) + x.clone().mul_scalar(0.25)
}

/// Steps of a fixture.
fn steps(name: &str) -> usize {
    match name {
        "more_ddpm_clip_large_linspace" | "more_ddim_eta_clip" | "more_euler_ancestral_v_zsnr" => 7,
        "more_ddim_sample_cosine" | "more_dpmpp_2m_karras_sigma_min" => 8,
        "more_pndm_v_trailing" | "more_euler_karras_bounds" => 9,
        "more_euler_25_sigma_min" => 25,
        "more_heun_v_karras_clip" => 6,
        "more_dpmpp_2m_20" => 20,
        "more_dpmpp_2m_16_sigma_min" => 16,
        "more_dpmpp_2m_sde_heun_karras" => 17,
        "more_unipc_bh1_3" => 12,
        _ => 10,
    }
}

fn check(name: &str) -> Result<(), String> {
    let folder = folder().join(name);
    let file = Checkpoint::open(folder.join("io.safetensors")).unwrap();
    let config = SchedulerConfig::load(&folder).unwrap();
    let steps = steps(name);
    let mut scheduler = Scheduler::new(&config, steps).map_err(|error| error.to_string())?;
    let expect = |what: &str, worst: f32| {
        if worst <= 1.0 {
            Ok(())
        } else {
            Err(format!(
                "{name}: {what} is off by {worst} times the tolerance"
            ))
        }
    };
    let timesteps = numbers(&file, "timesteps");
    expect(
        "timesteps",
        worst(scheduler.timesteps(), &timesteps, 1e-5, 1e-4),
    )?;
    let start = scheduler.init_noise_sigma();
    let wanted = numbers(&file, "init_noise_sigma");
    expect("init_noise_sigma", worst(&[start], &wanted, 1e-5, 0.0))?;
    if let Some(bars) = file
        .info("alphas_cumprod")
        .map(|_| numbers(&file, "alphas_cumprod"))
    {
        let noise = NoiseSchedule::new(&config).unwrap();
        let ours: Vec<f32> = noise
            .alphas_cumprod()
            .iter()
            .map(|bar| *bar as f32)
            .collect();
        // The samplers on σ replace a last ᾱ of zero by 2^-24.
        expect("alphas_cumprod", worst(&ours, &bars, 1e-6, 1e-7))?;
    }
    let mut x = images(&file, "x_init", None).mul_scalar(start);
    for call in 0..scheduler.calls() {
        let t = scheduler.timesteps()[call];
        let input = scheduler.scale_model_input(call, x.clone());
        if file.info("model_inputs").is_some() {
            let theirs = values(&images(&file, "model_inputs", Some(call)));
            expect(
                &format!("input {call}"),
                worst(&values(&input), &theirs, 1e-4, 1e-4),
            )?;
        }
        let noise = scheduler
            .needs_noise(call)
            .then(|| images(&file, "noise", Some(call)));
        x = scheduler.step(call, model(&input, t), x, noise).unwrap();
        let theirs = values(&images(&file, "trajectory", Some(call + 1)));
        expect(
            &format!("state {call}"),
            worst(&values(&x), &theirs, 1e-4, 1e-4),
        )?;
    }
    Ok(())
}

#[test]
fn every_sampler_follows_the_trajectory_of_diffusers() {
    let mut cases: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.contains('.') && name != "ddpm_train")
        .collect();
    cases.sort();
    assert_eq!(cases.len(), 34);
    let failures: Vec<String> = cases.iter().filter_map(|name| check(name).err()).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn the_noise_process_is_that_of_diffusers() {
    let folder = folder().join("ddpm_train");
    let file = Checkpoint::open(folder.join("io.safetensors")).unwrap();
    let noise = NoiseSchedule::new(&SchedulerConfig::load(&folder).unwrap()).unwrap();
    let steps: Vec<usize> = file
        .read("t")
        .unwrap()
        .data()
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()) as usize)
        .collect();
    let [x0, eps] = ["x0", "noise"].map(|name| images(&file, name, None));
    let noisy = noise.add_noise(&x0, &eps, &steps).unwrap();
    let velocity = noise.velocity(&x0, &eps, &steps).unwrap();
    for (name, ours) in [("noisy", values(&noisy)), ("velocity", values(&velocity))] {
        let off = worst(&ours, &numbers(&file, name), 1e-5, 1e-6);
        assert!(off <= 1.0, "{name}: {off}");
    }
    let each = |value: &dyn Fn(usize) -> f64| -> Vec<f32> {
        steps.iter().map(|t| value(*t) as f32).collect()
    };
    let weight = |prediction| {
        let noise = &noise;
        move |t| noise.loss_weight(t, Some(5.0), prediction).unwrap()
    };
    for (name, ours) in [
        ("snr", each(&|t| noise.snr(t).unwrap())),
        ("min_snr5_eps", each(&weight(Prediction::Epsilon))),
        ("min_snr5_v", each(&weight(Prediction::VPrediction))),
    ] {
        let off = worst(&ours, &numbers(&file, name), 1e-4, 0.0);
        assert!(off <= 1.0, "{name}: {off}");
    }
}
