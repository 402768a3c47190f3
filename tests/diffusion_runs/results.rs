//! What a run leaves can be loaded, and draws what the run drew at its end.

use std::path::Path;
use std::process::Command;

use temper_datasets::images::{Photo, read, read_png_text};

use super::support::{Bench, ROOT, Run};

const SIDE: usize = 32;

fn recipe(bench: &Bench, name: &str, adapter: &str, more: &str) -> Run {
    bench.run(
        name,
        &format!(
            "device = \"cpu\"\n[model]\npath = \"assets/tiny-diffusion\"\n[adapter]\n{adapter}\n\
             [images]\npath = \"assets/dreambooth/dog6\"\ninstance_prompt = \"a photo of sks dog\"\nresolution = 32\n\
             [train]\nsteps = 4\nbatch_size = 2\nlr = 5e-3\n[validation]\nimages = 0\n\
             [sample]\ncount = 2\nsteps = 3\nguidance_scale = 2\n{more}"
        ),
    )
}

/// The pictures of a row of two, two pixels apart.
fn pictures(grid: &Path) -> Vec<Photo> {
    let sheet = read(grid).unwrap();
    (0..2)
        .map(|at| sheet.crop(2 + at * (SIDE + 2), 2, SIDE, SIDE))
        .collect()
}

/// What `temper sample` draws with the settings of the recipe.
fn draw(bench: &Bench, name: &str, model: &Path, adapters: &[&Path]) -> Vec<Photo> {
    let target = bench.path(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
    command.arg("sample").arg("--model").arg(model);
    for adapter in adapters {
        command.arg("--adapter").arg(adapter);
    }
    command.args([
        "--prompt",
        "a photo of sks dog",
        "--seed",
        "42",
        "--count",
        "2",
    ]);
    command.args([
        "--steps",
        "3",
        "--guidance-scale",
        "2",
        "--width",
        "32",
        "--height",
        "32",
    ]);
    command.args(["--device", "cpu", "--output"]).arg(&target);
    let output = command.current_dir(ROOT).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut files: Vec<_> = std::fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "png"))
        .collect();
    files.sort();
    files.iter().map(|file| read(file).unwrap()).collect()
}

/// Largest difference of a colour, 0 to 255.
fn difference(ours: &[Photo], theirs: &[Photo]) -> u8 {
    assert_eq!((ours.len(), theirs.len()), (2, 2));
    let pairs = ours.iter().zip(theirs);
    pairs
        .flat_map(|(a, b)| a.rgb.iter().zip(&b.rgb))
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap()
}

#[test]
fn adapters_draw_outside_what_they_drew_in_the_run() {
    let bench = Bench::new();
    let base = Path::new(ROOT).join("assets/tiny-diffusion");
    for (name, adapter, tolerance) in [
        (
            "oft",
            "kind = \"oft\"\noft_block_size = 8\nuse_cayley_neumann = false",
            1,
        ),
        ("lora", "kind = \"lora\"\nr = 4", 1),
    ] {
        let run = recipe(&bench, name, adapter, "");
        run.succeed(&["--quiet"]);
        let before = pictures(&run.dir.join("samples/step-000000.png"));
        let after = pictures(&run.dir.join("samples/step-000004.png"));
        assert!(difference(&before, &after) > 1, "{name} changed nothing");
        let drawn = draw(
            &bench,
            &format!("{name}-drawn"),
            &base,
            &[&run.dir.join("adapter")],
        );
        assert!(difference(&drawn, &after) <= tolerance, "{name}");
        let drawn = draw(&bench, &format!("{name}-base"), &base, &[]);
        assert!(difference(&drawn, &before) <= tolerance, "{name} before");
    }
    // diffusers' own file beside the adapter says the same.
    let file = bench.path("lora/adapter/pytorch_lora_weights.safetensors");
    let drawn = draw(&bench, "file", &base, &[&file]);
    let after = pictures(&bench.path("lora/samples/step-000004.png"));
    assert!(difference(&drawn, &after) <= 1);
}

#[test]
fn a_model_trained_whole_draws_what_its_running_means_drew_in_the_run() {
    let bench = Bench::new();
    let run = recipe(
        &bench,
        "full",
        "kind = \"full\"",
        "[diffusion]\nema_decay = 0.5\n",
    );
    run.succeed(&["--quiet"]);
    let drawn = draw(&bench, "drawn", &run.dir.join("model"), &[]);
    let after = pictures(&run.dir.join("samples/step-000004.png"));
    assert!(difference(&drawn, &after) <= 1);
    let texts = read_png_text(run.dir.join("samples/step-000004.png")).unwrap();
    let recipe = texts.iter().find(|(key, _)| key == "recipe").unwrap();
    assert!(recipe.1.contains("ema_decay = 0.5"), "{}", recipe.1);
}

#[test]
fn missing_images_of_the_class_are_made_and_those_there_are_kept() {
    let bench = Bench::new();
    let class = bench.path("class");
    std::fs::create_dir(&class).unwrap();
    let own = class.join("class-000001.png");
    std::fs::copy(
        Path::new(ROOT).join("assets/dreambooth/duck_toy/00.jpg"),
        &own,
    )
    .unwrap();
    let kept = std::fs::read(&own).unwrap();
    let run = recipe(&bench, "run", "kind = \"lora\"", "")
        .set(&format!("images.class_dir={class:?}"))
        .set("images.class_prompt=a photo of toy")
        .set("images.num_class_images=3")
        .set("sample.count=1");
    run.succeed(&["--quiet"]);
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(&class)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(),
        ["class-000000.png", "class-000001.png", "class-000002.png"]
    );
    assert_eq!(std::fs::read(&own).unwrap(), kept);
    // Five photographs in batches of two, two, one and two, and as many images of the class.
    assert_eq!(run.summary()["images"], 14);
}

#[test]
fn masks_hide_what_is_not_to_be_learned() {
    let bench = Bench::new();
    let masks = bench.path("masks");
    std::fs::create_dir(&masks).unwrap();
    for number in 0..5 {
        let photo =
            read(Path::new(ROOT).join(format!("assets/dreambooth/dog6/0{number}.jpg"))).unwrap();
        let white = Photo::filled(photo.width, photo.height, [255; 3]);
        temper_datasets::images::write_png(masks.join(format!("0{number}.png")), &white, &[])
            .unwrap();
    }
    let loss = |name: &str, masked: bool| {
        let mut run =
            recipe(&bench, name, "kind = \"oft\"\noft_block_size = 8", "").set("sample.count=0");
        if masked {
            run = run
                .set("images.masks=folder")
                .set(&format!("images.mask_dir={masks:?}"));
        }
        run.succeed(&["--quiet"]);
        run.losses()[0]
    };
    let (plain, white) = (loss("plain", false), loss("white", true));
    assert!((plain - white).abs() < 1e-6 * plain, "{plain}, {white}");
}
