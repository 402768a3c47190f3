//! Checkpoints in one file, in the layouts of the original programs, through the commands that take a model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use temper_adapters::weights::{Checkpoint, Dtype, HostTensor, save_safetensors};
use temper_datasets::images::{Photo, read};
use temper_models::SchedulerConfig;

use super::files::copy_all;
use super::names::{Tensors, open_clip, prefixed, unet, vae};
use super::support::{fail, path, succeed, text};

/// The same model as a directory and in one file, each with its tokenizer.
struct Model {
    folder: tempfile::TempDir,
    directory: PathBuf,
    file: PathBuf,
}

fn edit(directory: &Path, file: &str, changes: &Value) {
    let file = directory.join(file);
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(file, config.to_string()).unwrap();
}

/// The only weights of a part.
fn weights(directory: &Path, part: &str) -> PathBuf {
    let entries = std::fs::read_dir(directory.join(part)).unwrap();
    let mut files = entries.map(|entry| entry.unwrap().path());
    files
        .find(|file| file.extension().is_some_and(|kind| kind == "safetensors"))
        .unwrap()
}

fn open(directory: &Path, part: &str) -> Checkpoint {
    Checkpoint::open(weights(directory, part)).unwrap()
}

impl Model {
    /// A copy of a tiny pipeline, with what its file does not say as the published models have it: heads, groups, the sampler.
    fn copy(case: &str, sampler: &str, heads: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (directory, alone) = (folder.path().join("pipeline"), folder.path().join("one"));
        copy_all(&path("tests/golden/diffusion").join(case), &directory);
        copy_all(&directory.join("tokenizer"), &alone.join("tokenizer"));
        let scheduler = SchedulerConfig::stable_diffusion(sampler).unwrap();
        let scheduler = scheduler.to_json().to_string();
        std::fs::write(directory.join("scheduler/scheduler_config.json"), scheduler).unwrap();
        let changes = json!({"attention_head_dim": heads, "norm_num_groups": 8});
        edit(&directory, "unet/config.json", &changes);
        edit(
            &directory,
            "vae/config.json",
            &json!({"norm_num_groups": 8}),
        );
        Self {
            file: alone.join("model.safetensors"),
            directory,
            folder,
        }
    }

    fn write(&self, tensors: &Tensors) {
        save_safetensors(&self.file, tensors, &BTreeMap::new()).unwrap();
    }

    fn sd1() -> Self {
        let model = Self::copy("pipeline", "ddim", 8);
        let text = json!({"num_attention_heads": 1});
        edit(&model.directory, "text_encoder/config.json", &text);
        let mut tensors = Tensors::new();
        unet(&open(&model.directory, "unet"), &mut tensors);
        let autoencoder = open(&model.directory, "vae");
        vae(&autoencoder, "first_stage_model.", &mut tensors);
        let text = open(&model.directory, "text_encoder");
        prefixed(&text, "cond_stage_model.transformer.", &mut tensors);
        model.write(&tensors);
        model
    }

    /// Each size is told in 256 numbers here, as files of SDXL have it; the tiny pipeline has fewer.
    fn xl() -> Self {
        let model = Self::copy("pipeline_sdxl", "euler", 1);
        let sizes = json!({"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 10 + 6 * 256});
        edit(&model.directory, "unet/config.json", &sizes);
        let ends = json!({"num_attention_heads": 1});
        for part in ["text_encoder", "text_encoder_2"] {
            edit(&model.directory, &format!("{part}/config.json"), &ends);
        }
        for file in ["special_tokens_map.json", "tokenizer_config.json"] {
            let padding = json!({"pad_token": "!"});
            edit(&model.directory.join("tokenizer_2"), file, &padding);
        }
        for tokenizer in [
            model.directory.join("tokenizer"),
            model.directory.join("tokenizer_2"),
            model.file.with_file_name("tokenizer"),
        ] {
            edit(&tokenizer, "vocab.json", &json!({"!": 0}));
        }
        let unet_file = weights(&model.directory, "unet");
        let source = Checkpoint::open(&unet_file).unwrap();
        let wider: Vec<(String, HostTensor)> = source
            .names()
            .map(|name| {
                let tensor = source.read(name).unwrap();
                (name.to_owned(), widened(name, tensor))
            })
            .collect();
        save_safetensors(&unet_file, &wider, &BTreeMap::new()).unwrap();
        let mut tensors = Tensors::new();
        unet(&Checkpoint::open(&unet_file).unwrap(), &mut tensors);
        let autoencoder = open(&model.directory, "vae");
        vae(&autoencoder, "first_stage_model.", &mut tensors);
        let first = open(&model.directory, "text_encoder");
        prefixed(&first, "conditioner.embedders.0.transformer.", &mut tensors);
        let second = open(&model.directory, "text_encoder_2");
        open_clip(&second, "conditioner.embedders.1.model.", 3, &mut tensors);
        model.write(&tensors);
        model
    }

    /// What `temper sample` draws with `model`.
    fn draw(&self, model: &Path, more: &[&str]) -> Photo {
        let file = self.folder.path().join("drawn.png");
        let prompt = ["--prompt", "a photo of sks dog", "--negative-prompt", "cat"];
        let size = ["--width", "16", "--height", "16", "--steps", "3"];
        let places = ["sample", "--model", text(model), "--output", text(&file)];
        let precision = ["--compute", "f32", "--overwrite"];
        succeed(&[&places[..], &prompt, &size, &precision, more].concat());
        read(&file).unwrap()
    }

    /// Two steps of OFT on photographs: the losses, and where the adapter lies.
    fn train(&self, model: &Path, name: &str) -> (Vec<f64>, PathBuf) {
        let run = self.folder.path().join(name);
        let recipe = self.folder.path().join(format!("{name}.toml"));
        let photos = path("assets/dreambooth/dog6");
        let written = format!(
            "device = \"cpu\"\n[model]\npath = {model:?}\n[adapter]\nkind = \"oft\"\noft_block_size = 4\n[precision]\ncompute = \"f32\"\n\
             [images]\npath = {photos:?}\ninstance_prompt = \"a photo of sks dog\"\nresolution = 16\n\
             [train]\nsteps = 2\nbatch_size = 2\nlr = 0.05\n[validation]\nimages = 0\n[sample]\ncount = 0\n[run]\ndir = {run:?}\n"
        );
        std::fs::write(&recipe, written).unwrap();
        for more in [&["--dry-run"][..], &["--quiet"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_temper"));
            let output = command.arg("train").arg(&recipe).args(more).output();
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name} {more:?}: {said}");
        }
        let rows = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
        (rows.lines().filter_map(loss).collect(), run.join("adapter"))
    }

    /// Directory and file draw, learn and measure the same.
    fn assert_same(&self) {
        let [here, there] = [&self.directory, &self.file].map(|model| self.draw(model, &[]));
        assert!(here == there, "the pictures differ");
        let (losses, _) = self.train(&self.directory, "of-directory");
        let (again, adapter) = self.train(&self.file, "of-file");
        assert_eq!(losses.len(), 2);
        assert_eq!(again, losses);
        let with = ["--adapter", text(&adapter)];
        let [here_now, there_now] =
            [&self.directory, &self.file].map(|model| self.draw(model, &with));
        assert!(here_now == there_now && here_now != here);
        let energy = |model: &Path| -> Value {
            let places = ["energy", "--model", text(model), "--json"];
            let said = succeed(&[&places[..], &with].concat());
            serde_json::from_str::<Value>(&said).unwrap()["energies"].clone()
        };
        let energies = energy(&self.directory);
        assert!(!energies.as_array().unwrap().is_empty());
        assert_eq!(energy(&self.file), energies);
        // A file as what is measured against: nothing of it is changed.
        let places = ["energy", "--model", text(&self.directory), "--json"];
        let said = succeed(&[&places[..], &["--adapter", text(&self.file)]].concat());
        let report: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(report["totals"][0]["largest_of_a_layer"], 0.0, "{said}");
    }
}

/// Columns for 256 numbers a size instead of eight.
fn widened(name: &str, tensor: HostTensor) -> HostTensor {
    if name != "add_embedding.linear_1.weight" {
        return tensor;
    }
    let (rows, columns) = (tensor.shape()[0], 10 + 6 * 256);
    let value = |i: usize| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.05;
    let values: Vec<f32> = (0..rows * columns).map(value).collect();
    HostTensor::from_f32(Dtype::F16, vec![rows, columns], &values).unwrap()
}

#[test]
fn a_1x_model_in_one_file_draws_learns_and_measures_what_its_directory_does() {
    Model::sd1().assert_same();
}

#[test]
fn an_xl_model_in_one_file_draws_learns_and_measures_what_its_directory_does() {
    Model::xl().assert_same();
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let adapter = path("tests/golden/oft/unet_oft_attn/adapter/adapter_model.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.png");
    let places = ["--model", text(&adapter), "--output", text(&out)];
    let message = fail(1, &[&["sample", "--prompt", "dog"], &places[..]].concat());
    assert!(message.contains("input_blocks.0.0.weight"), "{message}");
    let message = fail(
        1,
        &[
            "energy",
            "--model",
            text(&adapter),
            "--adapter",
            text(&adapter),
        ],
    );
    assert!(message.contains("input_blocks.0.0.weight"), "{message}");
}
