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

#[test]
fn a_noise_process_that_cannot_be_learned_is_refused_before_a_run() {
    let bench = Bench::new();
    let run = recipe(&bench, "assets/dreambooth/dog6").set("diffusion.zero_terminal_snr=true");
    let local = run.fail(2, &["--dry-run"]);
    assert!(local.contains("`diffusion.zero_terminal_snr`"), "{local}");
    let hub = run
        .clone()
        .set("model.path=stable-diffusion-v1-5/stable-diffusion-v1-5");
    let said = hub.fail(2, &["--dry-run"]);
    assert!(said.contains("v_prediction"), "{said}");
    run.set("diffusion.prediction_type=v_prediction")
        .succeed(&["--dry-run"]);
}

#[test]
fn a_noise_process_of_a_billion_steps_is_refused_by_its_number() {
    let bench = Bench::new();
    let scheduler = bench.path("scheduler");
    std::fs::create_dir(&scheduler).unwrap();
    let config = "{\"_class_name\": \"DDIMScheduler\", \"num_train_timesteps\": 1000000000}";
    std::fs::write(scheduler.join("scheduler_config.json"), config).unwrap();
    let run =
        recipe(&bench, "assets/dreambooth/dog6").set(&format!("model.scheduler={scheduler:?}"));
    for more in [&["--dry-run"][..], &[]] {
        let said = run.fail(1, more);
        for part in ["num_train_timesteps", "1000000000", "1 to 100000"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

#[test]
fn images_that_are_enlarged_and_batches_that_stay_small_are_said() {
    let bench = Bench::new();
    let run = recipe(&bench, "assets/dreambooth/dog6")
        .set("images.resolution=2048")
        .set("train.batch_size=8");
    let plan = run.succeed(&["--dry-run"]);
    for part in [
        "5 images are smaller",
        "00.jpg`",
        "and 2 more",
        "at most 5",
        "`batch_size = 5`",
    ] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
}
