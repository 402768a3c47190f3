//! A run of a sampler.

use std::fmt::Debug;

use burn::tensor::Tensor;

use super::ddim::{Ddim, Ddpm, Pair};
use super::dpm::DpmSolver;
use super::pndm::Plms;
use super::sigma::{Euler, Heun};
use super::spacing::{Levels, levels, whole_timesteps};
use super::unipc::UniPc;
use super::values::{Level, f32};
use super::{FinalSigma, Prediction, SchedulerConfig, SchedulerKind, Spacing};
use crate::{ModelError, NoiseSchedule};

/// What a sampler does at each call of the model. States and outputs are f32.
pub(super) trait Solver: Debug + Send + Sync {
    /// σ of a state that must be scaled by 1/√(σ² + 1) for the model.
    fn input_sigma(&self, _call: usize) -> Option<f64> {
        None
    }

    /// Standard deviation of the fresh noise added after this call.
    fn noise_scale(&self, _call: usize) -> f64 {
        0.0
    }

    /// The next state, without that noise.
    fn step(&mut self, call: usize, output: Tensor<4>, x: Tensor<4>) -> Tensor<4>;
}

/// One run of a sampler, from noise to an image.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use temper_models::{Scheduler, SchedulerConfig};
///
/// let config = SchedulerConfig::stable_diffusion("euler")?;
/// let mut scheduler = Scheduler::new(&config, 20)?;
/// let noise = Tensor::<4>::ones([1, 4, 8, 8], &Device::flex());
/// let mut x = noise.mul_scalar(scheduler.init_noise_sigma());
/// for call in 0..scheduler.calls() {
///     let (input, _t) = (scheduler.scale_model_input(call, x.clone()), scheduler.timesteps()[call]);
///     let prediction = input.zeros_like(); // the model's answer to `input` and `_t`
///     x = scheduler.step(call, prediction, x, None)?;
/// }
/// # Ok::<(), temper_models::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Scheduler {
    timesteps: Vec<f32>,
    init_noise_sigma: f32,
    next: usize,
    solver: Box<dyn Solver>,
}

impl Scheduler {
    /// A run in `steps` steps. Some samplers call the model more often: see [`Self::calls`].
    ///
    /// # Errors
    /// [`ModelError::Steps`] when the process does not have as many steps, or the combination of settings has no finite result;
    /// those of [`NoiseSchedule::new`]; [`ModelError::Unsupported`].
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, ModelError> {
        let total = config.num_train_timesteps;
        if steps == 0 || steps > total {
            let why = format!("the model was trained on {total} steps; ask for 1 to {total}");
            return Err(ModelError::Steps { steps, why });
        }
        check_combination(config, steps)?;
        let noise = NoiseSchedule::new(config)?;
        match config.kind {
            SchedulerKind::Ddpm | SchedulerKind::Ddim | SchedulerKind::Pndm => {
                Self::on_alphas(config, noise.alphas_cumprod(), steps)
            }
            _ => Self::on_sigmas(config, noise.alphas_cumprod(), steps),
        }
    }

    fn on_alphas(
        config: &SchedulerConfig,
        alphas: &[f64],
        steps: usize,
    ) -> Result<Self, ModelError> {
        let visited = whole_timesteps(config, steps, steps);
        check_signal(config, alphas, steps, &visited)?;
        let (timesteps, pairs) = match config.kind {
            SchedulerKind::Pndm => plms_pairs(config, alphas, &visited)?,
            _ => pairs(config, alphas, &visited),
        };
        let solver: Box<dyn Solver> = match config.kind {
            SchedulerKind::Pndm => Box::new(Plms::new(config, pairs)),
            SchedulerKind::Ddpm => Box::new(Ddpm::new(config, pairs)),
            _ => Box::new(Ddim::new(config, pairs)),
        };
        Ok(Self::started(&timesteps, 1.0, solver))
    }

    fn on_sigmas(
        config: &SchedulerConfig,
        alphas: &[f64],
        steps: usize,
    ) -> Result<Self, ModelError> {
        let Levels { timesteps, sigmas } = levels(config, alphas, steps);
        check_signal(config, alphas, steps, &timesteps)?;
        // The last level may stand twice (`sigma_min`).
        let falling = sigmas.windows(2).enumerate();
        let mut falling = falling.map(|(i, pair)| pair[0] > pair[1] || i + 1 == steps);
        if !falling.all(|falls| falls) || !sigmas.iter().all(|sigma| sigma.is_finite()) {
            let why = format!(
                "with `timestep_spacing` `{}` some noise levels would be visited twice; ask for fewer steps",
                config.timestep_spacing.name()
            );
            return Err(ModelError::Steps { steps, why });
        }
        // The start is noise alone, unless the process leaves signal there.
        let start = match config.timestep_spacing {
            Spacing::Leading => sigmas[0].hypot(1.0),
            Spacing::Trailing | Spacing::Linspace => sigmas[0],
        };
        let (timesteps, start, solver): (_, _, Box<dyn Solver>) = match config.kind {
            SchedulerKind::Heun => {
                let calls = (0..2 * steps - 1).map(|call: usize| timesteps[call.div_ceil(2)]);
                (calls.collect(), start, Box::new(Heun::new(config, sigmas)))
            }
            SchedulerKind::DpmSolverMultistep => {
                (timesteps, 1.0, Box::new(DpmSolver::new(config, &sigmas)))
            }
            SchedulerKind::UniPc => (timesteps, 1.0, Box::new(UniPc::new(config, &sigmas))),
            kind => {
                let ancestral = kind == SchedulerKind::EulerAncestral;
                let solver = Box::new(Euler::new(config, sigmas, ancestral));
                (timesteps, start, solver)
            }
        };
        Ok(Self::started(&timesteps, start, solver))
    }

    fn started(timesteps: &[f64], init_noise_sigma: f64, solver: Box<dyn Solver>) -> Self {
        Self {
            timesteps: timesteps.iter().map(|t| *t as f32).collect(),
            init_noise_sigma: init_noise_sigma as f32,
            next: 0,
            solver,
        }
    }

    /// The timestep of every call of the model; fractional for some samplers.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// How often the model is called: as often as there are steps, once more for PNDM, nearly twice for Heun.
    pub fn calls(&self) -> usize {
        self.timesteps.len()
    }

    /// Standard deviation of the noise that the run starts from.
    pub fn init_noise_sigma(&self) -> f32 {
        self.init_noise_sigma
    }

    /// Whether [`Self::step`] adds fresh noise after this call.
    pub fn needs_noise(&self, call: usize) -> bool {
        call < self.calls() && self.solver.noise_scale(call) > 0.0
    }

    /// What the model sees of the state `x: [B, C, H, W]`.
    pub fn scale_model_input(&self, call: usize, x: Tensor<4>) -> Tensor<4> {
        match self.solver.input_sigma(call) {
            Some(sigma) => x.mul_scalar(1.0 / sigma.hypot(1.0)),
            None => x,
        }
    }

    /// The state after `call`, in f32, from the model's `output` and the state `x` before it (not the scaled input), all
    /// `[B, C, H, W]`. `noise` is standard normal, of the same shape; needed when [`Self::needs_noise`], otherwise not looked at.
    ///
    /// # Errors
    /// [`ModelError::Call`] unless calls come in order, each once; [`ModelError::Noise`] when the noise is missing.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn step(
        &mut self,
        call: usize,
        output: Tensor<4>,
        x: Tensor<4>,
        noise: Option<Tensor<4>>,
    ) -> Result<Tensor<4>, ModelError> {
        if call != self.next || call >= self.calls() {
            let (expected, calls) = (self.next, self.calls());
            return Err(ModelError::Call {
                call,
                expected,
                calls,
            });
        }
        assert_eq!(output.dims(), x.dims(), "a prediction for each value");
        let scale = self.solver.noise_scale(call);
        let noise = match noise {
            None if scale > 0.0 => return Err(ModelError::Noise { call }),
            noise => noise.filter(|_| scale > 0.0),
        };
        self.next += 1;
        let next = self.solver.step(call, f32(output), f32(x));
        Ok(match noise {
            Some(noise) => next + f32(noise).mul_scalar(scale),
            None => next,
        })
    }
}

/// Where each call of DDPM and DDIM goes from and to.
fn pairs(config: &SchedulerConfig, alphas: &[f64], visited: &[f64]) -> (Vec<f64>, Vec<Pair>) {
    let ancestral = config.kind == SchedulerKind::Ddpm;
    let stride = (config.num_train_timesteps / visited.len()) as f64;
    let to = |call: usize| {
        if ancestral {
            // DDPM goes to the next visited step, and ends at the image.
            visited.get(call + 1).map_or(1.0, |t| alphas[*t as usize])
        } else {
            after(config, alphas, visited[call] - stride)
        }
    };
    let pair = |call: usize| Pair {
        from: Level::from_alpha_bar(alphas[visited[call] as usize]),
        to: Level::from_alpha_bar(to(call)),
    };
    (visited.to_vec(), (0..visited.len()).map(pair).collect())
}

/// Calls of PNDM: the second visited step comes twice, the second time to repeat the first step from its start.
fn plms_pairs(
    config: &SchedulerConfig,
    alphas: &[f64],
    visited: &[f64],
) -> Result<(Vec<f64>, Vec<Pair>), ModelError> {
    let mut timesteps = visited.to_vec();
    if let Some(second) = visited.get(1) {
        timesteps.insert(1, *second);
    }
    let stride = (config.num_train_timesteps / visited.len()) as f64;
    let pair = |(call, t): (usize, &f64)| {
        let from = if call == 1 { t + stride } else { *t };
        let bar = alphas.get(from as usize)?;
        Some(Pair {
            from: Level::from_alpha_bar(*bar),
            to: Level::from_alpha_bar(after(config, alphas, from - stride)),
        })
    };
    let pairs = timesteps.iter().enumerate().map(pair).collect();
    match pairs {
        Some(pairs) => Ok((timesteps, pairs)),
        None => Err(ModelError::Steps {
            steps: visited.len(),
            why: "PNDM's second step would start beyond the noise process; use `timestep_spacing` `leading`"
                .to_owned(),
        }),
    }
}

/// ᾱ at step `t`, or at the end of the run when there is no such step.
fn after(config: &SchedulerConfig, alphas: &[f64], t: f64) -> f64 {
    if t >= 0.0 {
        alphas[t as usize]
    } else if config.set_alpha_to_one {
        1.0
    } else {
        alphas[0]
    }
}

/// Settings that contradict each other.
fn check_combination(config: &SchedulerConfig, steps: usize) -> Result<(), ModelError> {
    let unsupported = |what: String, hint| Err(ModelError::Unsupported { what, hint });
    let kind = config.kind;
    if config.rescale_betas_zero_snr && !kind.knows_zero_snr() {
        return unsupported(
            format!("`rescale_betas_zero_snr` with {}", kind.class_name()),
            "use ddim, euler, dpmpp_2m or unipc",
        );
    }
    if kind == SchedulerKind::Pndm {
        if !config.skip_prk_steps {
            return unsupported(
                "PNDM with Runge-Kutta steps".to_owned(),
                "set `skip_prk_steps` to true",
            );
        }
        if config.prediction_type == Prediction::Sample {
            return unsupported(
                "PNDM with `prediction_type` `sample`".to_owned(),
                "use ddim or dpmpp_2m",
            );
        }
    }
    let multistep = matches!(
        kind,
        SchedulerKind::DpmSolverMultistep | SchedulerKind::UniPc
    );
    let refused = |why: &str| {
        let why = why.to_owned();
        Err(ModelError::Steps { steps, why })
    };
    if steps == 1 && !multistep && config.timestep_spacing == Spacing::Linspace {
        return refused(
            "`timestep_spacing` `linspace` puts a single step at t = 0, where no noise is left to remove; ask for 2 steps or \
             more, or use `trailing`",
        );
    }
    if kind == SchedulerKind::UniPc
        && !config.lower_order_final
        && config.solver_order > 1
        && config.final_sigmas_type == FinalSigma::Zero
    {
        return refused(
            "UniPC's last step to a noise level of zero must be of order 1: set `lower_order_final` to true, or \
             `final_sigmas_type` to `sigma_min`",
        );
    }
    Ok(())
}

/// Steps outside the process, and ε predicted where there is no signal.
fn check_signal(
    config: &SchedulerConfig,
    alphas: &[f64],
    steps: usize,
    visited: &[f64],
) -> Result<(), ModelError> {
    for t in visited {
        let Some(bar) = alphas.get(t.ceil() as usize).filter(|_| *t >= 0.0) else {
            let why = format!(
                "`timestep_spacing` `{}` and `steps_offset` {} lead to step {t}, outside of 0 to {}",
                config.timestep_spacing.name(),
                config.steps_offset,
                alphas.len() - 1
            );
            return Err(ModelError::Steps { steps, why });
        };
        if *bar == 0.0 && config.prediction_type == Prediction::Epsilon {
            let why = format!(
                "at step {t} the state is noise alone (`rescale_betas_zero_snr`), and predicted noise says nothing about the \
                 image: use a model with `prediction_type` `v_prediction`, or `timestep_spacing` `leading`"
            );
            return Err(ModelError::Steps { steps, why });
        }
    }
    Ok(())
}
