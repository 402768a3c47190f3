//! Photographs as people have them.

use std::fs;
use std::io::Cursor;

use super::*;

fn decoded(bytes: &[u8]) -> crate::Result<Photo> {
    decode(bytes, Path::new("photo.img"), &ReadOptions::default())
}

/// Bytes of a PNG whose samples are given as they are stored.
fn png_of(
    (width, height): (u32, u32),
    colour: png::ColorType,
    depth: png::BitDepth,
    palette: Option<(&[u8], &[u8])>,
    samples: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if let Some((colours, opacities)) = palette {
        encoder.set_palette(colours.to_vec());
        encoder.set_trns(opacities.to_vec());
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(samples).unwrap();
    writer.finish().unwrap();
    bytes
}

/// A JPEG with an EXIF segment that holds an orientation.
fn rotated(orientation: u8) -> Vec<u8> {
    let jpeg = fs::read(golden("baseline.jpg")).unwrap();
    let mut tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    tiff.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut segment = vec![0xFF, 0xE1];
    segment.extend((2 + 6 + tiff.len() as u16).to_be_bytes());
    segment.extend(b"Exif\0\0");
    segment.extend(&tiff);
    [&jpeg[..2], &segment, &jpeg[2..]].concat()
}

#[test]
fn colour_jpegs_show_their_picture() {
    let expected = read(golden("expected.png")).unwrap();
    for name in ["baseline.jpg", "progressive.jpg", "restart.jpg"] {
        let apart = distance(&read(golden(name)).unwrap(), &expected);
        assert!(apart < 3.0, "{name}: {apart}");
    }
    let plain = read(golden("baseline.jpg")).unwrap();
    let progressive = read(golden("progressive.jpg")).unwrap();
    assert!(distance(&plain, &progressive) < 0.5);
}

#[test]
fn grey_jpegs_have_three_equal_channels() {
    let photo = read(golden("grey.jpg")).unwrap();
    assert!(
        photo
            .rgb
            .chunks_exact(3)
            .all(|p| p[0] == p[1] && p[1] == p[2])
    );
    assert!(distance(&photo, &read(golden("expected_grey.png")).unwrap()) < 2.0);
}

#[test]
fn inks_of_cmyk_and_ycck_become_the_colours_that_they_print() {
    let expected = read(golden("expected_cmyk.png")).unwrap();
    for name in ["cmyk.jpg", "ycck.jpg"] {
        let apart = distance(&read(golden(name)).unwrap(), &expected);
        assert!(apart < 3.0, "{name}: {apart}");
    }
}

#[test]
fn every_exif_orientation_is_turned_upright() {
    let upright = read(golden("baseline.jpg")).unwrap();
    let pixel = |photo: &Photo, x: usize, y: usize| {
        let at = (y * photo.width + x) * 3;
        [photo.rgb[at], photo.rgb[at + 1], photo.rgb[at + 2]]
    };
    let (w, h) = (upright.width, upright.height);
    // Where the stored pixel in the upper left corner is seen.
    let seen: [(usize, usize); 8] = [
        (0, 0),
        (w - 1, 0),
        (w - 1, h - 1),
        (0, h - 1),
        (0, 0),
        (h - 1, 0),
        (h - 1, w - 1),
        (0, w - 1),
    ];
    for (orientation, corner) in (1_u8..).zip(seen) {
        let bytes = rotated(orientation);
        let photo = decoded(&bytes).unwrap();
        let size = if orientation > 4 { (h, w) } else { (w, h) };
        assert_eq!((photo.width, photo.height), size, "{orientation}");
        assert_eq!(
            pixel(&photo, corner.0, corner.1),
            pixel(&upright, 0, 0),
            "{orientation}"
        );
        let options = ReadOptions::default();
        assert_eq!(dimensions(&bytes, Path::new("x"), &options).unwrap(), size);
    }
    assert_eq!(decoded(&rotated(0)).unwrap(), upright);
    assert_eq!(decoded(&rotated(99)).unwrap(), upright);
}

#[test]
fn png_of_every_depth_is_read() {
    use png::{BitDepth, ColorType};
    let bits = png_of(
        (3, 1),
        ColorType::Grayscale,
        BitDepth::One,
        None,
        &[0b1010_0000],
    );
    assert_eq!(
        decoded(&bits).unwrap().rgb,
        [255, 255, 255, 0, 0, 0, 255, 255, 255]
    );
    let nibbles = png_of((2, 1), ColorType::Grayscale, BitDepth::Four, None, &[0x0F]);
    assert_eq!(decoded(&nibbles).unwrap().rgb, [0, 0, 0, 255, 255, 255]);
    let wide = png_of(
        (2, 1),
        ColorType::Grayscale,
        BitDepth::Sixteen,
        None,
        &[128, 128, 0, 200],
    );
    assert_eq!(decoded(&wide).unwrap().rgb, [128, 128, 128, 1, 1, 1]);
    let deep = [255, 255, 0, 0, 127, 127];
    let deep = png_of((1, 1), ColorType::Rgb, BitDepth::Sixteen, None, &deep);
    assert_eq!(decoded(&deep).unwrap().rgb, [255, 0, 127]);
}

#[test]
fn transparent_pixels_lie_on_white_and_their_opacity_is_kept() {
    use png::{BitDepth, ColorType};
    let samples = [10, 20, 30, 255, 10, 20, 30, 0, 0, 0, 0, 51];
    let rgba = png_of((3, 1), ColorType::Rgba, BitDepth::Eight, None, &samples);
    let photo = decoded(&rgba).unwrap();
    assert_eq!(photo.rgb, [10, 20, 30, 255, 255, 255, 204, 204, 204]);
    assert_eq!(photo.alpha.unwrap(), [255, 0, 51]);
    let options = ReadOptions {
        background: [0, 0, 255],
        ..ReadOptions::default()
    };
    let blue = decode(&rgba, Path::new("x"), &options).unwrap();
    assert_eq!(blue.rgb[3..6], [0, 0, 255]);
    let palette = Some((&[9, 9, 9, 200, 0, 0][..], &[0, 255][..]));
    let indexed = png_of(
        (2, 1),
        ColorType::Indexed,
        BitDepth::One,
        palette,
        &[0b0100_0000],
    );
    let photo = decoded(&indexed).unwrap();
    assert_eq!(photo.rgb, [255, 255, 255, 200, 0, 0]);
    assert_eq!(photo.alpha.unwrap(), [0, 255]);
}

#[test]
fn opaque_images_with_an_alpha_channel_have_no_mask() {
    let grey = [7, 255, 8, 255];
    let bytes = png_of(
        (2, 1),
        png::ColorType::GrayscaleAlpha,
        png::BitDepth::Eight,
        None,
        &grey,
    );
    let photo = decoded(&bytes).unwrap();
    assert_eq!((photo.rgb, photo.alpha), (vec![7, 7, 7, 8, 8, 8], None));
}

#[test]
fn other_formats_are_found_from_their_content() {
    let expected = gradient(20, 12);
    let image = image::RgbImage::from_raw(20, 12, expected.rgb.clone()).unwrap();
    for format in [
        image::ImageFormat::Bmp,
        image::ImageFormat::WebP,
        image::ImageFormat::Gif,
    ] {
        let mut bytes = Cursor::new(Vec::new());
        let written = image::DynamicImage::from(image.clone());
        let written = match format {
            image::ImageFormat::Gif => image::DynamicImage::from(written.to_rgba8()),
            _ => written,
        };
        written.write_to(&mut bytes, format).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("named_wrongly.jpg");
        fs::write(&path, bytes.into_inner()).unwrap();
        let apart = distance(&read(&path).unwrap(), &expected);
        // GIF has 256 colours.
        let allowed = if format == image::ImageFormat::Gif {
            8.0
        } else {
            0.0
        };
        assert!(apart <= allowed, "{format:?}: {apart}");
    }
}

#[test]
fn a_written_png_is_whole_and_says_how_it_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made.png");
    let mut photo = gradient(7, 5);
    let texts = [
        ("recipe".to_owned(), "[model]\nkind = \"sd15\"\n".to_owned()),
        ("prompt".to_owned(), "ein Hund über Äckern 犬".to_owned()),
        ("seed".to_owned(), "17".to_owned()),
    ];
    write_png(&path, &photo, &texts).unwrap();
    assert_eq!(read(&path).unwrap(), photo);
    let mut found = read_png_text(&path).unwrap();
    found.sort();
    let mut expected = texts.to_vec();
    expected.sort();
    assert_eq!(found, expected);
    photo.alpha = Some((0..35).map(|value| value * 7).collect());
    write_png(&path, &photo, &[]).unwrap();
    assert_eq!(read(&path).unwrap().alpha, photo.alpha);
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file stays");
}

#[test]
fn what_png_cannot_hold_is_refused_before_writing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made.png");
    let photo = gradient(2, 2);
    for keyword in ["", " edge", "ü", &"k".repeat(80)] {
        let texts = [(keyword.to_owned(), String::new())];
        assert!(write_png(&path, &photo, &texts).is_err(), "{keyword}");
    }
    let broken = Photo { width: 3, ..photo };
    assert!(write_png(&path, &broken, &[]).is_err());
    assert!(!path.exists());
    let nowhere = directory.path().join("missing/made.png");
    let error = write_png(&nowhere, &gradient(2, 2), &[]).unwrap_err();
    assert!(error.to_string().contains("missing/made.png"), "{error}");
}

#[test]
fn a_grid_shows_pictures_in_rows() {
    let dark = Photo::filled(2, 2, [1; 3]);
    let small = Photo::filled(1, 1, [2; 3]);
    let sheet = grid(&[dark.clone(), dark.clone(), small], 2, 1);
    assert_eq!((sheet.width, sheet.height), (7, 7));
    let value = |x: usize, y: usize| sheet.rgb[(y * 7 + x) * 3];
    assert_eq!(
        [value(0, 0), value(1, 1), value(3, 1), value(4, 2)],
        [255, 1, 255, 1]
    );
    assert_eq!([value(1, 4), value(2, 4), value(4, 4)], [2, 255, 255]);
    assert_eq!(grid(&[dark], 9, 0).width, 2);
    assert_eq!(grid(&[], 3, 4).rgb.len() % 3, 0);
}
