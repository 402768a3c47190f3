//! `temper forward`, `generate` and `merge` as a user runs them, against transformers and PEFT.
//! Tolerances are those of `tests/golden/llama/README.md` and `tests/golden/oft/README.md`.

#[cfg(test)]
#[path = "cli_models/forward.rs"]
mod forward;
#[cfg(test)]
#[path = "cli_models/generate.rs"]
mod generate;
#[cfg(test)]
#[path = "cli_models/merge.rs"]
mod merge;
#[cfg(test)]
#[path = "cli_models/support.rs"]
mod support;
