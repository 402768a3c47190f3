//! What golden tests share: the cases, and one comparison that prints names.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use temper_adapters::RandomSource;
use temper_adapters::weights::{Checkpoint, Dtype};

/// The directory of a golden case below `tests/golden`.
pub(crate) fn case(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(name)
}

/// The recorded inputs and outputs of a case.
pub(crate) fn io(name: &str) -> Checkpoint {
    Checkpoint::open(case(name).join("io.safetensors")).unwrap()
}

/// A recorded float tensor.
pub(crate) fn tensor<const D: usize>(file: &Checkpoint, name: &str, device: &Device) -> Tensor<D> {
    let shape = file.info(name).unwrap().shape.clone();
    Tensor::from_data(TensorData::new(file.read_f32(name).unwrap(), shape), device)
}

/// A recorded int64 tensor.
pub(crate) fn integers(file: &Checkpoint, name: &str) -> Vec<i64> {
    let tensor = file.read(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
    tensor
        .data()
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

/// A recorded int64 tensor of ids.
pub(crate) fn ids(file: &Checkpoint, name: &str) -> Vec<u32> {
    let ids = integers(file, name).into_iter();
    ids.map(|id| id as u32).collect()
}

/// The values of a tensor, in a graph or not.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let tensor = if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    };
    tensor.into_data().try_to_vec().unwrap()
}

/// Compares and reports the worst entry: |a − b| <= atol + rtol·|b|.
pub(crate) fn assert_close(name: &str, ours: &[f32], theirs: &[f32], rtol: f32, atol: f32) {
    assert_eq!(ours.len(), theirs.len(), "{name}: number of values");
    let excess = |(a, b): (&f32, &f32)| (a - b).abs() / (atol + rtol * b.abs());
    let worst = ours.iter().zip(theirs).map(excess).fold(0.0, f32::max);
    assert!(
        worst <= 1.0,
        "{name}: worst error is {worst} times the tolerance"
    );
    assert!(
        ours.iter().all(|value| value.is_finite()),
        "{name}: not finite"
    );
}

/// Random numbers by purpose, from one seed.
pub(crate) fn random(seed: u64) -> RandomSource {
    RandomSource::new(move |purpose| {
        let folded = purpose.bytes().fold(seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        ChaCha8Rng::seed_from_u64(folded)
    })
}
