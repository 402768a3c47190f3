//! What the user probably meant: near misses, names from other tools, keys in the wrong section.

use serde_json::Value as Schema;

use super::overrides::join;
use super::schema::{lookup, properties};

/// Names that other tools give to our keys and sections.
const ALIASES: &[(&str, &str)] = &[
    ("learning_rate", "train.lr"),
    ("max_lr", "train.lr"),
    ("num_train_epochs", "train.epochs"),
    ("num_epochs", "train.epochs"),
    ("n_epochs", "train.epochs"),
    ("max_steps", "train.steps"),
    ("max_steps_per_epoch", "train.steps"),
    ("num_steps", "train.steps"),
    ("total_steps", "train.steps"),
    ("per_device_train_batch_size", "train.micro_batch_size"),
    ("train_batch_size", "train.batch_size"),
    ("global_batch_size", "train.batch_size"),
    ("lr_scheduler", "train.schedule"),
    ("lr_scheduler_type", "train.schedule"),
    ("scheduler", "train.schedule"),
    ("num_warmup_steps", "train.warmup_steps"),
    ("lr_warmup_steps", "train.warmup_steps"),
    ("warmup", "train.warmup_ratio"),
    ("min_lr", "train.min_lr_ratio"),
    ("adam_beta1", "train.beta1"),
    ("adam_beta2", "train.beta2"),
    ("adam_epsilon", "train.epsilon"),
    ("clip_grad_norm", "train.max_grad_norm"),
    ("gradient_clipping", "train.max_grad_norm"),
    ("grad_clip", "train.max_grad_norm"),
    ("activation_checkpointing", "train.gradient_checkpointing"),
    (
        "enable_activation_checkpointing",
        "train.gradient_checkpointing",
    ),
    ("eval_steps", "train.eval_every"),
    ("evaluation_strategy", "train.eval_every"),
    ("save_steps", "train.save_every"),
    ("save_total_limit", "train.keep_last"),
    ("logging_steps", "train.log_every"),
    ("log_every_n_steps", "train.log_every"),
    ("patience", "train.early_stopping_patience"),
    ("lora_r", "adapter.r"),
    ("lora_rank", "adapter.r"),
    ("network_dim", "adapter.r"),
    ("network_alpha", "adapter.lora_alpha"),
    ("network_dropout", "adapter.lora_dropout"),
    ("network_module", "adapter.kind"),
    ("rank", "adapter.r"),
    ("alpha", "adapter.lora_alpha"),
    ("dropout", "adapter.lora_dropout"),
    ("lora_target_modules", "adapter.target_modules"),
    ("lora_modules_to_save", "adapter.modules_to_save"),
    ("block_size", "adapter.oft_block_size"),
    ("constraint", "adapter.coft"),
    ("constrained", "adapter.coft"),
    ("peft_type", "adapter.kind"),
    ("method", "adapter.kind"),
    ("resume_from_adapter", "adapter.init_from"),
    ("lora_model_dir", "adapter.init_from"),
    ("output_dir", "run.dir"),
    ("out_dir", "run.dir"),
    ("save_dir", "run.dir"),
    ("overwrite_output_dir", "run.overwrite"),
    ("run_name", "run.name"),
    ("model_name_or_path", "model.path"),
    ("base_model", "model.path"),
    ("checkpoint_dir", "model.path"),
    ("tokenizer_name_or_path", "model.tokenizer"),
    ("tokenizer_path", "model.tokenizer"),
    ("seq_len", "data.max_length"),
    ("max_seq_len", "data.max_length"),
    ("max_seq_length", "data.max_length"),
    ("model_max_length", "data.max_length"),
    ("sequence_len", "data.max_length"),
    ("cutoff_len", "data.max_length"),
    ("sample_packing", "data.packing"),
    ("packed", "data.packing"),
    ("max_samples", "data.limit"),
    ("max_train_samples", "data.limit"),
    ("data_path", "data.path"),
    ("dataset_path", "data.path"),
    ("data_files", "data.path"),
    ("file", "data.path"),
    ("type", "data.kind"),
    ("prompt_template", "data.template"),
    ("val_set_size", "data.eval.fraction"),
    ("test_size", "data.eval.fraction"),
    ("dtype", "precision.compute"),
    ("torch_dtype", "precision.compute"),
    ("random_seed", "seed"),
    ("devices", "device"),
    ("dataset", "data"),
    ("datasets", "data"),
    ("training", "train"),
    ("trainer", "train"),
    ("optimizer", "train"),
    ("optim", "train"),
    ("peft", "adapter"),
    ("evaluation", "data.eval"),
    ("eval", "data.eval"),
    ("generation", "sample"),
    ("sampling", "sample"),
    ("output", "run"),
    ("logging", "run"),
    ("instance_dir", "images.path"),
    ("instance_data_dir", "images.path"),
    ("train_data_dir", "images.path"),
    ("instance_data_root", "images.path"),
    ("class_data_dir", "images.class_dir"),
    ("class_data_root", "images.class_dir"),
    ("prior_preservation", "images.class_dir"),
    ("with_prior_preservation", "images.class_dir"),
    ("prior_loss", "images.prior_loss_weight"),
    ("size", "images.resolution"),
    ("image_size", "images.resolution"),
    ("center_crop", "images.crop"),
    ("random_crop", "images.crop"),
    ("random_flip", "images.flip"),
    ("flip_aug", "images.flip"),
    ("reg_data_dir", "images.class_dir"),
    ("num_reg_images", "images.num_class_images"),
    ("cache_latents_to_disk", "images.cache_latents"),
    ("enable_bucket", "images.buckets"),
    ("bucket_reso_steps", "images.bucket_step"),
    ("caption_dropout_rate", "images.caption_dropout"),
    ("masked_loss", "images.masks"),
    ("cache_text_encoder_outputs", "images.cache_text"),
    ("min_snr_gamma", "diffusion.snr_gamma"),
    ("noise_offset", "diffusion.offset_noise"),
    ("ip_noise_gamma", "diffusion.input_perturbation"),
    ("v_prediction", "diffusion.prediction_type"),
    ("v_parameterization", "diffusion.prediction_type"),
    ("use_ema", "diffusion.ema_decay"),
    ("text_encoder_learning_rate", "diffusion.text_encoder_lr"),
    ("unet_lr", "train.lr"),
    ("max_train_epochs", "train.epochs"),
    ("save_every_n_steps", "train.save_every"),
    ("save_every_n_epochs", "train.save_every"),
    ("output_name", "run.name"),
    ("validation_prompt", "sample.prompts"),
    ("sample_prompts", "sample.prompts"),
    ("validation_epochs", "sample.every"),
    ("sample_every_n_steps", "sample.every"),
    ("sample_every_n_epochs", "sample.every"),
    ("sample_sampler", "sample.scheduler"),
    ("num_inference_steps", "sample.steps"),
    ("sampler", "sample.scheduler"),
    ("cfg", "sample.guidance_scale"),
    ("max_train_steps", "train.steps"),
    ("pretrained_model_name_or_path", "model.path"),
    ("api_base", "text_model.base_url"),
    ("openai_api_base", "text_model.base_url"),
    ("endpoint", "text_model.base_url"),
    ("url", "text_model.base_url"),
    ("model_name", "text_model.model"),
    ("engine", "text_model.kind"),
    ("max_tokens", "text_model.max_new_tokens"),
    ("max_completion_tokens", "text_model.max_new_tokens"),
    ("max_workers", "text_model.concurrency"),
    ("num_workers", "text_model.concurrency"),
    ("batch_size", "text_model.concurrency"),
    ("retries", "text_model.attempts"),
    ("max_retries", "text_model.attempts"),
    ("rpm", "text_model.requests_per_minute"),
    ("tpm", "text_model.tokens_per_minute"),
    ("ansaug", "samples.answer_augmentation"),
    ("rephrase", "samples.rephrasing"),
    ("rephrased", "samples.rephrasing"),
    ("sv", "samples.self_verification"),
    ("max_cost", "budget.max_price"),
    ("dedup", "output.duplicates"),
];

const PRECISION: &str = "write `compute = \"bf16\"` (or \"f16\", \"f32\") in `[precision]`";
const QUANTISED: &str =
    "quantised weights are not supported; write `compute = \"bf16\"` in `[precision]`";
const CONDITIONING: &str = "name the picture to follow as `conditioning_image` in each line of `metadata.jsonl`, and write \
    `control = \"metadata\"` in `[diffusion]`";
const UNET_ONLY: &str = "the U-Net is always trained; `train_text_encoder` in `[diffusion]` says whether the text encoder is as well";
const KEY: &str = "recipes are copied into run directories: put the key into an environment \
    variable and write its name, `api_key_env = \"OPENAI_API_KEY\"`";

/// Unknown keys that need a sentence rather than another name.
const ADVICE: &[(&str, &str)] = &[
    (
        "gradient_accumulation_steps",
        "set `train.batch_size` to the rows of an optimizer step and `train.micro_batch_size` to \
        the rows of one pass; \
         accumulation follows",
    ),
    ("bf16", PRECISION),
    ("fp16", PRECISION),
    ("tf32", PRECISION),
    ("mixed_precision", PRECISION),
    ("load_in_4bit", QUANTISED),
    ("load_in_8bit", QUANTISED),
    ("network_train_unet_only", UNET_ONLY),
    ("network_train_text_encoder_only", UNET_ONLY),
    (
        "num_repeats",
        "photographs are shown in turn until `train.steps` are done: no repeats are needed",
    ),
    (
        "repeats",
        "photographs are shown in turn until `train.steps` are done: no repeats are needed",
    ),
    ("conditioning_data_dir", CONDITIONING),
    ("cond_image_dir", CONDITIONING),
    (
        "network_weights",
        "a run of images begins with a new adapter; fold the other one into the model with `temper merge` first",
    ),
    ("api_key", KEY),
    ("openai_api_key", KEY),
    ("lora", "write `[adapter]` with `kind = \"lora\"`"),
    ("oft", "write `[adapter]` with `kind = \"oft\"`"),
    (
        "train_on_inputs",
        "write `loss_on = \"all\"` or `\"response\"` in `[data]`",
    ),
    (
        "train_on_input",
        "write `loss_on = \"all\"` or `\"response\"` in `[data]`",
    ),
    (
        "betas",
        "write `beta1 = ...` and `beta2 = ...` in `[train]`",
    ),
    (
        "adam_betas",
        "write `beta1 = ...` and `beta2 = ...` in `[train]`",
    ),
];

/// Values that other tools use, with what to write here.
const VALUES: &[(&str, &str, &str)] = &[
    (
        "adapter.kind",
        "boft",
        "BOFT is not supported yet; use `oft`",
    ),
    (
        "adapter.kind",
        "coft",
        "write `kind = \"oft\"` and `coft = true`",
    ),
    (
        "adapter.kind",
        "oftv2",
        "`oft` is OFTv2: `use_cayley_neumann = true` is its default",
    ),
    (
        "adapter.kind",
        "qoft",
        "quantised weights are not supported; use `oft`",
    ),
    (
        "adapter.kind",
        "qlora",
        "quantised weights are not supported; use `lora`",
    ),
    (
        "adapter.kind",
        "dora",
        "write `kind = \"lora\"` and `use_dora = true`",
    ),
    (
        "adapter.kind",
        "none",
        "leave `[adapter]` out, or write `full`",
    ),
    ("data.kind", "metamath", "did you mean `metamathqa`?"),
    (
        "data.kind",
        "alpaca",
        "write `kind = \"metamathqa\"` (it reads `instruction`, `input`, `output`) and `template \
        = \"alpaca\"`",
    ),
    ("data.kind", "sharegpt", "did you mean `chat`?"),
    ("data.kind", "chat_template", "did you mean `chat`?"),
    ("data.kind", "completion", "did you mean `text`?"),
    ("precision.compute", "fp16", "did you mean `f16`?"),
    ("precision.compute", "float16", "did you mean `f16`?"),
    ("precision.compute", "half", "did you mean `f16`?"),
    ("precision.compute", "fp32", "did you mean `f32`?"),
    ("precision.compute", "float32", "did you mean `f32`?"),
    ("precision.compute", "bfloat16", "did you mean `bf16`?"),
    (
        "train.schedule",
        "cosine_with_warmup",
        "write `cosine`; warm-up is `warmup_ratio` or `warmup_steps`",
    ),
    (
        "train.schedule",
        "constant_with_warmup",
        "write `constant`; warm-up is `warmup_ratio` or `warmup_steps`",
    ),
    ("train.schedule", "none", "did you mean `constant`?"),
    (
        "diffusion.prediction_type",
        "v",
        "did you mean `v_prediction`?",
    ),
    (
        "diffusion.prediction_type",
        "noise",
        "did you mean `epsilon`?",
    ),
    ("images.crop", "centre", "did you mean `center`?"),
    ("model.init", "scratch", "did you mean `random`?"),
    ("data.loss_on", "completion", "did you mean `response`?"),
    ("data.loss_on", "assistant", "did you mean `response`?"),
    (
        "data.over_length",
        "split",
        "rows are not split; use `drop` or `truncate`",
    ),
    ("data.template", "none", "did you mean `raw`?"),
];

/// The keys that aliases lead to.
#[cfg(test)]
pub(super) fn targets() -> impl Iterator<Item = &'static str> {
    ALIASES.iter().map(|(_, target)| *target)
}

/// What to do about an unknown key `key` of the table `path`.
pub(super) fn unknown_key(schema: &Schema, path: &str, key: &str) -> String {
    let lower = key.to_lowercase();
    if let Some((_, advice)) = ADVICE.iter().find(|(name, _)| *name == lower) {
        return (*advice).to_owned();
    }
    let here = if path.is_empty() {
        Some(schema)
    } else {
        lookup(schema, path)
    };
    let siblings: Vec<&str> = here
        .into_iter()
        .flat_map(properties)
        .map(|(name, _)| name)
        .collect();
    if let Some((_, target)) = best_alias(schema, &lower, path) {
        return point(target, path);
    }
    if let Some(target) = elsewhere(schema, "", key) {
        return point(&target, path);
    }
    match nearest(&lower, &siblings) {
        Some(near) => format!("did you mean `{near}`?"),
        None if path.is_empty() => format!("a recipe has `{}`", siblings.join("`, `")),
        None => format!("`[{path}]` has `{}`", siblings.join("`, `")),
    }
}

/// The alias for a name, the one in the same section first.
fn best_alias(
    schema: &Schema,
    name: &str,
    path: &str,
) -> Option<&'static (&'static str, &'static str)> {
    let matches = || {
        ALIASES.iter().filter(|(alias, target)| {
            *alias == name && *target != path && lookup(schema, target).is_some()
        })
    };
    matches()
        .find(|(_, target)| section(target) == path)
        .or_else(|| matches().next())
}

/// The dotted key whose last name is `key`, in whatever section.
fn elsewhere(schema: &Schema, path: &str, key: &str) -> Option<String> {
    properties(schema).find_map(|(name, inner)| {
        let here = join(path, name);
        if name == key {
            Some(here)
        } else {
            elsewhere(inner, &here, key)
        }
    })
}

fn section(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(section, _)| section)
}

/// A suggestion of `target` to someone who is writing in the table `path`.
fn point(target: &str, path: &str) -> String {
    let name = target.rsplit('.').next().unwrap_or(target);
    match section(target) {
        "" if matches!(target, "seed" | "device") => {
            format!("did you mean `{target}`? it stands at the top, before the first section")
        }
        "" => format!("did you mean the section `[{target}]`?"),
        "data" if name == "eval" => "did you mean the section `[data.eval]`?".to_owned(),
        section if section == path => format!("did you mean `{name}`?"),
        section => format!("did you mean `{name}` in `[{section}]`?"),
    }
}

/// What to do about a value that is not in the list.
pub(super) fn value(key: &str, found: &str, allowed: &[&str]) -> Option<String> {
    let lower = found.to_lowercase();
    let known = VALUES.iter().find(|(k, v, _)| *k == key && *v == lower);
    if let Some((_, _, hint)) = known {
        return Some((*hint).to_owned());
    }
    nearest(&lower, allowed).map(|near| format!("did you mean `{near}`?"))
}

/// What to do about a number outside its range.
pub(super) fn range(key: &str) -> Option<String> {
    let hint = match key {
        "train.lr" => "full fine-tuning often takes 1e-5 to 5e-5, adapters 1e-4 to 1e-3",
        "adapter.num_cayley_neumann_terms" => {
            "fewer than 2 terms leave the rotation at identity; PEFT's default is 5"
        }
        "data.eval.fraction" => "0.02 holds out two rows of a hundred",
        "train.warmup_ratio" => "for a number of steps write `warmup_steps`",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The candidate closest to `name`, if it is close enough to be a slip.
fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3).max(1);
    candidates
        .iter()
        .map(|candidate| (distance(name, candidate), *candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance that counts an exchange of neighbours as one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// What to do about text that is not TOML.
pub(super) fn syntax(message: &str) -> Option<String> {
    if message.contains("duplicate key") {
        return Some("keep one of the two".into());
    }
    if message.contains("quoted") || message.contains("invalid") || message.contains("string") {
        return Some(
            "texts stand in quotes, as in `device = \"cuda:0\"`; numbers start with a \
        digit, as in `0.5`"
                .into(),
        );
    }
    None
}
