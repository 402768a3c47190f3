//! Recipes that train on images.

use std::fs;
use std::path::Path;

use crate::recipe::{
    AdapterKind, DiffusionRecipe, ImagesKind, Init, Method, OneOrMany, Problem, Recipe, Schedule,
    explain,
};

/// A recipe that passes in a directory with `photos/`, with lines put into its sections.
fn text(adapter: &str, edits: &[(&str, &str)]) -> String {
    let mut sections = vec![
        ("model", vec!["path = \"org/model\""]),
        ("adapter", vec![adapter]),
        (
            "images",
            vec![
                "path = \"photos\"",
                "instance_prompt = \"a photo of sks dog\"",
            ],
        ),
        ("train", vec!["steps = 100"]),
    ];
    for &(section, line) in edits {
        let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        match sections.iter_mut().find(|(name, _)| *name == section) {
            Some((_, lines)) => {
                lines.retain(|old| key(old) != key(line));
                lines.push(line);
            }
            None => sections.push((section, vec![line])),
        }
    }
    let render = |(name, lines): &(&str, Vec<&str>)| format!("[{name}]\n{}\n", lines.join("\n"));
    sections.iter().map(render).collect()
}

fn parse(adapter: &str, edits: &[(&str, &str)]) -> Result<DiffusionRecipe, Vec<Problem>> {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("photos")).unwrap();
    parse_in(base.path(), &text(adapter, edits))
}

fn parse_in(base: &Path, text: &str) -> Result<DiffusionRecipe, Vec<Problem>> {
    crate::recipe::reading::parse(text, "test.toml", &[], base).map_err(|errors| errors.problems)
}

#[test]
fn defaults_are_those_of_the_method() {
    let oft = parse("kind = \"oft\"", &[]).unwrap();
    assert_eq!((oft.train.lr, oft.train.batch_size), (6e-5, 1));
    assert_eq!(oft.train.schedule, Schedule::Constant);
    assert_eq!((oft.train.warmup(1000), oft.train.weight_decay), (0, 0.01));
    let Method::Oft(options) = oft.method() else {
        panic!("not OFT")
    };
    assert_eq!((options.r, options.oft_block_size), (4, 0));
    let targets = oft.adapter.unwrap().target_modules;
    assert!(matches!(targets, Some(OneOrMany::Many(names)) if names.len() == 4));
    let lora = parse("kind = \"lora\"", &[]).unwrap();
    assert_eq!(lora.train.lr, 1e-4);
    assert!(matches!(lora.method(), Method::Lora(lora) if lora.r == 4 && lora.lora_alpha == 4.0));
    let full = parse("kind = \"full\"", &[]).unwrap();
    assert_eq!(full.train.lr, 5e-6);
    assert_eq!(full.sample.prompts(), ["a photo of sks dog"]);
    assert_eq!(full.sample.width, Some(512));
}

#[test]
fn what_is_written_replaces_a_default() {
    let edits = [
        ("train", "lr = 1e-3"),
        ("train", "batch_size = 4"),
        ("train", "warmup_ratio = 0.1"),
        ("adapter", "oft_block_size = 8"),
    ];
    let recipe = parse("kind = \"oft\"", &edits).unwrap();
    assert_eq!((recipe.train.lr, recipe.train.batch_size), (1e-3, 4));
    assert_eq!(recipe.train.warmup(100), 10);
    assert!(matches!(recipe.method(), Method::Oft(oft) if oft.r == 0 && oft.oft_block_size == 8));
}

#[test]
fn resolved_recipes_read_back_equal() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("photos")).unwrap();
    for adapter in [
        "kind = \"oft\"\ncoft = true",
        "kind = \"lora\"",
        "kind = \"full\"",
    ] {
        let recipe = parse_in(base.path(), &text(adapter, &[])).unwrap();
        assert_eq!(parse_in(base.path(), &recipe.to_toml()).unwrap(), recipe);
    }
}

#[test]
fn all_problems_are_reported_at_once_with_hints() {
    let edits = [
        ("images", "path = \"nowhere\""),
        ("images", "resolution = 100"),
        ("images", "class_prompt = \"a photo of dog\""),
        ("images", "instance_data_dir = \"x\""),
        ("diffusion", "text_encoder_lr = 1e-6"),
        ("diffusion", "prediction_type = \"v\""),
        ("train", "eval_every = 5"),
        ("validation", "images = 0"),
        ("sample", "width = 65"),
    ];
    let problems = parse("kind = \"oft\"", &edits).unwrap_err();
    let found = |key: &str, message: &str, hint: &str| {
        problems.iter().any(|problem| {
            problem.key == key
                && problem.message.contains(message)
                && problem.hint.as_deref().unwrap_or("").contains(hint)
        })
    };
    assert!(found("images.path", "no directory `nowhere`", ""));
    assert!(found(
        "images.resolution",
        "not a multiple of 8",
        "write 104"
    ));
    assert!(found(
        "images.class_prompt",
        "only with `class_dir`",
        "class_dir"
    ));
    assert!(found("images.instance_data_dir", "unknown key", "`path`"));
    assert!(found("diffusion.text_encoder_lr", "only with", ""));
    assert!(found(
        "diffusion.prediction_type",
        "must be one of",
        "v_prediction"
    ));
    assert!(found("train.eval_every", "images to validate on", ""));
    assert!(found("sample.width", "not a multiple of 8", "72"));
    assert_eq!(problems.len(), 8, "{problems:#?}");
}

#[test]
fn contradictions_are_refused() {
    let one = |adapter: &str, edits: &[(&str, &str)]| {
        let problems = parse(adapter, edits).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems[0].message.clone()
    };
    let vae = one("kind = \"lora\"", &[("diffusion", "train = \"vae\"")]);
    assert!(vae.contains("`diffusion.train = \"vae\"`"), "{vae}");
    let class = one("kind = \"oft\"", &[("images", "class_dir = \"photos\"")]);
    assert!(class.contains("class_prompt"), "{class}");
    let shift = one(
        "kind = \"oft\"",
        &[
            ("diffusion", "zero_terminal_snr = true"),
            ("diffusion", "prediction_type = \"epsilon\""),
        ],
    );
    assert!(shift.contains("pure-noise input"), "{shift}");
    for (section, line) in [
        ("diffusion", "canny_low = 20"),
        ("diffusion", "kl_weight = 1e-4"),
        ("train", "beta1 = 0.99999999"),
    ] {
        let said = one("kind = \"oft\"", &[(section, line)]);
        assert!(said.contains(line.split(' ').next().unwrap()), "{said}");
    }
    let negative = one(
        "kind = \"oft\"",
        &[
            ("sample", "negative_prompt = \"blurry\""),
            ("sample", "guidance_scale = 1"),
        ],
    );
    assert!(negative.contains("`sample.negative_prompt`"), "{negative}");
    let within = one(
        "kind = \"oft\"",
        &[
            ("images", "recursive = true"),
            ("images", "class_dir = \"photos/class\""),
            ("images", "class_prompt = \"a photo of dog\""),
        ],
    );
    assert!(within.contains("lies in `images.path`"), "{within}");
    let random = one("kind = \"full\"", &[("model", "init = \"random\"")]);
    assert!(random.contains("needs an architecture"), "{random}");
}

#[test]
fn settings_of_class_images_without_class_images_are_refused() {
    let class = [
        ("images", "class_dir = \"class\""),
        ("images", "class_prompt = \"a photo of dog\""),
    ];
    let messages = |edits: &[(&str, &str)]| -> Vec<String> {
        let problems = parse("kind = \"oft\"", edits).err().unwrap_or_default();
        problems
            .into_iter()
            .map(|problem| problem.message)
            .collect()
    };
    for line in ["num_class_images = 50", "prior_loss_weight = 0.5"] {
        let alone = messages(&[("images", line)]);
        let key = line.split(' ').next().unwrap();
        assert!(alone.len() == 1 && alone[0].contains(key), "{alone:?}");
        assert!(alone[0].contains("`class_dir`"), "{alone:?}");
        let beside = messages(&[class[0], class[1], ("images", line)]);
        assert!(beside.is_empty(), "{beside:?}");
    }
    let weightless = messages(&[class[0], class[1], ("images", "prior_loss_weight = 0")]);
    assert!(
        weightless.len() == 1 && weightless[0].contains("learns nothing"),
        "{weightless:?}"
    );
}

#[cfg(unix)]
#[test]
fn links_that_go_round_are_named_with_the_reason() {
    let base = tempfile::tempdir().unwrap();
    let photos = base.path().join("photos");
    std::os::unix::fs::symlink(&photos, &photos).unwrap();
    let problems = parse_in(base.path(), &text("kind = \"oft\"", &[])).unwrap_err();
    let message = &problems[0].message;
    assert!(
        message.contains("`photos`") && message.contains("symbolic links"),
        "{message}"
    );
}

#[test]
fn latents_are_read_from_a_file() {
    let base = tempfile::tempdir().unwrap();
    let edits = [
        ("images", "kind = \"latents\""),
        ("images", "path = \"io.safetensors\""),
    ];
    let recipe = text("kind = \"oft\"", &edits);
    assert!(
        parse_in(base.path(), &recipe).unwrap_err()[0]
            .message
            .contains("no file")
    );
    fs::write(base.path().join("io.safetensors"), "").unwrap();
    let recipe = parse_in(base.path(), &recipe).unwrap();
    assert_eq!(recipe.images.kind, ImagesKind::Latents);
    assert_eq!(recipe.images.captions, None);
}

#[test]
fn what_latents_of_a_file_cannot_follow_is_refused() {
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("io.safetensors"), "").unwrap();
    for (section, setting) in [
        ("images", "flip = true"),
        ("images", "buckets = true"),
        ("images", "caption_dropout = 0.1"),
        ("diffusion", "offset_noise = 0.1"),
        ("diffusion", "input_perturbation = 0.1"),
    ] {
        let edits = [
            ("images", "kind = \"latents\""),
            ("images", "path = \"io.safetensors\""),
            (section, setting),
        ];
        let problems = parse_in(base.path(), &text("kind = \"oft\"", &edits)).unwrap_err();
        let key = format!("`{section}.{}`", setting.split(' ').next().unwrap());
        let found = problems
            .iter()
            .any(|problem| problem.message.contains(&key));
        assert!(found, "{setting}: {problems:?}");
    }
}

#[test]
fn pictures_during_training_need_a_prompt() {
    let edits = [
        ("images", "captions = \"metadata\""),
        ("sample", "every = 2"),
    ];
    // The prompt of the subject stands in.
    assert!(parse("kind = \"oft\"", &edits).is_ok());
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("photos")).unwrap();
    let without =
        text("kind = \"oft\"", &edits).replace("instance_prompt = \"a photo of sks dog\"\n", "");
    let problems = parse_in(base.path(), &without).unwrap_err();
    assert!(
        problems[0].message.contains("`sample.every`"),
        "{problems:#?}"
    );
    let named = format!("{without}prompts = [\"a dog\"]\n");
    assert!(parse_in(base.path(), &named).is_ok());
}

#[cfg(unix)]
#[test]
fn images_of_the_class_among_those_of_the_subject_are_found_behind_links() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("photos")).unwrap();
    std::os::unix::fs::symlink("photos", base.path().join("class")).unwrap();
    for directory in ["class", "photos/../photos"] {
        let line = format!("class_dir = {directory:?}");
        let edits = [
            ("images", line.as_str()),
            ("images", "class_prompt = \"a photo of dog\""),
        ];
        let problems = parse_in(base.path(), &text("kind = \"oft\"", &edits)).unwrap_err();
        assert!(
            problems[0].message.contains("the same directory"),
            "{problems:#?}"
        );
    }
}

#[test]
fn kinds_of_recipes_are_told_apart() {
    let recipe = text("kind = \"oft\"", &[]);
    let error = Recipe::parse(&recipe, "r.toml", &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`temper train` on diffusion models"),
        "{error}"
    );
    let language = "[model]\npath = \"o/m\"\n[data]\nkind = \"text\"\npath = \"o/d\"\n[train]\nsteps = 1\nbatch_size = 1\nlr = 1e-3\n";
    let error = DiffusionRecipe::parse(language, "r.toml", &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`temper train` on language models"),
        "{error}"
    );
}

#[test]
fn keys_are_explained_with_the_defaults_of_images() {
    let text = explain("images.num_class_images").unwrap();
    assert!(text.contains("default: `100`"), "{text}");
    assert!(
        explain("validation.timesteps")
            .unwrap()
            .contains("every image is tried")
    );
    assert_eq!(DiffusionRecipe::default().model.init, Init::Pretrained);
    assert_eq!(AdapterKind::Oft.as_str(), "oft");
}
