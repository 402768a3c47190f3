//! `temper sample`.

use std::path::{Path, PathBuf};

use temper_datasets::images::{Photo, read, read_png_text};

use super::adapters::{lora, oft};
use super::pipelines::copy_of_pipeline;
use super::support::{fail, path, succeed, temper, text};

pub(super) fn pipeline() -> PathBuf {
    path("tests/golden/diffusion/pipeline")
}

/// Arguments for tiny pictures in few steps.
pub(super) fn args<'a>(model: &'a Path, output: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["sample", "--model", text(model), "--output", text(output)];
    for fixed in [["--width", "16"], ["--height", "16"], ["--steps", "2"]] {
        if !more.contains(&fixed[0]) {
            all.extend(fixed);
        }
    }
    all.extend(more);
    all
}

/// One picture, and its file.
fn draw(folder: &Path, name: &str, more: &[&str]) -> (Photo, PathBuf) {
    let file = folder.join(name).with_extension("png");
    let said = succeed(&args(&pipeline(), &file, more));
    assert_eq!(said.trim(), text(&file), "the path is printed");
    (read(&file).unwrap(), file)
}

pub(super) fn recipe(file: &Path) -> serde_json::Value {
    let texts = read_png_text(file).unwrap();
    let (_, recipe) = texts.iter().find(|(key, _)| key == "temper").unwrap();
    serde_json::from_str(recipe).unwrap()
}

#[test]
fn a_picture_says_how_to_make_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = [
        "--prompt",
        "a photo of sks dog",
        "--negative-prompt",
        "cat",
        "--seed",
        "7",
        "--first",
        "3",
        "--guidance-scale",
        "4",
        "--guidance-rescale",
        "0.5",
        "--scheduler",
        "euler_ancestral",
        "--clip-skip",
        "1",
    ];
    let (photo, file) = draw(folder.path(), "first", &options);
    let made = recipe(&file);
    assert_eq!(
        made["scheduler"]["_class_name"],
        "EulerAncestralDiscreteScheduler"
    );
    assert_eq!(made["width"], 16);
    let text = |key: &str| match &made[key] {
        serde_json::Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let keys = [
        ("--prompt", "prompt"),
        ("--negative-prompt", "negative_prompt"),
        ("--seed", "seed"),
        ("--first", "first"),
        ("--guidance-scale", "guidance_scale"),
        ("--guidance-rescale", "guidance_rescale"),
        ("--clip-skip", "clip_skip"),
        ("--compute", "compute"),
    ];
    let values: Vec<String> = keys.iter().map(|(_, key)| text(key)).collect();
    let mut again: Vec<&str> = keys
        .iter()
        .zip(&values)
        .flat_map(|((option, _), value)| [*option, value.as_str()])
        .collect();
    let scheduler = text_of(&made["scheduler"]["_class_name"]);
    again.extend(["--scheduler", &scheduler]);
    assert_eq!(draw(folder.path(), "again", &again).0, photo);
}

fn text_of(value: &serde_json::Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn a_picture_depends_on_its_prompt_seed_and_number_and_on_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = ["--prompt", "red cat", "a photo of sks dog", "--seed", "5"];
    let many = folder.path().join("many");
    let grid = folder.path().join("grid.png");
    let batch = ["-n", "3", "--batch-size", "8", "--grid", text(&grid)];
    let said = succeed(&args(
        &pipeline(),
        &many,
        &[&prompts[..], &batch[..]].concat(),
    ));
    let files: Vec<&str> = said.lines().collect();
    assert_eq!(files.len(), 7, "six pictures and the grid: {said}");
    let last = read(files[5]).unwrap();
    let alone = [
        "--prompt",
        "a photo of sks dog",
        "--seed",
        "5",
        "--first",
        "2",
    ];
    assert_eq!(draw(folder.path(), "alone", &alone).0, last);
    let pictures: Vec<Photo> = files[..6].iter().map(|file| read(file).unwrap()).collect();
    for (at, picture) in pictures.iter().enumerate() {
        assert!(
            !pictures[..at].contains(picture),
            "picture {at} is like another"
        );
    }
    let sheet = read(&grid).unwrap();
    assert_eq!((sheet.width, sheet.height), (3 * 20 + 4, 2 * 20 + 4));
    let other = [
        "--prompt",
        "a photo of sks dog",
        "--seed",
        "6",
        "--first",
        "2",
    ];
    assert_ne!(draw(folder.path(), "other", &other).0, last, "another seed");
}

#[test]
fn every_scheduler_draws_and_guidance_of_one_runs_without_negative_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let names = [
        "ddpm",
        "ddim",
        "pndm",
        "euler",
        "heun",
        "dpmpp_2m_karras",
        "unipc",
    ];
    for name in names {
        draw(
            folder.path(),
            name,
            &["--prompt", "dog", "--scheduler", name],
        );
    }
    let unguided = ["--prompt", "dog", "--guidance-scale", "1"];
    let with = |negative| [&unguided[..], &["--negative-prompt", negative]].concat();
    let (one, _) = draw(folder.path(), "one", &with("cat"));
    assert_eq!(one, draw(folder.path(), "two", &with("red")).0);
    let (file, options) = (folder.path().join("said.png"), with("cat"));
    let said = String::from_utf8(temper(&args(&pipeline(), &file, &options)).stderr).unwrap();
    assert!(said.contains("--negative-prompt does nothing"), "{said}");
}

#[test]
fn adapters_act_with_their_strength() {
    let folder = tempfile::tempdir().unwrap();
    let oft = oft(&pipeline().join("unet"), folder.path());
    let lora = lora(&pipeline().join("unet"), folder.path());
    let draw = |name: &str, adapters: &[String]| {
        let mut options = vec!["--prompt", "dog"];
        for adapter in adapters {
            options.extend(["--adapter", adapter]);
        }
        draw(folder.path(), name, &options).0
    };
    let with = |path: &Path, strength: &str| format!("{}:{strength}", path.display());
    let base = draw("base", &[]);
    for (name, adapter) in [("oft", &oft), ("lora", &lora)] {
        let full = draw(&format!("{name}-full"), &[text(adapter).to_owned()]);
        assert_ne!(full, base, "{name}");
        assert_eq!(
            draw(&format!("{name}-0"), &[with(adapter, "0")]),
            base,
            "{name}"
        );
        assert_eq!(
            draw(&format!("{name}-1"), &[with(adapter, "1.0")]),
            full,
            "{name}"
        );
    }
    let apart = |a: &Photo, b: &Photo| {
        let pairs = a.rgb.iter().zip(&b.rgb);
        pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    };
    let full = draw("lora-again", &[text(&lora).to_owned()]);
    let halves = draw("halves", &[with(&lora, "0.5"), with(&lora, "0.5")]);
    assert!(
        apart(&halves, &full) <= 1,
        "two halves of a LoRA are the whole"
    );
    let both = draw("both", &[text(&oft).to_owned(), text(&lora).to_owned()]);
    assert!(apart(&both, &full) > 1, "both act");
}

#[test]
fn mistakes_are_told_before_anything_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.png");
    let model = pipeline();
    let check = |code: i32, more: &[&str], words: &[&str]| {
        let message = fail(code, &args(&model, &file, more));
        assert!(!file.exists(), "nothing is written");
        for word in words {
            assert!(message.contains(word), "{word} in {message}");
        }
    };
    let prompt = ["--prompt", "dog"];
    let with = |more: &[&'static str]| [&prompt[..], more].concat();
    check(
        2,
        &with(&["--scheduler", "magic"]),
        &["--scheduler", "magic", "ddim", "euler", "unipc"],
    );
    check(
        2,
        &with(&["--adapter", "somewhere:strong"]),
        &["strong", "0.8"],
    );
    check(2, &with(&["--clip-skip", "9"]), &["layers"]);
    check(2, &with(&["--count", "2"]), &["one file", "directory"]);
    check(2, &with(&["--guidance-scale", "NaN"]), &["guidance-scale"]);
    check(
        1,
        &with(&["--adapter", "nowhere"]),
        &["there is nothing at `nowhere`", "spelling"],
    );
    check(2, &with(&["--steps", "1001"]), &["1000"]);
    let last = u64::MAX.to_string();
    check(
        2,
        &[&prompt[..], &["--first", &last]].concat(),
        &["--first"],
    );
    let itself = ["--grid", text(&file)];
    check(2, &[&prompt[..], &itself].concat(), &["--grid", "picture"]);
    check(2, &with(&["--width", "17"]), &["17", "multiple of 2"]);
    let taken = folder.path().join("taken.png");
    std::fs::write(&taken, "mine").unwrap();
    let message = fail(1, &args(&model, &taken, &prompt));
    assert!(message.contains("--overwrite") && std::fs::read(&taken).unwrap() == b"mine");
    let other = path("tests/golden/oft/unet_oft_attn/adapter");
    let other = [&prompt[..], &["--adapter", text(&other)]].concat();
    check(1, &other, &["hint: ", "another model"]);
}

#[test]
fn what_of_a_prompt_does_not_fit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("a photo of sks dog {}red cat", "in the sun ".repeat(3));
    let file = folder.path().join("x.png");
    let run = temper(&args(&pipeline(), &file, &["--prompt", &long]));
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success() && said.contains("red cat"), "{said}");
    assert!(!said.contains("left out is `a photo"), "{said}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one row a refusal")]
fn broken_pipelines_are_refused_by_name() {
    type Break = fn(&Path);
    let edit = |file: &Path, from: &str, to: &str| {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains(from));
        std::fs::write(file, text.replace(from, to)).unwrap();
    };
    let cases: [(Break, &[&str]); 5] = [
        (
            |p| std::fs::remove_dir_all(p.join("vae")).unwrap(),
            &["`vae`", "config.json"],
        ),
        (
            |p| std::fs::remove_dir_all(p.join("tokenizer")).unwrap(),
            &["`tokenizer`"],
        ),
        (
            |p| std::fs::write(p.join("model_index.json"), "[").unwrap(),
            &["model_index.json", "JSON"],
        ),
        (
            |p| {
                std::fs::write(
                    p.join("model_index.json"),
                    r#"{"_class_name": "FluxPipeline"}"#,
                )
                .unwrap();
            },
            &["FluxPipeline", "StableDiffusionPipeline"],
        ),
        (
            |p| std::fs::remove_file(p.join("unet/diffusion_pytorch_model.safetensors")).unwrap(),
            &["unet", "diffusion_pytorch_model.safetensors"],
        ),
    ];
    for (break_it, words) in cases {
        let (folder, model) = copy_of_pipeline();
        break_it(&model);
        let file = folder.path().join("x.png");
        let message = fail(1, &args(&model, &file, &["--prompt", "dog"]));
        for word in words {
            assert!(message.contains(word), "{word} in {message}");
        }
    }
    let (folder, model) = copy_of_pipeline();
    let other = path("tests/golden/diffusion/pipeline_sdxl");
    std::fs::copy(
        other.join("text_encoder/config.json"),
        model.join("text_encoder/config.json"),
    )
    .unwrap();
    let weights = "text_encoder/model.safetensors";
    std::fs::copy(
        other.join("text_encoder/model.fp16.safetensors"),
        model.join(weights),
    )
    .unwrap();
    let message = fail(
        1,
        &args(&model, &folder.path().join("x.png"), &["--prompt", "dog"]),
    );
    assert!(
        message.contains("8 wide") && message.contains("cross_attention_dim"),
        "{message}"
    );
    let (folder, model) = copy_of_pipeline();
    edit(
        &model.join("tokenizer/tokenizer_config.json"),
        "\"model_max_length\": 12",
        "\"model_max_length\": 77",
    );
    let message = fail(
        1,
        &args(&model, &folder.path().join("x.png"), &["--prompt", "dog"]),
    );
    assert!(
        message.contains("77 tokens") && message.contains("12 positions"),
        "{message}"
    );
}

#[test]
fn pictures_that_are_not_finite_are_refused() {
    let (folder, model) = copy_of_pipeline();
    let lora = super::adapters::lora_of(&model.join("unet"), folder.path(), "huge", f32::MAX);
    let file = folder.path().join("x.png");
    let options = ["--prompt", "dog", "--adapter", text(&lora)];
    let run = temper(&args(&model, &file, &options));
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(
        said.contains("not finite") && said.contains("hint: ") && !said.contains("panicked"),
        "{said}"
    );
    assert!(!file.exists());
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_keeps_the_pictures_that_were_done() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let many = folder.path().join("many");
    let model = pipeline();
    let options = ["--prompt", "dog", "-n", "100000", "--device", "cpu"];
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_temper"))
        .args(args(&model, &many, &options))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut printed = BufReader::new(run.stdout.take().unwrap()).lines();
    let first = printed.next().unwrap().unwrap();
    let id = run.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &id])
        .status();
    assert!(sent.unwrap().success());
    printed.for_each(drop);
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert_eq!(read(first).unwrap().width, 16);
}

#[test]
fn what_is_left_out_of_a_long_prompt_is_quoted_in_short() {
    let folder = tempfile::tempdir().unwrap();
    let (file, model) = (folder.path().join("x.png"), pipeline());
    let prompt = "a red toy ".repeat(1200);
    let output = temper(&args(&model, &file, &["--prompt", &prompt]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("longer than"),
        "{said}"
    );
    assert!(
        said.contains('…') && said.len() < 1000,
        "{} bytes",
        said.len()
    );
}

#[test]
fn other_picture_formats_unknown_devices_and_negative_seeds_are_wrong_command_lines() {
    let folder = tempfile::tempdir().unwrap();
    let model = pipeline();
    let draw = |name: &str, more: &[&str]| {
        let file = folder.path().join(name);
        let said = fail(
            2,
            &args(&model, &file, &[&["--prompt", "dog"], more].concat()),
        );
        assert!(!file.exists(), "{name}");
        said
    };
    assert!(draw("dog.jpg", &[]).contains("is no `.png` file"));
    assert!(draw("dog.png", &["--seed", "-1"]).contains("--seed"));
    let mut unknown = args(&model, folder.path(), &["--prompt", "dog"]);
    unknown.extend(["--device", "foo"]);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_temper"))
        .args(&unknown)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
