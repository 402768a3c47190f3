//! Advice on diffusion recipes that can run, but probably not as their author expects.

use super::DiffusionRecipe;
use crate::recipe::{Adapter, Bias, Compute, EpsScaling, Init, Method};

impl DiffusionRecipe {
    /// Remarks on choices that are allowed and often regretted, one sentence each. They stop
    /// nothing.
    ///
    /// ```
    /// use temper_engine::recipe::DiffusionRecipe;
    ///
    /// let mut recipe = DiffusionRecipe::default();
    /// recipe.train.lr = 1e-4;
    /// assert!(recipe.advice().iter().any(|advice| advice.contains("train.lr")));
    /// ```
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        let lr = self.train.lr;
        match self.method() {
            Method::Full if self.model.init == Init::Pretrained && lr > 2e-5 => advice.push(
                "`train.lr` is high for training all weights of a pretrained model on a few images; DreamBooth takes 2e-6 to 5e-6",
            ),
            Method::Lora(_) => {
                if lr > 1e-3 {
                    advice.push("`train.lr` is high for LoRA on a few images: 1e-4 to 5e-4 are usual, more burns colours in");
                }
                if self.adapter.as_ref().is_some_and(trains_beside) {
                    advice.push(
                        "`adapter.bias` and `modules_to_save` have no place in a LoRA file of diffusers: the result is a PEFT directory alone; `temper merge` makes a model of it",
                    );
                }
            }
            Method::Oft(oft) => {
                if lr > 2e-3 {
                    advice.push("`train.lr` is high for OFT on a few images: the paper takes 6e-5, 1e-4 is usual");
                }
                if oft.coft && oft.eps_scaling == EpsScaling::Peft && oft.eps < 1e-3 {
                    advice.push(
                        "`adapter.eps` below 1e-3 in PEFT's scaling leaves the model practically frozen; the authors' numbers need `eps_scaling = \"official\"`",
                    );
                }
            }
            Method::Full => {}
        }
        if self.precision.compute == Compute::F16 {
            advice.push("`precision.compute = \"f16\"` can overflow where `bf16` does not");
        }
        if self.diffusion.ema_decay.is_some_and(|decay| decay > 0.99)
            && self.train.steps.is_some_and(|steps| steps < 100)
        {
            advice.push(
                "`diffusion.ema_decay` this close to 1 remembers more steps than the run has",
            );
        }
        advice.into_iter().map(str::to_owned).collect()
    }
}

/// Whether parameters of the model itself are trained beside the adapter.
fn trains_beside(adapter: &Adapter) -> bool {
    let biases = adapter.bias.is_some_and(|bias| bias != Bias::None);
    let saved = adapter.modules_to_save.as_ref();
    biases || saved.is_some_and(|modules| !modules.is_empty())
}
