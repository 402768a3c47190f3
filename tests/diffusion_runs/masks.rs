//! What a mask leaves out is not learned.

use std::path::Path;

use temper_datasets::images::{Photo, read, write_png};

use super::replay::{Replay, Seen, TOLERANCE, noise_photo};
use super::support::{Bench, ROOT, Run, assert_relative};

const SIDE: usize = 32;
const PROMPT: &str = "a photo of sks dog";

/// Opacity of each pixel: nothing to the left of column 14, which lies within a latent, and nothing in the last rows.
fn opacity() -> Vec<u8> {
    let at = |i: usize| {
        if i % SIDE < 14 || i / SIDE >= 28 {
            0
        } else {
            255
        }
    };
    (0..SIDE * SIDE).map(at).collect()
}

/// The same for latents of 4 × 4 pixels: the mean, and at least `least`.
fn weights(least: f32) -> Vec<f32> {
    let mask = opacity();
    let latent = |at: usize| {
        let (top, left) = (at / (SIDE / 4) * 4, at % (SIDE / 4) * 4);
        let pixels = (0..16).map(|i| f32::from(mask[(top + i / 4) * SIDE + left + i % 4]));
        let mean = pixels.sum::<f32>() / (16.0 * 255.0);
        least + (1.0 - least) * mean
    };
    (0..SIDE * SIDE / 16).map(latent).collect()
}

fn write_transparent(file: &Path, photo: &Photo) {
    let out = std::fs::File::create(file).unwrap();
    let mut encoder = png::Encoder::new(out, SIDE as u32, SIDE as u32);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let pixels = photo.rgb.chunks_exact(3).zip(opacity());
    let samples: Vec<u8> = pixels
        .flat_map(|(rgb, alpha)| [rgb[0], rgb[1], rgb[2], alpha])
        .collect();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&samples).unwrap();
}

fn run(bench: &Bench, name: &str, images: &str) -> Run {
    bench.run(
        name,
        &format!(
            "device = \"cpu\"\nseed = 6\n[model]\npath = \"assets/tiny-diffusion\"\n[adapter]\nkind = \"full\"\n\
             [images]\ninstance_prompt = {PROMPT:?}\nresolution = {SIDE}\n{images}\n\
             [train]\nsteps = 1\nbatch_size = 1\nlr = 1e-12\n[validation]\nimages = 0\n[sample]\ncount = 0\n"
        ),
    )
}

/// Loss and norm of the gradient of the one step.
fn step(run: &Run) -> (f64, f64) {
    run.succeed(&["--quiet"]);
    let metric = &run.metrics()[0];
    (metric.loss, metric.grad_norm)
}

#[test]
fn what_is_transparent_or_black_in_a_mask_changes_neither_loss_nor_gradient() {
    let bench = Bench::new();
    let [clear, opaque, masks] = ["clear", "opaque", "masks"].map(|name| {
        std::fs::create_dir(bench.path(name)).unwrap();
        bench.path(name)
    });
    write_transparent(&clear.join("0.png"), &noise_photo(1, SIDE, SIDE));
    // As it is seen: over white.
    let mut photo = read(clear.join("0.png")).unwrap();
    assert_eq!(photo.alpha.take(), Some(opacity()));
    write_png(opaque.join("0.png"), &photo, &[]).unwrap();
    let mask = Photo::from_grey(SIDE, SIDE, &opacity()).unwrap();
    write_png(masks.join("0.png"), &mask, &[]).unwrap();

    let alpha = run(
        &bench,
        "alpha",
        &format!("path = {clear:?}\nmasks = \"alpha\""),
    );
    let (loss, norm) = step(&alpha);
    let replay = Replay::new(&Path::new(ROOT).join("assets/tiny-diffusion"), 6);
    let masked = weights(0.0);
    let mut seen = Seen::new(&photo, PROMPT);
    let whole = replay.error(0, 0, seen);
    seen.mask = Some(&masked);
    assert_relative("loss", loss, replay.error(0, 0, seen), TOLERANCE);
    assert_relative("gradient", norm, replay.gradient_norm(0, 0, seen), 1e-4);
    assert!((loss - whole).abs() > 1e-3 * whole, "{loss}, {whole}");

    let files = run(
        &bench,
        "files",
        &format!("path = {opaque:?}\nmasks = \"folder\"\nmask_dir = {masks:?}"),
    );
    assert_eq!(step(&files), (loss, norm), "a mask file says the same");

    let some = weights(0.25);
    seen.mask = Some(&some);
    let less = run(
        &bench,
        "less",
        &format!("path = {clear:?}\nmasks = \"alpha\"\nunmasked_weight = 0.25"),
    );
    let expected = replay.error(0, 0, seen);
    assert_relative("a quarter", step(&less).0, expected, TOLERANCE);
}

#[test]
fn a_crop_that_leaves_nothing_of_a_mask_is_named() {
    let bench = Bench::new();
    let [photos, masks] = ["photos", "masks"].map(|name| {
        std::fs::create_dir(bench.path(name)).unwrap();
        bench.path(name)
    });
    // Twice as wide as high: a square crop takes the middle. The masks show a band on the left, and the middle.
    for (name, shown) in [("left.png", 0..SIDE / 4), ("middle.png", SIDE / 2..SIDE)] {
        write_png(photos.join(name), &noise_photo(1, 2 * SIDE, SIDE), &[]).unwrap();
        let opacity = |at: usize| u8::from(shown.contains(&(at % (2 * SIDE)))) * 255;
        let opacity: Vec<u8> = (0..2 * SIDE * SIDE).map(opacity).collect();
        let mask = Photo::from_grey(2 * SIDE, SIDE, &opacity).unwrap();
        write_png(masks.join(name), &mask, &[]).unwrap();
    }
    let said = run(
        &bench,
        "run",
        &format!("path = {photos:?}\nmasks = \"folder\"\nmask_dir = {masks:?}"),
    )
    .set("train.steps=4")
    .remarks();
    assert_eq!(
        said.matches("warning: nothing that the mask").count(),
        1,
        "{said}"
    );
    assert!(
        said.contains("left.png` shows is within its crop of 32 × 32"),
        "{said}"
    );
}
