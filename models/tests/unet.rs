//! What must hold for every UNet: any size, identity at initialisation, gradients however computed, control, half precision.

mod common;
mod support;

use std::collections::BTreeMap;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use common::{assert_close, random};
use support::{assert_same_gradient, normal, small_input, small_unet, values};
use temper_adapters::peft::{AdapterConfig, ModulePattern, OftConfig};
use temper_adapters::weights::{Checkpoint, Dtype};
use temper_adapters::{Adaptable, Parameters, attach};
use temper_models::{ControlConfig, ControlEncoder, Gradients, Unet, UnetInput};

fn mean_square(y: Tensor<4>) -> Tensor<1> {
    y.square().mean()
}

/// OFT on every linear layer and convolution below the blocks.
fn oft(init_weights: bool) -> AdapterConfig {
    let names = [
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "proj",
        "conv1",
        "proj_in",
        "conv_shortcut",
    ];
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let mut config = OftConfig {
        oft_block_size: 4,
        use_cayley_neumann: false,
        init_weights,
        ..OftConfig::default()
    };
    config.common.target_modules = Some(ModulePattern::Names(names));
    AdapterConfig::Oft(config)
}

#[test]
fn every_size_of_latents_works_and_gives_a_prediction_of_the_same_size() {
    let model = small_unet(FloatDType::F32);
    for size in [[12, 20], [7, 5], [1, 1], [9, 16]] {
        let y = model.forward(&small_input(size)).unwrap();
        assert_eq!(y.dims(), [2, 4, size[0], size[1]]);
        assert!(values(y).iter().all(|value| value.is_finite()));
    }
}

#[test]
fn one_image_of_a_batch_does_not_see_the_others() {
    let model = small_unet(FloatDType::F32);
    let both = small_input([6, 10]);
    let y = model.forward(&both).unwrap();
    let second = UnetInput {
        sample: both.sample.narrow(0, 1, 1),
        timesteps: vec![900.0],
        encoder_hidden_states: both.encoder_hidden_states.narrow(0, 1, 1),
        added: None,
        control: None,
    };
    let alone = values(model.forward(&second).unwrap());
    assert_close(
        "second image",
        &alone,
        &values(y.narrow(0, 1, 1)),
        1e-5,
        1e-6,
    );
}

#[test]
fn fractional_time_steps_lie_between_whole_ones() {
    let model = small_unet(FloatDType::F32);
    let at = |step: f32| {
        let mut input = small_input([4, 4]);
        input.timesteps = vec![step; 2];
        values(model.forward(&input).unwrap())
    };
    let (low, middle, high) = (at(10.0), at(10.001), at(11.0));
    let distance = |a: &[f32], b: &[f32]| -> f32 {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f32>()
            .sqrt()
    };
    assert!(distance(&low, &middle) > 0.0);
    assert!(distance(&low, &middle) < 0.01 * distance(&low, &high));
}

#[test]
fn oft_at_initialisation_changes_no_bit_of_the_prediction() {
    let mut model = small_unet(FloatDType::F32);
    let input = small_input([8, 8]);
    let base = values(model.forward(&input).unwrap());
    attach(&mut model, &oft(true), &random(7)).unwrap();
    // Outside a graph, as the base was: products of trained layers sum in another order.
    assert_eq!(values(model.frozen().forward(&input).unwrap()), base);
}

#[test]
fn merged_adapters_of_linear_layers_and_convolutions_predict_the_same() {
    let mut model = small_unet(FloatDType::F32);
    let input = small_input([8, 6]);
    let base = values(model.forward(&input).unwrap());
    attach(&mut model, &oft(false), &random(7)).unwrap();
    let adapted = values(model.forward(&input).unwrap());
    assert!(adapted.iter().zip(&base).any(|(a, b)| (a - b).abs() > 1e-3));
    model.merge();
    let mut adapters = 0;
    model.visit(&mut |param| adapters += usize::from(param.name().starts_with("base_model")));
    assert_eq!(adapters, 0, "merging leaves no adapter");
    assert_close(
        "merged",
        &values(model.forward(&input).unwrap()),
        &adapted,
        1e-4,
        1e-5,
    );
}

#[test]
fn adapter_training_gives_gradients_of_adapters_alone_and_recomputation_changes_none() {
    let mut model = small_unet(FloatDType::F32);
    attach(&mut model, &oft(false), &random(7)).unwrap();
    let input = small_input([7, 10]);
    let [whole, segments] = [false, true].map(|recompute| {
        let mut sums = Gradients::new();
        model
            .accumulate(&input, &mean_square, recompute, &mut sums)
            .unwrap();
        sums
    });
    assert!(!whole.is_empty() && whole.keys().all(|name| name.starts_with("base_model")));
    assert!(whole.keys().eq(segments.keys()));
    for (name, gradient) in whole {
        let ours = values(segments[&name].clone());
        assert_same_gradient(&name, &ours, &values(gradient));
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let mut model = small_unet(FloatDType::F32);
    let name = "down_blocks.1.resnets.0.norm1.weight";
    model.visit_mut(&mut |param| param.set_trainable(param.name() == name));
    let input = small_input([6, 5]);
    let mut sums = Gradients::new();
    model
        .accumulate(&input, &mean_square, true, &mut sums)
        .unwrap();
    assert_eq!(sums.len(), 1, "one trained parameter, one gradient");
    let gradient = values(sums[name].clone());
    let loss_at = |index: usize, change: f32| {
        let mut changed = model.clone();
        changed.visit_mut(&mut |param| {
            if param.name() == name {
                let mut values = values(param.plain());
                values[index] += change;
                param.set(Tensor::from_data(values.as_slice(), &Device::flex()));
            }
        });
        let y = values(changed.frozen().forward(&input).unwrap());
        y.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>() / y.len() as f64
    };
    for index in [0, 3, 7] {
        let difference = (loss_at(index, 1e-2) - loss_at(index, -1e-2)) / 2e-2;
        let error = (difference - f64::from(gradient[index])).abs();
        assert!(
            error < 1e-2 * difference.abs() + 1e-5,
            "{index}: {difference} vs {}",
            gradient[index]
        );
    }
}

#[test]
fn tracked_text_and_control_get_their_gradients_with_and_without_recomputation() {
    let model = small_unet(FloatDType::F32);
    let mut input = small_input([7, 10]);
    input.control = Some(normal::<4>("control", [2, 8, 7, 10]));
    let leaf = |value: Tensor<3>| Tensor::from_inner(value).require_grad();
    let run = |input: &UnetInput, recompute| {
        model
            .accumulate(input, &mean_square, recompute, &mut BTreeMap::new())
            .unwrap()
    };
    let plain = run(&input, true);
    assert!(plain.d_control.is_none() && plain.d_encoder_hidden_states.is_none());
    assert!(plain.d_text_embeds.is_none());
    input.encoder_hidden_states = leaf(input.encoder_hidden_states);
    input.control = input.control.map(|c| Tensor::from_inner(c).require_grad());
    let [whole, segments] = [false, true].map(|recompute| run(&input, recompute));
    let text =
        |step: &temper_models::UnetStep| values(step.d_encoder_hidden_states.clone().unwrap());
    let control = |step: &temper_models::UnetStep| values(step.d_control.clone().unwrap());
    assert!(text(&whole).iter().any(|g| *g != 0.0) && control(&whole).iter().any(|g| *g != 0.0));
    assert_same_gradient("text", &text(&segments), &text(&whole));
    assert_same_gradient("control", &control(&segments), &control(&whole));
}

#[test]
fn tracked_pooled_texts_get_the_gradient_of_their_way_through_the_time_embedding() {
    let case = common::case("diffusion/unet_sdxl");
    let model = Unet::load(&case, FloatDType::F32, &Device::flex()).unwrap();
    let file = Checkpoint::open(case.join("io.safetensors")).unwrap();
    let input = support::unet_input(&file);
    let with = |change: &dyn Fn(Tensor<2>) -> Tensor<2>| {
        let mut input = input.clone();
        let added = input.added.as_mut().unwrap();
        added.text_embeds = change(added.text_embeds.clone());
        input
    };
    let tracked = with(&|pooled| Tensor::from_inner(pooled).require_grad());
    let [whole, segments] = [false, true].map(|recompute| {
        let mut sums = Gradients::new();
        let step = model
            .frozen()
            .accumulate(&tracked, &mean_square, recompute, &mut sums);
        assert!(sums.is_empty(), "no parameter is trained");
        values(step.unwrap().d_text_embeds.unwrap())
    });
    assert_same_gradient("pooled", &segments, &whole);
    // Along the gradient the loss grows by its squared norm.
    let shape = tracked.added.unwrap().text_embeds.dims();
    let along = Tensor::<2>::from_data(TensorData::new(whole.clone(), shape), &Device::flex());
    let squared: f64 = whole.iter().map(|g| f64::from(*g).powi(2)).sum();
    let length = 0.1 / squared.sqrt();
    let loss_at = |by: f64| {
        let input = with(&|pooled| pooled + along.clone().mul_scalar(by));
        f64::from(mean_square(model.frozen().forward(&input).unwrap()).into_scalar::<f32>())
    };
    let difference = (loss_at(length) - loss_at(-length)) / (2.0 * length);
    assert!(
        squared > 0.0 && (difference - squared).abs() < 1e-2 * squared,
        "{difference} vs {squared}"
    );
}

#[test]
fn half_precision_bases_give_nearby_predictions_and_f32_gradients_of_adapters() {
    let input = small_input([8, 8]);
    let mut reference = small_unet(FloatDType::F32);
    let base = values(reference.forward(&input).unwrap());
    let scale = base.iter().fold(0.0_f32, |m, y| m.max(y.abs()));
    attach(&mut reference, &oft(false), &random(7)).unwrap();
    let mut exact = Gradients::new();
    reference
        .accumulate(&input, &mean_square, false, &mut exact)
        .unwrap();
    for (compute, tolerance) in [(FloatDType::BF16, 0.05), (FloatDType::F16, 0.01)] {
        let mut model = small_unet(compute);
        let y = values(model.forward(&input).unwrap());
        assert_close(&format!("{compute:?}"), &y, &base, 0.0, tolerance * scale);
        attach(&mut model, &oft(false), &random(7)).unwrap();
        for recompute in [false, true] {
            let mut sums = Gradients::new();
            model
                .accumulate(&input, &mean_square, recompute, &mut sums)
                .unwrap();
            let (mut dot, mut ours, mut theirs) = (0.0, 0.0, 0.0);
            for (name, gradient) in &exact {
                assert_eq!(sums[name].dtype(), burn::tensor::DType::F32, "{name}");
                for (a, b) in values(sums[name].clone())
                    .iter()
                    .zip(values(gradient.clone()))
                {
                    (dot, ours, theirs) = (dot + a * b, ours + a * a, theirs + b * b);
                }
            }
            let cosine = dot / (ours * theirs).sqrt();
            assert!(
                cosine > 0.98,
                "{compute:?} recompute {recompute}: cosine {cosine}"
            );
        }
    }
}

#[test]
fn the_control_encoder_starts_silent_learns_through_the_unet_and_survives_saving() {
    let model = small_unet(FloatDType::F32);
    let device = Device::flex();
    let control = ControlConfig::for_unet(model.config());
    let mut encoder = ControlEncoder::random(control, FloatDType::F32, &device, &random(7));
    let hint: Tensor<4> = normal::<4>("hint", [2, 3, 48, 32]).clamp(0.0, 1.0);
    let mut input = small_input([6, 4]);
    let without = values(model.forward(&input).unwrap());
    input.control = Some(encoder.forward(&hint).unwrap());
    assert_eq!(
        values(model.forward(&input).unwrap()),
        without,
        "zero-initialised"
    );

    encoder.visit_mut(&mut |param| param.set_trainable(true));
    // One step away from zero, so that gradients reach the first convolution.
    encoder.visit_mut(&mut |param| {
        if param.name().contains("conv_out") {
            let n = param.numel();
            param.set(normal::<1>("conv_out", [n]) * 0.1);
        }
    });
    let gradients = |encoder: &ControlEncoder, recompute| {
        let mut input = input.clone();
        let control = encoder.frozen().forward(&hint).unwrap();
        input.control = Some(Tensor::from_inner(control).require_grad());
        let mut sums = Gradients::new();
        let step = model
            .accumulate(&input, &mean_square, recompute, &mut sums)
            .unwrap();
        encoder
            .accumulate(&hint, step.d_control.unwrap(), &mut sums)
            .unwrap();
        sums
    };
    let sums = gradients(&encoder, true);
    assert_eq!(sums.len(), 16, "a gradient for each of eight convolutions");
    let mut undivided = input.clone();
    undivided.control = Some(encoder.forward(&hint).unwrap());
    let mut direct = mean_square(model.forward(&undivided).unwrap()).backward();
    encoder.visit(&mut |param| {
        let theirs = values(param.grad(&mut direct).unwrap());
        assert_same_gradient(param.name(), &values(sums[param.name()].clone()), &theirs);
    });

    let directory = tempfile::tempdir().unwrap();
    encoder.save(directory.path(), Dtype::F32, 1 << 30).unwrap();
    let again = ControlEncoder::load(directory.path(), FloatDType::F32, &device).unwrap();
    let run = |encoder: &ControlEncoder| values(encoder.forward(&hint).unwrap());
    assert_eq!(run(&again), run(&encoder));
}
