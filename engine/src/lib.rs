//! Everything that runs: recipes, devices, the trainer, checkpoints, generation and the command line of `temper`.
#![recursion_limit = "256"]

pub mod ablation;
pub mod bootstrap;
mod cli;
mod commands;
mod data_source;
pub mod device;
pub mod diffusion;
pub mod eval;
mod failure;
pub mod generate;
pub mod hub;
mod loading;
pub mod recipe;
pub mod run;
mod serve;
pub mod text_model;
pub mod train;
pub mod verify;

pub use cli::main;
pub use failure::Failure;
