//! What a run needs of the kind of thing it trains. The loop, checkpoints, metrics and resuming are the same for all kinds.

use std::io::Write;
use std::path::Path;

use super::learner::Learner;
use super::trainer::TrainerOptions;
use crate::Failure;
use crate::recipe::Run;
use crate::run::{RunDir, Signals};

/// A recipe that trains something.
pub(crate) trait TrainingRecipe {
    /// Where results go.
    fn run(&self) -> &Run;

    /// The recipe with every default written out.
    fn text(&self) -> String;

    /// Refuses to go on with a run whose recipe, in the file `stored`, trains something else.
    fn check_same(&self, stored: &Path) -> Result<(), Failure>;

    /// Opens and checks everything the run needs; nothing is written.
    fn open(&self, quiet: bool) -> Result<Box<dyn Session>, Failure>;
}

/// An opened recipe: a learner, and what is made before and after the loop.
pub(crate) trait Session {
    /// What is trained.
    fn learner(&self) -> &dyn Learner;

    /// The same, to train it.
    fn learner_mut(&mut self) -> &mut dyn Learner;

    /// How the run is driven.
    fn options(&self) -> TrainerOptions;

    /// The device, for the record.
    fn device(&self) -> &str;

    /// Fingerprint of the data: a run goes on only with the same. What [`Self::prepare`] finds or makes is appended by it.
    fn data_fingerprint(&self) -> String;

    /// What of the model is in no parameter: configurations, tokenizers, the noise process. A run goes on only with the same.
    fn model_settings(&self) -> String;

    /// Before the first step of this process: what needs the run directory, or must be interruptible.
    fn prepare(&mut self, run: &RunDir, resumed: bool, signals: &Signals) -> Result<(), Failure>;

    /// After the last step: leaves what others can load.
    fn finish(&mut self, run: &RunDir) -> Result<(), Failure>;

    /// Shows what the run changed.
    fn print(&self, out: &mut dyn Write) -> std::io::Result<()>;

    /// The directories of the result in the run directory.
    fn results(&self) -> Vec<&'static str>;
}
