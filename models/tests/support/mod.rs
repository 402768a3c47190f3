//! What tests of the UNet share beyond [`crate::common`].
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde_json::json;
use temper_adapters::weights::Checkpoint;
use temper_models::{AddedConditions, Unet, UnetConfig, UnetInput};

use crate::common::{case, ids, random};

/// A tensor of standard normal values, the same on every run, one stream for each name.
pub(crate) fn normal<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    let n = shape.iter().product();
    let values = random(7).normal(name, n, 1.0);
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// A recorded tensor on `cpu`, in f32.
pub(crate) fn tensor<const D: usize>(file: &Checkpoint, name: &str) -> Tensor<D> {
    crate::common::tensor(file, name, &Device::flex())
}

/// Recorded integers as time steps.
pub(crate) fn steps(file: &Checkpoint, name: &str) -> Vec<f32> {
    ids(file, name).into_iter().map(|id| id as f32).collect()
}

/// The values of a tensor of any float dtype, inside or outside a graph, in f32.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let tensor = if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    };
    crate::common::values(tensor.cast(FloatDType::F32))
}

/// Compares two ways to the same gradient: the norm of the difference against that of the gradient.
pub(crate) fn assert_same_gradient(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}: number of values");
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    let difference = norm(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
    let size = norm(&mut theirs.iter().copied());
    assert!(
        difference <= 2e-5 * size + 1e-7,
        "{what}: gradients of norm {size} differ by {difference}"
    );
}

/// The inputs of a golden UNet case.
pub(crate) fn unet_input(file: &Checkpoint) -> UnetInput {
    let added = file.info("in.text_embeds").map(|_| AddedConditions {
        text_embeds: tensor(file, "in.text_embeds"),
        time_ids: tensor(file, "in.time_ids"),
    });
    UnetInput {
        sample: tensor(file, "in.sample"),
        timesteps: steps(file, "in.timestep"),
        encoder_hidden_states: tensor(file, "in.encoder_hidden_states"),
        added,
        control: None,
    }
}

/// The UNet of an adapter case: `config.json` beside `base.safetensors`.
pub(crate) fn unet_of_adapter_case(name: &str) -> Unet {
    let directory = case(name);
    let config = UnetConfig::load(&directory).unwrap();
    let base = Checkpoint::open(directory.join("base.safetensors")).unwrap();
    Unet::from_checkpoint(config, &base, FloatDType::F32, &Device::flex()).unwrap()
}

/// Random weights; three levels, transformers on two of them, two heads.
pub(crate) fn small_unet(compute: FloatDType) -> Unet {
    let config = UnetConfig::from_json(&json!({
        "block_out_channels": [8, 16, 24], "layers_per_block": [1, 2, 1], "norm_num_groups": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": 2, "cross_attention_dim": 12, "only_cross_attention": [false, false, true],
    }))
    .unwrap();
    Unet::random(config, compute, &Device::flex(), &random(7))
}

/// Two images of this height and width for [`small_unet`].
pub(crate) fn small_input(size: [usize; 2]) -> UnetInput {
    UnetInput {
        sample: normal("sample", [2, 4, size[0], size[1]]),
        timesteps: vec![17.5, 900.0],
        encoder_hidden_states: normal("text", [2, 5, 12]),
        added: None,
        control: None,
    }
}
