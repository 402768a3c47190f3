use std::collections::BTreeMap;
use std::sync::Arc;

use temper_datasets::{
    Batch, DataConfig, DataKind, Dataset, IGNORED, Loader, LoaderConfig, StepBatch,
};
use tempfile::TempDir;

use crate::{stories, write};

/// Rows of 2 to 39 different ids; the first third of each is not trained.
fn dataset(rows: usize) -> Arc<Dataset> {
    let directory = TempDir::new().unwrap();
    let lines: Vec<String> = (0..rows)
        .map(|row| {
            let length = 2 + (row * 17) % 38;
            let ids: Vec<usize> = (0..length).map(|at| 3 + (row * 31 + at) % 500).collect();
            let trained =
                |(at, id): (usize, &usize)| if at <= length / 3 { -100 } else { *id as i64 };
            let labels: Vec<i64> = ids.iter().enumerate().map(trained).collect();
            serde_json::json!({ "input_ids": ids, "labels": labels }).to_string()
        })
        .collect();
    let path = write(directory.path(), "rows.jsonl", lines.join("\n"));
    let config = DataConfig {
        paths: vec![path],
        kind: DataKind::Tokens,
        cache: false,
        ..DataConfig::default()
    };
    let data = Dataset::prepare(&config, &stories(), &|_, _| ()).unwrap();
    assert_eq!(data.len(), rows);
    Arc::new(data)
}

fn config() -> LoaderConfig {
    LoaderConfig {
        seed: 7,
        batch_size: 6,
        micro_batch_size: 4,
        max_length: 64,
        pad_id: 9,
        ..LoaderConfig::default()
    }
}

fn packed() -> LoaderConfig {
    LoaderConfig {
        packing: true,
        batch_size: 3,
        micro_batch_size: 2,
        ..config()
    }
}

fn steps(loader: &Loader, range: std::ops::Range<u64>) -> Vec<StepBatch> {
    range.map(|step| loader.step(step).unwrap()).collect()
}

fn ids_of(steps: &[StepBatch]) -> Vec<usize> {
    let batches = steps.iter().flat_map(|step| &step.micro);
    batches
        .flat_map(|batch| batch.example_ids.iter().flatten().copied())
        .collect()
}

#[test]
fn a_batch_depends_on_the_seed_and_the_step_alone() {
    let data = dataset(50);
    for config in [config(), packed()] {
        let straight = steps(&Loader::new(data.clone(), config.clone()).unwrap(), 0..30);
        let backwards = Loader::new(data.clone(), config.clone()).unwrap();
        for step in (0..30).rev() {
            assert_eq!(
                backwards.step(step).unwrap(),
                straight[step as usize],
                "step {step}"
            );
        }
        let resumed = Loader::new(data.clone(), config.clone()).unwrap();
        assert_eq!(resumed.step(17).unwrap(), straight[17]);
        let other = Loader::new(data.clone(), LoaderConfig { seed: 8, ..config }).unwrap();
        assert_ne!(other.step(0).unwrap(), straight[0]);
    }
}

#[test]
fn every_example_comes_once_in_every_epoch() {
    let data = dataset(50);
    for config in [config(), packed()] {
        let loader = Loader::new(data.clone(), config).unwrap();
        let mut from = 0;
        let mut orders = Vec::new();
        for epoch in 1..=3 {
            let until = loader.total_steps(f64::from(epoch));
            let steps = steps(&loader, from..until);
            assert!((steps.last().unwrap().epoch - f64::from(epoch)).abs() < 1e-12);
            let order = ids_of(&steps);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..50), "epoch {epoch}");
            orders.push(order);
            from = until;
        }
        assert_ne!(orders[0], orders[1]);
        assert_ne!(orders[1], orders[2]);
    }
}

#[test]
fn the_last_step_of_an_epoch_takes_the_remainder() {
    let data = dataset(50);
    let loader = Loader::new(data.clone(), config()).unwrap();
    assert_eq!(loader.steps_per_epoch(), 9);
    assert_eq!(
        (
            loader.total_steps(2.0),
            loader.total_steps(1.5),
            loader.total_steps(0.0)
        ),
        (18, 14, 0)
    );
    let rows = |step: u64| {
        loader
            .step(step)
            .unwrap()
            .micro
            .iter()
            .map(|b| b.rows)
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(0), [4, 2]);
    assert_eq!(rows(8), [2]);
    assert_eq!(rows(9), [4, 2]);
    let config = LoaderConfig {
        drop_last: true,
        ..config()
    };
    assert_eq!(
        Loader::new(data.clone(), config.clone())
            .unwrap()
            .steps_per_epoch(),
        8
    );
    let error = Loader::new(
        data,
        LoaderConfig {
            batch_size: 51,
            ..config
        },
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("`batch_size`"), "{error}");
}

#[test]
fn parts_of_epochs_are_rounded_up_to_steps_without_rounding_errors() {
    let loader = Loader::new(dataset(60), config()).unwrap();
    assert_eq!(loader.steps_per_epoch(), 10);
    assert_eq!(
        [1.1, 2.3, 0.05, 0.11].map(|epochs| loader.total_steps(epochs)),
        [11, 23, 1, 2]
    );
    assert_eq!(loader.total_steps(-1.0), 0);
}

#[test]
fn micro_batches_do_not_change_the_step() {
    let data = dataset(50);
    for base in [config(), packed()] {
        let loader = |size| {
            let config = LoaderConfig {
                micro_batch_size: size,
                ..base.clone()
            };
            Loader::new(data.clone(), config).unwrap()
        };
        for step in 0..12 {
            let (one, all) = (
                loader(1).step(step).unwrap(),
                loader(100).step(step).unwrap(),
            );
            assert_eq!(all.micro.len(), 1);
            assert_eq!(
                (one.target_tokens, one.tokens),
                (all.target_tokens, all.tokens)
            );
            assert_eq!(ids_of(&[one]), ids_of(&[all]));
        }
    }
}

/// Compares every position of a batch with the examples that it claims to hold.
fn check(batch: &Batch, data: &Dataset, pad_id: u32) -> u64 {
    let mut targets = 0;
    for row in 0..batch.rows {
        let mut column = 0;
        for id in &batch.example_ids[row] {
            let example = data.example(*id);
            for at in 0..example.len() {
                let cell = row * batch.cols + column + at;
                assert_eq!(batch.input_ids[cell], example.input_ids[at]);
                assert_eq!(batch.labels[cell], example.labels[at]);
                assert_eq!(batch.starts[cell], column as u32);
                assert_eq!(batch.positions[cell], at as u32);
            }
            assert_eq!(batch.labels[row * batch.cols + column], IGNORED);
            targets += example.targets() as u64;
            column += example.len();
        }
        for padding in column..batch.cols {
            let cell = row * batch.cols + padding;
            assert_eq!(
                (batch.input_ids[cell], batch.labels[cell]),
                (pad_id, IGNORED)
            );
            assert_eq!(
                (batch.starts[cell], batch.positions[cell]),
                (padding as u32, 0)
            );
        }
    }
    targets
}

#[test]
fn positions_labels_and_starts_belong_to_the_documents() {
    let data = dataset(50);
    for config in [config(), packed()] {
        let loader = Loader::new(data.clone(), config).unwrap();
        let mut documents = BTreeMap::new();
        for step in steps(&loader, 0..loader.steps_per_epoch()) {
            let targets: u64 = step.micro.iter().map(|batch| check(batch, &data, 9)).sum();
            assert_eq!(step.target_tokens, targets);
            let lengths = ids_of(std::slice::from_ref(&step))
                .into_iter()
                .map(|id| data.example_len(id));
            assert_eq!(step.tokens, lengths.sum::<usize>() as u64);
            for batch in &step.micro {
                assert!(batch.cols <= 64);
                for row in &batch.example_ids {
                    *documents.entry(row.len()).or_insert(0) += 1;
                }
            }
        }
        assert_eq!(
            documents.keys().any(|count| *count > 1),
            loader.config().packing,
            "{documents:?}"
        );
    }
}

#[test]
fn rows_are_padded_to_a_multiple_but_not_beyond_the_limit() {
    let data = dataset(50);
    let cols = |multiple, max_length| {
        let config = LoaderConfig {
            pad_to_multiple_of: multiple,
            max_length,
            ..config()
        };
        let loader = Loader::new(data.clone(), config).unwrap();
        let steps = steps(&loader, 0..9);
        steps
            .iter()
            .flat_map(|s| s.micro.iter().map(|b| b.cols))
            .collect::<Vec<_>>()
    };
    assert!(cols(8, 64).iter().all(|cols| cols % 8 == 0));
    assert!(cols(64, 50).iter().all(|cols| *cols == 50));
    assert!(cols(1, 64).iter().any(|cols| cols % 8 != 0));
}

#[test]
fn without_shuffling_rows_come_in_order() {
    let data = dataset(20);
    let loader = Loader::new(
        data,
        LoaderConfig {
            shuffle: false,
            ..config()
        },
    )
    .unwrap();
    assert!(ids_of(&steps(&loader, 0..4)).into_iter().eq(0..20));
}

#[test]
fn a_loader_refuses_sizes_that_cannot_work() {
    let data = dataset(50);
    for (config, field) in [
        (
            LoaderConfig {
                batch_size: 0,
                ..config()
            },
            "batch_size",
        ),
        (
            LoaderConfig {
                micro_batch_size: 0,
                ..config()
            },
            "micro_batch_size",
        ),
        (
            LoaderConfig {
                pad_to_multiple_of: 0,
                ..config()
            },
            "pad_to_multiple_of",
        ),
        (
            LoaderConfig {
                max_length: 16,
                ..packed()
            },
            "max_length",
        ),
    ] {
        let error = Loader::new(data.clone(), config).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}
