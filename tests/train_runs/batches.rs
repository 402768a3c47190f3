//! What must not change a result: how a batch is cut up, recomputed or packed.

use super::support::{Bench, OFT, Run, assert_relative, golden_rows, path};

/// Rows of 3 to 16 ids, so that their numbers of targets differ.
fn uneven(bench: &Bench, name: &str) -> Run {
    let mut rows = golden_rows("gqa");
    for (index, row) in rows.iter_mut().enumerate() {
        row.truncate(3 + (index * 5) % 14);
    }
    let file = bench.rows("uneven.jsonl", &rows);
    bench
        .run(name, &path("tests/golden/llama/gqa/model"), &file)
        .set("train.batch_size=8")
        .set("train.steps=6")
        .set("train.lr=1e-3")
        .set("train.warmup_steps=0")
}

fn assert_same(what: &str, ours: &[f64], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}: steps");
    for (step, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert_relative(
            &format!("{what}, step {}", step + 1),
            *ours,
            *theirs,
            tolerance,
        );
    }
}

#[test]
fn accumulation_gives_the_losses_of_the_whole_batch() {
    let bench = Bench::new();
    for (method, adapter) in [("full", "adapter={kind=\"full\"}"), ("oft", OFT)] {
        let whole = uneven(&bench, &format!("{method}-8")).set(adapter).train();
        for micro in [2, 1] {
            let parts = uneven(&bench, &format!("{method}-{micro}"))
                .set(adapter)
                .set(&format!("train.micro_batch_size={micro}"));
            let what = format!("{method} in parts of {micro}");
            assert_same(&what, &parts.train(), &whole, 1e-6);
        }
    }
}

#[test]
fn averaging_micro_batches_is_something_else() {
    let bench = Bench::new();
    let run = |name: &str, average: &str| {
        let run = uneven(&bench, name).set("train.steps=1");
        run.set("train.micro_batch_size=1").set(average).train()[0]
    };
    let tokens = run("tokens", "train.loss_average=token");
    let parts = run("parts", "train.loss_average=micro_batch");
    assert!(
        (tokens - parts).abs() > 1e-3,
        "rows of different lengths weigh differently: {tokens}, {parts}"
    );
}

#[test]
fn recomputing_activations_changes_nothing() {
    let bench = Bench::new();
    for (method, adapter) in [("full", "adapter={kind=\"full\"}"), ("oft", OFT)] {
        let run = |name: &str, recompute: bool| {
            let run = uneven(&bench, &format!("{method}-{name}")).set(adapter);
            run.set(&format!("train.gradient_checkpointing={recompute}"))
                .train()
        };
        // The gradients are summed in another order; AdamW's first steps enlarge what rounding makes of that.
        assert_same(method, &run("again", true), &run("kept", false), 5e-6);
    }
}

#[test]
fn packed_rows_give_the_losses_of_rows_apart() {
    let bench = Bench::new();
    let run = |name: &str| bench.golden(name, "gqa").set(OFT).set("data.max_length=64");
    // Four rows of 16 ids fill one sequence of 64.
    let packed = run("packed")
        .set("data.packing=true")
        .set("train.batch_size=1");
    assert_same("packed", &packed.train(), &run("apart").train(), 1e-5);
}

#[test]
fn shuffling_depends_on_the_seed_alone() {
    let bench = Bench::new();
    let run = |name: &str, seed: u64| {
        let run = bench.golden(name, "gqa").set("data.shuffle=true");
        run.set("train.steps=3")
            .set(&format!("seed={seed}"))
            .train()
    };
    let first = run("first", 1);
    assert_eq!(first, run("again", 1));
    assert_ne!(first, run("other", 2));
}

#[test]
fn labels_given_with_ids_decide_what_is_trained() {
    let bench = Bench::new();
    let file = bench.path("labelled.jsonl");
    let row = r#"{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, -100, 8]}"#;
    std::fs::write(&file, row).unwrap();
    let run = bench.run("run", &path("tests/golden/llama/gqa/model"), &file);
    let said = run.set("train.steps=1").succeed(&[]);
    assert!(said.contains("tokens 4, trained 1 "), "{said}");
}
