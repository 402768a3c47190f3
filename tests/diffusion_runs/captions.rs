//! Captions of `metadata.jsonl`, dropped now and then, beside pictures to follow.

use std::path::{Path, PathBuf};

use temper_datasets::images::{Photo, canny, write_png};

use super::replay::{Replay, Seen, noise_photo, only_match};
use super::support::{Bench, ROOT, Run};

const CAPTIONS: [&str; 2] = ["a photo of sks dog", "a red toy on the grass"];
const THRESHOLDS: (f32, f32) = (20.0, 60.0);

/// Two photographs with captions; the pictures to follow are `hint` of each.
fn folder(bench: &Bench, name: &str, hint: impl Fn(&Photo) -> Photo) -> (PathBuf, Vec<Photo>) {
    let folder = bench.path(name);
    std::fs::create_dir_all(folder.join("hints")).unwrap();
    let photos: Vec<Photo> = (0..2).map(|seed| noise_photo(seed, 32, 32)).collect();
    let mut lines = String::new();
    for (number, (photo, caption)) in photos.iter().zip(CAPTIONS).enumerate() {
        write_png(folder.join(format!("{number}.png")), photo, &[]).unwrap();
        let beside = format!("hints/{number}.png");
        write_png(folder.join(&beside), &hint(photo), &[]).unwrap();
        let line = serde_json::json!({
            "file_name": format!("{number}.png"), "text": caption, "conditioning_image": beside,
        });
        lines += &line.to_string();
        lines.push('\n');
    }
    // Not listed, so not used.
    write_png(folder.join("other.png"), &noise_photo(9, 32, 32), &[]).unwrap();
    std::fs::write(folder.join("metadata.jsonl"), lines).unwrap();
    (folder, photos)
}

fn edges(photo: &Photo) -> Photo {
    let edges = canny(photo, THRESHOLDS.0, THRESHOLDS.1).unwrap();
    Photo::from_grey(photo.width, photo.height, &edges).unwrap()
}

fn run(bench: &Bench, name: &str, folder: &Path, more: &str, control: &str) -> Run {
    let thresholds = match control {
        "canny" => "canny_low = 20\ncanny_high = 60\n",
        _ => "",
    };
    bench.run(
        name,
        &format!(
            "device = \"cpu\"\nseed = 7\n[model]\npath = \"assets/tiny-diffusion\"\n[adapter]\nkind = \"oft\"\noft_block_size = 8\n\
             [images]\npath = {folder:?}\nresolution = 32\ncaption_dropout = 0.5\n\
             [diffusion]\n{thresholds}control = {control:?}\n\
             [train]\n{more}\n[validation]\nimages = 0\n[sample]\ncount = 0\n"
        ),
    )
}

#[test]
fn captions_stay_with_their_pictures_and_some_are_dropped() {
    let bench = Bench::new();
    let (folder, photos) = folder(&bench, "photos", edges);
    let length = "steps = 10\nbatch_size = 1\nlr = 1e-12";
    let run = run(&bench, "run", &folder, length, "metadata");
    run.succeed(&["--quiet"]);
    let replay = Replay::new(&Path::new(ROOT).join("assets/tiny-diffusion"), 7);
    let mut dropped = 0;
    for (step, loss) in run.losses().into_iter().enumerate() {
        let texts = [CAPTIONS[0], CAPTIONS[1], ""];
        let candidates = (0..2).flat_map(|picture| texts.map(|text| (picture, text)));
        let candidates = candidates.map(|(picture, text)| {
            let seen = Seen::new(&photos[picture], text);
            ((picture, text), replay.error(step as u64, 0, seen))
        });
        let what = format!("step {step}");
        // The encoder of pictures to follow begins with zeros: the loss is that of the model without it.
        let (picture, text) = only_match(&what, loss, candidates.collect());
        assert!(text.is_empty() || text == CAPTIONS[picture], "{what}");
        dropped += usize::from(text.is_empty());
    }
    assert!((1..10).contains(&dropped), "{dropped} of 10 dropped");
}

#[test]
fn pictures_to_follow_that_are_given_teach_what_edges_found_in_training_teach() {
    let bench = Bench::new();
    let length = "steps = 3\nbatch_size = 2\nlr = 1e-3";
    let steps = |name: &str, folder: &Path, control: &str| -> Vec<(f64, f64)> {
        let run = run(&bench, name, folder, length, control);
        run.succeed(&["--quiet"]);
        let metrics = run.metrics();
        metrics.iter().map(|m| (m.loss, m.grad_norm)).collect()
    };
    let (with_edges, _) = folder(&bench, "edges", edges);
    let (blank, _) = folder(&bench, "blank", |photo| {
        Photo::filled(photo.width, photo.height, [0; 3])
    });
    let found = steps("found", &with_edges, "canny");
    assert_eq!(steps("given", &with_edges, "metadata"), found);
    let other = steps("nothing", &blank, "metadata");
    assert_eq!(other[0].0, found[0].0, "zeros at the beginning");
    let apart = |a: f64, b: f64| (a - b).abs() > 1e-6 * b;
    assert!(apart(other[0].1, found[0].1), "{other:?} {found:?}");
    assert!(apart(other[2].0, found[2].0), "{other:?} {found:?}");
}

#[test]
fn pictures_to_follow_need_the_lines_that_name_them() {
    let bench = Bench::new();
    let (folder, _) = folder(&bench, "photos", edges);
    let run = run(&bench, "run", &folder, "steps = 1", "metadata");
    let said = run
        .clone()
        .set("images.captions=prompt")
        .set("images.instance_prompt=x")
        .fail(2, &[]);
    assert!(said.contains("conditioning_image"), "{said}");
    let said = run
        .set(&format!("images.class_dir={:?}", bench.path("class")))
        .set("images.class_prompt=x")
        .fail(2, &[]);
    assert!(said.contains("`images.class_dir`"), "{said}");
}

#[test]
fn captions_and_prompts_that_the_text_encoder_cannot_read_to_their_end_are_named() {
    let bench = Bench::new();
    let (folder, _) = folder(&bench, "photos", edges);
    let long = "a red toy on the green grass ".repeat(20);
    let line = serde_json::json!({"file_name": "1.png", "text": long, "conditioning_image": "hints/1.png"});
    std::fs::write(folder.join("metadata.jsonl"), format!("{line}\n")).unwrap();
    let length = "steps = 1\nbatch_size = 1\nlr = 1e-12";
    let run = |name, prompt: &str| {
        run(&bench, name, &folder, length, "metadata")
            .set("sample.count=1")
            .set("sample.steps=1")
            .set("sample.every=0")
            .set(&format!("sample.prompts=[{prompt:?}]"))
            .remarks()
    };
    let said = run("caption", "a toy");
    assert!(said.contains("warning: captions"), "{said}");
    assert!(said.contains("1.png` loses `"), "{said}");
    assert!(!said.contains("prompts of more"), "{said}");
    let said = run("prompt", &long);
    assert!(said.contains("warning: prompts of more than"), "{said}");
}
