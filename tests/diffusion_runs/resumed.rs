//! A run that stopped and went on is the run that did not, to the bit.

use std::path::Path;

use super::files::copy_all;
use super::support::{Bench, ROOT, Run, assert_resumes};

/// A small pipeline, a subject, and images of a class.
fn recipe(bench: &Bench, name: &str, adapter: &str, more: &str) -> Run {
    let class = bench.path("class");
    if !class.exists() {
        std::fs::create_dir(&class).unwrap();
        for number in 0..3 {
            let photo = format!("{ROOT}/assets/dreambooth/duck_toy/0{number}.jpg");
            std::fs::copy(photo, class.join(format!("{number}.jpg"))).unwrap();
        }
    }
    bench.run(
        name,
        &format!(
            "device = \"cpu\"\nseed = 3\n[model]\npath = \"assets/tiny-diffusion\"\n[adapter]\n{adapter}\n\
             [images]\npath = \"assets/dreambooth/dog6\"\ninstance_prompt = \"a photo of sks dog\"\nresolution = 32\nflip = true\n\
             class_dir = {class:?}\nclass_prompt = \"a photo of toy\"\nnum_class_images = 3\n\
             [train]\nsteps = 6\nbatch_size = 2\nlr = 1e-3\nsave_every = 3\n\
             [validation]\nimages = 1\n[sample]\ncount = 0\n{more}"
        ),
    )
}

/// Six steps at once, and three with three more after.
fn assert_recipe_resumes(adapter: &str, more: &str, results: &[&str]) {
    let bench = Bench::new();
    let run = |name: &str| recipe(&bench, name, adapter, more);
    assert_resumes(&run("whole"), run("parts"), results, [3, 6]);
}

#[test]
fn oft_with_the_text_encoder_and_running_means_resumes_to_the_bit() {
    assert_recipe_resumes(
        "kind = \"oft\"\noft_block_size = 8\nuse_cayley_neumann = false",
        "[diffusion]\ntrain_text_encoder = true\nema_decay = 0.9\nsnr_gamma = 5.0\noffset_noise = 0.05\ninput_perturbation = 0.1\n",
        &["adapter", "adapter_text_encoder"],
    );
}

#[test]
fn control_and_dropout_resume_to_the_bit() {
    assert_recipe_resumes(
        "kind = \"lora\"\nr = 4\nlora_dropout = 0.2",
        "[diffusion]\ncontrol = \"canny\"\n",
        &["adapter", "control"],
    );
}

#[test]
fn all_weights_with_running_means_resume_to_the_bit() {
    assert_recipe_resumes(
        "kind = \"full\"",
        "[diffusion]\nema_decay = 0.99\n",
        &["model/unet"],
    );
}

#[test]
fn another_noise_process_or_tokenizer_does_not_go_on_with_a_run_and_makes_its_texts_anew() {
    let bench = Bench::new();
    let model = bench.path("model");
    copy_all(&Path::new(ROOT).join("assets/tiny-diffusion"), &model);
    let run = recipe(&bench, "run", "kind = \"lora\"", "").set(&format!("model.path={model:?}"));
    run.succeed(&["--quiet"]);
    let losses = run.losses();
    let change = |file: &str, from: &str, to: &str| {
        let file = model.join(file);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from}: {text}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
        text
    };
    let scheduler = "scheduler/scheduler_config.json";
    let kept = change(scheduler, "0.012", "0.02");
    let said = run.fail(1, &["--resume"]);
    assert!(said.contains("noise process"), "{said}");
    std::fs::write(model.join(scheduler), kept).unwrap();
    run.succeed(&["--quiet", "--resume"]);
    // Without merges every word is spelt.
    std::fs::write(model.join("tokenizer/merges.txt"), "#version: 0.2\n").unwrap();
    let said = run.fail(1, &["--resume"]);
    assert!(said.contains("tokenizer"), "{said}");
    let again = run.set("run.overwrite=true");
    again.succeed(&["--quiet"]);
    assert_ne!(again.losses()[0], losses[0], "texts of the old tokenizer");
}

#[test]
fn other_images_of_the_class_do_not_go_on_with_a_run() {
    let bench = Bench::new();
    let run = recipe(&bench, "run", "kind = \"lora\"", "");
    run.succeed(&["--quiet"]);
    let class = bench.path("class");
    std::fs::rename(class.join("0.jpg"), bench.path("kept.jpg")).unwrap();
    std::fs::copy(class.join("1.jpg"), class.join("0.jpg")).unwrap();
    let said = run.fail(1, &["--resume"]);
    assert!(said.contains("training data changed"), "{said}");
    std::fs::rename(bench.path("kept.jpg"), class.join("0.jpg")).unwrap();
    run.succeed(&["--quiet", "--resume"]);
}

#[test]
fn another_recipe_does_not_go_on_with_a_run() {
    let bench = Bench::new();
    let run = recipe(&bench, "run", "kind = \"lora\"", "");
    run.succeed(&["--quiet"]);
    let said = run.set("images.resolution=40").fail(2, &["--resume"]);
    assert!(said.contains("`images.resolution = 40`, was 32"), "{said}");
}
