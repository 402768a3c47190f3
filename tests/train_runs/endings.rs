//! Runs that end early, and runs that start from another adapter.

use temper_engine::run::{Row, read_metrics};

use super::support::{Bench, OFT, golden_rows};

#[test]
fn an_early_stop_goes_back_to_the_best_state_and_stays_over() {
    let bench = Bench::new();
    let held_out = bench.rows("held-out.jsonl", &golden_rows("gqa")[..4]);
    // A rate this high soon makes things worse.
    let run = bench
        .golden("run", "gqa")
        .set(OFT)
        .set(&format!("data.eval={{path={held_out:?}}}"))
        .set("train.eval_every=1")
        .set("train.early_stopping_patience=2")
        .set("train.warmup_steps=0")
        .set("train.lr=1.0");
    run.succeed(&["-q"]);
    let summary = |dir: &std::path::Path| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(dir.join("summary.json")).unwrap()).unwrap()
    };
    let first = summary(&run.dir);
    assert_eq!(first["stopped_early"], true);
    let steps = first["steps"].as_u64().unwrap();
    assert!(steps < 20, "{steps} steps");
    let lowest = read_metrics(&run.dir.join("metrics.jsonl"))
        .unwrap()
        .into_iter()
        .filter_map(|row| match row {
            Row::Eval(row) => Some((row.eval_loss, row.step)),
            Row::Train(_) | Row::Task(_) => None,
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap();
    assert_eq!(first["eval_loss"], lowest.0, "the result is the best state");
    assert_eq!(first["best_step"], lowest.1);
    assert_eq!(
        steps,
        lowest.1 + 2,
        "two evaluations without improvement end the run"
    );
    let adapter = std::fs::read(run.dir.join("adapter/adapter_model.safetensors")).unwrap();
    run.succeed(&["-q", "--resume"]);
    assert_eq!(
        summary(&run.dir)["steps"],
        steps,
        "resuming a run that is over trains no further"
    );
    assert_eq!(
        std::fs::read(run.dir.join("adapter/adapter_model.safetensors")).unwrap(),
        adapter
    );
}

#[test]
fn an_adapter_is_continued_only_under_the_method_it_was_trained_with() {
    let bench = Bench::new();
    let first = bench.golden("first", "gqa").set(OFT).set("train.steps=2");
    first.succeed(&["-q"]);
    let from = first.dir.join("adapter");
    let start = |name: &str, method: &str| {
        let adapter = format!(
            "adapter={{{method}, target_modules=[\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\", \"gate_proj\", \"up_proj\", \"down_proj\"], init_from={from:?}}}"
        );
        bench.golden(name, "gqa").set(&adapter).set("train.steps=2")
    };
    let exact = "kind=\"oft\", oft_block_size=8, use_cayley_neumann=false";
    start("same", exact).succeed(&["-q"]);
    // The series is the transpose of the exact rotation: silently another model.
    let said = start("series", "kind=\"oft\", oft_block_size=8").fail(2, &["-q"]);
    assert!(said.contains("use_cayley_neumann"), "{said}");
    let said = start("lora", "kind=\"lora\", r=4").fail(2, &["-q"]);
    assert!(said.contains("peft_type"), "{said}");
}

#[test]
fn a_module_to_save_that_names_nothing_is_refused() {
    let bench = Bench::new();
    for entry in ["layers.0", "nope"] {
        let adapter = format!("adapter={{kind=\"lora\", r=4, modules_to_save=[{entry:?}]}}");
        let said = bench.golden("run", "gqa").set(&adapter).fail(2, &["-q"]);
        assert!(said.contains("modules_to_save"), "{said}");
    }
}
