//! Whole pipelines through the library, against diffusers.

use super::files::copy_all;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use temper_adapters::weights::Checkpoint;
use temper_engine::device;
use temper_engine::diffusion::{
    Component, Conditioning, Denoiser, Guidance, Pipeline, PromptIds, SavePipeline,
};

use super::support::{assert_close, integers, path};

fn load(directory: &Path) -> Pipeline {
    let device = device::open("cpu").unwrap();
    Pipeline::open(directory, FloatDType::F32, &device).unwrap()
}

fn tensor<const D: usize>(file: &Checkpoint, name: &str) -> Tensor<D> {
    let shape: [usize; D] = file.info(name).unwrap().shape.clone().try_into().unwrap();
    let data = TensorData::new(file.read_f32(name).unwrap(), shape);
    Tensor::from_data(data, &Device::flex())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn ids(file: &Checkpoint, name: &str) -> PromptIds {
    let ids: Vec<u32> = integers(file, name).iter().map(|&id| id as u32).collect();
    PromptIds {
        tokens: vec![ids.len()],
        ids: vec![ids],
        rows: 1,
        truncated: Vec::new(),
    }
}

#[test]
fn guided_ddim_follows_the_latents_of_diffusers_step_by_step_to_the_same_picture() {
    let directory = path("tests/golden/diffusion/pipeline");
    let io = Checkpoint::open(directory.join("io.safetensors")).unwrap();
    let pipeline = load(&directory);
    let [negative, prompt] =
        ["uncond_ids", "prompt_ids"].map(|name| pipeline.encode_ids(&ids(&io, name), 0).unwrap());
    let both = Tensor::cat(vec![negative.hidden.clone(), prompt.hidden.clone()], 0);
    let expected = io.read_f32("text_emb").unwrap();
    assert_close("text_emb", &values(both), &expected, (1e-4, 1e-5));

    let denoiser = Denoiser {
        unet: &pipeline.unet,
        scheduler: &pipeline.scheduler,
        steps: 4,
        guidance: Guidance {
            scale: 7.5,
            rescale: 0.0,
        },
        prompt,
        negative: Some(negative),
        time_ids: None,
        control: None,
    };
    let mut trajectory = Vec::new();
    let latents = denoiser
        .run(
            tensor(&io, "latents"),
            &mut |_| unreachable!("DDIM adds no noise"),
            &mut |_, calls, latents| {
                assert_eq!(calls, 4);
                trajectory.extend(values(latents.clone()));
                ControlFlow::Continue(())
            },
        )
        .unwrap();
    let close = |what: &str, ours: &[f32]| {
        assert_close(what, ours, &io.read_f32(what).unwrap(), (0.0, 1e-3));
    };
    close("trajectory", &trajectory);
    let pixels = pipeline.decode(latents);
    close("image_raw", &values(pixels.clone()));
    close(
        "image01",
        &values(pixels.mul_scalar(0.5).add_scalar(0.5).clamp(0.0, 1.0)),
    );
}

/// One of the cases of `pipeline_sdxl`.
fn draw_xl(pipeline: &Pipeline, io: &Checkpoint, case: &Case<'_>) -> (Vec<f32>, Vec<f32>) {
    let encode = |text: &str, skip: usize| {
        let text = [text.to_owned()];
        pipeline.encode_prompts(&text, skip).unwrap()
    };
    let prompt = encode(case.prompt, case.clip_skip);
    // diffusers leaves out layers for the prompt alone.
    let negative = case.negative;
    let negative = negative.map_or_else(|| prompt.zeros(), |text| encode(text, 0));
    let sizes = [24.0, 16.0, 0.0, 0.0, 24.0, 16.0_f32];
    let denoiser = Denoiser {
        unet: &pipeline.unet,
        scheduler: &pipeline.scheduler,
        steps: 3,
        guidance: Guidance {
            scale: 5.0,
            rescale: case.rescale,
        },
        prompt,
        negative: Some(negative),
        time_ids: Some(Tensor::from_data([sizes], &Device::flex())),
        control: None,
    };
    let go_on = &mut |_: usize, _: usize, _: &Tensor<4>| ControlFlow::Continue(());
    let latents = denoiser
        .run(
            tensor(io, "latents"),
            &mut |_| unreachable!("Euler adds no noise"),
            go_on,
        )
        .unwrap();
    let pixels = pipeline.decode(latents.clone());
    let image = pixels.mul_scalar(0.5).add_scalar(0.5).clamp(0.0, 1.0);
    (values(latents), values(image))
}

struct Case<'a> {
    name: &'a str,
    prompt: &'a str,
    negative: Option<&'a str>,
    rescale: f64,
    clip_skip: usize,
}

#[test]
fn sdxl_with_two_encoders_sizes_and_half_precision_files_draws_what_diffusers_draws() {
    let directory = path("tests/golden/diffusion/pipeline_sdxl");
    let io = Checkpoint::open(directory.join("io.safetensors")).unwrap();
    let pipeline = load(&directory);
    let Conditioning { hidden, pooled } = pipeline
        .encode_prompts(&["a photo of sks dog".to_owned()], 0)
        .unwrap();
    let close = |what: &str, ours: &[f32], tolerance: (f32, f32)| {
        assert_close(what, ours, &io.read_f32(what).unwrap(), tolerance);
    };
    close("hidden", &values(hidden), (1e-4, 1e-5));
    close("pooled", &values(pooled.unwrap()), (1e-4, 1e-5));
    let cases = [
        Case {
            name: "plain",
            prompt: "a photo of sks dog",
            negative: None,
            rescale: 0.0,
            clip_skip: 0,
        },
        Case {
            name: "negative",
            prompt: "a red cat",
            negative: Some("dog"),
            rescale: 0.7,
            clip_skip: 1,
        },
    ];
    for case in cases {
        let (latents, image) = draw_xl(&pipeline, &io, &case);
        close(&format!("{}.denoised", case.name), &latents, (1e-3, 1e-3));
        close(&format!("{}.image01", case.name), &image, (0.0, 1e-3));
    }
}

/// A copy of the tiny pipeline, to break.
pub(super) fn copy_of_pipeline() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("pipeline");
    copy_all(&path("tests/golden/diffusion/pipeline"), &copy);
    (directory, copy)
}

#[test]
fn saving_writes_what_changed_and_keeps_everything_else() {
    let (directory, source) = copy_of_pipeline();
    std::fs::create_dir(source.join("safety_checker")).unwrap();
    std::fs::write(source.join("safety_checker/config.json"), "{}").unwrap();
    std::fs::write(source.join("LICENSE"), "free").unwrap();
    std::fs::write(source.join("v1-5.safetensors"), "the same in one file").unwrap();
    let pipeline = load(&source);
    let saved = directory.path().join("saved");
    let how = SavePipeline {
        changed: &[Component::Unet],
        dtype: None,
        max_shard_bytes: 100_000,
    };
    pipeline.save(&saved, &how).unwrap();
    let same = |file: &str| {
        let [old, new] = [&source, &saved].map(|root| std::fs::read(root.join(file)).unwrap());
        assert!(old == new, "{file}");
    };
    for file in [
        "model_index.json",
        "LICENSE",
        "safety_checker/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ] {
        same(file);
    }
    assert!(
        !saved.join("v1-5.safetensors").exists(),
        "the model before the change"
    );
    let index = "diffusion_pytorch_model.safetensors.index.json";
    assert!(saved.join("unet").join(index).is_file(), "several files");
    let [old, new] = [&source, &saved].map(|root| Checkpoint::open(root.join("unet")).unwrap());
    for name in old.names() {
        assert_eq!(old.bytes(name).unwrap(), new.bytes(name).unwrap(), "{name}");
    }
    let json = |root: &Path| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(root.join("unet/config.json")).unwrap())
            .unwrap()
    };
    assert_eq!(json(&source), json(&saved), "every key is kept");
}
