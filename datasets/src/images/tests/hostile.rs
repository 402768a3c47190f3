//! Files that are broken, by accident or on purpose.

use std::fs;

use proptest::prelude::*;

use super::*;

fn error_of(bytes: &[u8]) -> String {
    let path = Path::new("holiday/broken.jpg");
    let error = decode(bytes, path, &ReadOptions::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("holiday/broken.jpg"), "{text}");
    text
}

/// A PNG that claims a size, with no pixels behind its header.
fn claimed(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    drop(encoder.write_header().unwrap());
    bytes
}

#[test]
fn a_jpeg_cut_off_anywhere_is_refused() {
    for name in [
        "baseline.jpg",
        "progressive.jpg",
        "restart.jpg",
        "grey.jpg",
        "cmyk.jpg",
    ] {
        let whole = fs::read(golden(name)).unwrap();
        for length in 0..whole.len() {
            let outcome = decode(&whole[..length], Path::new(name), &ReadOptions::default());
            assert!(
                outcome.is_err(),
                "{name} cut to {length} of {} bytes",
                whole.len()
            );
        }
    }
    let whole = fs::read(golden("baseline.jpg")).unwrap();
    let text = error_of(&whole[..whole.len() - 200]);
    assert!(text.contains("cut off"), "{text}");
}

#[test]
fn a_jpeg_whose_middle_is_missing_is_refused() {
    let whole = fs::read(golden("baseline.jpg")).unwrap();
    let shortened = [&whole[..whole.len() - 600], &whole[whole.len() - 2..]].concat();
    error_of(&shortened);
}

#[test]
fn a_png_cut_off_before_its_last_pixels_is_refused() {
    let whole = fs::read(golden("expected.png")).unwrap();
    // The last twelve bytes are the end marker, which holds nothing.
    for length in 0..whole.len() - 24 {
        let outcome = decode(
            &whole[..length],
            Path::new("x.png"),
            &ReadOptions::default(),
        );
        assert!(outcome.is_err(), "cut to {length} of {} bytes", whole.len());
    }
}

#[test]
fn images_beyond_the_limit_are_refused_by_their_header_with_both_numbers() {
    let text = error_of(&claimed(30_000, 30_000));
    for number in ["30000 × 30000", "900000000", "67108864"] {
        assert!(text.contains(number), "{number} in {text}");
    }
    // Long, but not large: what is wrong is that nothing follows the header.
    assert!(!error_of(&claimed(30_000, 20)).contains("limit"));
    let options = ReadOptions {
        max_pixels: 100,
        ..ReadOptions::default()
    };
    let error = decode(
        &fs::read(golden("baseline.jpg")).unwrap(),
        Path::new("x"),
        &options,
    );
    assert!(error.unwrap_err().to_string().contains("limit is 100"));
}

#[test]
fn files_beyond_the_limit_are_refused_unread() {
    let options = ReadOptions {
        max_file_bytes: 10,
        ..ReadOptions::default()
    };
    let error = read_with(golden("baseline.jpg"), &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("limit is 10"), "{error}");
}

#[test]
fn what_is_no_image_is_said_to_be_what_it_is() {
    assert!(error_of(b"").contains("empty"));
    assert!(error_of(b"a text named .jpg").contains("text"));
    assert!(error_of(&[0, 1, 2, 3, 4, 5]).contains("no known format"));
    assert!(error_of(b"\0\0\0\x18ftypheic\0\0\0\0").contains("heic"));
    assert!(error_of(b"II*\0\x08\0\0\0").contains("Tiff"));
    assert!(error_of(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    assert!(error_of(&[0xFF, 0xD8, 0xFF]).contains("JPEG"));
    let error = read(golden("")).unwrap_err().to_string();
    assert!(error.contains("directory"), "{error}");
    let error = read("no/such/file.png").unwrap_err().to_string();
    assert!(error.contains("no/such/file.png"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn flipped_bits_never_panic(
        file in 0..6_usize,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let names = ["baseline.jpg", "progressive.jpg", "restart.jpg", "cmyk.jpg", "ycck.jpg", "expected.png"];
        let mut bytes = fs::read(golden(names[file])).unwrap();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if cut.index(2) == 1 {
            bytes.truncate(cut.index(bytes.len()));
        }
        let options = ReadOptions { max_pixels: 1 << 16, ..ReadOptions::default() };
        if let Ok(photo) = decode(&bytes, Path::new("x"), &options) {
            prop_assert_eq!(photo.rgb.len(), photo.width * photo.height * 3);
        }
    }

    #[test]
    fn noise_never_panics(start in 0..5_usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let starts: [&[u8]; 5] = [b"", b"\xFF\xD8\xFF", b"\x89PNG\r\n\x1A\n", b"RIFF\x10\0\0\0WEBP", b"GIF89a"];
        let bytes = [starts[start], &bytes].concat();
        let options = ReadOptions { max_pixels: 1 << 16, ..ReadOptions::default() };
        let _ = decode(&bytes, Path::new("x"), &options);
    }
}
