//! What must hold on any device: gradients are derivatives, and the shape of a batch changes nothing.

use burn::tensor::{Device, FloatDType};
use temper_adapters::{Adaptable, Parameters};
use temper_models::{Gradients, IGNORE, Llama, TokenBatch};

use super::toy::{
    self, Method, batch, distance, gradient_error, gradients as loss_and_gradients, relative_error,
    values,
};
use super::{Check, Report};
use crate::Failure;
use crate::train::{AdamW, OptimizerState};

fn check(report: Report<'_>, name: impl Into<String>, error: f64, tolerance: f64) {
    report(Check {
        name: name.into(),
        error,
        tolerance,
    });
}

/// Analytic directional derivatives against central differences, for every kind of trained tensor.
pub(super) fn gradients(device: &Device, report: Report<'_>) -> Result<(), Failure> {
    let rows = batch(2);
    for method in Method::ALL {
        let mut model = method.model(FloatDType::F32, device)?;
        let (_, sums) = loss_and_gradients(&model, &rows, false)?;
        let mut worst: (f64, String) = (0.0, String::new());
        // DoRA takes the norm of W + sBA as a constant, so that A and B do not follow the true slope, by design.
        let followed = |name: &&String| {
            let detached = matches!(method, Method::Dora) && !name.contains("magnitude");
            !name.contains("layers.1") && !detached
        };
        let names: Vec<String> = sums.keys().filter(followed).cloned().collect();
        for name in names {
            let error = directional_error(&mut model, &rows, &name, &sums)?;
            if error.is_nan() || error >= worst.0 {
                worst = (error, name);
            }
        }
        let short = worst
            .1
            .rsplit_once('.')
            .map_or(worst.1.as_str(), |(head, _)| head);
        let short = short
            .trim_start_matches("base_model.model.")
            .trim_start_matches("model.");
        check(
            report,
            format!("gradient check, {} (worst: {short})", method.name()),
            worst.0,
            2e-2,
        );
    }
    Ok(())
}

fn directional_error(
    model: &mut Llama,
    rows: &TokenBatch,
    name: &str,
    sums: &Gradients,
) -> Result<f64, Failure> {
    let gradient = values(sums[name].clone());
    let size = gradient
        .iter()
        .map(|g| f64::from(g * g))
        .sum::<f64>()
        .sqrt();
    if size < 1e-7 {
        return Ok(0.0);
    }
    // Along the gradient itself the slope is its norm, far above rounding.
    let device = model.device();
    let direction: Vec<f32> = gradient
        .iter()
        .map(|g| (f64::from(*g) / size) as f32)
        .collect();
    let n = direction.len();
    let direction = burn::tensor::Tensor::<1>::from_data(
        burn::tensor::TensorData::new(direction, [n]),
        &device,
    );
    let mut original = None;
    model.visit(&mut |param| {
        if param.name() == name {
            original = Some(param.plain());
        }
    });
    let Some(original) = original else {
        return Ok(f64::INFINITY);
    };
    let norm = values(original.clone())
        .iter()
        .map(|v| f64::from(v * v))
        .sum::<f64>()
        .sqrt();
    let step = (3e-3 * norm).clamp(1e-3, 3e-2);
    let mut at = |shift: f64| -> Result<f64, Failure> {
        model.visit_mut(&mut |param| {
            if param.name() == name {
                param.set(original.clone() + direction.clone().mul_scalar(shift));
            }
        });
        Ok(f64::from(
            model
                .frozen()
                .loss(rows, 1.0 / rows.targets() as f64)?
                .into_scalar::<f32>(),
        ))
    };
    let slope = (at(step)? - at(-step)?) / (2.0 * step);
    at(0.0)?;
    // Losses of about 4 carry 5e-7 of rounding; slopes below that over the step cannot be measured.
    let floor = 2e-6 / step;
    Ok((slope - size).abs() / size.max(floor))
}

/// One batch of 8 rows equals 8 batches of 1: the divisor is the step's number of targets. What remains is f32 sums in another order.
pub(super) fn accumulation(device: &Device, report: Report<'_>) -> Result<(), Failure> {
    let rows = batch(8);
    for method in [Method::Full, Method::OftSeries] {
        let model = method.model(FloatDType::F32, device)?;
        let (loss, whole) = loss_and_gradients(&model, &rows, false)?;
        let mut parts = Gradients::new();
        let mut sum = 0.0;
        for index in 0..8 {
            let part = toy::row(&rows, index);
            let value = model.accumulate(&part, 1.0 / rows.targets() as f64, false, &mut parts)?;
            sum += f64::from(value.into_scalar::<f32>());
        }
        check(
            report,
            format!("accumulation, {}: loss of 1x8 = 8x1", method.name()),
            (loss - sum).abs() / loss,
            1e-6,
        );
        check(
            report,
            format!("accumulation, {}: gradients of 1x8 = 8x1", method.name()),
            distance(&parts, &whole),
            3e-6,
        );
    }
    Ok(())
}

/// Recomputing blocks in the backward pass changes no gradient.
pub(super) fn recomputation(device: &Device, report: Report<'_>) -> Result<(), Failure> {
    let rows = batch(2);
    for method in [Method::Full, Method::Lora] {
        let model = method.model(FloatDType::F32, device)?;
        let (_, whole) = loss_and_gradients(&model, &rows, false)?;
        let (_, segments) = loss_and_gradients(&model, &rows, true)?;
        check(
            report,
            format!("gradient checkpointing, {}", method.name()),
            gradient_error(&segments, &whole),
            // The recomputed forward pass runs outside the graph, where products sum in another order; how far that is felt
            // depends on the vector unit.
            1e-5,
        );
    }
    Ok(())
}

/// Three documents in one row: none sees another, and together they cost what they cost apart.
pub(super) fn packing(device: &Device, report: Report<'_>) -> Result<(), Failure> {
    let model = Method::Full.model(FloatDType::F32, device)?.frozen();
    let ids = toy::batch(1).input_ids;
    let packed = |ids: &[u32], only: std::ops::Range<usize>| {
        let bounds = [0, 5, 9, 12];
        let mut batch = TokenBatch::unpadded([1, 12], ids.to_vec());
        for window in bounds.windows(2) {
            for t in window[0]..window[1] {
                batch.starts[t] = window[0] as u32;
                batch.positions[t] = (t - window[0]) as u32;
            }
            batch.labels[window[0]] = IGNORE;
        }
        (0..12)
            .filter(|t| !only.contains(t))
            .for_each(|t| batch.labels[t] = IGNORE);
        batch
    };
    let loss = |batch: &TokenBatch| -> Result<f64, Failure> {
        Ok(f64::from(model.loss(batch, 1.0)?.into_scalar::<f32>()))
    };
    let before = loss(&packed(&ids, 5..9))?;
    let mut changed = ids.clone();
    changed[..5].fill(33);
    changed[9..].fill(44);
    let after = loss(&packed(&changed, 5..9))?;
    check(
        report,
        "packing: other documents changed, this loss moved by",
        (before - after).abs(),
        0.0,
    );
    let mut alone = 0.0;
    for window in [0..5, 5..9, 9..12] {
        alone += loss(&TokenBatch::unpadded(
            [1, window.len()],
            ids[window].to_vec(),
        ))?;
    }
    let together = loss(&packed(&ids, 0..12))?;
    check(
        report,
        "packing: loss of a packed row = documents alone",
        (together - alone).abs() / alone,
        1e-6,
    );
    Ok(())
}

/// Folding an adapter into the weights changes no logit.
pub(super) fn merge(device: &Device, report: Report<'_>) -> Result<(), Failure> {
    let ids = toy::batch(1).input_ids;
    for method in [
        Method::OftSeries,
        Method::OftExact,
        Method::Lora,
        Method::Dora,
    ] {
        let mut model = method.model(FloatDType::F32, device)?.frozen();
        let before = values(model.logits(&ids, [1, toy::TOKENS])?);
        Adaptable::merge(&mut model);
        let after = values(model.logits(&ids, [1, toy::TOKENS])?);
        check(
            report,
            format!("merge, {}: logits", method.name()),
            relative_error(&after, &before),
            1e-5,
        );
    }
    Ok(())
}

/// After one step every trained tensor has moved and no other has.
pub(super) fn audit(device: &Device, report: Report<'_>) -> Result<(), Failure> {
    for method in Method::ALL {
        let mut model = method.model(FloatDType::F32, device)?;
        let snapshot = |model: &Llama| {
            let mut all = std::collections::BTreeMap::new();
            model.visit(&mut |param| {
                all.insert(
                    param.name().to_owned(),
                    (values(param.plain()), param.is_trainable()),
                );
            });
            all
        };
        let before = snapshot(&model);
        let (_, mut sums) = loss_and_gradients(&model, &batch(4), false)?;
        let mut optimizer = OptimizerState::default();
        optimizer.begin_update();
        model.visit_mut(&mut |param| {
            if let Some(gradient) = sums.remove(param.name()) {
                optimizer.update(&AdamW::default(), 1e-3, param, gradient);
            }
        });
        let after = snapshot(&model);
        let wrong = |(name, (old, trained)): (&String, &(Vec<f32>, bool))| {
            (after[name].0 != *old) != *trained
        };
        let count = before.iter().filter(|entry| wrong(*entry)).count();
        check(
            report,
            format!(
                "audit, {}: tensors frozen that moved or trained that did not",
                method.name()
            ),
            count as f64,
            0.0,
        );
    }
    Ok(())
}
