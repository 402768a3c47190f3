//! Autoencoders from random weights.

use super::support::{Bench, json, tensors};

#[test]
fn an_autoencoder_learns_to_repeat_photographs_and_resumes_to_the_bit() {
    let bench = Bench::new();
    let run = |name: &str| {
        bench.run(
            name,
            "device = \"cpu\"\n[model]\ninit = \"random\"\nconfig = \"assets/tiny-diffusion/vae/config.json\"\n\
             [images]\npath = \"assets/dreambooth/dog6\"\nresolution = 32\nflip = true\n\
             [diffusion]\ntrain = \"vae\"\n\
             [train]\nsteps = 30\nbatch_size = 3\nmicro_batch_size = 2\nlr = 2e-3\nsave_every = 15\nkeep_last = 9\n\
             [validation]\nimages = 2\n[sample]\ncount = 2",
        )
    };
    let whole = run("whole");
    whole.succeed(&["--quiet"]);
    let summary = whole.summary();
    let held = |key: &str| summary[key].as_f64().unwrap();
    assert!(
        held("eval_loss") < 0.5 * held("eval_loss_before"),
        "{summary}"
    );
    // Latents of deviation 1, by the factor in the configuration.
    let factor = json(&whole.dir.join("model/config.json"))["scaling_factor"].clone();
    assert!(
        factor.as_f64().unwrap() > 0.0 && factor != 0.911_866_052_346_703_6,
        "{factor}"
    );
    assert!(whole.dir.join("samples/step-000030.png").is_file());

    let parts = run("parts");
    parts.succeed(&["--quiet"]);
    std::fs::remove_dir_all(parts.dir.join("checkpoints/step-00000030")).unwrap();
    std::fs::remove_dir_all(parts.dir.join("model")).unwrap();
    parts.succeed(&["--quiet", "--resume"]);
    assert_eq!(parts.summary()["resumed_from"], 15);
    assert!(tensors(&parts.dir.join("model")) == tensors(&whole.dir.join("model")));
}

#[test]
fn micro_batches_do_not_change_what_an_autoencoder_learns() {
    let bench = Bench::new();
    let losses = |name: &str, micro: usize| {
        let run = bench.run(
            name,
            "device = \"cpu\"\n[model]\ninit = \"random\"\nconfig = \"assets/tiny-diffusion/vae/config.json\"\n\
             [images]\npath = \"assets/dreambooth/dog6\"\nresolution = 32\n[diffusion]\ntrain = \"vae\"\n\
             [train]\nsteps = 3\nbatch_size = 5\nlr = 1e-4\n[validation]\nimages = 0\n[sample]\ncount = 0",
        );
        let run = run.set(&format!("train.micro_batch_size={micro}"));
        run.succeed(&["--quiet"]);
        run.losses()
    };
    for (whole, parts) in losses("whole", 5).iter().zip(losses("parts", 2)) {
        assert!((whole - parts).abs() < 1e-5 * whole, "{whole}, {parts}");
    }
}
