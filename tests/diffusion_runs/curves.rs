//! The loss curves of diffusers and PEFT, repeated from the same latents, noise, timesteps and texts.

use super::support::{Bench, Run, assert_relative, golden, json, tensors};

/// Eight steps as in the golden run: AdamW 2e-3, weight decay 0.01, clipped at 1; half of a batch is the class.
fn run(bench: &Bench, case: &str, adapter: &str) -> Run {
    let (model, io) = (golden(case), golden(case).join("io.safetensors"));
    bench.run(
        case,
        &format!(
            "device = \"cpu\"\n[model]\npath = {model:?}\n[adapter]\n{adapter}\n\
             [images]\nkind = \"latents\"\npath = {io:?}\n[precision]\ncompute = \"f32\"\n\
             [train]\nsteps = 8\nlr = 2e-3\n[validation]\nimages = 0"
        ),
    )
}

fn assert_curve(run: &Run, case: &str) {
    run.succeed(&["--quiet"]);
    let curve = json(&golden(case).join("curve.json"));
    let metrics = run.metrics();
    assert_eq!(metrics.len(), 8);
    for (step, metric) in metrics.iter().enumerate() {
        let what = |name: &str| format!("{case}, {name} of step {}", step + 1);
        let loss = curve["losses"][step].as_f64().unwrap();
        let tolerance = if step == 0 { 1e-5 } else { 1e-3 };
        assert_relative(&what("loss"), metric.loss, loss, tolerance);
        let norm = curve["grad_norms_before_clip"][step].as_f64().unwrap();
        assert_relative(&what("norm"), metric.grad_norm, norm, 1e-3);
    }
}

/// Every value of the adapter within 2 % of the largest of its tensor, or 1e-4.
fn assert_adapter(run: &Run, case: &str) {
    let theirs = tensors(&golden(case).join("adapter_final/adapter_model.safetensors"));
    let ours = tensors(&run.dir.join("adapter/adapter_model.safetensors"));
    let names =
        |all: &[(String, Vec<f32>)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for ((name, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let largest = theirs
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        let worst = ours
            .iter()
            .zip(theirs)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0_f32, f32::max);
        assert!(
            worst <= (0.02 * largest).max(1e-4),
            "{name}: {worst:e} of {largest:e}"
        );
    }
}

const OFT: &str = "kind = \"oft\"\noft_block_size = 4\nuse_cayley_neumann = false";

#[test]
fn oft_follows_peft_on_a_unet() {
    let (bench, case) = (Bench::new(), "dreambooth_oft");
    let run = run(&bench, case, OFT);
    assert_curve(&run, case);
    assert_adapter(&run, case);
    let config = json(&run.dir.join("adapter/adapter_config.json"));
    assert_eq!(config["task_type"], serde_json::Value::Null);
    assert_eq!(run.summary()["images"], 32);
}

#[test]
fn lora_follows_peft_on_a_unet() {
    let (bench, case) = (Bench::new(), "dreambooth_lora");
    let init = golden(case).join("adapter_init");
    let adapter = format!("kind = \"lora\"\nr = 2\nlora_alpha = 2\ninit_from = {init:?}");
    let run = run(&bench, case, &adapter);
    assert_curve(&run, case);
    assert_adapter(&run, case);
    assert!(
        run.dir
            .join("adapter/pytorch_lora_weights.safetensors")
            .is_file()
    );
}

#[test]
fn full_fine_tuning_follows_pytorch_on_a_unet() {
    let (bench, case) = (Bench::new(), "dreambooth_full");
    let run = run(&bench, case, "kind = \"full\"");
    assert_curve(&run, case);
    assert!(
        run.dir
            .join("model/unet/diffusion_pytorch_model.safetensors")
            .is_file()
    );
}

#[test]
fn micro_batches_and_recomputation_do_not_change_the_curve() {
    let (bench, case) = (Bench::new(), "dreambooth_oft");
    for (name, setting) in [
        ("micro", "train.micro_batch_size=3"),
        ("recomputed", "train.gradient_checkpointing=true"),
    ] {
        let run = run(&bench, case, OFT).set(setting);
        let run = if name == "micro" {
            run.set("train.batch_size=4")
        } else {
            run
        };
        assert_curve(&run.set("run.overwrite=true"), case);
    }
}

#[test]
fn the_class_counts_as_much_as_the_recipe_says() {
    let (bench, case) = (Bench::new(), "dreambooth_oft");
    let loss = |weight: &str| {
        let run = run(&bench, case, OFT)
            .set("train.steps=1")
            .set(&format!("images.prior_loss_weight={weight}"))
            .set("run.overwrite=true");
        run.succeed(&["--quiet"]);
        run.losses()[0]
    };
    let (half, whole, double) = (loss("0.5"), loss("1.0"), loss("2.0"));
    // Linear in the weight: instance + weight · class.
    assert_relative("class loss", double - whole, 2.0 * (whole - half), 1e-4);
    assert!(whole > half && half > 0.0);
}

#[test]
fn coft_prints_its_bounds_and_leaves_every_block_within_them() {
    let (bench, case) = (Bench::new(), "dreambooth_oft");
    let run = run(&bench, case, OFT)
        .set("adapter.coft=true")
        .set("adapter.eps=1e-4")
        .set("adapter.eps_scaling=official");
    let plan = run.succeed(&["--dry-run"]);
    assert!(
        plan.contains("COFT") && plan.contains("mid_block"),
        "{plan}"
    );
    run.succeed(&["--quiet"]);
    for (name, values) in tensors(&run.dir.join("adapter/adapter_model.safetensors")) {
        // Blocks of 4 × 4 have six values; eps · b² / √r bounds √2 times their norm.
        let tau = 1e-4 * 16.0 / (values.len() as f64 / 6.0).sqrt();
        let mut moved = false;
        for block in values.chunks(6) {
            let norm = block.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            assert!((2.0 * norm).sqrt() <= tau * (1.0 + 1e-6), "{name}");
            moved |= norm > 0.0;
        }
        assert!(moved, "{name} is still at its start");
    }
}
