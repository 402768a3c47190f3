//! Batches.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;

fn set(name: &str, prompt: &str) -> Arc<ImageSet> {
    let config = ImageSetConfig::with_prompt(subject(name), prompt);
    Arc::new(ImageSet::open(&config).unwrap())
}

fn config() -> ImageLoaderConfig {
    ImageLoaderConfig {
        seed: 11,
        resolution: 32,
        ..ImageLoaderConfig::default()
    }
}

fn dogs(config: ImageLoaderConfig) -> ImageLoader {
    ImageLoader::new(set("dog6", "a photo of sks dog"), None, config).unwrap()
}

/// A set of pictures of these sizes, in a folder that lives as long.
fn shapes(sizes: &[(usize, usize)]) -> (tempfile::TempDir, Arc<ImageSet>) {
    let directory = tempfile::tempdir().unwrap();
    for (at, (width, height)) in sizes.iter().enumerate() {
        let path = directory.path().join(format!("{at:02}.png"));
        let mut photo = gradient(*width, *height);
        photo.rgb[0] = at as u8;
        write_png(path, &photo, &[]).unwrap();
    }
    let config = ImageSetConfig::with_prompt(directory.path(), "x");
    let set = Arc::new(ImageSet::open(&config).unwrap());
    (directory, set)
}

#[test]
fn a_step_does_not_depend_on_what_came_before() {
    let settings = ImageLoaderConfig {
        batch_size: 2,
        flip: true,
        crop: Crop::Random,
        resolution: 24,
        caption_dropout: 0.3,
        ..config()
    };
    let first = dogs(settings.clone());
    let batches: Vec<ImageBatch> = (0..9).map(|step| first.step(step).unwrap()).collect();
    let fresh = dogs(ImageLoaderConfig {
        cache_bytes: 0,
        ..settings
    });
    for step in (0..9).rev() {
        assert_eq!(fresh.step(step).unwrap(), batches[step as usize]);
    }
    assert_eq!(
        first.fingerprint(),
        fresh.fingerprint(),
        "memory changes nothing"
    );
}

#[test]
fn an_epoch_has_every_image_as_often_as_its_repeats() {
    let mut sets = ImageSetConfig::with_prompt(subject("dog6"), "x");
    sets.repeats = 3;
    let set = Arc::new(ImageSet::open(&sets).unwrap());
    let settings = ImageLoaderConfig {
        batch_size: 4,
        ..config()
    };
    let loader = ImageLoader::new(set, None, settings).unwrap();
    assert_eq!((loader.len(), loader.steps_per_epoch()), (15, 4));
    for epoch in 0..3 {
        let mut counts = [0; 5];
        for step in 0..4 {
            let plan = loader.plan(epoch * 4 + step);
            plan.examples
                .iter()
                .for_each(|example| counts[example.index] += 1);
        }
        assert_eq!(counts, [3; 5]);
    }
    assert!((loader.plan(3).epoch - 1.0).abs() < 1e-12);
    let order = |epoch: u64| -> Vec<usize> {
        let plans = (0..4).flat_map(|step| loader.plan(epoch * 4 + step).examples);
        plans.map(|example| example.index).collect()
    };
    assert_ne!(order(0), order(1));
}

#[test]
fn instance_and_class_images_are_two_halves() {
    let (subject, class) = (
        set("dog6", "a photo of sks dog"),
        set("backpack", "a photo of dog"),
    );
    let settings = ImageLoaderConfig {
        batch_size: 2,
        ..config()
    };
    let loader = ImageLoader::new(subject, Some(class), settings).unwrap();
    let mut seen = BTreeSet::new();
    for step in 0..3 {
        let batch = loader.step(step).unwrap();
        let half = batch.examples.len() / 2;
        let (own, other) = batch.examples.split_at(half);
        assert!(
            own.iter()
                .all(|e| !e.is_class && e.caption == "a photo of sks dog")
        );
        assert!(
            other
                .iter()
                .all(|e| e.is_class && e.caption == "a photo of dog")
        );
        if step < 2 {
            assert_eq!(half, 2);
            seen.extend(other.iter().map(|example| example.id.clone()));
        }
    }
    assert_eq!(
        seen.len(),
        4,
        "six class images: none comes twice in four draws"
    );
}

#[test]
fn batches_of_buckets_have_one_size_and_keep_the_area() {
    let sizes = [
        (90, 60),
        (60, 90),
        (91, 60),
        (64, 64),
        (60, 91),
        (130, 60),
        (92, 60),
    ];
    let (_directory, set) = shapes(&sizes);
    let buckets = Buckets {
        step: 8,
        min_side: 16,
        max_side: 64,
    };
    let settings = ImageLoaderConfig {
        batch_size: 2,
        buckets: Some(buckets),
        ..config()
    };
    let loader = ImageLoader::new(set, None, settings).unwrap();
    let mut seen = Vec::new();
    for step in 0..loader.steps_per_epoch() {
        let batch = loader.step(step).unwrap();
        assert!(batch.width * batch.height <= 32 * 32);
        for example in &batch.examples {
            assert_eq!((example.width, example.height), (batch.width, batch.height));
            assert_eq!(example.pixels.len(), 3 * batch.width * batch.height);
            let [height, width] = example.original_size;
            assert_eq!(width > height, batch.width > batch.height);
        }
        seen.extend(
            loader
                .plan(step)
                .examples
                .iter()
                .map(|example| example.index),
        );
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn the_middle_is_cut_from_a_wide_photograph() {
    let (_directory, set) = shapes(&[(101, 50)]);
    let settings = ImageLoaderConfig {
        resolution: 24,
        ..config()
    };
    let example = &ImageLoader::new(set, None, settings)
        .unwrap()
        .step(0)
        .unwrap()
        .examples[0];
    // 101 · 24 / 50 = 48.48; (48 - 24) / 2 = 12.
    assert_eq!(example.original_size, [50, 101]);
    assert_eq!(example.crop_top_left, [0, 12]);
    assert_eq!(example.target_size, [24, 24]);
    let mut source = gradient(101, 50);
    source.rgb[0] = 0;
    let expected = resize(&source, 48, 24, Filter::Lanczos).crop(12, 0, 24, 24);
    assert_eq!(
        Photo::from_signed(&example.pixels, 24, 24).unwrap(),
        expected
    );
}

#[test]
fn random_crops_and_flips_vary_and_stay_inside() {
    let (_directory, set) = shapes(&[(101, 50)]);
    let settings = ImageLoaderConfig {
        crop: Crop::Random,
        flip: true,
        resolution: 24,
        ..config()
    };
    let loader = ImageLoader::new(set, None, settings).unwrap();
    let plans: Vec<Placement> = (0..60)
        .map(|step| loader.plan(step).examples[0].placement)
        .collect();
    assert!(
        plans
            .iter()
            .all(|plan| plan.crop_top_left[0] == 0 && plan.crop_top_left[1] <= 24)
    );
    let lefts: BTreeSet<usize> = plans.iter().map(|plan| plan.crop_top_left[1]).collect();
    assert!(
        lefts.len() > 12 && lefts.contains(&24) && lefts.contains(&0),
        "{lefts:?}"
    );
    let flips = plans.iter().filter(|plan| plan.flip).count();
    assert!((15..=45).contains(&flips), "{flips}");
    assert!(loader.distinct().is_empty());
    let flipped = (0..60).find(|step| plans[*step as usize].flip).unwrap();
    let example = &loader.step(flipped).unwrap().examples[0];
    let mut source = gradient(101, 50);
    source.rgb[0] = 0;
    let whole = resize(&source, 48, 24, Filter::Lanczos).flipped();
    let expected = whole.crop(example.crop_top_left[1], 0, 24, 24);
    assert_eq!(
        Photo::from_signed(&example.pixels, 24, 24).unwrap(),
        expected
    );
}

#[test]
fn latents_can_be_cached_under_the_ids_of_distinct_examples() {
    let settings = ImageLoaderConfig {
        flip: true,
        ..config()
    };
    let (subject, class) = (set("dog6", "a"), set("duck_toy", "b"));
    let loader = ImageLoader::new(subject, Some(class), settings).unwrap();
    let known: BTreeSet<String> = loader
        .distinct()
        .into_iter()
        .map(|example| example.id)
        .collect();
    assert_eq!(known.len(), 2 * (5 + 4));
    for step in 0..40 {
        let plan = loader.plan(step);
        assert!(
            plan.examples
                .iter()
                .all(|example| known.contains(&example.id))
        );
    }
}

#[test]
fn captions_are_dropped_as_often_as_asked() {
    let settings = ImageLoaderConfig {
        caption_dropout: 0.25,
        ..config()
    };
    let loader = dogs(settings);
    let dropped = (0..1000).filter(|step| loader.plan(*step).examples[0].caption.is_empty());
    let dropped = dropped.count();
    assert!((200..300).contains(&dropped), "{dropped}");
    let all = dogs(ImageLoaderConfig {
        caption_dropout: 1.0,
        ..config()
    });
    assert!((0..50).all(|step| all.plan(step).examples[0].caption.is_empty()));
}

#[test]
fn masks_go_through_the_same_crop_and_shrink_to_latents() {
    let directory = tempfile::tempdir().unwrap();
    // The left half is opaque.
    let mut photo = gradient(64, 32);
    photo.alpha = Some(
        (0..32)
            .flat_map(|_| [vec![255; 32], vec![0; 32]].concat())
            .collect(),
    );
    write_png(directory.path().join("a.png"), &photo, &[]).unwrap();
    let mut sets = ImageSetConfig::with_prompt(directory.path(), "x");
    sets.masks = Masks::Alpha;
    let set = Arc::new(ImageSet::open(&sets).unwrap());
    assert_eq!(set.report().transparent, 1);
    let loader = ImageLoader::new(set, None, config()).unwrap();
    // The middle 32 columns: 16 opaque, 16 transparent; 4 × 4 latents.
    let mask = loader.step(0).unwrap().examples[0].mask.clone().unwrap();
    assert_eq!(mask, [1.0, 1.0, 0.0, 0.0].repeat(4));
}

#[test]
fn what_is_transparent_in_a_mask_or_a_map_is_black() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("maps")).unwrap();
    write_png(at("a.png"), &gradient(32, 32), &[]).unwrap();
    // White everywhere, and opaque on the left.
    let mut map = Photo::filled(32, 32, [255; 3]);
    let row = [vec![255; 16], vec![0; 16]].concat();
    map.alpha = Some(row.repeat(32));
    write_png(at("maps/a.png"), &map, &[]).unwrap();
    let mut sets = ImageSetConfig::with_prompt(directory.path(), "x");
    sets.masks = Masks::Folder(at("maps"));
    sets.hints = Hints::Folder(at("maps"));
    let set = Arc::new(ImageSet::open(&sets).unwrap());
    let same_size = set.hint(0, (32, 32)).unwrap().unwrap().to_unit();
    let loader = ImageLoader::new(set, None, config()).unwrap();
    let example = &loader.step(0).unwrap().examples[0];
    assert_eq!(
        example.mask.clone().unwrap(),
        [1.0, 1.0, 0.0, 0.0].repeat(4)
    );
    let row = [[1.0; 16], [0.0; 16]].concat();
    assert_eq!(example.hint.clone().unwrap(), row.repeat(96));
    assert_eq!(same_size, row.repeat(96));
}

#[test]
fn edges_become_control_images_of_the_crop() {
    let mut sets = ImageSetConfig::with_prompt(subject("dog6"), "x");
    sets.hints = Hints::Canny {
        low: 50.0,
        high: 100.0,
    };
    let set = Arc::new(ImageSet::open(&sets).unwrap());
    let settings = ImageLoaderConfig {
        resolution: 64,
        ..config()
    };
    let example = &ImageLoader::new(set, None, settings)
        .unwrap()
        .step(0)
        .unwrap()
        .examples[0];
    let hint = example.hint.as_ref().unwrap();
    let photo = Photo::from_signed(&example.pixels, 64, 64).unwrap();
    let edges = canny(&photo, 50.0, 100.0).unwrap();
    assert!(edges.contains(&255));
    let expected: Vec<f32> = edges.iter().map(|edge| f32::from(*edge) / 255.0).collect();
    assert!(hint.chunks_exact(64 * 64).all(|plane| plane == expected));
    assert_eq!(hint.len(), 3 * 64 * 64);
}

#[test]
fn small_images_are_enlarged_and_counted() {
    let (_directory, set) = shapes(&[(8, 8), (64, 64), (40, 20)]);
    let loader = ImageLoader::new(set, None, config()).unwrap();
    assert_eq!(loader.enlarged().len(), 2);
    assert!(loader.step(0).is_ok());
}

#[test]
fn settings_without_sense_are_refused() {
    let refused = |settings: ImageLoaderConfig, part: &str| {
        let error = ImageLoader::new(set("dog6", "x"), None, settings)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(
        ImageLoaderConfig {
            batch_size: 0,
            ..config()
        },
        "batch_size",
    );
    refused(
        ImageLoaderConfig {
            resolution: 0,
            ..config()
        },
        "resolution",
    );
    refused(
        ImageLoaderConfig {
            resolution: 36,
            ..config()
        },
        "36 × 36",
    );
    refused(
        ImageLoaderConfig {
            latent_scale: 0,
            ..config()
        },
        "latent_scale",
    );
    refused(
        ImageLoaderConfig {
            caption_dropout: 1.5,
            ..config()
        },
        "caption_dropout",
    );
    refused(
        ImageLoaderConfig {
            caption_dropout: f64::NAN,
            ..config()
        },
        "caption_dropout",
    );
    refused(
        ImageLoaderConfig {
            batch_size: 6,
            drop_last: true,
            ..config()
        },
        "batch_size",
    );
}

#[test]
fn a_photograph_of_an_extreme_shape_is_refused_before_it_is_scaled() {
    let (_directory, set) = shapes(&[(64, 64), (9000, 1)]);
    let settings = ImageLoaderConfig {
        resolution: 512,
        ..config()
    };
    let error = ImageLoader::new(set, None, settings)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("01.png") && error.contains("4608000 × 512"),
        "{error}"
    );
    assert!(ModelInput::clip(224).apply(&gradient(9000, 1)).is_err());
}
