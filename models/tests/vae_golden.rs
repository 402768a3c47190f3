//! The autoencoder against diffusers: posterior, samples, reconstruction, divergence; names, loss and gradients.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use common::{assert_close, case, io, random, tensor, values};
use serde_json::{Value, json};
use temper_adapters::weights::{Checkpoint, Dtype, View, save_safetensors};
use temper_adapters::{Adaptable, Param, Parameters};
use temper_models::{Gradients, Vae, VaeConfig};

const CASE: &str = "diffusion/vae";

fn vae(device: &Device) -> Vae {
    Vae::load(&case(CASE), FloatDType::F32, device).unwrap()
}

type Tensors = Vec<(String, temper_adapters::weights::HostTensor)>;

#[test]
fn posterior_samples_and_reconstruction_match_diffusers() {
    let device = Device::flex();
    let (file, model) = (io(CASE), vae(&device));
    let check = |name: &str, ours: Vec<f32>| {
        assert_close(name, &ours, &file.read_f32(name).unwrap(), 1e-4, 1e-4);
    };
    let posterior = model.encode(tensor(&file, "x", &device));
    check("mean", values(posterior.mean.clone()));
    check("logvar", values(posterior.logvar.clone()));
    check("std", values(posterior.std()));
    check("kl", values(posterior.kl()));
    let z = posterior.sample(tensor(&file, "eps", &device));
    check("z", values(z.clone()));
    let scaled = z.clone().mul_scalar(model.config().scaling_factor);
    check("z_scaled", values(scaled));
    check("decoded", values(model.decode(z)));
}

#[test]
fn the_published_sizes_give_the_published_number_of_parameters() {
    for name in VaeConfig::PRESETS {
        let config = VaeConfig::preset(name).unwrap();
        assert_eq!(config.parameter_count(), 83_653_863, "{name}");
        assert_eq!(config.downscale(), 8, "{name}");
    }
    let sdxl = VaeConfig::preset("sdxl").unwrap();
    assert_eq!(sdxl.scaling_factor, 0.13025);
    assert!(
        VaeConfig::preset("sd9")
            .unwrap_err()
            .to_string()
            .contains("sd9")
    );
}

#[test]
fn weights_under_either_old_naming_of_attention_give_the_same_latents() {
    let device = Device::flex();
    let current = Checkpoint::open(case(CASE)).unwrap();
    let config = VaeConfig::load(&case(CASE)).unwrap();
    let old = |name: &str| {
        name.replace("to_q", "query")
            .replace("to_k", "key")
            .replace("to_v", "value")
            .replace("to_out.0", "proj_attn")
    };
    let kernels = |name: &str| {
        let shape = &current.info(name).unwrap().shape;
        let view = View::new(name, old(name));
        if name.contains("attentions") && shape.len() == 2 {
            view.shaped(&[shape[0], shape[1], 1, 1])
        } else {
            view
        }
    };
    let x = tensor(&io(CASE), "x", &device);
    let expected = values(vae(&device).encode(x.clone()).mean);
    let renamed = current.renamed(|name| Some(old(name))).unwrap();
    let convolutional = current.views(current.names().map(kernels)).unwrap();
    for checkpoint in [renamed, convolutional] {
        assert!(
            checkpoint
                .info("encoder.mid_block.attentions.0.proj_attn.bias")
                .is_some()
        );
        let model =
            Vae::from_checkpoint(config.clone(), &checkpoint, FloatDType::F32, &device).unwrap();
        assert_eq!(values(model.encode(x.clone()).mean), expected);
    }
}

#[test]
fn saving_and_loading_gives_the_same_tensors_and_keeps_unknown_keys() {
    let directory = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let mut text: Value =
        serde_json::from_slice(&std::fs::read(case(CASE).join("config.json")).unwrap()).unwrap();
    text["_name_or_path"] = json!("somewhere");
    let config = VaeConfig::from_json(&text).unwrap();
    let checkpoint = Checkpoint::open(case(CASE)).unwrap();
    let model = Vae::from_checkpoint(config, &checkpoint, FloatDType::F32, &device).unwrap();
    model.save(directory.path(), Dtype::F32, 1 << 30).unwrap();
    let again = Checkpoint::open(directory.path()).unwrap();
    assert_eq!(
        again.names().collect::<Vec<_>>(),
        checkpoint.names().collect::<Vec<_>>()
    );
    for name in again.names() {
        assert_eq!(
            again.read(name).unwrap(),
            checkpoint.read(name).unwrap(),
            "{name}"
        );
    }
    let written: Value =
        serde_json::from_slice(&std::fs::read(directory.path().join("config.json")).unwrap())
            .unwrap();
    assert_eq!(written["_name_or_path"], "somewhere");
    assert_eq!(written["block_out_channels"], json!([8, 16]));
}

fn tiny(device: &Device, options: &Value) -> Vae {
    let mut value = json!({"block_out_channels": [4, 8], "norm_num_groups": 2, "layers_per_block": 1,
        "latent_channels": 2, "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]});
    for (key, option) in options.as_object().unwrap() {
        value[key] = option.clone();
    }
    let config = VaeConfig::from_json(&value).unwrap();
    Vae::random(config, FloatDType::F32, device, &random(3)).unwrap()
}

fn normal<const D: usize>(purpose: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let n = shape.iter().product();
    Tensor::from_data(
        TensorData::new(random(5).normal(purpose, n, 1.0), shape),
        device,
    )
}

#[test]
fn gradients_of_the_loss_match_finite_differences() {
    let device = Device::flex();
    let mut model = tiny(&device, &json!({}));
    model.visit_mut(&mut |param| param.set_trainable(true));
    let x = normal("x", [2, 3, 8, 8], &device).clamp(-1.0, 1.0);
    let eps = normal("eps", [2, 2, 4, 4], &device);
    let mut sums = Gradients::new();
    let step = model.accumulate(x.clone(), eps.clone(), 0.3, &mut sums);
    let part = |value: &Tensor<1>| value.clone().into_scalar::<f32>();
    assert!((part(&step.loss) - part(&step.reconstruction) - 0.3 * part(&step.kl)).abs() < 1e-6);
    let (mut total, mut parameters) = (0, Vec::new());
    model.visit(&mut |param| {
        total += 1;
        parameters.push(param.clone());
    });
    assert_eq!(sums.len(), total, "one gradient for every parameter");
    let loss = |model: &Vae| {
        let step = model.accumulate(x.clone(), eps.clone(), 0.3, &mut Gradients::new());
        f64::from(part(&step.loss))
    };
    for param in parameters {
        // Along the gradient itself the slope is its length: larger than the noise of f32 differences.
        let gradient = sums[param.name()].clone();
        let length = part(&gradient.clone().square().sum().sqrt());
        if length < 1e-3 {
            continue;
        }
        let shifted = |by: f32| {
            let mut model = model.frozen();
            set(
                &mut model,
                param.name(),
                param.plain() + gradient.clone().mul_scalar(by / length),
            );
            loss(&model)
        };
        let slope = (shifted(5e-3) - shifted(-5e-3)) / 1e-2;
        let error = (slope - f64::from(length)).abs() / f64::from(length);
        assert!(
            error < 2e-2,
            "{}: slope {slope}, gradient {length}",
            param.name()
        );
    }
}

fn set(model: &mut Vae, name: &str, value: Tensor<1>) {
    model.visit_mut(&mut |param: &mut Param| {
        if param.name() == name {
            param.set(value.clone());
        }
    });
}

#[test]
fn the_loss_does_not_grow_with_batch_or_resolution() {
    let device = Device::flex();
    let model = tiny(&device, &json!({"mid_block_add_attention": false}));
    let x = normal("x", [1, 3, 8, 8], &device);
    let eps = normal("eps", [1, 2, 4, 4], &device);
    let twice = |x: &Tensor<4>| Tensor::cat(vec![x.clone(), x.clone()], 0);
    let mut none = Gradients::new();
    let one = model.accumulate(x.clone(), eps.clone(), 1.0, &mut none);
    let two = model.accumulate(twice(&x), twice(&eps), 1.0, &mut none);
    assert_close("loss", &values(two.loss), &values(one.loss), 1e-5, 1e-6);
    assert!(none.is_empty(), "a frozen model has no gradients");
}

#[test]
fn quantisation_convolutions_and_attention_are_left_out_when_the_config_says_so() {
    let device = Device::flex();
    let options = json!({"use_quant_conv": false, "use_post_quant_conv": false, "mid_block_add_attention": false});
    let model = tiny(&device, &options);
    let names: Vec<String> = model
        .config()
        .tensors()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name.contains("quant_conv") || name.contains("attentions"))
    );
    // Odd sides are floored at each level, as the reference does.
    let posterior = model.encode(normal("x", [1, 3, 9, 6], &device));
    assert_eq!(posterior.mean.dims(), [1, 2, 4, 3]);
    assert_eq!(model.decode(posterior.mean).dims(), [1, 3, 8, 6]);
}

#[test]
fn a_vae_that_overflows_in_f16_is_kept_in_f32() {
    let directory = case(CASE);
    let model = Vae::load(&directory, FloatDType::F16, &Device::flex()).unwrap();
    model.visit(&mut |param| assert_eq!(param.dtype(), DType::F32, "{}", param.name()));
    let model = Vae::load(&directory, FloatDType::BF16, &Device::flex()).unwrap();
    let mut kinds = BTreeMap::new();
    model.visit(&mut |param| *kinds.entry(format!("{:?}", param.dtype())).or_insert(0) += 1);
    assert!(kinds.contains_key("BF16"), "{kinds:?}");
    let file = io(CASE);
    let mean = values(model.encode(tensor(&file, "x", &Device::flex())).mean);
    assert_close(
        "mean in bf16",
        &mean,
        &file.read_f32("mean").unwrap(),
        0.1,
        0.1,
    );
}

#[test]
fn configs_that_are_not_built_are_refused_by_key() {
    let base: Value =
        serde_json::from_slice(&std::fs::read(case(CASE).join("config.json")).unwrap()).unwrap();
    let message = |key: &str, value: Value| {
        let mut config = base.clone();
        config[key] = value;
        VaeConfig::from_json(&config).unwrap_err().to_string()
    };
    assert!(message("act_fn", json!("relu")).contains("relu"));
    assert!(message("latents_mean", json!([0.0])).contains("latents_mean"));
    assert!(
        message(
            "down_block_types",
            json!(["AttnDownEncoderBlock2D", "DownEncoderBlock2D"])
        )
        .contains("AttnDown")
    );
    assert!(message("up_block_types", json!(["UpDecoderBlock2D"])).contains("up_block_types"));
    assert!(message("block_out_channels", json!([])).contains("block_out_channels"));
    assert!(message("block_out_channels", json!([6, 8])).contains("norm_num_groups"));
    assert!(message("scaling_factor", json!(0)).contains("scaling_factor"));
    assert!(message("force_upcast", json!("yes")).contains("force_upcast"));
}

#[test]
fn weights_that_do_not_belong_to_the_config_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(case(CASE)).unwrap();
    let load = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors: Vec<_> = source
            .names()
            .map(|name| (name.to_owned(), source.read(name).unwrap()))
            .collect();
        change(&mut tensors);
        let file = directory.path().join("diffusion_pytorch_model.safetensors");
        save_safetensors(&file, &tensors, &BTreeMap::new()).unwrap();
        std::fs::copy(
            case(CASE).join("config.json"),
            directory.path().join("config.json"),
        )
        .unwrap();
        let error = Vae::load(directory.path(), FloatDType::F32, &Device::flex()).unwrap_err();
        error.to_string()
    };
    let missing = load(&|tensors| tensors.retain(|(name, _)| name != "quant_conv.bias"));
    assert!(missing.contains("quant_conv.bias"), "{missing}");
    let surplus = load(&|tensors| tensors.push(("loss.weight".to_owned(), tensors[0].1.clone())));
    assert!(surplus.contains("loss.weight"), "{surplus}");
}

#[test]
fn convolutions_and_attention_of_the_vae_can_be_adapted() {
    let model = vae(&Device::flex());
    let modules = model.modules();
    let find = |name: &str| modules.iter().find(|module| module.name == name).unwrap();
    assert!(find("encoder.mid_block.attentions.0.to_q").bias);
    assert_eq!(find("decoder.conv_in").kind.rotated_inputs(), Some(36));
    assert_eq!(find("encoder.conv_norm_out").kind.rotated_inputs(), None);
}
