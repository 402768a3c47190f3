//! Language models as learners.

use temper_adapters::{Adaptable, Adapter, Parameters, RandomSource};
use temper_datasets::{Batch, Loader, random};
use temper_models::{Gradients, Llama, TokenBatch};

use super::exams::RecipeExam;
use super::learner::{Learner, StepReport};
use crate::Failure;
use crate::eval::Summary;
use crate::recipe::LossAverage;
use crate::run::RunDir;

/// A LLaMA with its training and held-out rows.
#[derive(Debug)]
pub struct LanguageLearner {
    /// The model, adapters attached.
    pub model: Llama,
    /// Training rows.
    pub train: Loader,
    /// Held-out rows.
    pub eval: Option<Loader>,
    /// How the losses of one step are averaged.
    pub average: LossAverage,
    /// Recompute the inside of blocks in the backward pass.
    pub recompute: bool,
    /// Seed of dropout.
    pub seed: u64,
    /// Problems to solve between steps.
    pub(super) exam: Option<RecipeExam>,
}

impl LanguageLearner {
    /// Dropout masks are addressed by (seed, layer, step, micro-batch), the same on every device.
    fn set_dropout(&mut self, address: Option<(u64, u64)>) {
        let seed = self.seed;
        let source = address.map(|(step, micro)| {
            RandomSource::new(move |purpose| {
                random::rng(seed, &format!("dropout {purpose}"), step, micro)
            })
        });
        self.model.visit_linears_mut(&mut |linear| {
            if let Some(Adapter::Lora(lora)) = linear.adapter_mut() {
                lora.set_dropout(source.clone());
            }
        });
    }
}

impl Learner for LanguageLearner {
    fn gradients(&mut self, step: u64, sums: &mut Gradients) -> Result<StepReport, Failure> {
        let batch = self.train.step(step)?;
        let mut report = StepReport {
            targets: batch.target_tokens,
            items: batch.tokens,
            loss: 0.0,
        };
        let micros: Vec<TokenBatch> = batch.micro.into_iter().map(token_batch).collect();
        let with_targets = micros.iter().filter(|micro| micro.targets() > 0).count();
        let mut total = self.model.zero();
        for (index, micro) in micros.iter().enumerate() {
            let targets = micro.targets();
            if targets == 0 {
                continue;
            }
            let divisor = match self.average {
                LossAverage::Token => report.targets as f64,
                LossAverage::MicroBatch => (targets * with_targets) as f64,
            };
            self.set_dropout(Some((step, index as u64)));
            total = total
                + self
                    .model
                    .accumulate(micro, divisor.recip(), self.recompute, sums)?;
        }
        self.set_dropout(None);
        report.loss = f64::from(total.into_scalar::<f32>());
        Ok(report)
    }

    fn model(&self) -> &dyn Adaptable {
        &self.model
    }

    fn model_mut(&mut self) -> &mut dyn Adaptable {
        &mut self.model
    }

    fn evaluate(&self) -> Result<Option<(f64, u64)>, Failure> {
        let Some(eval) = &self.eval else {
            return Ok(None);
        };
        let model = self.model.frozen();
        let (mut total, mut targets) = (0.0, 0);
        for step in 0..eval.steps_per_epoch() {
            for micro in eval.step(step)?.micro.into_iter().map(token_batch) {
                let count = micro.targets();
                if count > 0 {
                    total += f64::from(model.loss(&micro, 1.0)?.into_scalar::<f32>());
                    targets += count;
                }
            }
        }
        Ok((targets > 0).then(|| (total / targets as f64, targets as u64)))
    }

    fn sit(
        &self,
        step: u64,
        run: &RunDir,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Summary>, Failure> {
        match &self.exam {
            Some(exam) => exam.sit(&self.model, step, run, stop),
            None => Ok(None),
        }
    }

    fn describe_step(&self, step: u64) -> String {
        match self.train.step(step) {
            Ok(batch) => {
                let ids: Vec<String> = batch
                    .micro
                    .iter()
                    .flat_map(|micro| micro.example_ids.iter().flatten())
                    .map(ToString::to_string)
                    .collect();
                format!("[{}]", ids.join(", "))
            }
            Err(error) => error.to_string(),
        }
    }
}

/// A batch of the data room as the model reads it.
pub(crate) fn token_batch(batch: Batch) -> TokenBatch {
    TokenBatch {
        shape: [batch.rows, batch.cols],
        input_ids: batch.input_ids,
        labels: batch.labels,
        starts: batch.starts,
        positions: batch.positions,
    }
}
