//! Training on images: what a recipe with a section `[images]` does.
//!
//! `session` opens, prepares and finishes a run; `learner` gives the gradients of a step: `photos` or `latents` say what the step sees
//! (`batch`), `objective` is the loss. `open` makes the networks ready, `prior` the images of the class, `samples` the pictures on the
//! way, `result` what is left for others. `vae_session` is the same for autoencoders.

mod batch;
mod cache;
mod check;
mod dry_run;
mod latents;
mod learner;
mod networks;
mod objective;
mod open;
mod photos;
mod preview;
mod prior;
mod remarks;
mod result;
mod samples;
mod session;
mod sizes;
mod text;
mod vae_session;

pub use dry_run::dry_run;
pub use preview::preview;
pub use session::train;
