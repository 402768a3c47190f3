//! `UNets` with OFT, COFT and LoRA against PEFT and diffusers: outputs, gradients, merged weights, eight steps of DreamBooth.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod support;

use std::collections::BTreeMap;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use common::{assert_close, case as golden, io, random};
use support::{steps, tensor, unet_input, unet_of_adapter_case, values};
use temper_adapters::peft::AdapterFile;
use temper_adapters::weights::Checkpoint;
use temper_adapters::{Adaptable, Parameters, attach, attach_trained};
use temper_models::{Gradients, Unet, UnetInput};

fn parameters(model: &Unet) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    model.visit(&mut |param| {
        all.insert(param.name().to_owned(), values(param.plain()));
    });
    all
}

/// Every stored `prefix.NAME` against ours.
fn compare(
    case: &str,
    file: &Checkpoint,
    prefix: &str,
    ours: &BTreeMap<String, Vec<f32>>,
) -> usize {
    let keys = file
        .names()
        .filter_map(|key| Some((key, key.strip_prefix(prefix)?)));
    let keys: Vec<_> = keys.collect();
    for (key, name) in &keys {
        let (rtol, atol) = if prefix == "grad." {
            (1e-3, 1e-6)
        } else {
            (1e-4, 1e-5)
        };
        let theirs = file.read_f32(key).unwrap();
        assert_close(&format!("{case} {key}"), &ours[*name], &theirs, rtol, atol);
    }
    keys.len()
}

#[test]
fn outputs_gradients_and_merged_weights_match_peft() {
    for case in [
        "oft/unet_oft_attn",
        "oft/unet_coft_attn_cn",
        "oft/unet_lora_attn",
    ] {
        let file = io(case);
        let input = unet_input(&file);
        let mut model = unet_of_adapter_case(case);
        let check = |model: &Unet, key: &str| {
            let y = values(model.forward(&input).unwrap());
            assert_close(
                &format!("{case} {key}"),
                &y,
                &file.read_f32(key).unwrap(),
                1e-4,
                1e-5,
            );
        };
        check(&model, "y_base");
        let (adapter, _) = AdapterFile::load(&golden(case).join("adapter")).unwrap();
        attach_trained(&mut model, &adapter, &random(7)).unwrap();
        check(&model, "y_adapter");
        let projected = compare(case, &file, "projected.", &parameters(&model));
        assert_eq!(projected > 0, case.contains("coft"), "{case}");

        let weights: Tensor<4> = tensor(&file, "loss_w");
        let loss = |y: Tensor<4>| (y * Tensor::from_inner(weights.clone())).mean();
        for recompute in [false, true] {
            let mut sums = Gradients::new();
            let step = model
                .accumulate(&input, &loss, recompute, &mut sums)
                .unwrap();
            let ours = step.loss.into_scalar::<f32>();
            assert_close(case, &[ours], &file.read_f32("loss").unwrap(), 1e-4, 1e-6);
            let gradients: BTreeMap<_, _> = sums
                .into_iter()
                .map(|(name, gradient)| (name, values(gradient)))
                .collect();
            let compared = compare(case, &file, "grad.", &gradients);
            assert_eq!(
                compared,
                gradients.len(),
                "{case}: adapters alone have gradients"
            );
        }

        model.merge();
        check(&model, "y_merged");
        assert!(
            compare(case, &file, "merged.", &parameters(&model)) > 0,
            "{case}"
        );
    }
}

/// ᾱ of the `scaled_linear` schedule of Stable Diffusion.
fn alphas_cumprod() -> Vec<f64> {
    let [from, to] = [0.00085_f64.sqrt(), 0.012_f64.sqrt()];
    let mut product = 1.0;
    (0..1000)
        .map(|t| {
            let beta = (from + (to - from) * f64::from(t) / 999.0).powi(2);
            product *= 1.0 - beta;
            product
        })
        .collect()
}

/// AdamW as in PyTorch, with the norm of all gradients clipped to 1; returns the norm before.
#[derive(Default)]
struct AdamW {
    step: i32,
    moments: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
}

impl AdamW {
    fn update(&mut self, model: &mut Unet, sums: Gradients, rate: f64, decay: f64) -> f64 {
        let gradients: BTreeMap<_, _> = sums.into_iter().map(|(k, g)| (k, values(g))).collect();
        let squares = gradients.values().flatten().map(|g| f64::from(*g).powi(2));
        let norm = squares.sum::<f64>().sqrt();
        let clip = (1.0 / (norm + 1e-6)).min(1.0);
        self.step += 1;
        let correct = |beta: f64| 1.0 - beta.powi(self.step);
        let moments = &mut self.moments;
        model.visit_mut(&mut |param| {
            let Some(gradient) = gradients.get(param.name()) else {
                return;
            };
            let mut value = values(param.plain());
            let n = value.len();
            let (first, second) = moments
                .entry(param.name().to_owned())
                .or_insert_with(|| (vec![0.0; n], vec![0.0; n]));
            for i in 0..n {
                let g = f64::from(gradient[i]) * clip;
                let m = 0.9 * f64::from(first[i]) + 0.1 * g;
                let v = 0.999 * f64::from(second[i]) + 0.001 * g * g;
                (first[i], second[i]) = (m as f32, v as f32);
                let change = m / correct(0.9) / ((v / correct(0.999)).sqrt() + 1e-8);
                let decayed = f64::from(value[i]) * (1.0 - rate * decay);
                value[i] = (decayed - rate * change) as f32;
            }
            param.set(Tensor::from_data(
                TensorData::new(value, [n]),
                &Device::flex(),
            ));
        });
        norm
    }
}

/// Row `step` of a stored `[steps, B, C, H, W]`.
fn row(file: &Checkpoint, name: &str, step: usize) -> Tensor<4> {
    tensor::<5>(file, name).narrow(0, step, 1).squeeze_dim(0)
}

/// The noisy latents of a step, the noise, and the time steps.
fn noisy(file: &Checkpoint, step: usize) -> (UnetInput, Tensor<4>) {
    let (latents, noise) = (row(file, "latents", step), row(file, "noise", step));
    let batch = latents.dims()[0];
    let timesteps = steps(file, "timesteps")[step * batch..][..batch].to_vec();
    let alphas = alphas_cumprod();
    let scale = |f: fn(f64) -> f64| -> Tensor<4> {
        let scales: Vec<f32> = timesteps
            .iter()
            .map(|&t| f(alphas[t as usize]).sqrt() as f32)
            .collect();
        Tensor::from_data(TensorData::new(scales, [batch, 1, 1, 1]), &Device::flex())
    };
    let input = UnetInput {
        sample: latents * scale(|a| a) + noise.clone() * scale(|a| 1.0 - a),
        timesteps,
        encoder_hidden_states: tensor(file, "text_emb"),
        added: None,
        control: None,
    };
    (input, noise)
}

fn dreambooth(case: &str) -> Unet {
    let mut model =
        Unet::load(&golden(case).join("unet"), FloatDType::F32, &Device::flex()).unwrap();
    if case.ends_with("full") {
        model.visit_mut(&mut |param| param.set_trainable(true));
    } else if case.ends_with("lora") {
        let (initial, _) = AdapterFile::load(&golden(case).join("adapter_init")).unwrap();
        attach_trained(&mut model, &initial, &random(7)).unwrap();
    } else {
        let (last, _) = AdapterFile::load(&golden(case).join("adapter_final")).unwrap();
        attach(&mut model, last.config(), &random(7)).unwrap();
    }
    model
}

#[test]
fn eight_steps_of_dreambooth_follow_the_curves_of_pytorch() {
    for case in [
        "diffusion/dreambooth_oft",
        "diffusion/dreambooth_lora",
        "diffusion/dreambooth_full",
    ] {
        let file = io(case);
        let curve = std::fs::read_to_string(golden(case).join("curve.json")).unwrap();
        let curve: serde_json::Value = serde_json::from_str(&curve).unwrap();
        let number = |key: &str, step: usize| curve[key][step].as_f64().unwrap();
        let mut model = dreambooth(case);
        let mut optimizer = AdamW::default();
        for step in 0..8 {
            let (input, noise) = noisy(&file, step);
            let half = noise.dims()[0] / 2;
            let loss = |y: Tensor<4>| {
                let error = (y - Tensor::from_inner(noise.clone())).square();
                error.clone().narrow(0, 0, half).mean() + error.narrow(0, half, half).mean()
            };
            let mut sums = Gradients::new();
            let found = model
                .accumulate(&input, &loss, step % 2 == 1, &mut sums)
                .unwrap();
            let found = f64::from(found.loss.into_scalar::<f32>());
            let expected = number("losses", step);
            let tolerance = if step == 0 { 1e-5 } else { 1e-3 };
            assert!(
                (found - expected).abs() < tolerance * expected,
                "{case} step {step}: {found} vs {expected}"
            );
            let norm = optimizer.update(&mut model, sums, 2e-3, 0.01);
            let expected = number("grad_norms_before_clip", step);
            assert!(
                (norm - expected).abs() < 2e-3 * expected,
                "{case} step {step}: gradient norm {norm} vs {expected}"
            );
        }
        if !case.ends_with("full") {
            let (last, _) = AdapterFile::load(&golden(case).join("adapter_final")).unwrap();
            let mut reference = dreambooth(case);
            attach_trained(&mut reference, &last, &random(7)).unwrap();
            let (ours, theirs) = (parameters(&model), parameters(&reference));
            for (name, values) in theirs {
                assert_close(&format!("{case} {name}"), &ours[&name], &values, 0.0, 2e-3);
            }
        }
    }
}
