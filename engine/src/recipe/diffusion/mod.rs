//! Recipes that train latent diffusion models on images: OFT, COFT and LoRA on a few photographs (arXiv 2306.07280), control by an
//! image, full fine-tuning, and training from random weights.

mod advice;
mod images;
mod model;
mod options;
mod sample;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::tree::{Node, Value};
use super::{
    Adapter, AdapterKind, Method, OneOrMany, Precision, RecipeErrors, Run, Train, reading,
    validate, written,
};

pub use images::{CaptionsFrom, Crop, Images, ImagesKind, MasksFrom};
pub use model::DiffusionModel;
pub use options::{Control, Diffusion, PredictionType, Trained};
pub use sample::{ImageSample, SAMPLERS, Validation};

/// Everything a run on images needs to know. Get one from [`DiffusionRecipe::load`] or [`DiffusionRecipe::parse`], which check it.
///
/// ```
/// use temper_engine::recipe::{DiffusionRecipe, Method};
///
/// let text = r#"
/// [model]
/// path = "stable-diffusion-v1-5/stable-diffusion-v1-5"
/// [adapter]
/// kind = "oft"
/// [images]
/// path = "../assets"
/// instance_prompt = "a photo of sks dog"
/// [train]
/// steps = 1000
/// "#;
/// let recipe = DiffusionRecipe::parse(text, "my.toml", &["train.steps=10".to_owned()])?;
/// // Four blocks a layer and the learning rate of the paper's own runs.
/// assert!(matches!(recipe.method(), Method::Oft(oft) if oft.r == 4));
/// assert_eq!((recipe.train.lr, recipe.train.batch_size), (6e-5, 1));
/// # Ok::<(), temper_engine::recipe::RecipeErrors>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["model", "images", "train"]))]
pub struct DiffusionRecipe {
    /// Where to compute: `auto`, `cpu`, `cuda`, `vulkan`, `wgpu` or `metal`; the last four take an
    /// index, as in `cuda:0`. `auto` takes the first GPU that works, else the CPU.
    pub device: String,
    /// Seed of everything random: order of images, crops, noise, timesteps, initial weights,
    /// samples.
    pub seed: u64,
    /// The network that is trained, and the ones around it.
    pub model: DiffusionModel,
    /// Which parameters are trained. Left out: all of the trained network.
    pub adapter: Option<Adapter>,
    /// The images to learn from.
    pub images: Images,
    /// What is trained, and with which loss.
    pub diffusion: Diffusion,
    /// Length, optimizer, schedule and checkpoints. Defaults that differ from those of language
    /// models: `batch_size` 1, a constant schedule without warm-up, `weight_decay` 0.01, and `lr`
    /// by method: OFT 6e-5, LoRA 1e-4, full 5e-6, random weights 1e-4.
    pub train: Train,
    /// A loss that can be compared between steps: fixed images, timesteps and noise.
    pub validation: Validation,
    /// Number formats.
    pub precision: Precision,
    /// Images made while training, always from the same noise.
    pub sample: ImageSample,
    /// Where results go.
    pub run: Run,
}

impl Default for DiffusionRecipe {
    fn default() -> Self {
        Self {
            device: "auto".into(),
            seed: 42,
            model: DiffusionModel::default(),
            adapter: None,
            images: Images::default(),
            diffusion: Diffusion::default(),
            train: Train::default(),
            validation: Validation::default(),
            precision: Precision::default(),
            sample: ImageSample::default(),
            run: Run::default(),
        }
    }
}

impl DiffusionRecipe {
    /// Reads and checks a recipe file, with `key=value` overrides applied in order, as
    /// [`Recipe::load`](super::Recipe::load).
    ///
    /// # Errors
    /// All problems of the recipe at once; or one, if the file cannot be read or is not TOML.
    pub fn load(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self, RecipeErrors> {
        reading::load(path.as_ref(), overrides, Path::new(""))
    }

    /// Checks the text of a recipe, as [`Recipe::parse`](super::Recipe::parse).
    ///
    /// # Errors
    /// As [`DiffusionRecipe::load`].
    pub fn parse(text: &str, file_name: &str, overrides: &[String]) -> Result<Self, RecipeErrors> {
        reading::parse(text, file_name, overrides, Path::new(""))
    }

    /// The recipe with every default filled in. Reading it again gives an equal recipe.
    pub fn to_toml(&self) -> String {
        written(self)
    }

    /// Whether a file is a recipe of this kind, right or wrong.
    pub fn is_at(path: &Path) -> bool {
        reading::is_marked::<Self>(path)
    }

    /// The training method and its options, defaults included.
    pub fn method(&self) -> Method {
        self.adapter.as_ref().map_or(Method::Full, Adapter::method)
    }
}

/// The layers that the authors of OFT adapt in a U-Net: every projection of every attention (their subject-driven runs).
const ATTENTION: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];

/// Defaults of `[train]` that differ from those of language models. AdamW and the constant schedule are those of the authors of
/// OFT (arXiv 2306.07280, released script) and of DreamBooth in diffusers.
fn train_defaults() -> [(&'static str, serde_json::Value); 4] {
    [
        ("train.batch_size", json!(1)),
        ("train.schedule", json!("constant")),
        ("train.warmup_steps", json!(0)),
        ("train.weight_decay", json!(0.01)),
    ]
}

/// The learning rate of a method: OFT 6e-5 (arXiv 2306.07280, section 5.1), LoRA 1e-4 (the same authors' baseline; diffusers'
/// 5e-4 burns small subjects), all weights 5e-6 (DreamBooth, arXiv 2208.12242), random weights 1e-4.
fn default_rate(tree: &Node) -> f64 {
    let text = |key: &str| match tree.find(key).map(|node| &node.value) {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    match (text("adapter.kind").as_str(), text("model.init").as_str()) {
        ("oft", _) => 6e-5,
        ("lora", _) | (_, "random") => 1e-4,
        _ => 5e-6,
    }
}

impl reading::Kind for DiffusionRecipe {
    const MARK: &'static str = "images";

    fn complete(tree: &mut Node) {
        if tree.find("train").and_then(Node::entries).is_none() {
            return;
        }
        for (key, value) in train_defaults() {
            let excluded = key == "train.warmup_steps" && tree.find("train.warmup_ratio").is_some();
            if !excluded {
                tree.insert_default(key, &value);
            }
        }
        let rate = default_rate(tree);
        tree.insert_default("train.lr", &json!(rate));
    }

    fn refine(schema: &mut serde_json::Value) {
        schema["properties"]["train"]["required"] = json!([]);
        for (key, value) in train_defaults() {
            let name = key.trim_start_matches("train.");
            schema["properties"]["train"]["properties"][name]["default"] = value;
        }
        let adapter = &mut schema["properties"]["adapter"]["properties"];
        adapter["target_modules"]["default"] = json!(ATTENTION);
        for (section, name) in [
            ("train", "warmup_ratio"),
            ("adapter", "oft_block_size"),
            ("adapter", "lora_alpha"),
        ] {
            let key = &mut schema["properties"][section]["properties"][name];
            if let Some(key) = key.as_object_mut() {
                key.remove("default");
            }
        }
        for (section, name, text) in [
            (
                "adapter",
                "r",
                "OFT: number of rotation blocks (default 4, without `oft_block_size`). LoRA: the rank (default 4).",
            ),
            (
                "adapter",
                "lora_alpha",
                "LoRA: the update is scaled by `lora_alpha / r`. Default: `r`.",
            ),
            (
                "train",
                "eval_every",
                "Evaluate every so many steps on the pictures of `[validation]`; 0 evaluates only at the beginning and the end.",
            ),
        ] {
            schema["properties"][section]["properties"][name]["description"] = json!(text);
        }
    }

    fn validate(&self, checker: &mut validate::Checker<'_>) {
        checker.diffusion(self);
    }

    fn fill_defaults(&mut self) {
        self.train.fill_defaults();
        self.images.fill_defaults(self.diffusion.train);
        self.sample
            .fill_defaults(&self.images, self.diffusion.train);
        if self.diffusion.train_text_encoder {
            let rate = self.train.lr / 2.0;
            self.diffusion.text_encoder_lr.get_or_insert(rate);
        }
        let Some(adapter) = &mut self.adapter else {
            return;
        };
        if adapter.kind != AdapterKind::Full {
            let attention = ATTENTION.map(str::to_owned).to_vec();
            adapter
                .target_modules
                .get_or_insert(OneOrMany::Many(attention));
        }
        if adapter.kind == AdapterKind::Oft && adapter.oft_block_size.is_none() {
            adapter.r.get_or_insert(4);
        }
        if adapter.kind == AdapterKind::Lora {
            // Rank and alpha of DreamBooth LoRA in diffusers.
            let r = *adapter.r.get_or_insert(4);
            adapter.lora_alpha.get_or_insert(r as f64);
        }
        adapter.fill_defaults();
    }

    fn run_mut(&mut self) -> &mut Run {
        &mut self.run
    }
}
