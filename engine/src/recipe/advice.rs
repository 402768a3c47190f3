//! Advice: recipes that can run, but probably not as their author expects.

use super::{Compute, EpsScaling, LossAverage, LossOn, Method, OverLength, Recipe};

impl Recipe {
    /// Remarks on choices that are allowed and often regretted, one sentence each. They stop
    /// nothing.
    ///
    /// ```
    /// use temper_engine::recipe::{OverLength, Recipe};
    ///
    /// let mut recipe = Recipe::default();
    /// recipe.data.over_length = OverLength::Truncate;
    /// assert!(recipe.advice().iter().any(|advice| advice.contains("data.over_length")));
    /// ```
    pub fn advice(&self) -> Vec<String> {
        let train = &self.train;
        let mut advice = Vec::new();
        if self.data.over_length == OverLength::Truncate && self.data.loss_on() == LossOn::Response
        {
            advice.push(
                "`data.over_length = \"truncate\"` cuts the end mark off long rows, \
            which do not teach the model to stop",
            );
        }
        if train.loss_average == LossAverage::MicroBatch
            && train.micro_batch_size < train.batch_size
        {
            advice.push(
                "`train.loss_average = \"micro_batch\"` makes the result depend on \
            `micro_batch_size`",
            );
        }
        if self.precision.compute == Compute::F16 {
            advice.push("`precision.compute = \"f16\"` can overflow where `bf16` does not");
        }
        match self.method() {
            Method::Full if train.lr > 2e-4 => {
                advice.push(
                    "`train.lr` is high for full fine-tuning; 1e-5 to 5e-5 are usual for \
                large models",
                );
            }
            Method::Oft(oft)
                if oft.coft && oft.eps_scaling == EpsScaling::Peft && oft.eps < 1e-3 =>
            {
                advice.push(
                    "`adapter.eps` below 1e-3 in PEFT's scaling leaves the model practically \
                    frozen; \
                     the authors' numbers need `eps_scaling = \"official\"`",
                );
            }
            _ => {}
        }
        advice.into_iter().map(str::to_owned).collect()
    }
}
