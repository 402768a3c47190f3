//! `temper forward`.

use temper_adapters::weights::{Checkpoint, Dtype, HostTensor};

use super::support::{Files, assert_close, fail, integers, oft_case, path, tensor, text, write};

/// The values of `key` at positions that are no padding.
fn real(file: &Checkpoint, key: &str, mask: &[i64]) -> Vec<f32> {
    let width = file.info(key).unwrap().shape[2];
    let values = file.read_f32(key).unwrap();
    let rows = values.chunks(width).zip(mask);
    rows.filter(|(_, mask)| **mask == 1)
        .flat_map(|(row, _)| row.to_vec())
        .collect()
}

#[test]
fn forward_gives_the_logits_loss_and_hidden_states_of_transformers() {
    let files = Files::new();
    for name in ["gqa", "mha"] {
        let case = path("tests/golden/llama").join(name);
        let golden = Checkpoint::open(case.join("io.safetensors")).unwrap();
        let inputs = ["input_ids", "attention_mask", "labels"];
        write(
            &files.input,
            &inputs.map(|name| (name, golden.read(name).unwrap())),
        );
        let ours = files.forward(&case.join("model"), &["--hidden-states"]);
        let mask = integers(&golden, "attention_mask");
        let outputs: Vec<&str> = golden
            .names()
            .filter(|name| !inputs.contains(name))
            .collect();
        assert_eq!(
            ours.names().collect::<Vec<_>>(),
            outputs,
            "every output and no other"
        );
        for key in outputs.into_iter().filter(|key| *key != "loss") {
            assert_eq!(
                ours.info(key).unwrap().shape,
                golden.info(key).unwrap().shape,
                "{key}"
            );
            let what = format!("{name} {key}");
            let (ours, theirs) = (real(&ours, key, &mask), real(&golden, key, &mask));
            assert_close(&what, &ours, &theirs, (1e-4, 1e-4));
        }
        assert_eq!(ours.info("loss").unwrap().shape, [1]);
        let [ours, theirs] = [&ours, &golden].map(|file| file.read_f32("loss").unwrap());
        assert_close("loss", &ours, &theirs, (1e-5, 0.0));
    }
}

#[test]
fn left_padding_moves_no_logit_and_positions_can_be_given() {
    let files = Files::new();
    let model = path("tests/golden/llama/gqa/model");
    let logits = |tensors: &[(&str, HostTensor)]| {
        write(&files.input, tensors);
        files.logits(&model, &[])
    };
    let ids = || ("input_ids", tensor(&[1, 3], &[1, 9, 17]));
    let alone = logits(&[ids()]);
    let padded = logits(&[
        ("input_ids", tensor(&[1, 5], &[0, 0, 1, 9, 17])),
        ("attention_mask", tensor(&[1, 5], &[0, 0, 1, 1, 1])),
    ]);
    assert_close("left padded", &padded[2 * 256..], &alone, (1e-4, 1e-4));
    let stretched = logits(&[ids(), ("position_ids", tensor(&[1, 3], &[0, 4, 9]))]);
    assert_close(
        "the first token sees no distance",
        &stretched[..256],
        &alone[..256],
        (1e-4, 1e-4),
    );
    let moved = stretched[256..]
        .iter()
        .zip(&alone[256..])
        .any(|(a, b)| (a - b).abs() > 1e-3);
    assert!(moved, "distances between tokens change what follows");
}

#[test]
fn forward_with_an_adapter_gives_the_logits_of_peft_merged_or_not() {
    for name in [
        "llama_oft_all_cn",
        "llama_oft_qkvo_exact",
        "llama_coft_share",
        "llama_lora_all",
    ] {
        let files = Files::new();
        let (model, adapter, io) = oft_case(name, &files);
        let adapted = ["--adapter", text(&adapter)];
        let merged = ["--adapter", text(&adapter), "--merge"];
        let cases = [
            ("y_base", &[][..]),
            ("y_adapter", &adapted[..]),
            ("y_merged", &merged[..]),
        ];
        for (expected, more) in cases {
            let ours = files.logits(&model, more);
            let theirs = io.read_f32(expected).unwrap();
            assert_close(&format!("{name} {expected}"), &ours, &theirs, (1e-4, 1e-5));
        }
    }
}

#[test]
fn wrong_inputs_of_forward_are_named() {
    let files = Files::new();
    let model = path("tests/golden/llama/gqa/model");
    let check = |tensors: &[(&str, HostTensor)], words: &[&str]| {
        write(&files.input, tensors);
        let message = fail(1, &files.args(&model, &[]));
        assert!(!files.output.exists(), "nothing is written");
        assert!(
            words.iter().all(|word| message.contains(word)),
            "{words:?} in {message}"
        );
    };
    let ids = || ("input_ids", tensor(&[1, 4], &[1, 2, 3, 4]));
    let mask = |shape: &[usize], mask: &[i64]| ("attention_mask", tensor(shape, mask));
    let names = ["`pixel_values`", "`attention_mask`", "`labels`"];
    check(&[ids(), ("pixel_values", tensor(&[1], &[1]))], &names);
    check(
        &[ids(), mask(&[1, 4], &[1, 0, 1, 1])],
        &["row 0, column 1", "padding"],
    );
    check(
        &[ids(), mask(&[4], &[1; 4])],
        &["`attention_mask`", "[1, 4]"],
    );
    check(
        &[("input_ids", tensor(&[1, 2], &[1, 256]))],
        &["256", "vocabulary"],
    );
    check(
        &[("input_ids", tensor(&[1, 2], &[1, -1]))],
        &["-1", "column 1"],
    );
    check(
        &[("input_ids", tensor(&[2, 0], &[]))],
        &["at least one token"],
    );
    check(
        &[ids(), ("labels", tensor(&[1, 4], &[1, 2, 3, 999]))],
        &["`labels` is 999", "column 3"],
    );
    let floats = HostTensor::from_f32(Dtype::F32, vec![1, 1], &[1.0]).unwrap();
    check(&[("input_ids", floats)], &["F32", "I64"]);
    check(&[mask(&[1, 4], &[1; 4])], &["input_ids"]);
}
