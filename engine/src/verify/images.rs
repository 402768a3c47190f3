//! What image models compute, on the device against the host in f32: every operation with its gradients, a prediction of a UNet
//! and one training step by each method, an autoencoder there and back.

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use temper_adapters::ops;
use temper_adapters::peft::{AdapterConfig, LoraConfig, ModulePattern, OftConfig};
use temper_models::{
    Gradients, Unet, UnetConfig, UnetInput, Vae, VaeConfig, attend_full, geglu, group_norm,
    layer_norm, upsample_nearest,
};

use super::parity::{Operation, Place, compare, forward_and_backward, precisions, tolerance};
use super::toy::{gradient_error, noise, relative_error, source, train, values};
use super::{Check, Report};
use crate::Failure;
use crate::device::{OpenDevice, dtype_name};

/// Batch, channels, height and width of what the operations see.
const SHAPE: [usize; 4] = [2, 8, 6, 5];

/// An image as a view of a leaf of the graph: `[B, C, H, W]`.
fn image(place: &Place) -> (Tensor<2>, Tensor<4>) {
    let [batch, channels, height, width] = SHAPE;
    let leaf = place.leaf("image", batch * channels, height * width);
    (leaf.clone(), leaf.reshape(SHAPE))
}

fn flat(y: Tensor<4>) -> Tensor<2> {
    let [batch, channels, height, width] = y.dims();
    y.reshape([batch * channels, height * width])
}

/// A convolution with its bias, and the gradients of all three.
fn convolution(place: &Place, kernel: usize, stride: usize) -> Vec<f32> {
    let (leaf, x) = image(place);
    let (weight, bias) = (
        place.leaf("kernel", 6, SHAPE[1] * kernel * kernel),
        place.leaf("bias", 1, 6),
    );
    let kernels = weight.clone().reshape([6, SHAPE[1], kernel, kernel]);
    let padding = [kernel / 2; 2];
    let y = ops::conv2d(
        x,
        &kernels,
        Some(bias.clone().reshape([6])),
        [stride; 2],
        padding,
    );
    forward_and_backward(place, flat(y), &[&leaf, &weight, &bias])
}

fn conv3(place: &Place) -> Vec<f32> {
    convolution(place, 3, 1)
}

fn conv3_halving(place: &Place) -> Vec<f32> {
    convolution(place, 3, 2)
}

fn conv1(place: &Place) -> Vec<f32> {
    convolution(place, 1, 1)
}

/// Gain and offset of a norm over the channels, trained as all parameters are: in f32.
fn gain_and_offset(place: &Place, channels: usize) -> [Tensor<2>; 2] {
    ["gain", "offset"].map(|purpose| {
        let values = noise(purpose, channels, 1.0, &place.device).reshape([1, channels]);
        Tensor::from_inner(values).require_grad()
    })
}

fn group_norm_with_silu(place: &Place) -> Vec<f32> {
    let (leaf, x) = image(place);
    let [gain, offset] = gain_and_offset(place, SHAPE[1]);
    let row = |tensor: &Tensor<2>| tensor.clone().reshape([SHAPE[1]]);
    let y = group_norm(x, 4, 1e-5, &row(&gain), &row(&offset), true);
    forward_and_backward(place, flat(y), &[&leaf, &gain, &offset])
}

fn layer_norm_of_rows(place: &Place) -> Vec<f32> {
    let x = place.leaf("rows", 10, 32);
    let [gain, offset] = gain_and_offset(place, 32);
    let row = |tensor: &Tensor<2>| tensor.clone().reshape([32]);
    let y = layer_norm(x.clone(), &row(&gain), &row(&offset), 1e-5);
    forward_and_backward(place, y, &[&x, &gain, &offset])
}

fn gated_gelu(place: &Place) -> Vec<f32> {
    let x = place.leaf("gated", 10, 48);
    forward_and_backward(place, geglu(x.clone()), &[&x])
}

/// Four images' worth of 9 queries over 7 keys: cross attention.
fn cross_attention(place: &Place) -> Vec<f32> {
    let (q, k, v) = (
        place.leaf("q", 18, 24),
        place.leaf("k", 14, 24),
        place.leaf("v", 14, 24),
    );
    let keys = |x: &Tensor<2>| x.clone().reshape([2, 7, 24]);
    let y = attend_full(
        q.clone().reshape([2, 9, 24]),
        keys(&k),
        keys(&v),
        3,
        0.35,
        false,
    );
    forward_and_backward(place, y.reshape([18, 24]), &[&q, &k, &v])
}

fn upsampling(place: &Place) -> Vec<f32> {
    let (leaf, x) = image(place);
    let y = upsample_nearest(x, [2 * SHAPE[2], 2 * SHAPE[3]]);
    forward_and_backward(place, flat(y), &[&leaf])
}

const OPERATIONS: [Operation; 8] = [
    ("convolution 3x3", conv3),
    ("convolution 3x3, stride 2", conv3_halving),
    ("convolution 1x1", conv1),
    ("GroupNorm + SiLU", group_norm_with_silu),
    ("LayerNorm", layer_norm_of_rows),
    ("GEGLU", gated_gelu),
    ("cross attention", cross_attention),
    ("upsampling", upsampling),
];

/// What of the UNet is trained.
#[derive(Clone, Copy)]
enum Method {
    Full,
    Oft,
    Lora,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Oft => "OFT",
            Self::Lora => "LoRA",
        }
    }

    /// Attention and a convolution larger than 1, where OFT turns the kernel itself.
    fn config(self) -> Option<AdapterConfig> {
        let mut config = match self {
            Self::Full => return None,
            Self::Oft => AdapterConfig::Oft(OftConfig {
                oft_block_size: 4,
                use_cayley_neumann: false,
                ..OftConfig::default()
            }),
            Self::Lora => AdapterConfig::Lora(LoraConfig {
                r: 2,
                ..LoraConfig::default()
            }),
        };
        let names = ["to_q", "to_k", "to_v", "to_out.0", "conv1"].map(str::to_owned);
        config.common_mut().target_modules = Some(ModulePattern::Names(names.to_vec()));
        Some(config)
    }

    /// The UNet on a device, ready to train.
    fn model(self, compute: FloatDType, device: &Device) -> Result<Unet, Failure> {
        let mut model = Unet::random(unet_config()?, compute, device, &source());
        train(&mut model, self.config().as_ref(), device)?;
        Ok(model)
    }
}

/// Two levels with attention in the first, as Stable Diffusion orders them.
fn unet_config() -> Result<UnetConfig, Failure> {
    Ok(UnetConfig::from_json(&serde_json::json!({
        "sample_size": 4, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
        "block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }))?)
}

fn normal<const D: usize>(purpose: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let n = shape.iter().product();
    Tensor::from_data(
        TensorData::new(source().normal(purpose, n, 1.0), shape),
        device,
    )
}

fn unet_input(dtype: FloatDType, device: &Device) -> UnetInput {
    UnetInput {
        sample: normal("sample", [2, 4, 4, 4], device).cast(dtype),
        timesteps: vec![7.0, 640.0],
        encoder_hidden_states: normal("text", [2, 5, 8], device).cast(dtype),
        added: None,
        control: None,
    }
}

/// Loss and gradients of one step.
fn step(method: Method, dtype: FloatDType, device: &Device) -> Result<(f64, Gradients), Failure> {
    let model = method.model(dtype, device)?;
    let target = normal("target", [2, 4, 4, 4], device);
    let error = |prediction: Tensor<4>| {
        let target = if prediction.is_autodiff() {
            Tensor::from_inner(target.clone())
        } else {
            target.clone()
        };
        (prediction.cast(FloatDType::F32) - target).square().mean()
    };
    let mut sums = Gradients::new();
    let loss = model
        .accumulate(&unet_input(dtype, device), &error, false, &mut sums)?
        .loss;
    Ok((f64::from(loss.into_scalar::<f32>()), sums))
}

/// Mean of the latents of an image, and the image that these latents give.
fn there_and_back(dtype: FloatDType, device: &Device) -> Result<Vec<f32>, Failure> {
    let config = VaeConfig::from_json(&serde_json::json!({
        "block_out_channels": [4, 8], "norm_num_groups": 2, "layers_per_block": 1, "latent_channels": 2,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    }))?;
    let vae = Vae::random(config, dtype, device, &source())?;
    let image = normal("picture", [1, 3, 8, 8], device)
        .clamp(-1.0, 1.0)
        .cast(dtype);
    let mean = vae.encode(image).mean;
    let mut all = values(mean.clone());
    all.extend(values(vae.decode(mean.cast(dtype))));
    Ok(all)
}

pub(super) fn parity(device: &OpenDevice, report: Report<'_>) -> Result<(), Failure> {
    compare(device, &OPERATIONS, report);
    let host = Device::flex();
    for dtype in precisions(device) {
        let name = |what: &str| {
            format!(
                "images {} {}: {what}",
                device.name,
                dtype_name(dtype.into())
            )
        };
        for method in [Method::Full, Method::Oft, Method::Lora] {
            let (expected_loss, expected) = step(method, FloatDType::F32, &host)?;
            let (loss, found) = step(method, dtype, &device.device)?;
            report(Check {
                name: name(&format!("UNet step, {}, loss", method.name())),
                error: (loss - expected_loss).abs() / expected_loss,
                tolerance: tolerance(dtype, 1e-5),
            });
            // Many roundings follow each other from the loss back to the first block.
            report(Check {
                name: name(&format!("UNet step, {}, gradients", method.name())),
                error: gradient_error(&found, &expected),
                tolerance: 4.0 * tolerance(dtype, 1e-4),
            });
        }
        let expected = there_and_back(FloatDType::F32, &host)?;
        let found = there_and_back(dtype, &device.device)?;
        report(Check {
            name: name("autoencoder, there and back"),
            error: relative_error(&found, &expected),
            tolerance: 4.0 * tolerance(dtype, 1e-4),
        });
    }
    Ok(())
}
