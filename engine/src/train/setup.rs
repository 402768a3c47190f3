//! From a recipe to a learner that is ready to train, and the dry run that stops short of the weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::FloatDType;
use temper_adapters::peft::{AdapterConfig, AdapterFile, Module, TargetRule, resolve};
use temper_adapters::{Parameters, RandomSource, attach, attach_trained};
use temper_datasets::{Dataset, Loader, LoaderConfig, Tokenizer, random};
use temper_models::{Llama, LlamaConfig};

use super::adapter::{AdapterText, peft_config};
use super::exams::{ExamOptions, RecipeExam};
use super::language::LanguageLearner;
use super::optimizer::AdamW;
use super::plan::grouped;
use super::resume::differs;
use super::schedule::LearningRate;
use super::trainer::TrainerOptions;
use crate::data_source::{load_tokenizer, train_and_eval_sets};
use crate::device::{self, OpenDevice};
use crate::loading::dtype_of;
use crate::recipe::{Data, Init, Length, Recipe, Train};
use crate::run::{Verbosity, note};
use crate::{Failure, hub};

/// Everything a run needs, opened and checked.
pub(super) struct Setup {
    pub(super) learner: LanguageLearner,
    pub(super) options: TrainerOptions,
    pub(super) adapter: Option<AdapterConfig>,
    pub(super) device: OpenDevice,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Where the tokenizer's files lie.
    tokenizer_directory: Option<PathBuf>,
}

impl Setup {
    pub(super) fn new(recipe: &Recipe, quiet: bool) -> Result<Self, Failure> {
        warn(recipe.advice());
        let device = device::open(&recipe.device)?;
        let compute = device.precision(dtype_of(recipe.precision.compute))?;
        let (config, directory) = architecture(recipe)?;
        config
            .check_length(recipe.data.max_length)
            .map_err(|error| {
                Failure::usage(error)
                    .with_hint("lower `data.max_length` to what the model can place")
            })?;
        let verbosity = if quiet {
            Verbosity::Silent
        } else {
            Verbosity::Normal
        };
        let tokenizer = Arc::new(load_tokenizer(recipe)?);
        let tokenizer_directory = recipe
            .model
            .tokenizer_source()
            .map(hub::resolve_model)
            .transpose()?;
        let (train, eval) = train_and_eval_sets(recipe, &tokenizer, verbosity)?;
        check_vocabulary(&config, &train, &tokenizer)?;
        if !quiet {
            note(&train.report().to_string());
        }
        let adapter = checked_adapter(recipe, &config)?;
        let mut model = load_model(recipe, config, directory.as_deref(), compute, &device)?;
        prepare_parameters(recipe, &mut model, adapter.as_ref())?;
        let train = Loader::new(train, loader_config(recipe, &tokenizer, true))?;
        let eval = eval
            .map(|set| Loader::new(set, loader_config(recipe, &tokenizer, false)))
            .transpose()?;
        let total = total_steps(recipe, &train);
        let options = trainer_options(recipe, total);
        if options.rate.warmup >= total {
            note(
                "every step is warm-up: the learning rate never reaches `train.lr`; set `train.warmup_steps` lower",
            );
        }
        let dtype = format!("{compute:?}").to_lowercase();
        let exam = RecipeExam::open(recipe, &tokenizer, &device, &dtype, verbosity)?;
        let learner = LanguageLearner {
            model,
            train,
            eval,
            average: recipe.train.loss_average,
            recompute: recipe.train.gradient_checkpointing,
            seed: recipe.seed,
            exam,
        };
        Ok(Self {
            learner,
            options,
            adapter,
            device,
            tokenizer,
            tokenizer_directory,
        })
    }

    pub(super) fn data_fingerprint(&self) -> String {
        self.learner.train.dataset().fingerprint().to_owned()
    }

    /// Copies the tokenizer beside a saved model, so that the directory can be used alone.
    pub(super) fn copy_tokenizer(&self, target: &Path) -> Result<(), Failure> {
        let Some(source) = &self.tokenizer_directory else {
            return Ok(());
        };
        for name in [
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "generation_config.json",
            "chat_template.jinja",
        ] {
            let file = source.join(name);
            if file.is_file() {
                std::fs::copy(&file, target.join(name))?;
            }
        }
        Ok(())
    }
}

/// Prints advice as what it is.
pub(crate) fn warn(advice: Vec<String>) {
    for line in advice {
        note(&format!("warning: {line}"));
    }
}

/// The sizes of the model and, for pretrained weights, the directory they lie in.
pub(super) fn architecture(recipe: &Recipe) -> Result<(LlamaConfig, Option<PathBuf>), Failure> {
    let model = &recipe.model;
    if model.init == Init::Random {
        return Ok((random_architecture(recipe)?, None));
    }
    let spec = model.path.as_deref().unwrap_or_default();
    let directory = hub::resolve_model(spec)?;
    let config = LlamaConfig::load(&directory)?;
    if let Some(preset) = &model.preset {
        let expected = LlamaConfig::preset(preset)?;
        if expected.tensors() != config.tensors() {
            let found = grouped(config.parameter_count() as u64);
            let wanted = grouped(expected.parameter_count() as u64);
            let message = format!(
                "`{spec}` has {found} parameters in other shapes than preset `{preset}` ({wanted})"
            );
            return Err(Failure::usage(message)
                .with_hint("correct `model.preset`, or remove it: config.json decides"));
        }
    }
    Ok((config, Some(directory)))
}

pub(super) fn random_architecture(recipe: &Recipe) -> Result<LlamaConfig, Failure> {
    match (&recipe.model.preset, &recipe.model.config) {
        (Some(preset), _) => Ok(LlamaConfig::preset(preset)?),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file)?;
            Ok(LlamaConfig::from_json(&serde_json::from_str(&text)?)?)
        }
        (None, None) => Err(Failure::usage(
            "`model.init = \"random\"` needs `model.preset` or `model.config`",
        )),
    }
}

fn load_model(
    recipe: &Recipe,
    config: LlamaConfig,
    directory: Option<&Path>,
    compute: FloatDType,
    device: &OpenDevice,
) -> Result<Llama, Failure> {
    // Full fine-tuning keeps f32 weights and computes in them: a bf16 weight loses small updates.
    match directory {
        Some(directory) => Ok(Llama::load(directory, compute, &device.device)?),
        None => Ok(Llama::random(
            config,
            compute,
            &device.device,
            &random_source(recipe.seed),
        )),
    }
}

/// Random numbers of the start: adapters and random weights.
fn random_source(seed: u64) -> RandomSource {
    RandomSource::new(move |purpose| random::rng(seed, &format!("init {purpose}"), 0, 0))
}

fn init_from(recipe: &Recipe) -> Option<&str> {
    recipe.adapter.as_ref()?.init_from.as_deref()
}

/// The adapter's configuration, checked against the model and against the adapter it starts from.
pub(super) fn checked_adapter(
    recipe: &Recipe,
    config: &LlamaConfig,
) -> Result<Option<AdapterConfig>, Failure> {
    let base = recipe.model.path.as_deref().unwrap_or_default();
    let text = recipe.adapter.as_ref().map(|adapter| AdapterText {
        adapter,
        base,
        task_type: Some("CAUSAL_LM"),
        bounds_by_layer: false,
    });
    let modules = config.modules();
    let Some(adapter) = peft_config(text, &modules)? else {
        return Ok(None);
    };
    check_ranks(&adapter, &modules)?;
    let layers = recipe
        .adapter
        .as_ref()
        .and_then(|adapter| adapter.layers_to_transform.as_ref());
    if let Some(layer) = layers
        .into_iter()
        .flatten()
        .find(|layer| **layer >= config.num_hidden_layers)
    {
        let message = format!(
            "`adapter.layers_to_transform` names layer {layer}, the model has {}",
            config.num_hidden_layers
        );
        return Err(Failure::usage(message).with_hint("layers are counted from 0"));
    }
    if let Some(directory) = init_from(recipe) {
        let (file, _) = AdapterFile::load(Path::new(directory))?;
        same_method(&adapter, file.config(), directory)?;
    }
    Ok(Some(adapter))
}

/// A rank above both sides of a layer adds nothing.
pub(crate) fn check_ranks(adapter: &AdapterConfig, modules: &[Module]) -> Result<(), Failure> {
    let targets = resolve(adapter, modules).map_err(Failure::usage)?.targets;
    for target in &targets {
        let (inputs, outputs) = (
            target.kind.rotated_inputs().unwrap_or(0),
            target.kind.outputs().unwrap_or(0),
        );
        if let TargetRule::Lora { rank, .. } = target.rule
            && rank > inputs.max(outputs)
        {
            let message = format!(
                "`adapter.r` = {rank} exceeds the sizes of `{}` ({inputs} to {outputs})",
                target.name
            );
            return Err(Failure::usage(message)
                .with_hint("a rank above the layer's own adds nothing; 8 to 64 are usual"));
        }
    }
    Ok(())
}

/// Values trained under one configuration mean something else under another: scale, sign and block size must agree.
pub(crate) fn same_method(
    recipe: &AdapterConfig,
    file: &AdapterConfig,
    directory: &str,
) -> Result<(), Failure> {
    const KEYS: [&str; 13] = [
        "peft_type",
        "r",
        "oft_block_size",
        "block_share",
        "coft",
        "eps",
        "use_cayley_neumann",
        "num_cayley_neumann_terms",
        "lora_alpha",
        "use_rslora",
        "use_dora",
        "rank_pattern",
        "alpha_pattern",
    ];
    let [recipe, file] =
        [recipe, file].map(|config| serde_json::from_str::<serde_json::Value>(&config.to_text()));
    let (recipe, file) = (recipe?, file?);
    let differ: Vec<String> = KEYS
        .into_iter()
        .filter(|key| recipe[*key] != file[*key])
        .map(|key| {
            format!(
                "`{key}` is {} there and {} in the recipe",
                file[key], recipe[key]
            )
        })
        .collect();
    if differ.is_empty() {
        return Ok(());
    }
    let message = format!(
        "`adapter.init_from`: the adapter in `{directory}` was trained otherwise: {}",
        differ.join("; ")
    );
    Err(Failure::usage(message).with_hint("write the adapter's own values into `[adapter]`"))
}

fn prepare_parameters(
    recipe: &Recipe,
    model: &mut Llama,
    adapter: Option<&AdapterConfig>,
) -> Result<(), Failure> {
    let Some(config) = adapter else {
        model.visit_mut(&mut |param| param.set_trainable(true));
        return Ok(());
    };
    let source = random_source(recipe.seed);
    let warnings = match init_from(recipe) {
        None => attach(model, config, &source).map_err(Failure::usage)?,
        Some(directory) => {
            let (file, _) = AdapterFile::load(Path::new(directory))?;
            // The values of the file under the recipe's configuration, which is what is saved in the end.
            let file = AdapterFile::new(config.clone(), file.tensors().to_vec())
                .map_err(Failure::usage)?;
            attach_trained(model, &file, &source).map_err(Failure::usage)?
        }
    };
    for warning in &warnings {
        note(warning);
    }
    Ok(())
}

/// Every id of the data must have a row in the embedding, and the tokenizer must be the model's.
fn check_vocabulary(
    config: &LlamaConfig,
    data: &Dataset,
    tokenizer: &Tokenizer,
) -> Result<(), Failure> {
    let largest = (0..data.len())
        .flat_map(|i| data.example(i).input_ids.iter().copied())
        .max()
        .unwrap_or(0);
    if (largest as usize) < config.vocab_size {
        return Ok(());
    }
    let size = format!(" (the tokenizer has {})", tokenizer.vocab_size());
    let message = format!(
        "the data holds token id {largest}, the model has {} embeddings{size}",
        config.vocab_size
    );
    Err(Failure::run(message)
        .with_hint("use the model's own tokenizer, or a model whose embedding was extended"))
}

fn loader_config(recipe: &Recipe, tokenizer: &Tokenizer, training: bool) -> LoaderConfig {
    let data: &Data = &recipe.data;
    LoaderConfig {
        seed: recipe.seed,
        batch_size: if training {
            recipe.train.batch_size
        } else {
            recipe.train.micro_batch_size
        },
        micro_batch_size: recipe.train.micro_batch_size,
        packing: training && data.packing,
        max_length: data.max_length,
        shuffle: training && data.shuffle,
        // Padding is masked by position, so any id of the vocabulary will do; 0 always exists.
        pad_id: tokenizer.eos().unwrap_or(0),
        ..LoaderConfig::default()
    }
}

fn total_steps(recipe: &Recipe, train: &Loader) -> u64 {
    match recipe.train.length() {
        Length::Steps(steps) => steps as u64,
        Length::Epochs(epochs) => train.total_steps(epochs),
    }
}

fn trainer_options(recipe: &Recipe, total: u64) -> TrainerOptions {
    TrainerOptions {
        exam: recipe.eval.as_ref().map(ExamOptions::of),
        ..options(&recipe.train, total)
    }
}

/// How `[train]` drives a run of `total` steps.
pub(crate) fn options(train: &Train, total: u64) -> TrainerOptions {
    TrainerOptions {
        adam: AdamW {
            beta1: train.beta1,
            beta2: train.beta2,
            epsilon: train.epsilon,
            weight_decay: train.weight_decay,
        },
        rate: LearningRate {
            peak: train.lr,
            schedule: train.schedule,
            warmup: train.warmup(total as usize) as u64,
            total,
            min_ratio: train.min_lr_ratio,
        },
        max_grad_norm: train.max_grad_norm,
        eval_every: train.eval_every as u64,
        save_every: train.save_every as u64,
        keep_last: train.keep_last,
        log_every: train.log_every as u64,
        patience: train.early_stopping_patience,
        exam: None,
        show_every: 0,
        ema_decay: None,
    }
}

/// Refuses to resume with a recipe that trains something else. What only concerns logging, saving and the place may change.
pub(crate) fn same_recipe(recipe: &Recipe, stored: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(stored)
        .map_err(|error| Failure::run(format!("cannot read `{}`: {error}", stored.display())))?;
    let old = Recipe::parse(&text, &stored.display().to_string(), &[])?;
    let neutral = |recipe: &Recipe| {
        let mut copy = recipe.clone();
        copy.run = old.run.clone();
        copy.device.clone_from(&old.device);
        copy.sample = old.sample.clone();
        copy.train.log_every = old.train.log_every;
        copy.train.save_every = old.train.save_every;
        copy.train.keep_last = old.train.keep_last;
        copy.train.eval_every = old.train.eval_every;
        copy.data.cache = old.data.cache;
        if let (Some(eval), Some(before)) = (&mut copy.eval, &old.eval) {
            eval.batch_size = before.batch_size;
        }
        copy.to_toml()
    };
    differs(&neutral(recipe), &neutral(&old), stored)
}

#[cfg(test)]
mod tests {
    use temper_models::LlamaConfig;

    #[test]
    fn the_presets_of_recipes_are_those_of_the_models() {
        assert_eq!(crate::recipe::PRESETS, LlamaConfig::presets());
    }
}
