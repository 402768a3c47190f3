//! `scheduler_config.json` of a diffusion pipeline.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::fields::{Fields, parse_python, to_python};
use super::kind::{
    Algorithm, BetaSchedule, FinalSigma, Prediction, SchedulerKind, SolverType, Spacing, Variance,
};
use crate::ModelError;
use crate::keys::load_json_by;

const FILE: &str = "scheduler_config.json";

/// A sampler and the noise process it belongs to, under the names of `scheduler_config.json`.
///
/// A key that is not in the file has the default of its class, as in diffusers. Keys that the class does not know are kept and
/// written again.
///
/// # Examples
/// ```
/// use serde_json::json;
/// use temper_models::SchedulerConfig;
///
/// let config = SchedulerConfig::from_json(&json!({
///     "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
///     "skip_prk_steps": true, "steps_offset": 1,
/// }))?;
/// let faster = config.with_kind("dpmpp_2m_karras")?;
/// assert_eq!(faster.beta_end, 0.012);
/// assert!(faster.use_karras_sigmas);
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the keys of the file, one by one"
)]
pub struct SchedulerConfig {
    /// Which sampler.
    pub kind: SchedulerKind,
    /// Steps T of the noise process.
    pub num_train_timesteps: usize,
    /// β of the first step.
    pub beta_start: f64,
    /// β of the last step.
    pub beta_end: f64,
    /// How β goes from one to the other.
    pub beta_schedule: BetaSchedule,
    /// Every β, instead of a schedule.
    pub trained_betas: Option<Vec<f64>>,
    /// The last step keeps nothing of the image (zero terminal signal-to-noise ratio, arXiv 2305.08891).
    pub rescale_betas_zero_snr: bool,
    /// What the model predicts.
    pub prediction_type: Prediction,
    /// Which of the T steps are visited.
    pub timestep_spacing: Spacing,
    /// Added to the steps of [`Spacing::Leading`].
    pub steps_offset: usize,
    /// DDIM and PNDM: the step after the last is the clean image, not step 0.
    pub set_alpha_to_one: bool,
    /// PNDM: start without Runge–Kutta steps.
    pub skip_prk_steps: bool,
    /// DDPM, DDIM and Heun: keep the predicted image within ±`clip_sample_range`.
    pub clip_sample: bool,
    /// See [`Self::clip_sample`].
    pub clip_sample_range: f64,
    /// Noise levels evenly spaced in σ^(1/7) (arXiv 2206.00364, eq. 5).
    pub use_karras_sigmas: bool,
    /// Smallest Karras σ (Euler and UniPC), instead of the table's.
    pub sigma_min: Option<f64>,
    /// Largest Karras σ (Euler and UniPC), instead of the table's.
    pub sigma_max: Option<f64>,
    /// Noise level after the last step.
    pub final_sigmas_type: FinalSigma,
    /// DDPM: variance of the added noise.
    pub variance_type: Variance,
    /// DDIM: share η of DDPM's noise that is added; diffusers takes it as an argument of a step. 0 is deterministic.
    pub eta: f64,
    /// DPM-Solver++ and UniPC: order of the method.
    pub solver_order: usize,
    /// DPM-Solver++ and UniPC: form of the higher orders.
    pub solver_type: SolverType,
    /// DPM-Solver++: deterministic or stochastic.
    pub algorithm_type: Algorithm,
    /// DPM-Solver++ and UniPC: fall back to lower orders at the end of short runs.
    pub lower_order_final: bool,
    /// DPM-Solver++: the last step is of order 1 in any case.
    pub euler_at_final: bool,
    /// UniPC: steps after which the corrector is left out.
    pub disable_corrector: Vec<usize>,
    /// The file as it was read.
    keys: Map<String, Value>,
}

impl SchedulerConfig {
    /// Reads `scheduler_config.json` of the directory `scheduler/` of a pipeline.
    ///
    /// # Errors
    /// When the file cannot be read, a key is wrong, or it asks for something that is not built.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        load_json_by(&directory.join(FILE), parse_python, Self::from_json)
    }

    /// Writes `scheduler_config.json`, in the layout of diffusers.
    ///
    /// # Errors
    /// [`ModelError::Write`] when the disk refuses.
    pub fn save(&self, directory: &Path) -> Result<(), ModelError> {
        let file = directory.join(FILE);
        std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&file, to_python(&self.to_json())))
            .map_err(|source| ModelError::Write { file, source })
    }

    /// The noise process of Stable Diffusion with this sampler: β scaled-linear from 0.00085 to 0.012, ε-prediction.
    ///
    /// # Errors
    /// As [`Self::with_kind`].
    pub fn stable_diffusion(kind: &str) -> Result<Self, ModelError> {
        Self::from_json(&json!({
            "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1,
            "prediction_type": "epsilon",
        }))?
        .with_kind(kind)
    }

    /// Reads the content of a `scheduler_config.json`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_json(value: &Value) -> Result<Self, ModelError> {
        let fields = Fields::new(value)?;
        let class = fields.text("_class_name")?.unwrap_or_default();
        let kind = SchedulerKind::from_class_name(class)?;
        refuse(&fields)?;
        let on = |class: SchedulerKind| kind == class;
        let dpm = on(SchedulerKind::DpmSolverMultistep);
        let config = Self {
            kind,
            num_train_timesteps: fields.size("num_train_timesteps", 1000)?,
            beta_start: fields.number("beta_start", kind.default_betas()[0])?,
            beta_end: fields.number("beta_end", kind.default_betas()[1])?,
            beta_schedule: fields.named("beta_schedule", BetaSchedule::Linear)?,
            trained_betas: fields.numbers("trained_betas")?,
            rescale_betas_zero_snr: fields.flag("rescale_betas_zero_snr", false)?,
            prediction_type: fields.named("prediction_type", Prediction::Epsilon)?,
            timestep_spacing: fields.named("timestep_spacing", kind.default_spacing())?,
            steps_offset: fields.size("steps_offset", 0)?,
            set_alpha_to_one: fields.flag("set_alpha_to_one", on(SchedulerKind::Ddim))?,
            skip_prk_steps: fields.flag("skip_prk_steps", false)?,
            clip_sample: kind.clips() && fields.flag("clip_sample", kind.default_clip())?,
            clip_sample_range: fields.number("clip_sample_range", 1.0)?,
            use_karras_sigmas: kind.knows_karras() && fields.flag("use_karras_sigmas", false)?,
            sigma_min: fields.optional("sigma_min")?,
            sigma_max: fields.optional("sigma_max")?,
            final_sigmas_type: fields.named("final_sigmas_type", FinalSigma::Zero)?,
            variance_type: match kind {
                SchedulerKind::Ddpm => fields.named("variance_type", Variance::FixedSmall)?,
                _ => Variance::FixedSmall,
            },
            eta: fields.number("eta", 0.0)?,
            solver_order: fields.size("solver_order", 2)?,
            solver_type: SolverType::of(kind, fields.text("solver_type")?)?,
            algorithm_type: if dpm {
                fields.named("algorithm_type", Algorithm::DpmSolverPlusPlus)?
            } else {
                Algorithm::DpmSolverPlusPlus
            },
            lower_order_final: fields.flag("lower_order_final", true)?,
            euler_at_final: fields.flag("euler_at_final", false)?,
            disable_corrector: fields.sizes("disable_corrector")?,
            keys: fields.map().clone(),
        };
        config.check()
    }

    /// The same as a `scheduler_config.json`: the keys that were read, and those that were changed since.
    ///
    /// Infinities, which JSON lacks, are texts here and bare words in the file that [`Self::save`] writes.
    pub fn to_json(&self) -> Value {
        let mut keys = self.keys.clone();
        keys.insert("_class_name".to_owned(), json!(self.kind.class_name()));
        let Ok(written) = Self::from_json(&Value::Object(keys.clone())) else {
            // A field was set to something the file's other keys contradict: write every field.
            keys.extend(self.entries().map(|(key, value)| (key.to_owned(), value)));
            return Value::Object(keys);
        };
        // Keys that mean what the field says are left as they stand, absent ones too: another class has other defaults.
        for ((key, ours), (_, theirs)) in self.entries().zip(written.entries()) {
            if ours != theirs {
                keys.insert(key.to_owned(), ours);
            }
        }
        Value::Object(keys)
    }

    /// The same noise process under another sampler: `ddpm`, `ddim`, `pndm`, `euler`, `euler_karras`, `euler_ancestral`, `heun`,
    /// `heun_karras`, `dpmpp_2m`, `dpmpp_2m_karras`, `dpmpp_2m_sde`, `dpmpp_2m_sde_karras`, `unipc`, or a class name of diffusers.
    ///
    /// As diffusers' `from_config`: what the file says is kept, what it does not say has the default of the new class. One
    /// difference: converting never turns clipping on, which is meant for pixels and ruins latents.
    ///
    /// # Errors
    /// [`ModelError::Preset`] for an unknown name; otherwise as [`Self::load`].
    pub fn with_kind(&self, name: &str) -> Result<Self, ModelError> {
        let (kind, changes) = SchedulerKind::from_name(name)?;
        let Value::Object(mut keys) = self.to_json() else {
            return Ok(self.clone());
        };
        keys.insert("_class_name".to_owned(), json!(kind.class_name()));
        for (key, value) in changes {
            keys.insert((*key).to_owned(), value.value());
        }
        if kind != self.kind && kind.default_clip() && !keys.contains_key("clip_sample") {
            keys.insert("clip_sample".to_owned(), json!(false));
        }
        Self::from_json(&Value::Object(keys))
    }

    fn entries(&self) -> impl Iterator<Item = (&'static str, Value)> {
        [
            ("num_train_timesteps", json!(self.num_train_timesteps)),
            ("beta_start", json!(self.beta_start)),
            ("beta_end", json!(self.beta_end)),
            ("beta_schedule", json!(self.beta_schedule.name())),
            ("trained_betas", json!(self.trained_betas)),
            ("rescale_betas_zero_snr", json!(self.rescale_betas_zero_snr)),
            ("prediction_type", json!(self.prediction_type.name())),
            ("timestep_spacing", json!(self.timestep_spacing.name())),
            ("steps_offset", json!(self.steps_offset)),
            ("set_alpha_to_one", json!(self.set_alpha_to_one)),
            ("skip_prk_steps", json!(self.skip_prk_steps)),
            ("clip_sample", json!(self.clip_sample)),
            ("clip_sample_range", json!(self.clip_sample_range)),
            ("use_karras_sigmas", json!(self.use_karras_sigmas)),
            ("sigma_min", json!(self.sigma_min)),
            ("sigma_max", json!(self.sigma_max)),
            ("final_sigmas_type", json!(self.final_sigmas_type.name())),
            ("variance_type", json!(self.variance_type.name())),
            ("eta", json!(self.eta)),
            ("solver_order", json!(self.solver_order)),
            ("solver_type", json!(self.solver_type.name())),
            ("algorithm_type", json!(self.algorithm_type.name())),
            ("lower_order_final", json!(self.lower_order_final)),
            ("euler_at_final", json!(self.euler_at_final)),
            ("disable_corrector", json!(self.disable_corrector)),
        ]
        .into_iter()
    }

    fn check(self) -> Result<Self, ModelError> {
        let wrong = |key: &str, found: String, expected| Err(ModelError::key(key, found, expected));
        let steps = self.num_train_timesteps;
        if !(1..=100_000).contains(&steps) {
            return wrong("num_train_timesteps", steps.to_string(), "1 to 100000");
        }
        if let Some(betas) = &self.trained_betas
            && betas.len() != steps
        {
            let found = format!("{} numbers", betas.len());
            return wrong("trained_betas", found, "`num_train_timesteps` numbers");
        }
        if self.steps_offset >= steps {
            let found = self.steps_offset.to_string();
            return wrong("steps_offset", found, "less than `num_train_timesteps`");
        }
        if !(self.eta.is_finite() && (0.0..=1.0).contains(&self.eta)) {
            return wrong("eta", self.eta.to_string(), "0 to 1");
        }
        if !(self.clip_sample_range.is_finite() && self.clip_sample_range > 0.0) {
            let found = self.clip_sample_range.to_string();
            return wrong("clip_sample_range", found, "a number above 0");
        }
        let highest = match self.kind {
            SchedulerKind::DpmSolverMultistep => 2,
            SchedulerKind::UniPc => 3,
            _ => usize::MAX,
        };
        if self.solver_order == 0 || self.solver_order > highest {
            let expected = if highest == 2 { "1 or 2" } else { "1, 2 or 3" };
            return wrong("solver_order", self.solver_order.to_string(), expected);
        }
        Ok(self)
    }
}

/// Options that change the numbers and are not built, by name.
fn refuse(fields: &Fields<'_>) -> Result<(), ModelError> {
    let flags = [
        (
            "thresholding",
            "it is for pixels, not latents; set it to false",
        ),
        ("use_exponential_sigmas", "use `use_karras_sigmas` or none"),
        ("use_beta_sigmas", "use `use_karras_sigmas` or none"),
        ("use_lu_lambdas", "use `use_karras_sigmas` or none"),
        ("use_flow_sigmas", "flow-matching models are not supported"),
        (
            "use_dynamic_shifting",
            "flow-matching models are not supported",
        ),
    ];
    let unsupported = |what: String, hint| Err(ModelError::Unsupported { what, hint });
    for (key, hint) in flags {
        if fields.flag(key, false)? {
            return unsupported(format!("`{key}`"), hint);
        }
    }
    let texts = [
        ("interpolation_type", "linear", "use `linear`"),
        ("timestep_type", "discrete", "use `discrete`"),
    ];
    for (key, only, hint) in texts {
        if let Some(found) = fields.text(key)?.filter(|found| *found != only) {
            return unsupported(format!("`{key}` `{found}`"), hint);
        }
    }
    if !fields.flag("predict_x0", true)? {
        return unsupported("`predict_x0` false".to_owned(), "set it to true");
    }
    let lowest = fields.number("lambda_min_clipped", f64::NEG_INFINITY)?;
    if lowest != f64::NEG_INFINITY {
        let what = format!("`lambda_min_clipped` {lowest}");
        return unsupported(what, "it is for pixel models; remove it");
    }
    Ok(())
}
