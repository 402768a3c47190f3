//! SDXL: two text encoders, and sizes that the network is told.

use std::path::{Path, PathBuf};
use std::process::Command;

use temper_datasets::images::{Photo, read, write_png};

use super::replay::{Replay, Seen, TOLERANCE, noise_photo, only_match};
use super::support::{Bench, ROOT, Run, assert_resumes, golden};

const PROMPT: &str = "a photo of sks dog";
const SIDE: usize = 16;

/// Two photographs, one higher than wide by eight pixels, one wider than high.
fn photos(bench: &Bench) -> (PathBuf, [Photo; 2]) {
    let folder = bench.path("photos");
    let photos = [noise_photo(1, 16, 24), noise_photo(2, 24, 16)];
    if !folder.exists() {
        std::fs::create_dir(&folder).unwrap();
        for (number, photo) in photos.iter().enumerate() {
            write_png(folder.join(format!("{number}.png")), photo, &[]).unwrap();
        }
    }
    (folder, photos)
}

fn run(bench: &Bench, name: &str, more: &str) -> Run {
    let (folder, model) = (photos(bench).0, golden("pipeline_sdxl"));
    bench.run(
        name,
        &format!(
            "device = \"cpu\"\nseed = 4\n[model]\npath = {model:?}\n[adapter]\nkind = \"oft\"\noft_block_size = 4\nuse_cayley_neumann = false\n\
             [precision]\ncompute = \"f32\"\n[images]\npath = {folder:?}\ninstance_prompt = {PROMPT:?}\nresolution = {SIDE}\n{more}"
        ),
    )
}

/// The square that begins at (top, left), and what the network is told of it.
fn square(photo: &Photo, [top, left]: [usize; 2]) -> (Photo, [f32; 6]) {
    let sizes = [photo.height, photo.width, top, left, SIDE, SIDE].map(|size| size as f32);
    (photo.crop(left, top, SIDE, SIDE), sizes)
}

#[test]
fn the_network_is_told_size_and_place_of_the_crop() {
    let bench = Bench::new();
    let (_, photos) = photos(&bench);
    let run = run(
        &bench,
        "run",
        "crop = \"random\"\n[train]\nsteps = 4\nbatch_size = 1\nlr = 1e-12\n[validation]\nimages = 0\n[sample]\ncount = 0\n",
    );
    run.succeed(&["--quiet"]);
    let replay = Replay::new(&golden("pipeline_sdxl"), 4);
    let mut moved = 0;
    for (step, loss) in run.losses().into_iter().enumerate() {
        let error = |picture: usize, place: [usize; 2], told: Option<[f32; 6]>| {
            let (photo, time_ids) = square(&photos[picture], place);
            let seen = Seen {
                time_ids: told.unwrap_or(time_ids),
                ..Seen::new(&photo, PROMPT)
            };
            replay.error(step as u64, 0, seen)
        };
        let places = (0..=8).flat_map(|at| [(0, [at, 0]), (1, [0, at])]);
        let candidates =
            places.map(|(picture, place)| ((picture, place), error(picture, place, None)));
        let found = only_match(&format!("step {step}"), loss, candidates.collect());
        // The same pixels said to be from the corner give another loss.
        if found.1 != [0, 0] {
            let (_, corner) = square(&photos[found.0], [0, 0]);
            let other = error(found.0, found.1, Some(corner));
            let apart = (other - loss).abs() / loss;
            assert!(apart > 3.0 * TOLERANCE, "step {step}: {apart:e}");
            moved += 1;
        }
    }
    assert!(moved > 0, "no crop was moved");
}

#[test]
fn rows_of_a_batch_are_told_their_own_sizes() {
    let bench = Bench::new();
    let (_, photos) = photos(&bench);
    let run = run(
        &bench,
        "run",
        "[train]\nsteps = 2\nbatch_size = 2\nlr = 1e-12\n[validation]\nimages = 0\n[sample]\ncount = 0\n",
    );
    run.succeed(&["--quiet"]);
    let replay = Replay::new(&golden("pipeline_sdxl"), 4);
    for (step, loss) in run.losses().into_iter().enumerate() {
        let error = |row: u64, picture: usize| {
            let place = [[4, 0], [0, 4]][picture];
            let (photo, time_ids) = square(&photos[picture], place);
            let seen = Seen {
                time_ids,
                ..Seen::new(&photo, PROMPT)
            };
            replay.error(step as u64, row, seen)
        };
        let orders = [[0, 1], [1, 0]];
        let candidates =
            orders.map(|order| (order, 0.5 * (error(0, order[0]) + error(1, order[1]))));
        only_match(&format!("step {step}"), loss, candidates.to_vec());
    }
}

#[test]
fn adapters_of_the_network_and_both_text_encoders_resume_to_the_bit_and_draw_outside_what_they_drew()
 {
    let bench = Bench::new();
    let more = "[diffusion]\ntrain_text_encoder = true\n\
        [train]\nsteps = 4\nbatch_size = 2\nlr = 5e-2\nsave_every = 2\n[validation]\nimages = 1\n\
        [sample]\ncount = 1\nsteps = 2\nguidance_scale = 2\n";
    let results = ["adapter", "adapter_text_encoder", "adapter_text_encoder_2"];
    let whole = run(&bench, "whole", more);
    let parts = run(&bench, "parts", more);
    assert_resumes(&whole, parts, &results, [2, 4]);
    let [before, after] = ["000000", "000004"].map(|step| {
        let sheet = read(whole.dir.join(format!("samples/step-{step}.png"))).unwrap();
        sheet.crop(2, 2, SIDE, SIDE)
    });
    assert_ne!(before, after, "nothing was learned");
    let draw = |adapters: &[&str]| {
        let file = bench.path(&format!("drawn-{}.png", adapters.len()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
        command
            .arg("sample")
            .arg("--model")
            .arg(golden("pipeline_sdxl"));
        for adapter in adapters {
            command.arg("--adapter").arg(whole.dir.join(adapter));
        }
        let size = SIDE.to_string();
        command
            .args(["--prompt", PROMPT, "--seed", "4", "--steps", "2"])
            .args(["--guidance-scale", "2", "--device", "cpu"])
            .args(["--width", &size, "--height", &size, "--output"])
            .arg(&file);
        let output = command.current_dir(Path::new(ROOT)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        read(&file).unwrap()
    };
    let apart = |a: &Photo, b: &Photo| {
        let pairs = a.rgb.iter().zip(&b.rgb);
        pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    };
    assert!(apart(&draw(&[]), &before) <= 1);
    assert!(apart(&draw(&results), &after) <= 1);
    assert!(apart(&draw(&results[..1]), &after) > 1, "texts count");
}
