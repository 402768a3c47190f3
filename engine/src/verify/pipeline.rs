//! From rows on disk to the loss, and through a checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, FloatDType};
use temper_adapters::Parameters;
use temper_datasets::{DataConfig, DataKind, Dataset, Loader, LoaderConfig, Tokenizer};
use temper_models::Llama;

use super::toy::{self, Method, batch, gradients};
use super::{Check, Report};
use crate::Failure;
use crate::run::CheckpointStore;
use crate::train::{AdamW, OptimizerState, Position, load_state, save_state, token_batch};

/// A directory that disappears with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self, Failure> {
        let path =
            std::env::temp_dir().join(format!("temper-verify-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left-over files in the temporary directory harm nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Rows of different lengths, padded with the very id that ends them: the end stays a target, the padding is none.
pub(super) fn mask_and_eos(report: Report<'_>) -> Result<(), Failure> {
    const EOS: u32 = 2;
    let scratch = Scratch::new("mask")?;
    let file = scratch.0.join("rows.jsonl");
    let rows = "{\"input_ids\":[1,10,11,12,13,14,2],\"labels\":[-100,-100,-100,12,13,14,2]}\n{\"input_ids\":[1,20,21,2],\"labels\":[-100,-100,21,2]}\n";
    std::fs::write(&file, rows)?;
    let loader = loader(&file, EOS)?;
    let step = loader.step(0)?;
    let micro = token_batch(
        step.micro
            .into_iter()
            .next()
            .ok_or_else(|| Failure::run("no micro-batch"))?,
    );
    let shifted = micro.shifted_labels();
    let ends = shifted.iter().filter(|&&label| label == EOS as i32).count();
    let error = |found: usize, expected: usize| (found as f64 - expected as f64).abs();
    report(Check {
        name: "mask: ends of rows that are targets (pad = EOS)".into(),
        error: error(ends, 2),
        tolerance: 0.0,
    });
    report(Check {
        name: "mask: target tokens of a padded batch".into(),
        error: error(micro.targets(), 6),
        tolerance: 0.0,
    });
    let model = Method::Full
        .model(FloatDType::F32, &Device::flex())?
        .frozen();
    let before = model.loss(&micro, 1.0)?.into_scalar::<f32>();
    let mut changed = micro.clone();
    let columns = changed.shape[1];
    for (i, id) in changed.input_ids.iter_mut().enumerate() {
        if micro.starts[i] > 0 && micro.starts[i] as usize == i % columns {
            *id = 50;
        }
    }
    let moved = f64::from((model.loss(&changed, 1.0)?.into_scalar::<f32>() - before).abs());
    report(Check {
        name: "mask: other ids in the padding moved the loss by".into(),
        error: moved,
        tolerance: 0.0,
    });
    Ok(())
}

fn loader(file: &Path, pad_id: u32) -> Result<Loader, Failure> {
    let config = DataConfig {
        paths: vec![file.to_owned()],
        kind: DataKind::Tokens,
        cache: false,
        ..DataConfig::default()
    };
    let data = Dataset::prepare(&config, &Tokenizer::of_ids(64), &|_, _| ())?;
    let options = LoaderConfig {
        batch_size: 2,
        micro_batch_size: 2,
        shuffle: false,
        pad_id,
        ..LoaderConfig::default()
    };
    Ok(Loader::new(Arc::new(data), options)?)
}

/// Four steps in one go equal two steps, a checkpoint, a new process's model, and two more.
pub(super) fn resume(device: &Device, exact: bool, report: Report<'_>) -> Result<(), Failure> {
    let scratch = Scratch::new("resume")?;
    for method in [Method::Full, Method::OftSeries] {
        let mut straight = method.model(FloatDType::F32, device)?;
        let mut state = OptimizerState::default();
        steps(&mut straight, &mut state, 0..4)?;
        let mut first = method.model(FloatDType::F32, device)?;
        let mut state = OptimizerState::default();
        steps(&mut first, &mut state, 0..2)?;
        let mut store = CheckpointStore::open(&scratch.0.join(method.name().replace(' ', "-")))?;
        let position = Position {
            step: 2,
            ..Position::default()
        };
        let path = store.save(2, 1 << 20, |writer| {
            save_state(writer, &first, &state, &position)
        })?;
        let mut second = method.model(FloatDType::F32, device)?;
        let (mut state, _) = load_state(&path, &mut second)?;
        steps(&mut second, &mut state, 2..4)?;
        let name = format!("resume, {}: parameters after a checkpoint", method.name());
        report(Check {
            name,
            error: distance(&straight, &second),
            tolerance: if exact { 0.0 } else { 1e-6 },
        });
    }
    Ok(())
}

fn steps(
    model: &mut Llama,
    state: &mut OptimizerState,
    range: std::ops::Range<usize>,
) -> Result<(), Failure> {
    for step in range {
        let (_, mut sums) = gradients(model, &toy::row(&batch(4), step % 4), false)?;
        state.begin_update();
        model.visit_mut(&mut |param| {
            if let Some(gradient) = sums.remove(param.name()) {
                state.update(&AdamW::default(), 1e-2, param, gradient);
            }
        });
    }
    Ok(())
}

fn distance(a: &Llama, b: &Llama) -> f64 {
    let mut all = std::collections::BTreeMap::new();
    a.visit(&mut |param| {
        all.insert(param.name().to_owned(), toy::values(param.plain()));
    });
    let mut worst = 0.0_f64;
    b.visit(&mut |param| {
        worst = worst.max(toy::relative_error(
            &toy::values(param.plain()),
            &all[param.name()],
        ));
    });
    worst
}
