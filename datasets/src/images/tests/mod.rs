//! Tests of the path from files to batches and back.

mod files;
mod hostile;
mod loader;
mod numbers;
mod sets;

use std::path::{Path, PathBuf};

use super::*;

/// A file of the goldens.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/diffusion/images")
        .join(name)
}

/// The photographs that ship with the sources.
fn subject(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../assets/dreambooth")
        .join(name)
}

/// A picture whose pixels all differ.
fn gradient(width: usize, height: usize) -> Photo {
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb = pixels.flat_map(|(x, y)| [(x * 5) as u8, (y * 7) as u8, (x * 3 + y * 2) as u8]);
    Photo::new(width, height, rgb.collect()).unwrap()
}

/// Mean absolute difference of two pictures of one size.
fn distance(a: &Photo, b: &Photo) -> f64 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let pairs = a.rgb.iter().zip(&b.rgb);
    let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.rgb.len() as f64
}
