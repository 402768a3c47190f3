//! Diffusion pipelines as a user runs them: `temper sample`, `forward`, `merge`, `convert`, `inspect` and `energy`, against
//! diffusers, transformers and PEFT. Tolerances are those of `tests/golden/diffusion/README.md`.

#[cfg(test)]
#[path = "cli_diffusion/adapters.rs"]
mod adapters;
#[cfg(test)]
#[path = "cli_diffusion/control.rs"]
mod control;
#[cfg(test)]
#[path = "cli_diffusion/energy.rs"]
mod energy;
#[cfg(test)]
#[path = "cli_diffusion/files.rs"]
mod files;
#[cfg(test)]
#[path = "cli_diffusion/forward.rs"]
mod forward;
#[cfg(test)]
#[path = "cli_diffusion/inspect.rs"]
mod inspect;
#[cfg(test)]
#[path = "../models/tests/single_file/names.rs"]
mod names;
#[cfg(test)]
#[path = "cli_diffusion/pipelines.rs"]
mod pipelines;
#[cfg(test)]
#[path = "cli_diffusion/sample.rs"]
mod sample;
#[cfg(test)]
#[path = "cli_diffusion/single_file.rs"]
mod single_file;
#[cfg(test)]
#[path = "cli_models/support.rs"]
#[allow(dead_code, reason = "shared with the tests of language models")]
mod support;
