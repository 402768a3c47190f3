//! Folders of photographs.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::error::DataError;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    directory
}

fn jpeg(name: &str) -> Vec<u8> {
    fs::read(subject(name)).unwrap()
}

fn open(directory: &TempDir, change: impl FnOnce(&mut ImageSetConfig)) -> crate::Result<ImageSet> {
    let mut config = ImageSetConfig::with_prompt(directory.path(), "a photo of sks dog");
    change(&mut config);
    ImageSet::open(&config)
}

fn names(set: &ImageSet) -> Vec<String> {
    let name = |entry: &ImageEntry| {
        entry
            .path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    set.entries().iter().map(name).collect()
}

#[test]
fn a_folder_gives_its_images_in_order_and_counts_the_rest() {
    let (a, b) = (jpeg("dog6/00.jpg"), jpeg("dog6/01.jpg"));
    let files: [(&str, &[u8]); 7] = [
        ("b.JPG", &a),
        ("a.jpeg", &b),
        ("c.png", &a),
        (".hidden.jpg", b"x"),
        ("movie.mp4", b"x"),
        ("a.txt", b"a caption"),
        ("deeper/d.jpg", &b),
    ];
    let directory = folder(&files);
    let set = open(&directory, |_| ()).unwrap();
    assert_eq!(names(&set), ["a.jpeg", "b.JPG", "c.png"]);
    let report = set.report();
    assert_eq!(
        (report.images, report.hidden, report.other_count),
        (3, 1, 1)
    );
    assert_eq!(report.duplicates.len(), 1);
    assert!(
        report.to_string().contains("1 copies of others"),
        "{report}"
    );
    assert!(
        set.entries()
            .iter()
            .all(|entry| entry.caption == "a photo of sks dog")
    );
    let deep = open(&directory, |config| config.recursive = true).unwrap();
    assert_eq!(names(&deep), ["a.jpeg", "b.JPG", "c.png", "d.jpg"]);
}

#[test]
fn a_folder_without_images_says_what_it_holds() {
    let directory = folder(&[("notes.pdf", b"x"), ("deeper/d.jpg", b"x")]);
    let error = open(&directory, |_| ()).unwrap_err().to_string();
    for part in ["no images in", "notes.pdf", "1 folders"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let error = open(&folder(&[]), |_| ()).unwrap_err();
    assert!(matches!(error, DataError::NoImages { .. }), "{error}");
    let missing = ImageSetConfig::with_prompt("no/such/folder", "x");
    let error = ImageSet::open(&missing).unwrap_err().to_string();
    assert!(error.contains("no/such/folder"), "{error}");
}

#[test]
fn all_broken_images_are_named_at_once() {
    let good = jpeg("dog6/00.jpg");
    let files: [(&str, &[u8]); 4] = [
        ("a.jpg", &good),
        ("b.jpg", &good[..good.len() / 2]),
        ("c.png", b"no image"),
        ("d.heic", b"\0\0\0\x18ftypheic\0\0\0\0"),
    ];
    let error = open(&folder(&files), |_| ()).unwrap_err().to_string();
    for part in ["3 of 4 images", "b.jpg", "cut off", "c.png", "d.heic"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn captions_stand_beside_the_images() {
    let image = jpeg("dog6/00.jpg");
    let files: [(&str, &[u8]); 6] = [
        ("a.jpg", &image),
        ("a.txt", "\u{feff} a dog on a sofa \n".as_bytes()),
        ("b.jpg", &image),
        ("b.caption", b"two dogs"),
        ("c.jpg", &image),
        ("c.jpg.txt", b"three"),
    ];
    let directory = folder(&files);
    let from_files = |fallback: Option<&str>| Captions::Files {
        fallback: fallback.map(str::to_owned),
    };
    let set = open(&directory, |config| config.captions = from_files(None)).unwrap();
    let captions: Vec<&str> = set.entries().iter().map(|e| e.caption.as_str()).collect();
    assert_eq!(captions, ["a dog on a sofa", "two dogs", "three"]);
    fs::remove_file(directory.path().join("b.caption")).unwrap();
    let error = open(&directory, |config| config.captions = from_files(None)).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("1 of 3 images") && error.contains("b.jpg"),
        "{error}"
    );
    let set = open(&directory, |config| {
        config.captions = from_files(Some("a dog"));
    })
    .unwrap();
    assert_eq!(set.entries()[1].caption, "a dog");
    assert_eq!(set.report().fallback_captions, 1);
    let said = set.report().to_string();
    assert!(said.contains("1 with the common caption"), "{said}");
}

#[test]
fn metadata_lists_images_captions_masks_and_conditions() {
    let image = jpeg("dog6/00.jpg");
    let rows = r#"{"file_name": "x/b.jpg", "text": "second", "mask": "m.jpg", "conditioning_image": "m.jpg", "other": 3}

{"file_name": "a.jpg", "text": "first", "mask": "m.jpg", "conditioning_image": "m.jpg"}
"#;
    let files: [(&str, &[u8]); 4] = [
        ("a.jpg", &image),
        ("x/b.jpg", &image),
        ("m.jpg", &image),
        ("metadata.jsonl", rows.as_bytes()),
    ];
    let directory = folder(&files);
    let listed = |config: &mut ImageSetConfig| config.captions = Captions::Metadata;
    let set = open(&directory, |config| {
        listed(config);
        config.masks = Masks::Metadata;
        config.hints = Hints::Metadata;
    });
    let set = set.unwrap();
    assert_eq!(names(&set), ["b.jpg", "a.jpg"]);
    assert_eq!(set.entries()[0].caption, "second");
    assert!(set.entries()[1].mask.as_ref().unwrap().ends_with("m.jpg"));
    for (row, part) in [
        (r#"{"file_name": "none.jpg", "text": "x"}"#, "none.jpg"),
        (r#"{"text": "x"}"#, "file_name"),
        (r#"{"file_name": "a.jpg"}"#, "text"),
        (r#"{"file_name": "#, "line 1"),
    ] {
        fs::write(directory.path().join("metadata.jsonl"), row).unwrap();
        let error = open(&directory, listed).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("line 1"), "{error}");
    }
}

#[test]
fn masks_are_found_by_stem_and_must_have_the_shape() {
    let image = jpeg("dog6/00.jpg");
    let files: [(&str, &[u8]); 2] = [("a.jpg", &image), ("masks/a.png", b"")];
    let directory = folder(&files);
    let masks = directory.path().join("masks");
    let with_masks = |config: &mut ImageSetConfig| {
        config.recursive = true;
        config.masks = Masks::Folder(masks.clone());
    };
    write_png(masks.join("a.png"), &Photo::filled(64, 64, [255; 3]), &[]).unwrap();
    let set = open(&directory, with_masks).unwrap();
    assert_eq!(names(&set), ["a.jpg"], "masks are no photographs");
    write_png(masks.join("a.png"), &Photo::filled(64, 32, [255; 3]), &[]).unwrap();
    let error = open(&directory, with_masks).unwrap_err().to_string();
    assert!(
        error.contains("64 × 32") && error.contains("another shape"),
        "{error}"
    );
    fs::rename(masks.join("a.png"), masks.join("z.png")).unwrap();
    let error = open(&directory, with_masks).unwrap_err().to_string();
    assert!(error.contains("mask") && error.contains("a.jpg"), "{error}");
}

#[test]
fn two_files_of_one_name_are_refused_where_either_could_be_meant() {
    let image = jpeg("dog6/00.jpg");
    let said = |directory: &TempDir, change: &dyn Fn(&mut ImageSetConfig)| {
        open(directory, change).unwrap_err().to_string()
    };
    let files: [(&str, &[u8]); 3] = [("a.jpg", &image), ("m/a.jpg", &image), ("m/a.jpeg", &image)];
    let directory = folder(&files);
    let masks = directory.path().join("m");
    let error = said(&directory, &|config| {
        config.masks = Masks::Folder(masks.clone());
    });
    assert!(
        error.contains("m/a.jpg") && error.contains("m/a.jpeg"),
        "{error}"
    );
    // One mask, one caption file for two images.
    let files: [(&str, &[u8]); 4] = [
        ("a.jpg", &image),
        ("a.jpeg", &image),
        ("a.txt", b"x"),
        ("m/a.jpg", &image),
    ];
    let directory = folder(&files);
    let masks = directory.path().join("m");
    let error = said(&directory, &|config| {
        config.masks = Masks::Folder(masks.clone());
    });
    assert!(
        error.contains("a.jpg") && error.contains("a.jpeg"),
        "{error}"
    );
    let from_files = |config: &mut ImageSetConfig| {
        config.captions = Captions::Files { fallback: None };
    };
    let error = said(&directory, &from_files);
    assert!(
        error.contains("a.jpeg") && error.contains("one caption file"),
        "{error}"
    );
    assert!(open(&directory, |_| ()).is_ok(), "a prompt is for all");
    let two: [(&str, &[u8]); 3] = [("a.jpg", &image), ("a.txt", b"x"), ("a.caption", b"y")];
    let error = said(&folder(&two), &from_files);
    assert!(
        error.contains("a.txt") && error.contains("a.caption"),
        "{error}"
    );
}

#[test]
fn a_mask_that_hides_everything_is_refused() {
    let directory = folder(&[("masks/x", b"")]);
    let at = |name: &str| directory.path().join(name);
    let mut photo = Photo::filled(64, 64, [100; 3]);
    for (name, grey) in [("a.png", 255), ("b.png", 3)] {
        write_png(at(name), &photo, &[]).unwrap();
        let mask = Photo::filled(64, 64, [grey; 3]);
        write_png(at("masks").join(name), &mask, &[]).unwrap();
    }
    let error = open(&directory, |config| {
        config.masks = Masks::Folder(at("masks"));
    });
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("masks/b.png") && error.contains("nothing to train"),
        "{error}"
    );
    // White, but wholly transparent.
    let mut mask = Photo::filled(64, 64, [255; 3]);
    mask.alpha = Some(vec![0; 64 * 64]);
    write_png(at("masks/b.png"), &mask, &[]).unwrap();
    let error = open(&directory, |config| {
        config.masks = Masks::Folder(at("masks"));
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("masks/b.png"), "{error}");
    photo.alpha = Some(vec![0; 64 * 64]);
    write_png(at("a.png"), &photo, &[]).unwrap();
    let error = open(&directory, |config| config.masks = Masks::Alpha);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("a.png") && error.contains("transparent"),
        "{error}"
    );
    assert!(open(&directory, |_| ()).is_ok());
}

#[test]
fn a_long_caption_is_refused_by_name() {
    let image = jpeg("dog6/00.jpg");
    let long = vec![b'a'; (1 << 20) + 1];
    let directory = folder(&[("a.jpg", &image), ("a.txt", &long)]);
    let error = open(&directory, |config| {
        config.captions = Captions::Files { fallback: None };
    });
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("a.txt") && error.contains("1048577 bytes"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn links_that_go_round_are_named_with_the_reason() {
    let directory = folder(&[]);
    for name in ["a.jpg", "b.jpg"] {
        let path = directory.path().join(name);
        std::os::unix::fs::symlink(&path, &path).unwrap();
    }
    let error = open(&directory, |_| ()).unwrap_err().to_string();
    assert!(
        error.contains("a.jpg") && error.contains("symbolic links"),
        "{error}"
    );
    let row = br#"{"file_name": "a.jpg", "text": "x"}"#;
    fs::write(directory.path().join("metadata.jsonl"), row).unwrap();
    let error = open(&directory, |config| config.captions = Captions::Metadata).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("symbolic links"), "{source}");
}

#[test]
fn the_fingerprint_follows_contents_and_captions_but_not_the_place() {
    let files = [
        ("a.jpg", jpeg("dog6/00.jpg")),
        ("b.jpg", jpeg("dog6/01.jpg")),
    ];
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (*n, b.as_slice())).collect();
    let (here, there) = (folder(&files), folder(&files));
    let print = |directory: &TempDir| open(directory, |_| ()).unwrap().fingerprint();
    let before = print(&here);
    assert_eq!(before, print(&there));
    let other = open(&here, |config| {
        config.captions = Captions::Prompt("x".into());
    })
    .unwrap();
    assert_ne!(before, other.fingerprint());
    fs::write(here.path().join("b.jpg"), jpeg("dog6/02.jpg")).unwrap();
    assert_ne!(before, print(&here));
    fs::remove_file(there.path().join("b.jpg")).unwrap();
    assert_ne!(before, print(&there));
}

#[test]
fn an_image_that_changes_during_a_run_is_noticed() {
    let image = jpeg("dog6/00.jpg");
    let directory = folder(&[("a.jpg", &image)]);
    let set = open(&directory, |_| ()).unwrap();
    assert!(set.photo(0).is_ok() && set.photo(1).is_err());
    fs::write(directory.path().join("a.jpg"), jpeg("dog6/01.jpg")).unwrap();
    let error = set.photo(0).unwrap_err().to_string();
    assert!(error.contains("changed"), "{error}");
}
