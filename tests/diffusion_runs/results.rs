//! What a run leaves can be loaded, and draws what the run drew at its end.

use std::path::Path;
use std::process::Command;

use temper_datasets::images::{Photo, read, read_png_text};

use temper_engine::run::Row;

use super::support::{Bench, ROOT, Run, assert_relative};

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
    draw_with(bench, name, model, adapters, &[])
}

fn draw_with(
    bench: &Bench,
    name: &str,
    model: &Path,
    adapters: &[&Path],
    more: &[&str],
) -> Vec<Photo> {
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
    command.args(more);
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
        (
            "dora",
            "kind = \"lora\"\nr = 2\nuse_dora = true\ntarget_modules = [\"to_q\", \"conv1\", \"time_emb_proj\"]",
            1,
        ),
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
    for name in ["lora", "dora"] {
        let run = bench.path(name);
        let file = run.join("adapter/pytorch_lora_weights.safetensors");
        let drawn = draw(&bench, &format!("{name}-file"), &base, &[&file]);
        let after = pictures(&run.join("samples/step-000004.png"));
        assert!(difference(&drawn, &after) <= 1, "{name}");
    }
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
    let after = pictures(&run.dir.join("samples/step-000004.png"));
    for (name, model) in [("drawn", run.dir.join("model")), ("run", run.dir.clone())] {
        let drawn = draw(&bench, &format!("{name}-drawn"), &model, &[]);
        assert!(difference(&drawn, &after) <= 1, "{name}");
    }
    let mut as_adapter = Command::new(env!("CARGO_BIN_EXE_temper"));
    as_adapter.args([
        "sample",
        "--model",
        "assets/tiny-diffusion",
        "--prompt",
        "dog",
    ]);
    as_adapter.arg("--output").arg(bench.path("dog.png"));
    as_adapter.arg("--adapter").arg(&run.dir);
    let output = as_adapter.current_dir(ROOT).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("give it as --model"),
        "{said}"
    );
    let texts = read_png_text(run.dir.join("samples/step-000004.png")).unwrap();
    let recipe = texts.iter().find(|(key, _)| key == "recipe").unwrap();
    assert!(recipe.1.contains("ema_decay = 0.5"), "{}", recipe.1);
}

#[test]
fn overwriting_a_run_leaves_nothing_of_the_first_to_pass_for_the_second() {
    let bench = Bench::new();
    let run = recipe(&bench, "run", "kind = \"lora\"\nr = 4", "");
    let first = run.clone().set("diffusion.train_text_encoder=true");
    first.succeed(&["--quiet"]);
    let sheet = run.dir.join("samples/step-000004.png");
    let drawn = pictures(&sheet);
    assert!(run.dir.join("adapter_text_encoder").is_dir());
    let second = run.clone().set("run.overwrite=true").set("train.lr=2e-2");
    second.succeed(&["--quiet"]);
    assert!(!run.dir.join("adapter_text_encoder").exists());
    assert!(difference(&pictures(&sheet), &drawn) > 1, "drawn anew");
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

#[test]
fn what_the_recipe_says_of_noise_and_text_is_drawn_with_outside_the_run() {
    let bench = Bench::new();
    let base = Path::new(ROOT).join("assets/tiny-diffusion");
    let run = recipe(
        &bench,
        "run",
        "kind = \"lora\"\nr = 4",
        "[diffusion]\nprediction_type = \"v_prediction\"\nclip_skip = 1\n",
    );
    run.succeed(&["--quiet"]);
    let after = pictures(&run.dir.join("samples/step-000004.png"));
    let adapter = run.dir.join("adapter");
    for (name, place) in [("run-drawn", &run.dir), ("adapter-drawn", &adapter)] {
        let drawn = draw(&bench, name, &base, &[place]);
        assert!(difference(&drawn, &after) <= 1, "{name}");
    }
    let other = ["--prediction", "epsilon"];
    let drawn = draw_with(&bench, "other", &base, &[&adapter], &other);
    assert!(difference(&drawn, &after) > 1, "the command line decides");
    // A pipeline that it is merged into has its noise process.
    let merged = bench.path("merged");
    let mut merge = Command::new(env!("CARGO_BIN_EXE_temper"));
    merge.arg("merge").arg("--model").arg(&base);
    merge
        .arg("--adapter")
        .arg(&adapter)
        .arg("--output")
        .arg(&merged);
    assert!(merge.current_dir(ROOT).output().unwrap().status.success());
    let drawn = draw_with(&bench, "merged-drawn", &merged, &[], &["--clip-skip", "1"]);
    assert!(difference(&drawn, &after) <= 2, "merged");
}

#[test]
fn biases_and_modules_trained_beside_lora_are_results_without_a_file_for_diffusers() {
    let bench = Bench::new();
    let base = Path::new(ROOT).join("assets/tiny-diffusion");
    let adapter = "kind = \"lora\"\nr = 2\nbias = \"lora_only\"\nmodules_to_save = [\"conv_in\"]";
    let run = recipe(&bench, "run", adapter, "");
    let said = String::from_utf8(run.output(&[]).stderr).unwrap();
    assert!(
        said.contains("`adapter.bias`") && said.contains("warning: `"),
        "before and after: {said}"
    );
    assert!(run.dir.join("summary.json").is_file());
    let file = "adapter/pytorch_lora_weights.safetensors";
    assert!(!run.dir.join(file).exists());
    let after = pictures(&run.dir.join("samples/step-000004.png"));
    assert!(difference(&draw(&bench, "drawn", &base, &[&run.dir]), &after) <= 1);
    let mut twice = Command::new(env!("CARGO_BIN_EXE_temper"));
    twice.args([
        "sample", "--prompt", "x", "--steps", "1", "--width", "32", "--height", "32",
    ]);
    twice
        .arg("--model")
        .arg(&base)
        .arg("--output")
        .arg(bench.path("twice.png"));
    twice
        .arg("--adapter")
        .arg(&run.dir)
        .arg("--adapter")
        .arg(&run.dir);
    let said = String::from_utf8(twice.output().unwrap().stderr).unwrap();
    assert!(said.contains("take the place of those"), "{said}");
}

#[test]
fn a_run_that_follows_pictures_shows_what_it_draws_after_the_first_photograph() {
    let bench = Bench::new();
    let base = Path::new(ROOT).join("assets/tiny-diffusion");
    let run = recipe(
        &bench,
        "run",
        "kind = \"lora\"\nr = 4",
        "[diffusion]\ncontrol = \"canny\"\ncanny_low = 20\ncanny_high = 60\n",
    );
    run.succeed(&["--quiet"]);
    let blind = run
        .clone()
        .set("diffusion.canny_low=900")
        .set("diffusion.canny_high=1000");
    let said = blind.succeed(&["--dry-run"]);
    assert!(
        said.contains("5 of 5 photographs") && said.contains("no edges"),
        "{said}"
    );
    let after = pictures(&run.dir.join("samples/step-000004.png"));
    let follow = [
        "--control",
        "assets/dreambooth/dog6/00.jpg",
        "--canny",
        "20,60",
    ];
    let drawn = draw_with(&bench, "drawn", &base, &[&run.dir], &follow);
    assert!(difference(&drawn, &after) <= 1);
    let without = draw(&bench, "without", &base, &[&run.dir]);
    assert!(difference(&without, &after) > 1, "the picture is followed");
}

#[test]
fn the_last_step_can_be_the_best_and_the_energy_of_a_run_is_that_of_its_running_means() {
    let bench = Bench::new();
    let run = recipe(
        &bench,
        "run",
        "kind = \"lora\"\nr = 4",
        "[diffusion]\nema_decay = 0.5\n",
    )
    .set("validation.images=1")
    .set("train.eval_every=2")
    .set("train.steps=4")
    .set("sample.count=0");
    run.succeed(&["--quiet"]);
    let losses: Vec<(f64, u64)> = run
        .rows()
        .into_iter()
        .filter_map(|row| match row {
            Row::Eval(row) => Some((row.eval_loss, row.step)),
            Row::Train(_) | Row::Task(_) => None,
        })
        .collect();
    let judged = losses.iter().filter(|(_, step)| *step > 0);
    let best = judged.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert_eq!(run.summary()["best_step"], best.1, "{losses:?}");
    let energy = |option: &str, place: &Path| -> f64 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
        command.args([
            "energy",
            "--model",
            "assets/tiny-diffusion",
            "--json",
            option,
        ]);
        let output = command.arg(place).current_dir(ROOT).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        match option {
            "--run" => report["steps"].as_array().unwrap().last().unwrap()["energy"].as_f64(),
            _ => report["totals"][0]["energy_after"].as_f64(),
        }
        .unwrap_or_else(|| panic!("{report}"))
    };
    let (along, result) = (energy("--run", &run.dir), energy("--adapter", &run.dir));
    assert!((along - result).abs() <= 1e-6 * result, "{along}, {result}");
}

#[test]
fn a_run_is_not_overwritten_that_holds_what_the_new_one_begins_with() {
    let bench = Bench::new();
    let run = recipe(&bench, "run", "kind = \"lora\"", "").set("run.overwrite=true");
    run.succeed(&["--quiet"]);
    let (samples, adapter) = (run.dir.join("samples"), run.dir.join("adapter"));
    for (setting, key) in [
        (format!("images.path={samples:?}"), "`images.path`"),
        (
            format!("adapter.init_from={adapter:?}"),
            "`adapter.init_from`",
        ),
    ] {
        let said = run.clone().set(&setting).fail(2, &[]);
        assert!(
            said.contains(key) && said.contains("run.overwrite"),
            "{said}"
        );
        assert!(samples.is_dir() && adapter.is_dir());
    }
}

#[test]
fn validation_sees_the_middle_of_the_photographs_however_they_are_cropped() {
    let bench = Bench::new();
    let before = |name: &str, settings: &[&str]| {
        let run = recipe(&bench, name, "kind = \"lora\"", "");
        let run = settings.iter().fold(run, |run, setting| run.set(setting));
        let run = run
            .set("validation.images=2")
            .set("train.steps=1")
            .set("sample.count=0");
        run.succeed(&["--quiet"]);
        run.summary()["eval_loss_before"].as_f64().unwrap()
    };
    let middle = before("center", &[]);
    let random = ["images.crop=random", "images.caption_dropout=0.9", "seed=5"];
    assert_relative("validation", before("random", &random), middle, 1e-6);
}
