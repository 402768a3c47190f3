//! What a step must give, computed here from its definition: the noise of an address, the noise process, the network's prediction
//! and the squared error. Only networks are the product's own; golden tests hold those to diffusers.

use std::path::Path;

use burn::tensor::{FloatDType, Tensor, TensorData};
use temper_adapters::{Parameters, RandomSource};
use temper_datasets::images::Photo;
use temper_datasets::random;
use temper_engine::device;
use temper_engine::diffusion::Pipeline;
use temper_models::{AddedConditions, Gradients, UnetInput};

/// Relative error of a loss in f32 that was computed on another way.
pub(super) const TOLERANCE: f64 = 2e-5;

/// √ᾱ of Stable Diffusion's noise process by timestep, in f64.
pub(super) fn signal() -> Vec<f64> {
    let (first, last) = (0.00085_f64.sqrt(), 0.012_f64.sqrt());
    let mut product = 1.0;
    (0..1000)
        .map(|t| {
            let root = first + (last - first) * f64::from(t) / 999.0;
            product *= 1.0 - root * root;
            f64::sqrt(product)
        })
        .collect()
}

/// One row of a batch.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// The photograph at its training size.
    pub(super) photo: &'a Photo,
    pub(super) caption: &'a str,
    /// SDXL: original size, top and left of the crop, target size.
    pub(super) time_ids: [f32; 6],
    /// Weight of each latent.
    pub(super) mask: Option<&'a [f32]>,
}

impl<'a> Seen<'a> {
    pub(super) fn new(photo: &'a Photo, caption: &'a str) -> Self {
        Self {
            photo,
            caption,
            time_ids: [0.0; 6],
            mask: None,
        }
    }
}

/// A model that predicts noise, and the seed of a run.
pub(super) struct Replay {
    pipeline: Pipeline,
    seed: u64,
    signal: Vec<f64>,
}

impl Replay {
    pub(super) fn new(model: &Path, seed: u64) -> Self {
        let device = device::open("cpu").unwrap();
        Self {
            pipeline: Pipeline::open(model, FloatDType::F32, &device).unwrap(),
            seed,
            signal: signal(),
        }
    }

    /// Standard normal numbers of a row of a step.
    fn normal(&self, purpose: &str, step: u64, row: u64, like: &Tensor<4>) -> Tensor<4> {
        let seed = self.seed;
        let source = RandomSource::new(move |purpose| random::rng(seed, purpose, step, row));
        let values = source.normal(purpose, like.dims().iter().product(), 1.0);
        Tensor::from_data(TensorData::new(values, like.dims()), &like.device())
    }

    /// What the network gets, and the noise that it must find.
    pub(super) fn input(&self, step: u64, row: u64, seen: Seen<'_>) -> (UnetInput, Tensor<4>) {
        let on = &self.pipeline.device.device;
        let shape = [1, 3, seen.photo.height, seen.photo.width];
        let pixels = Tensor::from_data(TensorData::new(seen.photo.to_signed(), shape), on);
        let posterior = self.pipeline.vae.encode(pixels);
        let drawn = self.normal("latent", step, row, &posterior.mean);
        let scale = self.pipeline.vae.config().scaling_factor;
        let latents = (posterior.mean.clone() + posterior.std() * drawn).mul_scalar(scale);
        let noise = self.normal("noise", step, row, &latents);
        let mut rng = random::rng(self.seed, "timestep", step, row);
        let t = random::below(&mut rng, 1000) as usize;
        let (signal, rest) = (self.signal[t], (1.0 - self.signal[t].powi(2)).sqrt());
        let text = [seen.caption.to_owned()];
        let text = self.pipeline.encode_prompts(&text, 0).unwrap();
        let time_ids = Tensor::from_data([seen.time_ids], on);
        let input = UnetInput {
            sample: latents.mul_scalar(signal) + noise.clone().mul_scalar(rest),
            timesteps: vec![t as f32],
            encoder_hidden_states: text.hidden,
            added: text.pooled.map(|text_embeds| AddedConditions {
                text_embeds,
                time_ids,
            }),
            control: None,
        };
        (input, noise)
    }

    /// The weighted mean of the squared error.
    pub(super) fn error(&self, step: u64, row: u64, seen: Seen<'_>) -> f64 {
        let (input, noise) = self.input(step, row, seen);
        let [_, _, height, width] = noise.dims();
        let found = self.pipeline.unet.forward(&input).unwrap();
        let squares = (found - noise).square().into_data();
        let (mut sum, mut weights) = (0.0, 0.0);
        for (at, square) in squares.iter::<f64>().enumerate() {
            let weight = seen
                .mask
                .map_or(1.0, |mask| f64::from(mask[at % (height * width)]));
            sum += weight * square;
            weights += weight;
        }
        sum / weights
    }

    /// Norm of the gradient of that error in all weights of the U-Net, where the mask is 0 with something else to be found.
    pub(super) fn gradient_norm(&self, step: u64, row: u64, seen: Seen<'_>) -> f64 {
        let (input, noise) = self.input(step, row, seen);
        let [_, channels, height, width] = noise.dims();
        let mask = seen.mask.unwrap();
        let mask = TensorData::new(mask.to_vec(), [1, 1, height, width]);
        let mask = Tensor::<4>::from_data(mask, &noise.device()).repeat_dim(1, channels);
        let outside = mask.clone().equal_elem(0.0);
        let total: f32 = mask.clone().sum().into_scalar();
        let target = noise.mask_fill(outside, 77.0);
        let loss = |found: Tensor<4>| {
            let error = (found - target.clone()).square() * mask.clone();
            error.sum().div_scalar(total)
        };
        let mut unet = self.pipeline.unet.clone();
        unet.visit_mut(&mut |param| param.set_trainable(true));
        let mut sums = Gradients::new();
        unet.accumulate(&input, &loss, false, &mut sums).unwrap();
        let squares = sums
            .into_values()
            .map(|sum| f64::from(sum.square().sum().into_scalar::<f32>()));
        squares.sum::<f64>().sqrt()
    }
}

/// Of `candidates`, the one that gives this loss; there must be exactly one.
pub(super) fn only_match<T>(what: &str, loss: f64, candidates: Vec<(T, f64)>) -> T {
    let near = |value: f64| (value - loss).abs() <= TOLERANCE * loss;
    let all: Vec<f64> = candidates.iter().map(|(_, value)| *value).collect();
    let mut found = candidates.into_iter().filter(|(_, value)| near(*value));
    let first = found.next();
    assert!(
        found.next().is_none(),
        "{what}: several give {loss}: {all:?}"
    );
    first
        .unwrap_or_else(|| panic!("{what}: none gives {loss}: {all:?}"))
        .0
}

/// A photograph of noise from a seed, coarse enough for an autoencoder to see.
pub(super) fn noise_photo(seed: u64, width: usize, height: usize) -> Photo {
    let mut rng = random::rng(seed, "test photo", 0, 0);
    let columns = width.div_ceil(4);
    let tiles: Vec<[u8; 3]> = (0..columns * height.div_ceil(4))
        .map(|_| [0; 3].map(|_: u8| random::below(&mut rng, 256) as u8))
        .collect();
    let at = |i: usize| tiles[i / width / 4 * columns + i % width / 4];
    Photo::new(width, height, (0..width * height).flat_map(at).collect()).unwrap()
}
