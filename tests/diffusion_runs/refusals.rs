//! What cannot be trained is refused by name before anything is trained.

use super::support::{Bench, Run};

fn recipe(bench: &Bench, images: &str) -> Run {
    bench.run(
        "run",
        &format!(
            "device = \"cpu\"\n[model]\npath = \"assets/tiny-diffusion\"\n[adapter]\nkind = \"oft\"\n\
             [images]\npath = {images:?}\ninstance_prompt = \"a photo of sks dog\"\nresolution = 32\n\
             [train]\nsteps = 1\n[sample]\ncount = 0"
        ),
    )
}

#[test]
fn a_folder_without_images_is_named() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("empty")).unwrap();
    let said = recipe(&bench, bench.path("empty").to_str().unwrap()).fail(1, &[]);
    assert!(said.contains("empty"), "{said}");
    assert!(!bench.path("run").exists(), "nothing is written");
}

#[test]
fn a_text_encoder_of_another_width_is_named_with_both_widths() {
    let bench = Bench::new();
    let run = recipe(&bench, "assets/dreambooth/dog6");
    let other = super::support::golden("clip_quickgelu");
    let said = run
        .set(&format!("model.text_encoder={other:?}"))
        .fail(1, &[]);
    assert!(
        said.contains("cross_attention_dim") || said.contains("vocab_size"),
        "{said}"
    );
}

#[test]
fn latents_of_another_model_are_named() {
    let bench = Bench::new();
    let io = super::support::golden("dreambooth_oft").join("io.safetensors");
    let run = recipe(&bench, io.to_str().unwrap()).set("images.kind=latents");
    let said = run.set("images.instance_prompt=x").fail(1, &[]);
    assert!(
        said.contains("cross_attention_dim") && said.contains("16"),
        "{said}"
    );
}

#[test]
fn images_of_the_class_are_not_made_by_random_weights() {
    let bench = Bench::new();
    let class = bench.path("class");
    let run = recipe(&bench, "assets/dreambooth/dog6")
        .set("adapter={kind=\"full\"}")
        .set("model.init=random")
        .set("model.config=assets/tiny-diffusion/unet/config.json")
        .set(&format!("images.class_dir={class:?}"))
        .set("images.class_prompt=a photo of dog");
    let said = run.fail(2, &[]);
    assert!(said.contains("random weights"), "{said}");
}

#[test]
fn a_dry_run_says_what_a_run_would_be() {
    let bench = Bench::new();
    let plan = recipe(&bench, "assets/dreambooth/dog6").succeed(&["--dry-run"]);
    for part in [
        "trainable parameters",
        "5 images",
        "optimizer steps",
        "peak",
    ] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    assert!(!bench.path("run").exists());
}
