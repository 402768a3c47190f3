//! `[train]`: a run has one length, and what happens during it must be able to happen.

use super::{Checker, HeldOut};
use crate::recipe::{LossAverage, Schedule, Train};

impl Checker<'_> {
    pub(super) fn train(&mut self, train: &Train, held_out: &HeldOut) {
        for (key, beta) in [("train.beta1", train.beta1), ("train.beta2", train.beta2)] {
            // The schema keeps them below 1; moments are f32, in which a moment that forgets nothing would never move.
            if beta < 1.0 && beta as f32 >= 1.0 {
                self.problem(
                    &[key],
                    format!("`{key} = {beta}` is 1 in f32, and nothing would be learned"),
                    "write at most 0.9999999",
                );
            }
        }
        self.length(train);
        self.batch(train);
        self.schedule(train);
        self.evaluation(train, held_out);
    }

    fn length(&mut self, train: &Train) {
        let keys = ["train.epochs", "train.steps"];
        match (train.epochs, train.steps) {
            (Some(_), Some(_)) => self.problem(
                &keys,
                "`train.epochs` and `train.steps` exclude each other",
                "keep one of them",
            ),
            (None, None) => self.problem(
                &keys,
                "`[train]` does not say how long to train",
                "add `epochs = 3` or `steps = 1000`",
            ),
            _ => {}
        }
    }

    fn batch(&mut self, train: &Train) {
        let keys = ["train.micro_batch_size", "train.batch_size"];
        let (micro, batch) = (train.micro_batch_size, train.batch_size);
        if micro > batch {
            self.problem(
                &keys,
                format!(
                    "`train.micro_batch_size = {micro}` is larger than `train.batch_size = {batch}`"
                ),
                "`batch_size` counts the rows of a whole optimizer step, accumulation included",
            );
        } else if train.loss_average == LossAverage::MicroBatch
            && micro > 0
            && !batch.is_multiple_of(micro)
        {
            self.problem(
                &[
                    "train.micro_batch_size",
                    "train.batch_size",
                    "train.loss_average",
                ],
                format!(
                    "with `loss_average = \"micro_batch\"`, `train.micro_batch_size = {micro}` \
                    must divide `train.batch_size = {batch}`"
                ),
                "a smaller last micro-batch would weigh as much as the others; or write \
                `loss_average = \"token\"`",
            );
        }
    }

    fn schedule(&mut self, train: &Train) {
        if train.warmup_ratio.is_some() && train.warmup_steps.is_some() {
            self.problem(
                &["train.warmup_ratio", "train.warmup_steps"],
                "`train.warmup_ratio` and `train.warmup_steps` exclude each other",
                "keep one of them",
            );
        }
        if let (Some(warmup), Some(steps)) = (train.warmup_steps, train.steps)
            && warmup >= steps
        {
            self.problem(
                &["train.warmup_steps", "train.steps"],
                format!(
                    "`train.warmup_steps = {warmup}` does not end within `train.steps = {steps}`"
                ),
                "the learning rate would never reach `lr`",
            );
        }
        if train.schedule == Schedule::Constant && train.min_lr_ratio > 0.0 {
            self.problem(
                &["train.min_lr_ratio", "train.schedule"],
                "`train.min_lr_ratio` has no effect with `schedule = \"constant\"`",
                "take it out, or use `cosine` or `linear`",
            );
        }
    }

    fn evaluation(&mut self, train: &Train, held_out: &HeldOut) {
        let HeldOut {
            key,
            what,
            present,
            add,
        } = *held_out;
        if train.eval_every > 0 && !present {
            self.problem(
                &["train.eval_every", key],
                format!("`train.eval_every` needs {what}"),
                add,
            );
        }
        if train.early_stopping_patience.is_none() {
            return;
        }
        if !present {
            self.problem(
                &["train.early_stopping_patience", key],
                format!("`train.early_stopping_patience` needs {what}"),
                add,
            );
        } else if train.eval_every == 0 {
            self.problem(
                &["train.early_stopping_patience", "train.eval_every"],
                "`train.early_stopping_patience` counts evaluations, but there is only one at \
                the end",
                "add `eval_every = 100`",
            );
        }
    }
}
