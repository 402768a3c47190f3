//! The whole way on real photographs: a small latent-diffusion model from random weights, then a subject by OFT and by LoRA.

use std::path::Path;

use burn::tensor::{Device, FloatDType};
use temper_adapters::energy::{by_layer, he_mean_half};
use temper_adapters::peft::AdapterFile;
use temper_adapters::{RandomSource, attach_trained};
use temper_datasets::images::{Filter, Photo, read, resize};
use temper_models::Unet;

use super::support::{Bench, ROOT, Run};

const SIDE: usize = 32;

/// The pictures of a grid of one row, two pixels apart.
fn pictures(grid: &Path) -> Vec<Photo> {
    let sheet = read(grid).unwrap();
    let count = (sheet.width - 2) / (SIDE + 2);
    (0..count)
        .map(|at| sheet.crop(2 + at * (SIDE + 2), 2, SIDE, SIDE))
        .collect()
}

/// The photographs of the subject as training sees them: the shorter side scaled, the middle cut out.
fn subject() -> Vec<Photo> {
    let folder = Path::new(ROOT).join("assets/dreambooth/dog6");
    (0..5)
        .map(|number| {
            let photo = read(folder.join(format!("0{number}.jpg"))).unwrap();
            let scale = SIDE as f64 / photo.width.min(photo.height) as f64;
            let size =
                [photo.width, photo.height].map(|side| (side as f64 * scale).round() as usize);
            let small = resize(&photo, size[0], size[1], Filter::default());
            small.crop((size[0] - SIDE) / 2, (size[1] - SIDE) / 2, SIDE, SIDE)
        })
        .collect()
}

/// Mean squared difference of pixels in 0 to 1.
fn pixel_distance(a: &Photo, b: &Photo) -> f64 {
    let pairs = a.to_unit().into_iter().zip(b.to_unit());
    let squares: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    squares / (3 * SIDE * SIDE) as f64
}

/// Mean and deviation of each colour in sixteen tiles: what an image looks like from afar.
fn features(photo: &Photo) -> Vec<f64> {
    let (values, tile) = (photo.to_unit(), SIDE / 4);
    let mut all = Vec::new();
    for channel in 0..3 {
        for at in 0..16 {
            let (top, left) = (at / 4 * tile, at % 4 * tile);
            let inside: Vec<f64> = (0..tile * tile)
                .map(|i| {
                    let (y, x) = (top + i / tile, left + i % tile);
                    f64::from(values[channel * SIDE * SIDE + y * SIDE + x])
                })
                .collect();
            let mean = inside.iter().sum::<f64>() / inside.len() as f64;
            let square = inside.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            all.extend([mean, (square / inside.len() as f64).sqrt()]);
        }
    }
    all
}

fn feature_distance(a: &Photo, b: &Photo) -> f64 {
    let (a, b) = (features(a), features(b));
    a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64
}

/// How far each picture is from the nearest photograph, on average.
fn distance(pictures: &[Photo], photos: &[Photo], of: fn(&Photo, &Photo) -> f64) -> f64 {
    let nearest = |picture: &Photo| {
        photos
            .iter()
            .map(|photo| of(picture, photo))
            .fold(f64::INFINITY, f64::min)
    };
    pictures.iter().map(nearest).sum::<f64>() / pictures.len() as f64
}

/// The energy of every layer of the base, and with the adapter.
fn energies(model: &Path, adapter: &Path) -> Vec<(String, f64, f64)> {
    let device = Device::flex();
    let mut base = Unet::load(&model.join("unet"), FloatDType::F32, &device).unwrap();
    let (file, _) = AdapterFile::load(adapter).unwrap();
    let mut adapted = base.clone();
    let random = RandomSource::new(|purpose| temper_datasets::random::rng(0, purpose, 0, 0));
    attach_trained(&mut adapted, &file, &random).unwrap();
    let after = by_layer(&mut adapted, he_mean_half);
    by_layer(&mut base, he_mean_half)
        .into_iter()
        .zip(after)
        .map(|((name, before), (_, after))| (name, before, after))
        .collect()
}

fn largest_change(energies: &[(String, f64, f64)]) -> f64 {
    energies
        .iter()
        .map(|(_, before, after)| (after - before).abs() / before)
        .fold(0.0, f64::max)
}

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// The pictures after are closer to the photographs than those before, by both distances.
fn assert_closer(before: &[Photo], after: &[Photo]) {
    let photos = subject();
    for (what, of) in [
        ("pixels", pixel_distance as fn(&Photo, &Photo) -> f64),
        ("features", feature_distance),
    ] {
        let (base, adapted) = (distance(before, &photos, of), distance(after, &photos, of));
        println!("{what}: {base:.4} before, {adapted:.4} after");
        assert!(
            adapted < 0.8 * base,
            "{what}: {base} before, {adapted} after"
        );
    }
}

#[test]
fn a_model_from_scratch_learns_photographs_and_then_a_subject() {
    let bench = Bench::new();
    let base = Run::shipped("tiny-diffusion.toml", bench.path("base"))
        .set("train.steps=300")
        .set("sample.every=0")
        .set("device=cpu");
    base.succeed(&["--quiet"]);
    let losses = base.losses();
    assert!(
        mean(&losses[280..]) < 0.6 * mean(&losses[..20]),
        "{losses:?}"
    );
    let summary = base.summary();
    let held = |key: &str| summary[key].as_f64().unwrap();
    assert!(
        held("eval_loss") < 0.6 * held("eval_loss_before"),
        "{summary}"
    );

    let model = base.dir.join("model");
    let subject_run = |name: &str, adapter: &str| {
        Run::shipped("tiny-dreambooth-oft.toml", bench.path(name))
            .set(&format!("model.path={model:?}"))
            .set(&format!("adapter={adapter}"))
            .set("train.steps=150")
            .set("sample.every=0")
            .set("sample.count=8")
            .set("device=cpu")
    };
    let targets = "target_modules=[\"to_q\", \"to_k\", \"to_v\", \"to_out.0\", \"conv1\", \"conv2\", \"conv_in\", \"conv_out\"]";
    let oft = subject_run(
        "oft",
        &format!("{{kind=\"oft\", r=4, use_cayley_neumann=false, {targets}}}"),
    );
    oft.succeed(&["--quiet"]);
    let (before, after) = (
        pictures(&oft.dir.join("samples/step-000000.png")),
        pictures(&oft.dir.join("samples/step-000150.png")),
    );
    assert_eq!((before.len(), after.len()), (8, 8));
    assert_closer(&before, &after);
    let summary = oft.summary();
    assert!(
        summary["eval_loss"].as_f64() < summary["eval_loss_before"].as_f64(),
        "{summary}"
    );

    let lora =
        subject_run("lora", &format!("{{kind=\"lora\", r=4, {targets}}}")).set("train.lr=5e-3");
    lora.succeed(&["--quiet"]);
    let kept = largest_change(&energies(&model, &oft.dir.join("adapter")));
    let moved = largest_change(&energies(&model, &lora.dir.join("adapter")));
    println!("energy: OFT {kept:e}, LoRA {moved:e}");
    assert!(kept < 1e-4 && moved > 1e-3, "OFT {kept:e}, LoRA {moved:e}");
}
