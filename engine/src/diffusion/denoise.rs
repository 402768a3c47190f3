//! From noise to latents.
//!
//! Shapes: B pictures, C latent channels, h and w the picture's size over the VAE's factor, T tokens, D width of the text.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use temper_models::{
    AddedConditions, Scheduler, SchedulerConfig, Unet, UnetInput, guide, rescale_guidance,
};

use super::{Conditioning, DiffusionError};

/// Classifier-free guidance (arXiv 2207.12598): `ε = ε_u + scale (ε_c − ε_u)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// 1 and below predict from the prompt alone, which halves the work.
    pub scale: f64,
    /// How far the guided prediction is brought back to the spread of the one from the prompt, 0 to 1 (arXiv 2305.08891,
    /// eqs. 15 and 16). 0.7 suits models with a zero terminal signal-to-noise ratio.
    pub rescale: f64,
}

impl Guidance {
    /// Whether there are two predictions a step.
    pub fn is_on(self) -> bool {
        self.scale > 1.0
    }

    /// `predictions [2B, C, h, w]`, without the prompt first, to `[B, C, h, w]`.
    fn combine(self, predictions: Tensor<4>) -> Tensor<4> {
        let rows = predictions.dims()[0] / 2;
        let without = predictions.clone().narrow(0, 0, rows);
        let with = predictions.narrow(0, rows, rows);
        let guided = guide(without, with.clone(), self.scale);
        rescale_guidance(guided, with, self.rescale)
    }
}

/// Everything that leads from noise to latents, with what is drawn from outside given.
#[derive(Debug)]
pub struct Denoiser<'a> {
    /// The network.
    pub unet: &'a Unet,
    /// How noise is taken away.
    pub scheduler: &'a SchedulerConfig,
    /// Number of steps.
    pub steps: usize,
    /// How strongly the prompt is followed.
    pub guidance: Guidance,
    /// What is drawn, B rows.
    pub prompt: Conditioning,
    /// What is not drawn, B rows. Without it there is no guidance.
    pub negative: Option<Conditioning>,
    /// SDXL: sizes and crops, `[B, 6]`.
    pub time_ids: Option<Tensor<2>>,
    /// Added to what `conv_in` gives, `[B, C0, h, w]`.
    pub control: Option<Tensor<4>>,
}

impl Denoiser<'_> {
    /// `noise [B, C, h, w]`, standard normal, to latents, still scaled by the VAE's factor. `draw(call)` gives fresh standard
    /// normal noise to schedulers that want some. `on_step(calls done, of how many, latents)` may stop the work.
    ///
    /// # Errors
    /// What the network or the scheduler refuses; [`DiffusionError::Interrupted`] when `on_step` breaks.
    pub fn run(
        &self,
        noise: Tensor<4>,
        draw: &mut dyn FnMut(usize) -> Tensor<4>,
        on_step: &mut dyn FnMut(usize, usize, &Tensor<4>) -> ControlFlow<()>,
    ) -> Result<Tensor<4>, DiffusionError> {
        let mut scheduler = Scheduler::new(self.scheduler, self.steps)?;
        let batch = noise.dims()[0];
        let input = self.network_input(batch);
        let mut latents = noise.mul_scalar(scheduler.init_noise_sigma());
        let calls = scheduler.calls();
        for call in 0..calls {
            let timestep = scheduler.timesteps()[call];
            let scaled = scheduler.scale_model_input(call, latents.clone());
            let prediction = self.predict(scaled, timestep, &input)?;
            let fresh = scheduler.needs_noise(call).then(|| draw(call));
            latents = scheduler.step(call, prediction, latents, fresh)?;
            if on_step(call + 1, calls, &latents).is_break() {
                return Err(DiffusionError::Interrupted);
            }
        }
        Ok(latents)
    }

    fn negative(&self) -> Option<&Conditioning> {
        self.negative.as_ref().filter(|_| self.guidance.is_on())
    }

    /// What stays the same from step to step; under guidance, the negative rows stand first.
    fn network_input(&self, batch: usize) -> Fixed {
        let sides: Vec<&Conditioning> = self.negative().into_iter().chain([&self.prompt]).collect();
        let hidden = sides.iter().map(|side| side.hidden.clone()).collect();
        let pooled: Vec<Tensor<2>> = sides
            .iter()
            .filter_map(|side| side.pooled.clone())
            .collect();
        let added = self.time_ids.as_ref().filter(|_| !pooled.is_empty());
        let added = added.map(|ids| AddedConditions {
            time_ids: Tensor::cat(vec![ids.clone(); sides.len()], 0),
            text_embeds: Tensor::cat(pooled, 0),
        });
        let control = self.control.as_ref();
        Fixed {
            rows: sides.len() * batch,
            hidden: Tensor::cat(hidden, 0),
            added,
            control: control.map(|control| Tensor::cat(vec![control.clone(); sides.len()], 0)),
        }
    }

    fn predict(
        &self,
        latents: Tensor<4>,
        timestep: f32,
        fixed: &Fixed,
    ) -> Result<Tensor<4>, DiffusionError> {
        let guided = self.negative().is_some();
        let copies = if guided { 2 } else { 1 };
        let input = UnetInput {
            sample: Tensor::cat(vec![latents; copies], 0),
            timesteps: vec![timestep; fixed.rows],
            encoder_hidden_states: fixed.hidden.clone(),
            added: fixed.added.clone(),
            control: fixed.control.clone(),
        };
        let prediction = self.unet.forward(&input)?;
        Ok(if guided {
            self.guidance.combine(prediction)
        } else {
            prediction
        })
    }
}

/// The network's input but for the latents.
struct Fixed {
    rows: usize,
    hidden: Tensor<3>,
    added: Option<AddedConditions>,
    control: Option<Tensor<4>>,
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn tensor(values: &[f32]) -> Tensor<4> {
        let data = TensorData::new(values.to_vec(), [2, 1, 1, values.len() / 2]);
        Tensor::from_data(data, &Device::flex())
    }

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn guidance_goes_from_the_prediction_without_through_the_one_with() {
        let guidance = Guidance {
            scale: 3.0,
            rescale: 0.0,
        };
        // Without: 1, 2. With: 2, 2.
        let guided = guidance.combine(tensor(&[1.0, 2.0, 2.0, 2.0]));
        assert_eq!(values(guided), [4.0, 2.0]);
    }

    #[test]
    fn without_a_strong_prompt_there_is_no_guidance() {
        let on = |scale| {
            Guidance {
                scale,
                rescale: 0.0,
            }
            .is_on()
        };
        assert!(on(1.5) && !on(1.0) && !on(0.0) && !on(f64::NAN));
    }
}
