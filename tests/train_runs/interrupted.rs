//! Runs that end before their end: kills, signals, and going on as if nothing had happened.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use temper_adapters::RandomSource;
use temper_datasets::random;

use super::support::{Bench, OFT, Run, wait_until};

const KILLS: usize = 20;
const STEPS: u64 = 400;

fn run(bench: &Bench, name: &str, steps: u64, save_every: u64) -> Run {
    bench
        .golden(name, "gqa")
        .set(OFT)
        .set(&format!("train.steps={steps}"))
        .set(&format!("train.save_every={save_every}"))
        .set("train.keep_last=2")
}

/// Adapter and curve of a run that was interrupted are those of one that was not, bit for bit.
fn assert_identical(ours: &Run, whole: &Run) {
    let key = |run: &Run| -> Vec<(u64, [u64; 3], u64)> {
        let row = |m: &temper_engine::run::Metric| {
            let bits = [m.loss, m.lr, m.grad_norm].map(f64::to_bits);
            (m.step, bits, m.items.count())
        };
        run.metrics().iter().map(row).collect()
    };
    let steps: Vec<u64> = ours.metrics().iter().map(|metric| metric.step).collect();
    let all = 1..=whole.metrics().len() as u64;
    assert!(steps.iter().copied().eq(all), "each step once: {steps:?}");
    assert_eq!(key(ours), key(whole));
    assert!(ours.adapter() == whole.adapter(), "the adapter differs");
}

fn signal(name: &str, id: u32) {
    let status = Command::new("kill").args([name, &id.to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn twenty_kills_leave_the_result_as_it_would_have_been() {
    let bench = Bench::new();
    let whole = run(&bench, "whole", STEPS, 5);
    let killed = run(&bench, "killed", STEPS, 5);
    whole.train();
    let delays = RandomSource::new(|purpose| random::rng(7, purpose, 0, 0));
    let mut landed = 0;
    for (index, delay) in delays.uniform("kills", KILLS, 60.0).iter().enumerate() {
        let before = killed.newest();
        let more: &[&str] = if index == 0 { &[] } else { &["--resume"] };
        let mut child = killed.start(more);
        wait_until("one more checkpoint", || {
            killed.newest() > before || !child.is_running()
        });
        let until = Instant::now() + Duration::from_micros((delay.abs() * 1e3) as u64);
        // On a fast machine the kills must still be spread over the run.
        let share = STEPS * (index as u64 + 1) / (KILLS as u64 + 2);
        while Instant::now() < until && killed.newest() < share {
            std::thread::sleep(Duration::from_micros(100));
        }
        landed += usize::from(child.kill().signal() == Some(9));
    }
    assert_eq!(landed, KILLS, "every kill must hit a run in progress");
    assert!(killed.newest() < STEPS, "{:?}", killed.checkpoints());
    let said = killed.succeed(&["--resume"]);
    assert!(said.contains("resumed after step "), "{said}");
    assert_identical(&killed, &whole);
    assert_eq!(killed.checkpoints(), [STEPS - 5, STEPS]);
}

#[test]
fn a_run_killed_before_its_first_checkpoint_starts_again() {
    let bench = Bench::new();
    let whole = run(&bench, "whole", 100, 0);
    let killed = run(&bench, "killed", 100, 0);
    whole.train();
    let child = killed.start(&[]);
    wait_until("three steps", || killed.metrics().len() >= 3);
    assert_eq!(child.kill().signal(), Some(9));
    assert!(killed.checkpoints().is_empty());
    let said = killed.succeed(&["--resume"]);
    assert!(said.contains("starts from its first step"), "{said}");
    assert_identical(&killed, &whole);
}

#[test]
fn a_run_killed_before_it_wrote_its_recipe_starts_again() {
    let bench = Bench::new();
    let killed = run(&bench, "killed", 3, 0);
    std::fs::create_dir_all(killed.dir.join("checkpoints")).unwrap();
    std::fs::write(killed.dir.join("run.lock"), "").unwrap();
    killed.succeed(&["--resume"]);
    assert_eq!(killed.losses().len(), 3);
    assert!(killed.dir.join("recipe.toml").exists());
}

#[test]
fn sigterm_saves_and_says_how_to_go_on() {
    let bench = Bench::new();
    let whole = run(&bench, "whole", 200, 0);
    let stopped = run(&bench, "stopped", 200, 0);
    whole.train();
    let child = stopped.start(&[]);
    wait_until("three steps", || stopped.metrics().len() >= 3);
    signal("-TERM", child.id());
    let (status, said) = child.finish();
    assert_eq!(status.code(), Some(143), "{said}");
    assert!(
        said.contains("--resume") && said.contains("after step "),
        "{said}"
    );
    let steps = stopped.metrics().len() as u64;
    assert_eq!(stopped.checkpoints(), [steps], "nothing is lost");
    assert!(steps < 200 && !stopped.dir.join("summary.json").exists());
    stopped.succeed(&["--resume"]);
    assert_identical(&stopped, &whole);
    assert_eq!(stopped.summary()["resumed_from"], steps);
}

#[test]
fn sigusr1_saves_and_goes_on() {
    let bench = Bench::new();
    let asked = run(&bench, "asked", 200, 0);
    let child = asked.start(&[]);
    wait_until("three steps", || asked.metrics().len() >= 3);
    signal("-USR1", child.id());
    let (status, said) = child.finish();
    assert!(status.success(), "{said}");
    let steps = asked.checkpoints();
    assert!(steps.len() == 2 && steps[1] == 200, "{steps:?}");
}
