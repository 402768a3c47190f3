//! What tests of diffusion models share.
#![allow(
    dead_code,
    reason = "each test binary uses its own part of these helpers"
)]

use std::path::PathBuf;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use temper_adapters::RandomSource;
use temper_adapters::weights::{Checkpoint, Dtype};
use temper_models::{AddedConditions, Unet, UnetConfig, UnetInput};

/// A directory of goldens.
pub(crate) fn golden(case: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(case)
}

/// The file of inputs and expected outputs of a case.
pub(crate) fn io(case: &str) -> Checkpoint {
    Checkpoint::open(golden(case).join("io.safetensors")).unwrap()
}

/// Values that are the same on every run, one stream for each name.
pub(crate) fn random() -> RandomSource {
    RandomSource::new(|purpose| {
        let seed = purpose.bytes().fold(7_u64, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        ChaCha8Rng::seed_from_u64(seed)
    })
}

/// A tensor of standard normal values.
pub(crate) fn normal<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    let n = shape.iter().product();
    let values = random().normal(name, n, 1.0);
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// A stored tensor on `cpu`, in f32.
pub(crate) fn tensor<const D: usize>(file: &Checkpoint, name: &str) -> Tensor<D> {
    let shape = file.info(name).unwrap().shape.clone();
    let data = TensorData::new(file.read_f32(name).unwrap(), shape);
    Tensor::from_data(data, &Device::flex())
}

/// Stored integers as floats.
pub(crate) fn steps(file: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = file.read(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
    tensor
        .data()
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()) as f32)
        .collect()
}

/// The values of a tensor, outside any graph, in f32.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let tensor = if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    };
    let data = tensor.cast(FloatDType::F32).into_data();
    data.try_to_vec().unwrap()
}

/// Compares and reports the worst entry: |a − b| <= atol + rtol·|b|.
pub(crate) fn assert_close(what: &str, ours: &[f32], theirs: &[f32], rtol: f32, atol: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}: number of values");
    let excess = |(a, b): (&f32, &f32)| (a - b).abs() / (atol + rtol * b.abs());
    let worst = ours.iter().zip(theirs).map(excess);
    // A NaN must fail: `max` would swallow it.
    let worst = worst.fold(0.0, |worst: f32, x| {
        if x.is_nan() {
            f32::INFINITY
        } else {
            worst.max(x)
        }
    });
    assert!(
        worst <= 1.0,
        "{what}: worst error is {worst} times the tolerance"
    );
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
pub(crate) fn unet_of_adapter_case(case: &str) -> Unet {
    let directory = golden(case);
    let config = UnetConfig::load(&directory).unwrap();
    let base = Checkpoint::open(directory.join("base.safetensors")).unwrap();
    Unet::from_checkpoint(config, &base, FloatDType::F32, &Device::flex()).unwrap()
}
