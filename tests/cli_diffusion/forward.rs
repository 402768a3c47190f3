//! `temper forward` of the networks of diffusion.

use std::path::Path;

use temper_adapters::weights::{Checkpoint, Dtype, HostTensor};

use super::adapters::golden_unet;
use super::support::{Files, assert_close, fail, path, tensor, text, write};

fn golden(name: &str) -> std::path::PathBuf {
    path("tests/golden/diffusion").join(name)
}

fn open(directory: &Path) -> Checkpoint {
    Checkpoint::open(directory.join("io.safetensors")).unwrap()
}

/// Compares an output with a golden tensor, shape and values.
fn check(
    what: &str,
    (ours, name): (&Checkpoint, &str),
    theirs: (&Checkpoint, &str),
    tolerance: (f32, f32),
) {
    let (io, key) = theirs;
    assert_eq!(
        ours.info(name).unwrap().shape,
        io.info(key).unwrap().shape,
        "{what}"
    );
    let [a, b] = [ours.read_f32(name).unwrap(), io.read_f32(key).unwrap()];
    assert_close(what, &a, &b, tolerance);
}

/// Writes the tensors `in.*` under their own names.
fn write_inputs(file: &Path, io: &Checkpoint) {
    let inputs: Vec<(&str, HostTensor)> = io
        .names()
        .filter_map(|name| Some((name.strip_prefix("in.")?, io.read(name).unwrap())))
        .collect();
    write(file, &inputs);
}

#[test]
fn unets_give_the_prediction_and_the_activations_of_diffusers() {
    for name in ["unet_sd15", "unet_sd2", "unet_sdxl"] {
        let (files, case) = (Files::new(), golden(name));
        let io = open(&case);
        write_inputs(&files.input, &io);
        let ours = files.forward(&model_of(&case), &["--activations"]);
        check(name, (&ours, "sample"), (&io, "y"), (1e-4, 1e-5));
        let activations: Vec<&str> = io.names().filter(|key| key.starts_with("act.")).collect();
        assert!(activations.len() >= 7, "{name}");
        for key in activations {
            check(
                &format!("{name} {key}"),
                (&ours, key),
                (&io, key),
                (1e-4, 1e-5),
            );
        }
    }
}

/// The directory of a case's network.
fn model_of(case: &Path) -> std::path::PathBuf {
    let inside = case.join("model");
    if inside.is_dir() {
        inside
    } else {
        case.to_owned()
    }
}

#[test]
fn unets_with_an_adapter_give_the_prediction_of_peft_merged_or_not() {
    for name in ["unet_oft_attn", "unet_coft_attn_cn", "unet_lora_attn"] {
        let files = Files::new();
        let (unet, adapter, io) = golden_unet(name, files.directory());
        write_inputs(&files.input, &io);
        let adapted = ["--adapter", text(&adapter)];
        let merged = ["--adapter", text(&adapter), "--merge"];
        let cases = [
            ("y_base", &[][..]),
            ("y_adapter", &adapted[..]),
            ("y_merged", &merged[..]),
        ];
        for (expected, more) in cases {
            let ours = files.forward(&unet, more);
            let what = format!("{name} {expected}");
            check(&what, (&ours, "sample"), (&io, expected), (1e-4, 1e-5));
        }
    }
}

#[test]
fn one_timestep_stands_for_all_rows_and_may_be_a_fraction() {
    let (files, case) = (Files::new(), golden("unet_sd15"));
    let io = open(&case);
    let run = |timestep: HostTensor| {
        let named = |name: &'static str| (name, io.read(&format!("in.{name}")).unwrap());
        let inputs = [
            named("sample"),
            named("encoder_hidden_states"),
            ("timestep", timestep),
        ];
        write(&files.input, &inputs);
        files
            .forward(&model_of(&case), &[])
            .read_f32("sample")
            .unwrap()
    };
    let float = |value: f32| HostTensor::from_f32(Dtype::F32, vec![], &[value]).unwrap();
    let whole = run(tensor(&[2], &[321, 321]));
    assert_eq!(run(tensor(&[1], &[321])), whole);
    assert_eq!(run(float(321.0)), whole);
    assert_ne!(run(float(321.5)), whole);
}

#[test]
fn autoencoders_give_the_posterior_and_the_pictures_of_diffusers() {
    let (files, case) = (Files::new(), golden("vae"));
    let io = open(&case);
    let inputs = [
        ("sample", io.read("x").unwrap()),
        ("latent", io.read("z").unwrap()),
    ];
    write(&files.input, &inputs);
    let ours = files.forward(&model_of(&case), &[]);
    let names: Vec<&str> = ours.names().collect();
    assert_eq!(names, ["logvar", "mean", "sample", "std"]);
    for name in ["mean", "logvar", "std"] {
        check(name, (&ours, name), (&io, name), (1e-4, 1e-4));
    }
    check("decoded", (&ours, "sample"), (&io, "decoded"), (1e-4, 1e-4));
    write(&files.input, &inputs[..1]);
    assert_eq!(
        files.forward(&model_of(&case), &[]).len(),
        3,
        "only what was asked for"
    );
}

#[test]
fn text_encoders_give_the_states_and_the_pooled_text_of_transformers() {
    for name in ["clip_quickgelu", "clip_gelu_eos2"] {
        let (files, case) = (Files::new(), golden(name));
        let io = open(&case);
        write(
            &files.input,
            &[("input_ids", io.read("input_ids").unwrap())],
        );
        let ours = files.forward(&model_of(&case), &["--hidden-states"]);
        for key in io.names().filter(|key| *key != "input_ids") {
            check(
                &format!("{name} {key}"),
                (&ours, key),
                (&io, key),
                (1e-4, 1e-5),
            );
        }
        assert_eq!(ours.len(), io.len() - 1, "every output and no other");
    }
}

#[test]
fn image_encoders_give_the_states_and_embeddings_of_transformers() {
    let case = path("tests/golden/vision/clip");
    let (files, io) = (Files::new(), open(&case));
    let pixels = |name: &str| write(&files.input, &[("pixel_values", io.read(name).unwrap())]);
    pixels("pixel_values");
    let ours = files.forward(&case, &[]);
    for (name, expected) in [
        ("last_hidden_state", "image_state"),
        ("pooler_output", "image_pooled"),
        ("image_embeds", "image_embeds"),
    ] {
        check(name, (&ours, name), (&io, expected), (1e-4, 1e-5));
    }
    assert_eq!(ours.len(), 3, "every output and no other");
    // The same directory holds the text side; the input says which is meant.
    let ids = io.read("input_ids").unwrap();
    write(&files.input, &[("input_ids", ids)]);
    let ours = files.forward(&case, &[]);
    check(
        "text",
        (&ours, "text_embeds"),
        (&io, "text_embeds"),
        (1e-4, 1e-5),
    );
}

#[test]
fn vision_transformers_give_the_states_of_transformers_at_any_size() {
    let case = path("tests/golden/vision/dino");
    let (files, io) = (Files::new(), open(&case));
    for [pixels, state] in [
        ["pixel_values", "last_hidden_state"],
        ["other_pixel_values", "other_last_hidden_state"],
    ] {
        write(&files.input, &[("pixel_values", io.read(pixels).unwrap())]);
        let ours = files.forward(&case, &[]);
        check(
            state,
            (&ours, "last_hidden_state"),
            (&io, state),
            (1e-4, 1e-4),
        );
        assert_eq!(ours.len(), 1);
    }
    let odd = HostTensor::from_f32(Dtype::F32, vec![1, 3, 4, 20], &[0.5; 240]).unwrap();
    write(&files.input, &[("pixel_values", odd)]);
    let message = fail(1, &files.args(&case, &[]));
    assert!(message.contains("[3, 4, 20]"), "{message}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one row a refusal")]
fn wrong_inputs_of_diffusion_networks_are_named() {
    let (files, case) = (Files::new(), golden("unet_sd15"));
    let io = open(&case);
    let named = |name: &'static str| (name, io.read(&format!("in.{name}")).unwrap());
    let floats = |shape: &[usize]| {
        let values = vec![0.5; shape.iter().product()];
        HostTensor::from_f32(Dtype::F32, shape.to_vec(), &values).unwrap()
    };
    let check = |model: &Path, tensors: &[(&str, HostTensor)], words: &[&str]| {
        write(&files.input, tensors);
        let message = fail(1, &files.args(model, &[]));
        assert!(!files.output.exists(), "nothing is written");
        for word in words {
            assert!(message.contains(word), "{word} in {message}");
        }
    };
    let model = model_of(&case);
    let all = |sample, timestep, states| {
        [
            ("sample", sample),
            ("timestep", timestep),
            ("encoder_hidden_states", states),
        ]
    };
    let states = || floats(&[2, 6, 16]);
    let steps = || tensor(&[2], &[1, 2]);
    check(
        &model,
        &all(floats(&[2, 3, 8, 8]), steps(), states()),
        &["sample", "3 channels", "4"],
    );
    check(
        &model,
        &all(floats(&[2, 4, 8]), steps(), states()),
        &["`sample`", "[2, 4, 8]"],
    );
    check(
        &model,
        &all(floats(&[2, 4, 8, 8]), tensor(&[3], &[1, 2, 3]), states()),
        &["`timestep`", "[2]"],
    );
    check(
        &model,
        &all(floats(&[2, 4, 8, 8]), steps(), floats(&[2, 6, 15])),
        &["encoder_hidden_states", "15", "16"],
    );
    check(
        &model,
        &[named("sample"), named("timestep")],
        &["encoder_hidden_states"],
    );
    check(
        &model,
        &[named("sample"), ("noise", floats(&[1]))],
        &["`noise`", "`time_ids`"],
    );
    let nan = HostTensor::from_f32(Dtype::F32, vec![1], &[f32::NAN]).unwrap();
    check(
        &model,
        &all(floats(&[2, 4, 8, 8]), nan, states()),
        &["`timestep`", "not finite"],
    );
    let ids = HostTensor::new(Dtype::BOOL, vec![2, 4, 8, 8], vec![1; 512]).unwrap();
    check(
        &model,
        &all(ids, steps(), states()),
        &["`sample`", "BOOL", "F32"],
    );
    let sdxl = model_of(&golden("unet_sdxl"));
    check(
        &sdxl,
        &all(floats(&[2, 4, 8, 8]), steps(), floats(&[2, 6, 20])),
        &["text_embeds"],
    );
    let vae = model_of(&golden("vae"));
    check(
        &vae,
        &[("latent", floats(&[1, 3, 4, 4]))],
        &["`latent`", "[rows, 4"],
    );
    let clip = model_of(&golden("clip_quickgelu"));
    check(
        &clip,
        &[("input_ids", tensor(&[1, 2], &[1, 99]))],
        &["99", "vocabulary"],
    );
    check(
        &clip,
        &[("input_ids", tensor(&[1, 13], &[1; 13]))],
        &["13 tokens", "12"],
    );
    let pipeline = golden("pipeline");
    write(&files.input, &[named("sample")]);
    let message = fail(2, &files.args(&pipeline, &[]));
    assert!(
        message.contains("whole pipeline") && message.contains("unet"),
        "{message}"
    );
}
