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

/// Where the data of the last scan begin, and the marker that ends the image.
fn coded(jpeg: &[u8]) -> (usize, usize) {
    let end = jpeg.windows(2).rposition(|two| two == [0xFF, 0xD9]);
    let scan = jpeg.windows(2).rposition(|two| two == [0xFF, 0xDA]);
    (scan.unwrap() + 14, end.unwrap())
}

const JPEGS: [&str; 6] = [
    "baseline.jpg",
    "progressive.jpg",
    "restart.jpg",
    "grey.jpg",
    "cmyk.jpg",
    "ycck.jpg",
];

#[test]
fn a_jpeg_that_ends_early_is_refused_although_it_has_its_end_marker() {
    for name in JPEGS {
        let whole = fs::read(golden(name)).unwrap();
        let (_, end) = coded(&whole);
        let first = whole.windows(2).position(|two| two == [0xFF, 0xDA]);
        for cut in (first.unwrap() + 14..end - 3).step_by(7) {
            // A half of a stuffed byte or a marker is another file.
            if whole[cut - 1] == 0xFF {
                continue;
            }
            let ended = [&whole[..cut], &whole[end..]].concat();
            let outcome = decode(&ended, Path::new(name), &ReadOptions::default());
            assert!(outcome.is_err(), "{name} ends at {cut} of {end}");
        }
        let text = error_of(
            &[
                &whole[..usize::midpoint(first.unwrap(), end)],
                &whole[end..],
            ]
            .concat(),
        );
        assert!(text.contains("JPEG") || text.contains("cut off"), "{text}");
    }
}

#[test]
fn a_jpeg_whose_data_became_zeros_is_refused() {
    let photo = |name: &str| fs::read(subject(name)).unwrap();
    let mut files: Vec<Vec<u8>> = JPEGS.map(|name| fs::read(golden(name)).unwrap()).into();
    files.extend([photo("dog6/00.jpg"), photo("backpack/00.jpg")]);
    for (at, whole) in files.into_iter().enumerate() {
        let (start, end) = coded(&whole);
        let holes = [
            usize::midpoint(start, end)..end,
            start + (end - start) / 4..usize::midpoint(start, end),
        ];
        // The last pass of a tiny progressive picture has few bytes.
        for hole in holes.into_iter().filter(|hole| hole.len() > 16) {
            let mut zeroed = whole.clone();
            zeroed[hole.clone()].fill(0);
            let outcome = decode(&zeroed, Path::new("x.jpg"), &ReadOptions::default());
            assert!(outcome.is_err(), "file {at} with zeros at {hole:?}");
        }
    }
}

#[test]
fn whole_jpegs_load_whatever_follows_their_end() {
    for name in JPEGS {
        let whole = fs::read(golden(name)).unwrap();
        let plain = decode(&whole, Path::new(name), &ReadOptions::default()).unwrap();
        // A second image behind the first, as cameras store previews and gain maps.
        let more = [&whole[..], &[0; 100], &whole[..]].concat();
        let same = decode(&more, Path::new(name), &ReadOptions::default()).unwrap();
        assert_eq!(plain, same, "{name}");
    }
    for folder in ["dog6", "backpack", "duck_toy"] {
        for photo in list(subject(folder), false).unwrap() {
            assert!(read(&photo).is_ok(), "{}", photo.display());
        }
    }
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_refused_unopened() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let made = std::process::Command::new("mkfifo")
        .arg(at("pipe.png"))
        .status();
    assert!(made.unwrap().success());
    std::os::unix::fs::symlink("/dev/null", at("device.jpg")).unwrap();
    for name in ["pipe.png", "device.jpg"] {
        let error = read(at(name)).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("no regular file"),
            "{error}"
        );
    }
    fs::rename(at("pipe.png"), at("device.txt")).unwrap();
    let error = caption_beside(at("device.jpg")).unwrap_err().to_string();
    assert!(
        error.contains("device.txt") && error.contains("no regular file"),
        "{error}"
    );
    fs::rename(at("device.txt"), at("metadata.jsonl")).unwrap();
    let mut config = ImageSetConfig::with_prompt(directory.path(), "");
    config.captions = Captions::Metadata;
    let error = ImageSet::open(&config).unwrap_err().to_string();
    assert!(
        error.contains("metadata.jsonl") && error.contains("no regular file"),
        "{error}"
    );
}

#[test]
fn profiles_of_a_png_are_not_inflated_without_end() {
    let with_profile = |bytes: usize| {
        let mut info = png::Info::with_size(4, 4);
        info.icc_profile = Some(vec![0; bytes].into());
        let mut file = Vec::new();
        let mut writer = png::Encoder::with_info(&mut file, info)
            .unwrap()
            .write_header()
            .unwrap();
        writer.write_image_data(&[7; 16]).unwrap();
        writer.finish().unwrap();
        file
    };
    let profile = |file: &[u8]| {
        let (path, options) = (Path::new("x.png"), ReadOptions::default());
        assert_eq!(decode(file, path, &options).unwrap().rgb, [7; 48]);
        let mut decoder = read::open(file, image::ImageFormat::Png, path, &options).unwrap();
        image::ImageDecoder::icc_profile(&mut decoder).unwrap()
    };
    assert_eq!(
        profile(&with_profile(1000)).map(|profile| profile.len()),
        Some(1000)
    );
    assert_eq!(profile(&with_profile(17 << 20)), None);
}

#[test]
fn texts_of_a_png_are_not_inflated_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.png");
    for (letters, fits) in [(1000, true), (17 << 20, false)] {
        let mut encoder = png::Encoder::new(fs::File::create(&path).unwrap(), 4, 4);
        encoder
            .add_ztxt_chunk("prompt".into(), "a".repeat(letters))
            .unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[7; 16]).unwrap();
        writer.finish().unwrap();
        assert_eq!(read_png_text(&path).is_ok(), fits);
        assert!(read(&path).is_ok());
    }
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
