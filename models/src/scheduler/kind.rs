//! The choices of a scheduler's configuration.

use serde_json::{Value, json};

use crate::ModelError;

/// A choice with the name that configurations give it.
pub(super) trait Named: Sized {
    /// What to choose from, for a message.
    const KNOWN: &'static str;
    /// The choice of this name.
    fn from_name(name: &str) -> Option<Self>;
}

macro_rules! choice {
    ($(#[$doc:meta])* $type:ident, $known:literal, { $($(#[$variant_doc:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $type {
            /// Its name in a configuration.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl Named for $type {
            const KNOWN: &'static str = $known;

            fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

choice!(
    /// How β goes from its start to its end.
    BetaSchedule,
    "use `linear`, `scaled_linear` or `squaredcos_cap_v2`",
    {
        /// β evenly spaced.
        Linear = "linear",
        /// √β evenly spaced (Stable Diffusion).
        ScaledLinear = "scaled_linear",
        /// ᾱ follows a squared cosine (arXiv 2102.09672, eq. 17).
        SquaredcosCapV2 = "squaredcos_cap_v2",
    }
);

choice!(
    /// What the model predicts. `x_t = √ᾱ x0 + √(1−ᾱ) ε`.
    Prediction,
    "use `epsilon`, `v_prediction` or `sample`",
    {
        /// The noise ε.
        Epsilon = "epsilon",
        /// v = √ᾱ ε − √(1−ᾱ) x0 (arXiv 2202.00512).
        VPrediction = "v_prediction",
        /// The image x0.
        Sample = "sample",
    }
);

choice!(
    /// Which of the T steps of the noise process a run of N steps visits.
    Spacing,
    "use `leading`, `trailing` or `linspace`",
    {
        /// Multiples of T/N, plus an offset: the last step of the process is left out.
        Leading = "leading",
        /// From T−1 down in T/N.
        Trailing = "trailing",
        /// From T−1 to 0 inclusive.
        Linspace = "linspace",
    }
);

choice!(
    /// Noise level after the last step.
    FinalSigma,
    "use `zero` or `sigma_min`",
    {
        /// None.
        Zero = "zero",
        /// That of the first step of the process.
        SigmaMin = "sigma_min",
    }
);

choice!(
    /// Variance of the noise that DDPM adds (arXiv 2006.11239, §3.2).
    Variance,
    "use `fixed_small` or `fixed_large` (learned variances are not built)",
    {
        /// The posterior's β̃.
        FixedSmall = "fixed_small",
        /// β. The last call ends at the image; diffusers adds noise there too, unless its timestep is 0.
        FixedLarge = "fixed_large",
    }
);

choice!(
    /// Form of the higher orders.
    SolverType,
    "use `midpoint` or `heun` (DPM-Solver++), `bh1` or `bh2` (UniPC)",
    {
        /// DPM-Solver++, the form of its paper.
        Midpoint = "midpoint",
        /// DPM-Solver++, with the exact integral of a straight line.
        Heun = "heun",
        /// UniPC with B(h) = h.
        Bh1 = "bh1",
        /// UniPC with B(h) = eʰ − 1.
        Bh2 = "bh2",
    }
);

choice!(
    /// Deterministic or stochastic.
    Algorithm,
    "use `dpmsolver++` or `sde-dpmsolver++`",
    {
        /// The differential equation without noise.
        DpmSolverPlusPlus = "dpmsolver++",
        /// With fresh noise at every step.
        SdeDpmSolverPlusPlus = "sde-dpmsolver++",
    }
);

choice!(
    /// A sampler.
    SchedulerKind,
    "",
    {
        /// Ancestral sampling (arXiv 2006.11239).
        Ddpm = "ddpm",
        /// Denoising diffusion implicit models (arXiv 2010.02502).
        Ddim = "ddim",
        /// Pseudo linear multistep (arXiv 2202.09778).
        Pndm = "pndm",
        /// Euler's method in σ (arXiv 2206.00364, algorithm 2 without churn).
        Euler = "euler",
        /// Euler's method with fresh noise at every step.
        EulerAncestral = "euler_ancestral",
        /// Heun's method in σ (arXiv 2206.00364, algorithm 1).
        Heun = "heun",
        /// DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2).
        DpmSolverMultistep = "dpmpp_2m",
        /// UniPC (arXiv 2302.04867).
        UniPc = "unipc",
    }
);

/// A key that a name of [`SchedulerKind::from_name`] sets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Flag(bool),
    Text(&'static str),
}

impl Change {
    pub(super) fn value(self) -> Value {
        match self {
            Self::Flag(flag) => json!(flag),
            Self::Text(text) => json!(text),
        }
    }
}

type Changes = &'static [(&'static str, Change)];

const KARRAS: (&str, Change) = ("use_karras_sigmas", Change::Flag(true));
const EVEN: (&str, Change) = ("use_karras_sigmas", Change::Flag(false));
const ODE: (&str, Change) = ("algorithm_type", Change::Text("dpmsolver++"));
const SDE: (&str, Change) = ("algorithm_type", Change::Text("sde-dpmsolver++"));
const SKIP_PRK: (&str, Change) = ("skip_prk_steps", Change::Flag(true));

const NAMES: [(&str, SchedulerKind, Changes); 14] = [
    ("ddpm", SchedulerKind::Ddpm, &[]),
    ("ddim", SchedulerKind::Ddim, &[]),
    ("pndm", SchedulerKind::Pndm, &[SKIP_PRK]),
    ("euler", SchedulerKind::Euler, &[EVEN]),
    ("euler_karras", SchedulerKind::Euler, &[KARRAS]),
    ("euler_ancestral", SchedulerKind::EulerAncestral, &[]),
    ("euler_a", SchedulerKind::EulerAncestral, &[]),
    ("heun", SchedulerKind::Heun, &[EVEN]),
    ("heun_karras", SchedulerKind::Heun, &[KARRAS]),
    ("dpmpp_2m", SchedulerKind::DpmSolverMultistep, &[EVEN, ODE]),
    (
        "dpmpp_2m_karras",
        SchedulerKind::DpmSolverMultistep,
        &[KARRAS, ODE],
    ),
    (
        "dpmpp_2m_sde",
        SchedulerKind::DpmSolverMultistep,
        &[EVEN, SDE],
    ),
    (
        "dpmpp_2m_sde_karras",
        SchedulerKind::DpmSolverMultistep,
        &[KARRAS, SDE],
    ),
    ("unipc", SchedulerKind::UniPc, &[]),
];

const CLASSES: [(&str, SchedulerKind); 8] = [
    ("DDPMScheduler", SchedulerKind::Ddpm),
    ("DDIMScheduler", SchedulerKind::Ddim),
    ("PNDMScheduler", SchedulerKind::Pndm),
    ("EulerDiscreteScheduler", SchedulerKind::Euler),
    (
        "EulerAncestralDiscreteScheduler",
        SchedulerKind::EulerAncestral,
    ),
    ("HeunDiscreteScheduler", SchedulerKind::Heun),
    (
        "DPMSolverMultistepScheduler",
        SchedulerKind::DpmSolverMultistep,
    ),
    ("UniPCMultistepScheduler", SchedulerKind::UniPc),
];

impl SchedulerKind {
    /// The names that [`super::SchedulerConfig::with_kind`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, ..)| *name)
    }

    /// The class of diffusers.
    pub fn class_name(self) -> &'static str {
        let found = CLASSES.iter().find(|(_, kind)| *kind == self);
        found.map_or("DDIMScheduler", |(class, _)| class)
    }

    pub(super) fn from_class_name(class: &str) -> Result<Self, ModelError> {
        match CLASSES.iter().find(|(name, _)| *name == class) {
            Some((_, kind)) => Ok(*kind),
            None => Err(ModelError::key(
                "_class_name",
                format!("`{class}`"),
                "a scheduler that is built: DDPMScheduler, DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler, \
                    EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler or UniPCMultistepScheduler",
            )),
        }
    }

    pub(super) fn from_name(name: &str) -> Result<(Self, Changes), ModelError> {
        if let Some((_, kind, changes)) = NAMES.iter().find(|(known, ..)| *known == name) {
            return Ok((*kind, changes));
        }
        Self::from_class_name(name)
            .map(|kind| (kind, &[][..]))
            .map_err(|_| ModelError::Preset {
                name: name.to_owned(),
                known: Self::names().collect(),
            })
    }

    pub(super) fn default_spacing(self) -> Spacing {
        match self {
            Self::Ddpm | Self::Ddim | Self::Pndm => Spacing::Leading,
            _ => Spacing::Linspace,
        }
    }

    pub(super) fn default_betas(self) -> [f64; 2] {
        match self {
            Self::Heun => [0.00085, 0.012],
            _ => [0.0001, 0.02],
        }
    }

    pub(super) fn clips(self) -> bool {
        matches!(self, Self::Ddpm | Self::Ddim | Self::Heun)
    }

    pub(super) fn default_clip(self) -> bool {
        matches!(self, Self::Ddpm | Self::Ddim)
    }

    pub(super) fn knows_karras(self) -> bool {
        matches!(
            self,
            Self::Euler | Self::Heun | Self::DpmSolverMultistep | Self::UniPc
        )
    }

    /// Whether the class can start from a step without signal.
    pub(super) fn knows_zero_snr(self) -> bool {
        !matches!(self, Self::Pndm | Self::Heun)
    }
}

impl SolverType {
    /// The form that `kind` takes for this name: a name of the other family means the default.
    pub(super) fn of(kind: SchedulerKind, name: Option<&str>) -> Result<Self, ModelError> {
        let unknown = |name: &str| ModelError::Unsupported {
            what: format!("`solver_type` `{name}`"),
            hint: Self::KNOWN,
        };
        let asked = match name {
            None | Some("logrho") => None,
            Some(name) => Some(Self::from_name(name).ok_or_else(|| unknown(name))?),
        };
        let uni = kind == SchedulerKind::UniPc;
        let fits = |asked: &Self| matches!(asked, Self::Bh1 | Self::Bh2) == uni;
        let default = if uni { Self::Bh2 } else { Self::Midpoint };
        Ok(asked.filter(fits).unwrap_or(default))
    }
}
