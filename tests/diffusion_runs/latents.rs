//! Latents of a file: noise without any signal, and held-out ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use temper_adapters::RandomSource;
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};
use temper_datasets::random;
use temper_models::{Unet, UnetInput};

use super::replay::{TOLERANCE, signal};
use super::support::{Bench, Run, assert_relative, golden};

/// The tensors of the golden run: latents, noise and texts.
struct Material {
    unet: Unet,
    latents: Tensor<5>,
    noise: Tensor<5>,
    texts: Tensor<3>,
}

impl Material {
    fn new() -> Self {
        let case = golden("dreambooth_full");
        let file = Checkpoint::open(case.join("io.safetensors")).unwrap();
        Self {
            unet: Unet::load(&case.join("unet"), FloatDType::F32, &Device::flex()).unwrap(),
            latents: read(&file, "latents"),
            noise: read(&file, "noise"),
            texts: match file.info("encoder_hidden_states") {
                Some(_) => read(&file, "encoder_hidden_states"),
                None => read(&file, "text_emb"),
            },
        }
    }

    /// Row `row` of step `step`, `[1, C, h, w]`.
    fn row(tensor: &Tensor<5>, step: usize, row: usize) -> Tensor<4> {
        let step: Tensor<4> = tensor.clone().narrow(0, step, 1).squeeze_dim(0);
        step.narrow(0, row, 1)
    }

    fn predict(&self, sample: Tensor<4>, t: usize, text: usize) -> Tensor<4> {
        let input = UnetInput {
            sample,
            timesteps: vec![t as f32],
            encoder_hidden_states: self.texts.clone().narrow(0, text, 1),
            added: None,
            control: None,
        };
        self.unet.forward(&input).unwrap()
    }

    /// A file for two steps of all rows, at these timesteps.
    fn write(&self, file: &Path, timesteps: &[[i64; 2]; 2], held_out: bool) {
        let pair = |tensor: &Tensor<5>| host(tensor.clone().narrow(0, 0, 2).narrow(1, 0, 2));
        let texts = self.texts.clone().narrow(0, 0, 2);
        let bytes = timesteps
            .as_flattened()
            .iter()
            .flat_map(|t| t.to_le_bytes());
        let steps = HostTensor::new(Dtype::I64, vec![2, 2], bytes.collect()).unwrap();
        let mut tensors = vec![
            ("latents".to_owned(), pair(&self.latents)),
            ("noise".to_owned(), pair(&self.noise)),
            ("timesteps".to_owned(), steps),
            ("encoder_hidden_states".to_owned(), host(texts.clone())),
        ];
        if held_out {
            let rows: Vec<_> = (0..2).map(|row| Self::row(&self.latents, 2, row)).collect();
            tensors.push(("validation_latents".to_owned(), host(Tensor::cat(rows, 0))));
            tensors.push(("validation_encoder_hidden_states".to_owned(), host(texts)));
        }
        save_safetensors(file, &tensors, &BTreeMap::new()).unwrap();
    }
}

fn read<const D: usize>(file: &Checkpoint, name: &str) -> Tensor<D> {
    let shape: [usize; D] = file.info(name).unwrap().shape.clone().try_into().unwrap();
    let data = TensorData::new(file.read_f32(name).unwrap(), shape);
    Tensor::from_data(data, &Device::flex())
}

fn host<const D: usize>(tensor: Tensor<D>) -> HostTensor {
    let shape = tensor.dims().to_vec();
    let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
    HostTensor::from_f32(Dtype::F32, shape, &values).unwrap()
}

fn mean_square(tensor: Tensor<4>) -> f64 {
    f64::from(tensor.square().mean().into_scalar::<f32>())
}

fn run(bench: &Bench, name: &str, file: &Path, model: &str) -> Run {
    let unet = golden("dreambooth_full");
    bench.run(
        name,
        &format!(
            "device = \"cpu\"\n[model]\npath = {unet:?}\n{model}\n[adapter]\nkind = \"full\"\n\
             [images]\nkind = \"latents\"\npath = {file:?}\nprior_loss_weight = 0\n[precision]\ncompute = \"f32\"\n\
             [train]\nsteps = 2\nlr = 1e-12\n"
        ),
    )
}

/// A noise process whose last step has no signal.
fn scheduler(bench: &Bench, prediction: &str) -> PathBuf {
    let folder = bench.path(prediction);
    std::fs::create_dir(&folder).unwrap();
    let config = serde_json::json!({
        "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing",
        "prediction_type": prediction,
    });
    std::fs::write(folder.join("scheduler_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn velocity_is_learned_from_noise_without_a_signal_which_weighs_nothing_under_min_snr() {
    let (bench, material) = (Bench::new(), Material::new());
    let file = bench.path("latents.safetensors");
    let timesteps = [[999, 999], [999, 200]];
    material.write(&file, &timesteps, false);
    let model = format!("scheduler = {:?}", scheduler(&bench, "v_prediction"));
    // arXiv 2305.08891, algorithm 1: √ᾱ moved so that the last is 0, and scaled so that the first stays.
    let plain = signal();
    let (first, last) = (plain[0], plain[999]);
    let signal = |t: usize| (plain[t] - last) * first / (first - last);
    let error = |step: usize, row: usize| {
        let t = timesteps[step][row] as usize;
        let (a, b) = (signal(t), (1.0 - signal(t).powi(2)).sqrt());
        let x = Material::row(&material.latents, step, row);
        let noise = Material::row(&material.noise, step, row);
        let state = x.clone().mul_scalar(a) + noise.clone().mul_scalar(b);
        let velocity = noise.mul_scalar(a) - x.mul_scalar(b);
        mean_square(material.predict(state, t, row) - velocity)
    };
    let whole = run(&bench, "whole", &file, &model);
    whole.succeed(&["--quiet"]);
    for (step, loss) in whole.losses().into_iter().enumerate() {
        let mean = 0.5 * (error(step, 0) + error(step, 1));
        assert_relative(&format!("step {step}"), loss, mean, 1e-4);
    }
    let weighed = run(&bench, "weighed", &file, &model).set("diffusion.snr_gamma=0.7");
    weighed.succeed(&["--quiet"]);
    let metrics = weighed.metrics();
    assert_eq!((metrics[0].loss, metrics[0].grad_norm), (0.0, 0.0));
    let snr = signal(200).powi(2) / (1.0 - signal(200).powi(2));
    assert!(snr > 0.7, "γ is the smaller one");
    let expected = 0.5 * 0.7 / (snr + 1.0) * error(1, 1);
    assert_relative("min-SNR", metrics[1].loss, expected, 1e-4);
}

#[test]
fn noise_cannot_be_learned_where_there_is_no_signal() {
    let (bench, material) = (Bench::new(), Material::new());
    let file = bench.path("latents.safetensors");
    material.write(&file, &[[1, 2], [3, 4]], false);
    let model = format!("scheduler = {:?}", scheduler(&bench, "epsilon"));
    let noise = run(&bench, "noise", &file, &model);
    let said = noise.fail(2, &[]);
    assert!(
        said.contains("rescale_betas_zero_snr") && said.contains("v_prediction"),
        "{said}"
    );
    noise
        .set("diffusion.prediction_type=v_prediction")
        .succeed(&["--quiet"]);
}

#[test]
fn held_out_latents_are_validated_on_at_the_timesteps_of_the_recipe() {
    let (bench, material) = (Bench::new(), Material::new());
    let file = bench.path("latents.safetensors");
    material.write(&file, &[[1, 2], [3, 4]], true);
    let validated = run(&bench, "run", &file, "")
        .set("validation.timesteps=[200, 600]")
        .set("validation.seed=8")
        .set("train.eval_every=1");
    validated.succeed(&["--quiet"]);
    let signal = signal();
    let mut expected = 0.0;
    for row in 0..2 {
        let x = Material::row(&material.latents, 2, row);
        for (number, t) in [200, 600].into_iter().enumerate() {
            let address = (row as u64, number as u64);
            let source =
                RandomSource::new(move |purpose| random::rng(8, purpose, address.0, address.1));
            let values = source.normal("validation", x.dims().iter().product(), 1.0);
            let noise = Tensor::from_data(TensorData::new(values, x.dims()), &x.device());
            let state = x.clone().mul_scalar(signal[t])
                + noise.clone().mul_scalar((1.0 - signal[t].powi(2)).sqrt());
            expected += mean_square(material.predict(state, t, row) - noise) / 4.0;
        }
    }
    let summary = validated.summary();
    for key in ["eval_loss_before", "eval_loss"] {
        assert_relative(key, summary[key].as_f64().unwrap(), expected, TOLERANCE);
    }
    let without = bench.path("without.safetensors");
    material.write(&without, &[[1, 2], [3, 4]], false);
    let said = run(&bench, "without", &without, "")
        .set("train.eval_every=1")
        .fail(2, &[]);
    assert!(said.contains("`validation_latents`"), "{said}");
}
