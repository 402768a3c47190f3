//! LLaMA against transformers: logits, hidden states, loss, every gradient, greedy generation.
//! Tolerances are those of `tests/golden/llama/README.md`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};
use common::{assert_close, ids, integers, values};
use temper_adapters::Parameters;
use temper_adapters::weights::{Checkpoint, Dtype};
use temper_models::{Layout, Llama, Segment, TokenBatch};

fn case(name: &str) -> PathBuf {
    common::case("llama").join(name)
}

struct Batch {
    file: Checkpoint,
    tokens: TokenBatch,
    mask: Vec<i64>,
}

/// The batch of `io.safetensors`, right-padded: padding sees only itself.
fn batch(name: &str) -> Batch {
    let file = Checkpoint::open(case(name).join("io.safetensors")).unwrap();
    let shape = file.info("input_ids").unwrap().shape.clone();
    let mask = integers(&file, "attention_mask");
    let column = |i: usize| (i % shape[1]) as u32;
    let starts = (0..mask.len())
        .map(|i| if mask[i] == 0 { column(i) } else { 0 })
        .collect();
    let tokens = TokenBatch {
        shape: [shape[0], shape[1]],
        input_ids: ids(&file, "input_ids"),
        labels: integers(&file, "labels")
            .into_iter()
            .map(|label| label as i32)
            .collect(),
        starts,
        positions: (0..mask.len()).map(column).collect(),
    };
    Batch { file, tokens, mask }
}

fn model(name: &str, device: &Device) -> Llama {
    Llama::load(&case(name).join("model"), FloatDType::F32, device).unwrap()
}

#[test]
fn logits_and_hidden_states_match_transformers() {
    for name in ["gqa", "mha"] {
        let Batch {
            file,
            tokens: batch,
            mask,
        } = batch(name);
        let model = model(name, &Device::flex());
        let layout = Layout::new(
            batch.shape,
            &batch.positions,
            &batch.starts,
            &model.config().rope(),
        );
        let states = model.hidden_states(&batch.input_ids, &layout).unwrap();
        let real = |flat: &[f32], width: usize| -> Vec<f32> {
            flat.chunks(width)
                .zip(&mask)
                .filter(|(_, mask)| **mask == 1)
                .flat_map(|(row, _)| row.to_vec())
                .collect()
        };
        for (i, state) in states.iter().enumerate() {
            let expected = file.read_f32(&format!("hidden_states.{i}")).unwrap();
            let width = model.config().hidden_size;
            let what = format!("{name} hidden_states.{i}");
            assert_close(
                &what,
                &real(&values(state.clone()), width),
                &real(&expected, width),
                1e-4,
                1e-4,
            );
        }
        assert!(
            file.info(&format!("hidden_states.{}", states.len()))
                .is_none()
        );
        let logits = values(model.project(states[states.len() - 1].clone()));
        let vocabulary = model.config().vocab_size;
        let expected = real(&file.read_f32("logits").unwrap(), vocabulary);
        assert_close(
            &format!("{name} logits"),
            &real(&logits, vocabulary),
            &expected,
            1e-4,
            1e-4,
        );
    }
}

#[test]
fn loss_and_every_gradient_match_pytorch_with_and_without_recomputation() {
    for name in ["gqa", "mha"] {
        let Batch {
            file,
            tokens: batch,
            ..
        } = batch(name);
        let mut model = model(name, &Device::flex());
        model.visit_mut(&mut |param| param.set_trainable(true));
        let expected_loss = file.read_f32("loss").unwrap()[0];
        let golden = Checkpoint::open(case(name).join("grads.safetensors")).unwrap();
        for recompute in [false, true] {
            let mut sums = BTreeMap::new();
            let loss = model
                .accumulate(&batch, 1.0 / batch.targets() as f64, recompute, &mut sums)
                .unwrap();
            let loss = loss.into_scalar::<f32>();
            assert!(
                (loss - expected_loss).abs() < 1e-5 * expected_loss.abs(),
                "{name}: {loss} vs {expected_loss}"
            );
            assert_eq!(
                sums.len(),
                golden.len(),
                "{name}: one gradient for every parameter"
            );
            for (parameter, gradient) in sums {
                let expected = golden.read_f32(&parameter).unwrap();
                assert_close(
                    &format!("{name} {parameter}"),
                    &values(gradient),
                    &expected,
                    1e-3,
                    1e-6,
                );
            }
        }
    }
}

/// Greedy ids of rows that come padded on the left, as the reference wants them; here each has its slot and no padding. Rows
/// that have ended go on with zeros.
fn greedy(model: &Llama, prompt: &[u32], padding: &[usize], new: usize) -> Vec<u32> {
    let tokens = prompt.len() / padding.len();
    let mut cache = model.cache(padding.len(), tokens + new).unwrap();
    let mut out = vec![Vec::new(); padding.len()];
    let mut next: Vec<Vec<u32>> = prompt
        .chunks(tokens)
        .zip(padding)
        .map(|(row, &padding)| row[padding..].to_vec())
        .collect();
    for _ in 0..new {
        let segments: Vec<Segment<'_>> = (0..)
            .zip(&next)
            .filter(|(_, ids)| !ids.is_empty())
            .map(|(slot, ids)| Segment { slot, ids })
            .collect();
        if segments.is_empty() {
            break;
        }
        let best = model.read(&segments, &mut cache).unwrap().argmax(1);
        let best: Vec<i64> = best.into_data().iter::<i64>().collect();
        let mut chosen = vec![None; padding.len()];
        for (segment, id) in segments.iter().zip(best) {
            chosen[segment.slot] = Some(id as u32);
        }
        for ((row, next), id) in out.iter_mut().zip(&mut next).zip(chosen) {
            row.push(id.unwrap_or(0));
            *next = id.into_iter().filter(|&id| id != 2).collect();
        }
    }
    out.concat()
}

#[test]
fn greedy_generation_matches_transformers_alone_and_left_padded() {
    for name in ["gqa", "mha"] {
        let file = Checkpoint::open(case(name).join("generation.safetensors")).unwrap();
        let model = model(name, &Device::flex());
        let greedy = |prompt: &[u32], padding: &[usize], new| greedy(&model, prompt, padding, new);
        let prompt = ids(&file, "prompt");
        let expected = ids(&file, "greedy");
        let expected = expected
            .strip_prefix(prompt.as_slice())
            .unwrap_or(&expected);
        assert_eq!(
            greedy(&prompt, &[0], expected.len()),
            expected,
            "{name} greedy"
        );
        let padded = ids(&file, "left_padded_prompt");
        let mask = integers(&file, "left_pad_mask");
        let shape = file.info("left_padded_prompt").unwrap().shape.clone();
        let padding: Vec<usize> = mask
            .chunks(shape[1])
            .map(|row| row.iter().take_while(|&&m| m == 0).count())
            .collect();
        let all = ids(&file, "greedy_batch");
        let width = file.info("greedy_batch").unwrap().shape[1];
        let skip = if width > 12 { shape[1] } else { 0 };
        let expected: Vec<u32> = all
            .chunks(width)
            .flat_map(|row| row[skip..].to_vec())
            .collect();
        assert_eq!(
            greedy(&padded, &padding, width - skip),
            expected,
            "{name} greedy_batch"
        );
    }
}

#[test]
fn saving_and_loading_gives_the_same_logits() {
    let directory = tempfile::tempdir().unwrap();
    let first = model("gqa", &Device::flex());
    // 64 kB shards: the index and several files are written.
    first.save(directory.path(), Dtype::F32, 65_536).unwrap();
    assert!(
        directory
            .path()
            .join("model.safetensors.index.json")
            .exists()
    );
    let shards = || std::fs::read_dir(directory.path()).unwrap().count();
    let many = shards();
    first.save(directory.path(), Dtype::F32, 131_072).unwrap();
    assert!(shards() < many, "shards of the earlier save are gone");
    let second = Llama::load(directory.path(), FloatDType::F32, &Device::flex()).unwrap();
    let logits = |model: &Llama| values(model.logits(&[1, 5, 9], [1, 3]).unwrap());
    assert_eq!(logits(&first), logits(&second));
}

#[test]
fn a_changed_document_moves_no_logit_of_its_neighbours_in_the_same_row() {
    let model = model("gqa", &Device::flex());
    let positions: Vec<u32> = (0..5).chain(0..6).chain(0..4).collect();
    let starts: Vec<u32> = [vec![0; 5], vec![5; 6], vec![11; 4]].concat();
    let layout = Layout::new([1, 15], &positions, &starts, &model.config().rope());
    let logits = |ids: &[u32]| {
        let states = model.hidden_states(ids, &layout).unwrap();
        values(model.project(states[states.len() - 1].clone()))
    };
    let mut ids: Vec<u32> = (10..25).collect();
    let before = logits(&ids);
    ids[5..11].fill(77);
    let after = logits(&ids);
    let vocabulary = model.config().vocab_size;
    let moved: Vec<usize> = (0..15)
        .filter(|t| before[t * vocabulary..][..vocabulary] != after[t * vocabulary..][..vocabulary])
        .collect();
    assert_eq!(
        moved,
        (5..11).collect::<Vec<_>>(),
        "only the changed document's own logits move"
    );
    // The middle document alone in a row gives the same logits: nothing of its neighbours reached it.
    let alone = values(model.logits(&[77; 6], [1, 6]).unwrap());
    assert_close(
        "packed against alone",
        &after[5 * vocabulary..11 * vocabulary],
        &alone,
        1e-5,
        1e-5,
    );
}
