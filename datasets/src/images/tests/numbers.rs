//! Resampling, preprocessing, edges and scores.

use super::*;

#[test]
fn resampling_equals_pillows_to_the_byte() {
    let source = read(golden("resize_source.png")).unwrap();
    let filters = [
        (Filter::Bilinear, "bilinear"),
        (Filter::Bicubic, "bicubic"),
        (Filter::Lanczos, "lanczos"),
    ];
    for (filter, name) in filters {
        for (width, height) in [(10, 8), (40, 31), (23, 5), (1, 1), (50, 17)] {
            let file = format!("resize_{name}_{width}x{height}.png");
            let expected = read(golden(&file)).unwrap();
            let found = resize(&source, width, height, filter);
            assert_eq!(found, expected, "{file}: {}", distance(&found, &expected));
        }
    }
}

#[test]
fn opacity_is_resampled_with_its_picture() {
    let mut photo = Photo::filled(4, 4, [50; 3]);
    photo.alpha = Some([0, 0, 255, 255].repeat(4));
    let half = resize(&photo, 2, 2, Filter::Bilinear);
    let alpha = half.alpha.unwrap();
    assert!(alpha[0] < 64 && alpha[1] > 191, "{alpha:?}");
}

#[test]
fn the_covering_size_fits_one_side_and_rounds_the_other_down() {
    assert_eq!(covering_size((1000, 667), (512, 512)), (767, 512));
    assert_eq!(covering_size((667, 1000), (512, 512)), (512, 767));
    assert_eq!(covering_size((100, 100), (512, 512)), (512, 512));
    assert_eq!(covering_size((4000, 3000), (576, 448)), (597, 448));
    assert_eq!(covering_size((1, 65_535), (64, 64)), (64, 4_194_240));
}

#[test]
fn fitting_a_picture_is_resizing_and_cutting_but_strips_are_never_blown_up_whole() {
    for (width, height) in [(37, 11), (11, 37), (24, 16), (30, 16), (24, 40)] {
        let mut photo = Photo::filled(width, height, [0; 3]);
        for (at, sample) in photo.rgb.iter_mut().enumerate() {
            *sample = (at * at % 251) as u8;
        }
        photo.alpha = Some((0..width * height).map(|at| (at * 7 % 256) as u8).collect());
        let (wide, high) = covering_size((width, height), (24, 16));
        let whole = resize(&photo, wide, high, Filter::Bilinear);
        let cut = whole.crop((wide - 24) / 2, (high - 16) / 2, 24, 16);
        assert_eq!(fit(&photo, 24, 16), cut, "{width} x {height}");
    }
    // Whole, it would be 64 columns of 4 million rows: 800 MB, and as a picture of 1024 pixels 200 GB.
    let strip = fit(&Photo::filled(1, 65_535, [1, 2, 3]), 1024, 1024);
    assert_eq!(strip, Photo::filled(1024, 1024, [1, 2, 3]));
}

#[test]
fn clip_input_equals_that_of_transformers() {
    let text = std::fs::read_to_string(golden("clip_input.json")).unwrap();
    let expected: Vec<f32> = serde_json::from_str(&text).unwrap();
    let found = ModelInput::clip(21)
        .apply(&read(golden("expected.png")).unwrap())
        .unwrap();
    assert_eq!(found.len(), expected.len());
    let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let apart = apart.fold(0.0, f32::max);
    assert!(apart < 2e-6, "{apart}");
}

#[test]
fn preprocessor_configurations_are_read_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let load = |text: &str| {
        std::fs::write(directory.path().join("preprocessor_config.json"), text).unwrap();
        ModelInput::load(directory.path()).map_err(|error| error.to_string())
    };
    let ends = r#""image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#;
    let shortest = load(&format!(
        r#"{{"size": {{"shortest_edge": 256}}, "crop_size": 224, "resample": 2, {ends}"#
    ));
    let shortest = shortest.unwrap();
    assert_eq!(shortest.resize, ResizeMode::ShorterSide(256));
    assert_eq!(
        (shortest.crop, shortest.filter),
        ([224, 224], Filter::Bilinear)
    );
    let exact = load(&format!(
        r#"{{"size": {{"height": 30, "width": 40}}, "do_center_crop": false, {ends}"#
    ));
    let exact = exact.unwrap();
    assert_eq!(
        (exact.resize, exact.crop),
        (ResizeMode::Exact(30, 40), [30, 40])
    );
    assert_eq!(exact.apply(&gradient(9, 9)).unwrap().len(), 3 * 30 * 40);
    let old_vit = load(&format!(r#"{{"size": 224, {ends}"#)).unwrap();
    assert_eq!(
        (old_vit.resize, old_vit.crop),
        (ResizeMode::Exact(224, 224), [224, 224])
    );
    let old_clip = load(&format!(r#"{{"size": 224, "crop_size": 224, {ends}"#));
    assert_eq!(old_clip.unwrap().resize, ResizeMode::ShorterSide(224));
    for (bad, word) in [
        (
            format!(r#"{{"size": 8, "do_normalize": false, {ends}"#),
            "do_normalize",
        ),
        (format!(r#"{{"size": 8, "resample": 7, {ends}"#), "resample"),
        (
            format!(r#"{{"size": 8, "rescale_factor": 1.0, {ends}"#),
            "rescale_factor",
        ),
        (
            r#"{"size": 8, "image_mean": [1], "image_std": [1]}"#.to_owned(),
            "image_mean",
        ),
        (format!(r#"{{"size": -8, {ends}"#), "size"),
    ] {
        let error = load(&bad).unwrap_err();
        assert!(
            error.contains(word) && error.contains("preprocessor_config.json"),
            "{error}"
        );
    }
}

#[test]
fn a_crop_larger_than_its_picture_is_refused() {
    let input = ModelInput {
        resize: ResizeMode::ShorterSide(8),
        ..ModelInput::clip(16)
    };
    assert!(input.apply(&gradient(20, 20)).is_err());
}

#[test]
fn edges_lie_where_the_picture_changes() {
    let mut photo = Photo::filled(32, 32, [0; 3]);
    for row in photo.rgb.chunks_exact_mut(32 * 3) {
        row[16 * 3..].fill(255);
    }
    let edges = canny(&photo, 100.0, 200.0).unwrap();
    assert!(edges.iter().all(|edge| [0, 255].contains(edge)));
    for (at, edge) in edges.iter().enumerate() {
        let (x, y) = (at % 32, at / 32);
        assert!(*edge == 0 || (14..=17).contains(&x), "({x}, {y})");
        if x == 15 && (2..30).contains(&y) {
            assert!(*edge == 255 || edges[at + 1] == 255, "({x}, {y})");
        }
    }
}

#[test]
fn edges_of_tiny_pictures_and_odd_thresholds_are_no_panic() {
    for (width, height) in [(1, 1), (2, 9), (3, 3), (1, 40)] {
        let edges = canny(&gradient(width, height), 1.0, 2.0).unwrap();
        assert_eq!(edges.len(), width * height);
    }
    for (low, high) in [
        (2.0, 1.0),
        (-1.0, 1.0),
        (f32::NAN, 1.0),
        (0.0, f32::INFINITY),
    ] {
        assert!(canny(&gradient(8, 8), low, high).is_err(), "{low} {high}");
    }
}

#[test]
fn scores_of_equal_and_of_empty_maps_are_perfect() {
    for map in [[255_u8, 0, 255, 0], [0; 4]] {
        let scores = edge_scores(&map, &map).unwrap();
        assert_eq!((scores.l1, scores.iou, scores.f1), (0.0, 1.0, 1.0));
    }
    let missed = edge_scores(&[0; 4], &[255; 4]).unwrap();
    assert_eq!(
        (missed.l1, missed.iou, missed.recall, missed.precision),
        (1.0, 0.0, 0.0, 1.0)
    );
    assert!(edge_scores(&[0], &[0, 0]).is_err());
    assert!(edge_scores(&[], &[]).is_err());
}

#[test]
fn label_scores_are_taken_over_the_whole_set() {
    let mut counts = LabelCounts::new(4);
    counts.add(&[0, 0, 1, 2], &[0, 0, 1, 1]).unwrap();
    counts
        .add(&[1, 2, 0, 9], &[1, 2, 2, IGNORED_LABEL])
        .unwrap();
    let scores = counts.scores();
    // Class 0: 2 right, 3 predicted, 2 wanted. Class 1: 2, 2, 3. Class 2: 1, 2, 2. Class 3: never.
    let iou = [Some(2.0 / 3.0), Some(2.0 / 3.0), Some(1.0 / 3.0), None];
    assert_eq!(scores.iou, iou);
    assert!((scores.miou - 5.0 / 9.0).abs() < 1e-12);
    assert!((scores.macc - (1.0 + 2.0 / 3.0 + 0.5) / 3.0).abs() < 1e-12);
    assert!((scores.aacc - 5.0 / 7.0).abs() < 1e-12);
    let error = counts.add(&[4], &[0]).unwrap_err().to_string();
    assert!(error.contains("label 4"), "{error}");
}

#[test]
fn labels_are_palette_indices_and_grey_values() {
    use png::{BitDepth, ColorType};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("labels.png");
    let write = |colour, depth, samples: &[u8]| {
        let file = std::fs::File::create(&path).unwrap();
        let mut encoder = png::Encoder::new(file, 3, 2);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == png::ColorType::Indexed {
            encoder.set_palette([7; 12].to_vec());
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(samples).unwrap();
        writer.finish().unwrap();
        read_labels(&path)
    };
    let packed = write(
        ColorType::Indexed,
        BitDepth::Two,
        &[0b0001_1000, 0b1101_0000],
    )
    .unwrap();
    assert_eq!(packed, (3, 2, vec![0, 1, 2, 3, 1, 0]));
    let grey = write(
        ColorType::Grayscale,
        BitDepth::Eight,
        &[0, 150, 255, 3, 4, 5],
    )
    .unwrap();
    assert_eq!(grey.2, [0, 150, 255, 3, 4, 5]);
    let error = write(ColorType::Rgb, BitDepth::Eight, &[0; 18])
        .unwrap_err()
        .to_string();
    assert!(error.contains("label maps"), "{error}");
}
